//! The drip: which bytes leave when. [`schedule`] decides (pure), [`stream`] waits and writes, [`source`]
//! keeps bodies out of memory until they are due, [`threads`] are those that bodies are sent on. A
//! [`crate::valve`] stops the reading of a body while the stream holds bytes of it.
//!
//! Invariant: the body of a response with a Content-Length leaves as records of exactly [`Pace::record`]
//! plaintext bytes, but for the last. That is the [`ChunkSize`], or the client's own limit if that is
//! smaller. Records leave at the points of a grid that belongs to the connection, one [`Settings::wait`]
//! apart: one record at each point, or with a profile's `fill` as many as make up the [`ChunkSize`].
//!
//! This room must not know S3, the configuration file, or more of HTTP than how a response header is
//! named and where a response head ends.

mod progress;
pub mod schedule;
pub mod source;
pub mod stream;
pub mod threads;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub use progress::Progress;

use crate::header_pattern::HeaderPattern;
use crate::tls::record::ChunkSize;

/// How a response drips, and which of S3's response headers are relayed to the device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Plaintext bytes in one TLS record.
    pub chunk_size: ChunkSize,
    /// Time between two body records. Zero: no pace, only the record size is capped.
    pub wait: Duration,
    /// Response headers to relay beyond those that every device needs.
    pub response_headers: Vec<HeaderPattern>,
    /// The class whose permission each record needs; None: the schedule alone decides.
    pub class: Option<Arc<str>>,
}

impl Settings {
    /// Bounds of `wait`: S3 drops a download whose reader is silent for minutes, so that even an hour
    /// is beyond use; more is a slip of the unit.
    pub const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chunk_size: ChunkSize::default(),
            wait: Duration::from_millis(500),
            response_headers: Vec::new(),
            class: None,
        }
    }
}

/// The pace of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Plaintext bytes that leave at each grid point.
    pub chunk: usize,
    /// Plaintext bytes of a record, at most `chunk`. Smaller only for a client that asked for smaller
    /// records and whose profile fills a grid point with several of them.
    pub record: usize,
    /// Time between two grid points.
    pub wait: Duration,
}

impl Pace {
    /// The pace of `settings` for a client that takes records of up to `limit` bytes: one such record at
    /// each grid point or, with `fill`, as many as make up the configured record size.
    #[must_use]
    pub fn new(settings: &Settings, limit: usize, fill: bool) -> Self {
        let chunk = settings.chunk_size.bytes();
        let record = chunk.min(limit).max(1);
        Self { chunk: if fill { chunk } else { record }, record, wait: settings.wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_less_room_gets_less_or_more_records_at_a_time() {
        let settings = Settings::default();
        let pace = |limit, fill| {
            let pace = Pace::new(&settings, limit, fill);
            (pace.chunk, pace.record)
        };
        assert_eq!(pace(16_384, false), (4096, 4096));
        assert_eq!(pace(512, false), (512, 512));
        assert_eq!(pace(512, true), (4096, 512));
        assert_eq!(pace(63, true), (4096, 63));
    }
}
