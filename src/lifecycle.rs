//! From ready to gone: readiness is a latch that only drops, and a drain waits for the drips that
//! run, no longer than it may.
//!
//! This file must not know what a drip is; it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The state of one server, shared by whoever serves, drains or reports.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    ready: AtomicBool,
    expired: AtomicBool,
    active: AtomicUsize,
    changed: watch::Sender<usize>,
    draining: watch::Sender<bool>,
}

impl Lifecycle {
    /// A server that is not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                ready: AtomicBool::new(false),
                expired: AtomicBool::new(false),
                active: AtomicUsize::new(0),
                changed: watch::Sender::new(0),
                draining: watch::Sender::new(false),
            }),
        }
    }

    /// The listeners accept; unless a drain has begun, the server is ready.
    pub fn started(&self) {
        if !self.is_draining() {
            self.inner.ready.store(true, Ordering::Release);
        }
    }

    /// Whether new clients should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.inner.draining.borrow()
    }

    /// Whether a drain has ended with drips still running, which are being cut.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.inner.expired.load(Ordering::Acquire)
    }

    /// Turns true when a drain begins. The type is Pingora's `ShutdownWatch`.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.inner.draining.subscribe()
    }

    /// Counts something that a drain waits for, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Active {
        self.inner.active.fetch_add(1, Ordering::AcqRel);
        Active { inner: Arc::clone(&self.inner) }
    }

    /// How much is running that a drain waits for.
    #[must_use]
    pub fn active(&self) -> usize {
        self.inner.active.load(Ordering::Acquire)
    }

    /// Drops readiness, stops the listeners, and waits until nothing runs any more or `timeout` has
    /// passed. Returns how much was still running then.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.inner.ready.store(false, Ordering::Release);
        self.inner.draining.send_replace(true);
        let mut changed = self.inner.changed.subscribe();
        let idle = async {
            while self.active() > 0 {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, idle).await;
        let left = self.active();
        self.inner.expired.store(left > 0, Ordering::Release);
        left
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that a drain waits for.
pub struct Active {
    inner: Arc<Inner>,
}

impl Drop for Active {
    fn drop(&mut self) {
        let before = self.inner.active.fetch_sub(1, Ordering::AcqRel);
        self.inner.changed.send_replace(before - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_the_last_that_runs() {
        let lifecycle = Lifecycle::new();
        lifecycle.started();
        assert!(lifecycle.is_ready());
        let active = [lifecycle.enter(), lifecycle.enter()];
        let start = tokio::time::Instant::now();
        let drain = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.drain(Duration::from_secs(600)).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!lifecycle.is_ready() && lifecycle.is_draining());
        for one in active {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(one);
        }
        assert_eq!(drain.await.unwrap(), 0);
        assert!(start.elapsed() < Duration::from_secs(12));
        lifecycle.started();
        assert!(!lifecycle.is_ready(), "readiness does not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_timeout() {
        let lifecycle = Lifecycle::new();
        let _runs = lifecycle.enter();
        assert_eq!(lifecycle.drain(Duration::from_secs(3)).await, 1);
        assert!(lifecycle.is_expired());
    }

    #[tokio::test]
    async fn a_drain_with_nothing_running_is_over_at_once() {
        assert_eq!(Lifecycle::new().drain(Duration::from_secs(3600)).await, 0);
    }
}
