//! What is admitted to the spool has a name that depends on nothing but the parameters that name it,
//! and carries nothing that only S3 may judge. Input: a target and header lines.
#![no_main]

use dripline::route::route;
use dripline::spool::admission::{admit, expires};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|b| *b == b'\n');
    let Ok(route) = route(&Method::GET, lines.next().unwrap_or_default(), false) else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let _ = expires(route.query);
    let admitted = admit(&Method::GET, &route.key, route.query, &headers);
    let Ok(name) = admitted else { return };
    assert_eq!(admit(&Method::HEAD, &route.key, route.query, &headers).as_ref(), Ok(&name));
    assert!(admit(&Method::PUT, &route.key, route.query, &headers).is_err());
    let customer_key = "x-amz-server-side-encryption-customer-key";
    for private in ["authorization", customer_key] {
        assert!(!headers.contains_key(private));
    }
    headers.insert("authorization", HeaderValue::from_static("AWS4-HMAC-SHA256 x"));
    assert!(admit(&Method::GET, &route.key, route.query, &headers).is_err());
    let query = [route.query.unwrap_or_default(), b"&acl"].concat();
    assert!(admit(&Method::GET, &route.key, Some(&query), &HeaderMap::new()).is_err());
    let _ = format!("{name:?}");
});
