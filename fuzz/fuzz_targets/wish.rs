//! A trusted header parses to a valid record size, and parses to the same value again when formatted.
#![no_main]

use dripline::profile::ScheduleRequest;
use dripline::tls::record::ChunkSize;
use dripline::units::Wait;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(wish) = text.parse::<ScheduleRequest>() else { return };
    let mut parts = Vec::new();
    if let Some(chunk_size) = wish.chunk_size {
        assert!((ChunkSize::MIN..=ChunkSize::MAX).contains(&(chunk_size.bytes() as u64)));
        parts.push(format!("chunk_size={chunk_size}"));
    }
    if let Some(wait) = wish.wait {
        parts.push(format!("wait={}", Wait::new(wait)));
    }
    assert_eq!(parts.join(", ").parse(), Ok(wish), "{text}");
});
