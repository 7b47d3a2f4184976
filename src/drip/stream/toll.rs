//! The leave that a class of the tree gives, record by record. This file must not know why it takes its
//! time.

use std::task::{Context, Poll, ready};

use crate::shape::Flow;

/// A response whose records wait for leave of a class.
#[derive(Debug)]
pub(super) struct Toll {
    flow: Flow,
    /// Bytes that there is leave for and that are not written yet.
    paid: usize,
}

impl Toll {
    pub(super) fn new(flow: Flow) -> Self {
        Self { flow, paid: 0 }
    }

    /// Ready when there is leave for a whole record of that length: what comes of it in pieces adds up,
    /// since a record leaves in one go.
    pub(super) fn poll_paid(&mut self, cx: &mut Context<'_>, record: usize) -> Poll<()> {
        while self.paid < record {
            let leave = ready!(self.flow.poll_acquire(cx, record - self.paid));
            self.flow.spend(leave);
            self.paid += leave;
        }
        Poll::Ready(())
    }

    /// A record of that length was written.
    pub(super) fn passed(&mut self, record: usize) {
        self.paid = self.paid.saturating_sub(record);
    }
}
