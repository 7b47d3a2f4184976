//! Permission from a class of the tree, for one record at a time. This file must not know why a
//! permission is delayed.

use std::task::{Context, Poll, ready};

use crate::shape::Flow;

/// The permission that a response's records need from their class.
#[derive(Debug)]
pub(super) struct ClassPermit {
    flow: Flow,
    /// Bytes that the class has permitted and that are not written yet.
    granted: usize,
}

impl ClassPermit {
    pub(super) fn new(flow: Flow) -> Self {
        Self { flow, granted: 0 }
    }

    /// Ready when a whole record of that length is permitted. The class may permit it in pieces, which
    /// are added up, since a record is written in one call.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>, record: usize) -> Poll<()> {
        while self.granted < record {
            let bytes = ready!(self.flow.poll_acquire(cx, record - self.granted));
            self.flow.spend(bytes);
            self.granted += bytes;
        }
        Poll::Ready(())
    }

    /// Uses up the permission for a record of that length, which was written.
    pub(super) fn use_up(&mut self, record: usize) {
        self.granted = self.granted.saturating_sub(record);
    }
}
