//! Between what is fetched and what is dripped: closed while the client's stream still holds bytes,
//! so that no more than one piece of a body is in memory however fast S3 sends.
//!
//! Without it Pingora reads ahead five pieces of 16 KB each and copies them into one buffer: about
//! 230 KB for every drip. This file must not know who is on either side.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;

/// One connection's valve, open at first. One task waits at it.
#[derive(Debug, Default)]
pub struct Valve {
    closed: AtomicBool,
    waiting: AtomicWaker,
}

impl Valve {
    /// Stops the reader before its next read.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Lets the reader go on.
    pub fn open(&self) {
        if self.closed.swap(false, Ordering::AcqRel) {
            self.waiting.wake();
        }
    }

    /// Ready while it is open; otherwise the task is woken once it is.
    pub fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.closed.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // It may have been opened between the look and the registration.
        if self.closed.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn whoever_waits_goes_on_when_it_opens() {
        let valve = Arc::new(Valve::default());
        poll_fn(|cx| valve.poll_open(cx)).await;
        valve.close();
        let waiting = tokio::spawn({
            let valve = Arc::clone(&valve);
            async move { poll_fn(|cx| valve.poll_open(cx)).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        valve.open();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}
