//! What a record waits for: its grid point, and permission of the response's class. During both waits
//! the connection is read, so that the end of the client ends the wait.
//!
//! This file has the drip's clock. It must not know what is in a record.

use std::future::Future;
use std::io;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::PacedStream;
use crate::drip::schedule::Next;
use crate::drip::threads::clock;

/// What the times of all connections are measured from, so that their records are due at equal instants
/// and one wake-up serves them all. An hour before its first use, so that no time lies before it.
#[expect(
    clippy::disallowed_methods,
    reason = "the schedule is given the time, and this is where it comes from"
)]
pub(super) static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// The time since [`EPOCH`].
#[expect(
    clippy::disallowed_methods,
    reason = "the schedule is given the time, and this is where it comes from"
)]
pub(super) fn now() -> Duration {
    EPOCH.elapsed()
}

impl PacedStream {
    /// Ready when the next record is due; an error as soon as the client has gone.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = now();
        let Next::WaitUntil(due) = self.control().schedule.next(now, None) else {
            return Poll::Ready(Ok(()));
        };
        let due = *EPOCH + due;
        if self.clock_wake != Some(due) {
            // A drip thread has no timer for each stream: its clock wakes all that are due at an instant.
            self.clock_wake = clock::wake_at(due, *EPOCH + now, cx).then_some(due);
        }
        if self.clock_wake.is_some() {
            return self.poll_client_gone(cx);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_client_gone(cx)
    }

    /// Ready when the response's class permits the record; an error as soon as the client has gone.
    pub(super) fn poll_class_permit(
        &mut self,
        cx: &mut Context<'_>,
        record: usize,
    ) -> Poll<io::Result<()>> {
        let Some(permit) = &mut self.control().class_permit else { return Poll::Ready(Ok(())) };
        if permit.poll_granted(cx, record).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_client_gone(cx)
    }

    /// Never ready but with an error, when the client has gone.
    pub(super) fn poll_client_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.read_ahead.poll_read(&mut self.inner, cx) {
            Some(e) => self.client_gone(e),
            None => Poll::Pending,
        }
    }

    /// Notes that the client has gone, and returns the error.
    pub(super) fn client_gone<T>(&mut self, e: io::Error) -> Poll<io::Result<T>> {
        if let Some(progress) = &self.control().progress {
            progress.gone();
        }
        Poll::Ready(Err(e))
    }
}
