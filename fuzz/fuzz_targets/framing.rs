//! What passes is read by the parser behind it, httparse, to the same end, with one length at most;
//! and the end is found in the same place however the bytes are cut.
#![no_main]

use dripline::http1::framing::{Scan, parse_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = Scan::default().head(data);
    let mut scan = Scan::default();
    let mut cuts = (0..=data.len()).map(|end| scan.head(&data[..end]));
    assert_eq!(cuts.find(|found| *found != Ok(None)).unwrap_or(Ok(None)), whole);
    let _ = parse_head(data);
    let Ok(Some(end)) = whole else { return };
    let head = &data[..end];
    if parse_head(head).is_err() {
        return;
    }
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(parsed) => assert_eq!(parsed, httparse::Status::Complete(end)),
        Err(httparse::Error::TooManyHeaders) => return,
        Err(e) => panic!("{e}: {}", head.escape_ascii()),
    }
    let named = |name: &str| {
        request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count()
    };
    assert!(named("content-length") + named("transfer-encoding") <= 1);
    assert!(named("host") == 1 || named("host") == 0 && request.version == Some(0));
});
