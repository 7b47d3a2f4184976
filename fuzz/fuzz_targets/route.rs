//! The key and the query leave exactly as they came, whatever the target.
#![no_main]

use dripline::route::route;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &[u8]| {
    let Ok(route) = route(&Method::GET, target, false) else { return };
    let mut tail = route.key.as_bytes().to_vec();
    assert!(!tail.is_empty() && !tail.contains(&b'?'));
    if let Some(query) = route.query {
        tail.push(b'?');
        tail.extend_from_slice(query);
    }
    assert!(target.ends_with(&tail));
    let _ = (route.key.escapes_root(), route.key.to_string());
});
