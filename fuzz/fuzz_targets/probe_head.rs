//! A probe finds the end of a head in the same place however the bytes arrive.
#![no_main]

use dripline::probe::seen::Head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = Head::parse(data);
    let first = (0..=data.len()).map(|end| Head::parse(&data[..end])).find(Option::is_some);
    assert_eq!(first.flatten(), whole);
    let Some(Ok(head)) = whole else { return };
    assert!(head.status >= 200 && data[..head.length].ends_with(b"\r\n\r\n"));
    let _ = head.ends(data);
});
