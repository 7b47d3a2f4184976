//! One direction of one connection, as those that move bytes see it.
//!
//! Invariant: a flow has at most one permit at a time, and what a dropped flow has not used is given
//! back.
//!
//! This file must not know what the bytes are, or when the tree grants a permit.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Shaper;
use crate::shape::flows::FlowId;

/// Whose a flow is: what a class's classifier looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The client's address.
    pub client: IpAddr,
    /// The user, where clients name one.
    pub user: Option<Arc<str>>,
}

/// One direction of one connection. Dropping it gives back what it had a permit for and did not use.
pub struct Flow {
    shaper: Arc<Shaper>,
    id: FlowId,
}

impl Flow {
    pub(super) fn new(shaper: Arc<Shaper>, id: FlowId) -> Self {
        Self { shaper, id }
    }

    /// Waits for a permit to move up to `want` bytes; 0 counts as 1. Returns 1 to `want` bytes.
    ///
    /// The permit is kept until [`Flow::spend`]; asking again before that returns the same permit, up to
    /// `want`. A caller that stops polling loses nothing. A permit that is not needed now should be given
    /// back (`spend(0)`): until then it counts as used.
    pub fn poll_acquire(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<usize> {
        match self.shaper.request(self.id, want.max(1), cx.waker()) {
            0 => Poll::Pending,
            permit => Poll::Ready(permit.min(want.max(1))),
        }
    }

    /// Waits for a permit to move up to `want` bytes; see [`Flow::poll_acquire`].
    pub async fn acquire(&mut self, want: usize) -> usize {
        poll_fn(|cx| self.poll_acquire(cx, want)).await
    }

    /// Says that `used` bytes of the permit were moved; the rest is given back.
    pub fn spend(&mut self, used: usize) {
        self.shaper.spend(self.id, used);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shaper.remove_flow(self.id);
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flow").field(&self.id).finish()
    }
}
