//! Counts the bytes of one transfer, and with them those of all.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounter;

/// The bytes of one direction of a transfer.
#[derive(Debug)]
pub struct ByteCount {
    own: AtomicU64,
    all: IntCounter,
}

/// The bytes of both directions of a transfer.
#[derive(Debug)]
pub struct ByteCounts {
    /// From the client.
    pub up: ByteCount,
    /// To the client.
    pub down: ByteCount,
}

impl ByteCount {
    /// No bytes yet; `all` counts those of every transfer of the kind.
    #[must_use]
    pub fn new(all: IntCounter) -> Self {
        Self { own: AtomicU64::new(0), all }
    }

    /// Counts bytes that were moved.
    pub fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.inc_by(bytes as u64);
    }

    /// The bytes of this transfer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}
