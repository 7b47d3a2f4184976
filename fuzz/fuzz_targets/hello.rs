//! What is read out of a ClientHello's extensions is in them, whatever they hold.
#![no_main]

use dripline::tls::hello::{has_tls12_suite, offers_version, server_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(name) = server_name(data) {
        assert!(!name.is_empty() && name.is_ascii() && name == name.to_ascii_lowercase());
        // Two lengths and the kind before it (RFC 6066 §3).
        assert!(data.len() >= name.len() + 5);
        assert!(data[5..5 + name.len()].eq_ignore_ascii_case(name.as_bytes()));
    }
    if offers_version(data, 0x0303) {
        assert_eq!(usize::from(data[0]), data.len() - 1);
        assert!(data[1..].chunks_exact(2).any(|version| version == [3, 3]));
    }
    let _ = has_tls12_suite(data);
});
