//! The bytes that the spool's files hold or may still grow to.
//!
//! Invariant: a [`Reservation`] counts from its making until it is dropped, so the bytes of an object
//! that was replaced count for as long as somebody reads it. This file must not know objects or files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::SpoolMetrics;

/// How many bytes are reserved. Clones count together.
#[derive(Debug, Clone)]
pub struct Reserved(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: AtomicU64,
    metrics: SpoolMetrics,
}

impl Reserved {
    /// No bytes yet.
    pub fn new(metrics: SpoolMetrics) -> Self {
        Self(Arc::new(Shared { bytes: AtomicU64::new(0), metrics }))
    }

    /// All bytes that are reserved.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// Reserves `bytes` more. Whether they fit is for the caller to know.
    pub fn reserve(&self, bytes: u64) -> Reservation {
        self.0.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.show();
        Reservation { reserved: self.clone(), bytes }
    }

    fn show(&self) {
        self.0.metrics.bytes.set(i64::try_from(self.bytes()).unwrap_or(i64::MAX));
    }
}

/// One object's bytes, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    reserved: Reserved,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved.0.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.reserved.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn reservations_count_until_they_are_dropped() {
        let metrics = Metrics::new().spool;
        let reserved = Reserved::new(metrics.clone());
        let first = reserved.reserve(100);
        let second = reserved.reserve(20);
        assert_eq!((reserved.bytes(), metrics.bytes.get()), (120, 120));
        drop(first);
        assert_eq!((reserved.bytes(), metrics.bytes.get()), (20, 20));
        drop(second);
        assert_eq!((reserved.bytes(), metrics.bytes.get()), (0, 0));
    }
}
