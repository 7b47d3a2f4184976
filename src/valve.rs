//! A switch between the reader of a body and its writer. The writer closes it while it holds bytes,
//! and the reader reads only while it is open, so no more than one piece of a body is in memory
//! however fast the body comes.
//!
//! Without it Pingora reads ahead five pieces of 16 KB each and copies them into one buffer: about
//! 230 KB for every drip. This file must not know what the reader and the writer are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;

/// One connection's valve. It is open at first. One task at a time may wait for it to open.
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

    /// Ready while the valve is open; otherwise the task is woken when it opens.
    pub fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.closed.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // It may have been opened between the first load and the registration.
        if self.closed.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_that_waits_is_woken_when_the_valve_opens() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let cx = Context::from_waker(&waker);
        let woken = || wakes.0.load(Ordering::Relaxed);

        let valve = Valve::default();
        assert!(valve.poll_open(&cx).is_ready(), "open at first");
        valve.close();
        assert!(valve.poll_open(&cx).is_pending());
        assert_eq!(woken(), 0, "nobody has opened it");
        valve.open();
        assert_eq!(woken(), 1);
        assert!(valve.poll_open(&cx).is_ready());
        valve.open();
        assert_eq!(woken(), 1, "it was open already");
    }
}
