//! The record that is being put together: ordinary bytes that came in pieces, and bytes that a
//! [`Source`] owes. What is owed is read when the record's time has come, on this thread if the
//! source has it at hand, else on one that may block.
//!
//! Invariants: while a promised record waits, nothing of it is in memory; a promised byte counts as
//! used only when the record that holds it was written, or when it became an ordinary byte here.
//!
//! This file must not know when a record's time has come, nor where it goes.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::drip::source::{Coming, Source};

thread_local! {
    /// Where due records are read to: one for all connections of a thread, as large as the largest
    /// record that was read on it.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A source, and how far it is used.
#[derive(Debug, Clone)]
pub(super) struct Supply {
    source: Arc<dyn Source>,
    /// Of the next byte in the source; none before the first promised byte is due.
    offset: Option<u64>,
}

impl Supply {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, offset: None }
    }

    fn offset(&mut self) -> u64 {
        *self.offset.get_or_insert_with(|| self.source.start())
    }

    fn used(&mut self, bytes: usize) {
        let offset = self.offset();
        self.offset = Some(offset.saturating_add(bytes as u64));
    }
}

/// The pieces of one record: `bytes`, then `owed` bytes of a source.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    owed: usize,
    /// What is owed is not there yet.
    coming: Option<Coming>,
    /// Reads what is owed.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Gathered {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.owed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the record cannot be written from [`Self::take_bytes`] alone.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Adds bytes that the source owes.
    pub(super) fn promise(&mut self, length: usize) {
        self.owed += length;
    }

    /// Adds ordinary bytes to a record that [owes](Self::owes) nothing and will have `total` bytes.
    pub(super) fn add(&mut self, bytes: &[u8], total: usize) {
        self.bytes.reserve_exact(total.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// The ordinary bytes, out of here; [`Self::put_back`] returns them.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// See [`Self::take_bytes`].
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Waits until the source has what it owes.
    pub(super) fn poll_there(
        &mut self,
        cx: &mut Context<'_>,
        supply: &mut Supply,
    ) -> Poll<io::Result<()>> {
        if self.coming.is_none() {
            let end = supply.offset().saturating_add(self.owed as u64);
            self.coming = supply.source.coming(end);
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(Ok(())) };
        let there = ready!(coming.as_mut().poll(cx));
        self.coming = None;
        Poll::Ready(there)
    }

    /// The whole record, in memory that is this thread's and not the connection's: to be given back
    /// by [`release`]. `None` if it takes a disk access, which has begun then: see
    /// [`Self::poll_settle`].
    pub(super) fn read_now(&mut self, supply: &mut Supply) -> io::Result<Option<Vec<u8>>> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let offset = supply.offset();
        let mut record = SCRATCH.take();
        record.clear();
        record.extend_from_slice(&self.bytes);
        record.resize(self.len(), 0);
        let read = supply.source.read_now(offset, &mut record[self.bytes.len()..]);
        if let Ok(true) = read {
            return Ok(Some(record));
        }
        release(record);
        read?;
        let (source, length) = (Arc::clone(&supply.source), self.owed);
        self.reading = Some(spawn_blocking(move || {
            let mut bytes = vec![0; length];
            source.read(offset, &mut bytes).map(|()| bytes)
        }));
        Ok(None)
    }

    /// Makes ordinary bytes of those that are owed.
    pub(super) fn poll_settle(
        &mut self,
        cx: &mut Context<'_>,
        supply: &mut Supply,
    ) -> Poll<io::Result<()>> {
        while self.owed > 0 {
            let before = self.bytes.len();
            if let Some(record) = self.read_now(supply)? {
                self.bytes.reserve_exact(self.owed);
                self.bytes.extend_from_slice(&record[before..]);
                release(record);
            } else if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                let mut read = read.map_err(io::Error::other)??;
                if before == 0 {
                    self.bytes = read;
                } else {
                    self.bytes.append(&mut read);
                }
            }
            let read = self.bytes.len() - before;
            supply.used(read);
            self.owed = self.owed.saturating_sub(read);
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that the record was written; its memory is given back.
    pub(super) fn written(&mut self, supply: &mut Supply) {
        self.bytes = Vec::new();
        supply.used(std::mem::take(&mut self.owed));
    }
}

/// Gives back what [`Gathered::read_now`] lent.
pub(super) fn release(scratch: Vec<u8>) {
    SCRATCH.set(scratch);
}
