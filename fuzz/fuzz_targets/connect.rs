//! What is read as a CONNECT is read so by httparse too, to the same target and credentials; what may be
//! reached of it is Amazon's, and no target is an IP address.
#![no_main]

use dripline::forward_proxy::allow::Rules;
use dripline::forward_proxy::connect::{self, User, authenticate};
use dripline::http1::framing::Scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = connect::read(data);
    let Ok(Some(end)) = Scan::default().head(data) else { return };
    let head = &data[..end];
    let Ok(request) = connect::read(head) else { return };
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(status) => assert_eq!(status, httparse::Status::Complete(end)),
        Err(httparse::Error::TooManyHeaders) => return,
        Err(e) => panic!("{e}: {}", head.escape_ascii()),
    }
    assert_eq!(parsed.method, Some("CONNECT"));
    let path = parsed.path.expect("a target").to_ascii_lowercase();
    let (host, port) = path.rsplit_once(':').expect("a port");
    assert_eq!(host.strip_suffix('.').unwrap_or(host), request.target.host);
    assert_eq!(port.parse(), Ok(request.target.port));
    let named = |name: &str| {
        let found = parsed.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value).collect::<Vec<_>>()
    };
    assert!(named("transfer-encoding").is_empty());
    assert!(named("content-length").iter().all(|value| value.iter().all(|b| *b == b'0')));
    assert!(named("proxy-authorization").len() <= 1);
    assert_eq!(named("proxy-authorization").is_empty(), request.authorization.is_none());
    assert!(request.target.host.parse::<std::net::IpAddr>().is_err());
    assert_eq!(request.target.to_string().parse(), Ok(request.target.clone()));
    let rules = Rules { credentials: false, ..Rules::default() };
    if rules.check(&request.target).is_ok() {
        let host = &request.target.host;
        assert!(host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"));
        assert!(host.split('.').any(|label| label.starts_with("s3")) && request.target.port == 443);
    }
    let users = [User::new("a", "b")];
    let known = authenticate(&users, request.authorization).is_some();
    let says = |value: &[u8]| value.len() > 6 && value[6..].trim_ascii() == b"YTpi";
    assert!(!known || request.authorization.is_some_and(says));
});
