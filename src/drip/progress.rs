//! What a client was sent so far, for the access log, the metrics and the list of running transfers.
//!
//! Invariant: only sent bytes are counted. This file must not know what they are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// What a client was sent of one response so far. It is counted where records are written: Pingora's own
/// counters do not move during one long write.
#[derive(Debug)]
pub struct Progress {
    bytes: AtomicU64,
    records: AtomicU64,
    head: AtomicU64,
    last_record: AtomicU64,
    /// Milliseconds from `began` to the last record.
    last_at: AtomicU64,
    began: Instant,
    client_gone: AtomicBool,
    source_failed: AtomicBool,
    all_bytes: IntCounter,
    all_records: IntCounter,
}

impl Progress {
    /// Nothing sent yet; `all_bytes` and `all_records` count for the whole server.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of a response and of its last record are reported"
    )]
    pub fn new(all_bytes: IntCounter, all_records: IntCounter) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            head: AtomicU64::new(0),
            last_record: AtomicU64::new(0),
            last_at: AtomicU64::new(0),
            began: Instant::now(),
            client_gone: AtomicBool::new(false),
            source_failed: AtomicBool::new(false),
            all_bytes,
            all_records,
        }
    }

    /// Body bytes sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Body records sent; on a plain connection the pieces that would have been records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of the last body record.
    #[must_use]
    pub fn last_record(&self) -> u64 {
        self.last_record.load(Ordering::Relaxed)
    }

    /// Time since the last body record, or since the response began.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of a response and of its last record are reported"
    )]
    pub fn since_last(&self) -> Duration {
        let last = Duration::from_millis(self.last_at.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// Whether the client closed or reset the connection before the response was complete.
    #[must_use]
    pub fn client_gone(&self) -> bool {
        self.client_gone.load(Ordering::Relaxed)
    }

    /// Whether the body's source failed, so that the connection ended early through no fault of the client.
    #[must_use]
    pub fn source_failed(&self) -> bool {
        self.source_failed.load(Ordering::Relaxed)
    }

    /// Counts a record, or a piece of an upload.
    #[expect(
        clippy::disallowed_methods,
        reason = "the age of a response and of its last record are reported"
    )]
    pub fn record(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.records.fetch_add(1, Ordering::Relaxed);
        self.last_record.store(bytes, Ordering::Relaxed);
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_at.store(at, Ordering::Relaxed);
        self.all_bytes.inc_by(bytes);
        self.all_records.inc();
    }

    /// Bytes of the response head sent.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    pub(super) fn head_sent(&self, bytes: usize) {
        self.head.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn no_source(&self) {
        self.source_failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn gone(&self) {
        self.client_gone.store(true, Ordering::Relaxed);
    }
}
