//! A range's length is what its two ends say.
#![no_main]

use dripline::s3::headers::range_length;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(length) = range_length(data) {
        let text = std::str::from_utf8(data).expect("a range is text");
        assert!(text.trim().starts_with("bytes="));
        assert!(length > 0 || text.contains("=-"), "only a suffix may be empty: {text}");
    }
});
