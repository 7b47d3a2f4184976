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
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::drip::source::{Coming, Source};

thread_local! {
    /// Where due records are read to: one for all connections of a thread, as large as the most that
    /// was read at once on it.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Memory that is this thread's and not the connection's, until it is dropped. What is in it at first
/// means nothing.
pub(super) struct Lent {
    space: Vec<u8>,
    length: usize,
}

impl Lent {
    fn of(length: usize) -> Self {
        let mut space = SCRATCH.take();
        if space.len() < length {
            space.resize(length, 0);
        }
        Self { space, length }
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.space[..self.length]
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.space));
    }
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

    /// The next bytes, as many as are asked for. None if they are not there yet, or that takes a disk
    /// access.
    pub(super) fn read_now(&mut self, length: usize) -> io::Result<Option<Lent>> {
        let offset = self.offset();
        if self.source.coming(offset.saturating_add(length as u64)).is_some() {
            return Ok(None);
        }
        let mut bytes = Lent::of(length);
        Ok(self.source.read_now(offset, &mut bytes)?.then_some(bytes))
    }

    /// Notes that so many more bytes were sent, or are ordinary bytes now.
    pub(super) fn used(&mut self, bytes: usize) {
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

    /// The whole record. `None` if it takes a disk access, which has begun then: see
    /// [`Self::poll_settle`].
    pub(super) fn read_now(&mut self, supply: &mut Supply) -> io::Result<Option<Lent>> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let offset = supply.offset();
        let mut record = Lent::of(self.len());
        let (bytes, owed) = record.split_at_mut(self.bytes.len());
        bytes.copy_from_slice(&self.bytes);
        if supply.source.read_now(offset, owed)? {
            return Ok(Some(record));
        }
        drop(record);
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
