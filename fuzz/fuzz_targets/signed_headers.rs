//! What a signature lists is forwarded only if the rules let it, and hop-by-hop headers never are.
//! Input: a query, an Authorization value, a Connection value and a header's name, one a line.
#![no_main]

use dripline::s3::headers::{SignedHeaders, forwards, hop_by_hop};
use http::HeaderName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(4, |b| *b == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (query, authorization, connection, name) = (next(), next(), next(), next());
    let signed = SignedHeaders::of(Some(query), Some(authorization));
    for listed in signed.names() {
        assert!(!listed.is_empty() && signed.covers(listed));
    }
    let Ok(name) = HeaderName::from_bytes(name) else { return };
    let name = name.as_str();
    let nominated = connection
        .split(|b| *b == b',')
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
    assert!(!nominated || hop_by_hop(name, &[connection]));
    let customer = name.starts_with("x-amz-") && !signed.covers(name);
    assert!(!customer || !forwards(name, &signed, true), "{name}");
    assert!(name != "authorization" || !forwards(name, &signed, false));
});
