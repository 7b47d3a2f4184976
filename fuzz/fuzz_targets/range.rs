//! A range's length is what its two ends say, and what S3 says of a range lies within its object.
#![no_main]

use dripline::s3::headers::{content_range, range_length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((first, length)) = content_range(data) {
        let text = std::str::from_utf8(data).expect("a range is text");
        assert!(first < length && text.trim().starts_with("bytes "));
    }
    if let Some(length) = range_length(data) {
        let text = std::str::from_utf8(data).expect("a range is text");
        assert!(text.trim().starts_with("bytes="));
        assert!(length > 0 || text.contains("=-"), "only a suffix may be empty: {text}");
    }
});
