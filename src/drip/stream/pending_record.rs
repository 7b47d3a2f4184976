//! The record that is being assembled: bytes that the caller wrote in pieces, then promised bytes, which
//! a [`Source`] has. Promised bytes are read when the record is due: on this thread if the source has
//! them in memory, else on a thread that may block.
//!
//! Invariants: while a promised record waits, none of its bytes are in memory; a promised byte counts as
//! consumed only when the record that holds it was written, or when it was read into `bytes`.
//!
//! This file must not know when a record is due, nor where it is written.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::drip::source::{Availability, Source};

thread_local! {
    /// The buffer that due records are read into: one for all connections of a thread, as large as the
    /// largest single read on that thread.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's scratch buffer, in use until this is dropped. Its first contents are arbitrary.
pub(super) struct ScratchBuffer {
    space: Vec<u8>,
    length: usize,
}

impl ScratchBuffer {
    fn take(length: usize) -> Self {
        let mut space = SCRATCH.take();
        if space.len() < length {
            space.resize(length, 0);
        }
        Self { space, length }
    }
}

impl Deref for ScratchBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.space[..self.length]
    }
}

impl DerefMut for ScratchBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[..self.length]
    }
}

impl Drop for ScratchBuffer {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.space));
    }
}

/// A source and the position in it.
#[derive(Debug, Clone)]
pub(super) struct SourceReader {
    source: Arc<dyn Source>,
    /// Offset of the next byte in the source; None before the first promised byte is due.
    offset: Option<u64>,
}

impl SourceReader {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, offset: None }
    }

    fn offset(&mut self) -> u64 {
        *self.offset.get_or_insert_with(|| self.source.start())
    }

    /// Reads the next `length` bytes. None if they are not available yet, or only by a disk access.
    pub(super) fn read_now(&mut self, length: usize) -> io::Result<Option<ScratchBuffer>> {
        let offset = self.offset();
        if self.source.availability(offset.saturating_add(length as u64)).is_some() {
            return Ok(None);
        }
        let mut bytes = ScratchBuffer::take(length);
        Ok(self.source.read_now(offset, &mut bytes)?.then_some(bytes))
    }

    /// Moves the position forward by bytes that were written, or read into memory.
    pub(super) fn advance(&mut self, bytes: usize) {
        let offset = self.offset();
        self.offset = Some(offset.saturating_add(bytes as u64));
    }
}

/// The parts of one record: `bytes`, then `promised` bytes of a source.
#[derive(Default)]
pub(super) struct PendingRecord {
    bytes: Vec<u8>,
    promised: usize,
    /// Resolves when the promised bytes are available; None if they are, or nobody has asked.
    availability: Option<Availability>,
    /// A read of the promised bytes that is in progress.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl PendingRecord {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.promised
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the record contains promised bytes, so that [`Self::take_bytes`] is not all of it.
    pub(super) fn has_promised(&self) -> bool {
        self.promised > 0
    }

    /// Adds bytes that the source has.
    pub(super) fn add_promised(&mut self, length: usize) {
        self.promised += length;
    }

    /// Adds bytes to a record that [has no promised ones](Self::has_promised) and will have `total` bytes.
    pub(super) fn add_bytes(&mut self, bytes: &[u8], total: usize) {
        self.bytes.reserve_exact(total.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the bytes out; [`Self::put_back`] returns them.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// See [`Self::take_bytes`].
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Ready when the source has the promised bytes.
    pub(super) fn poll_available(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut SourceReader,
    ) -> Poll<io::Result<()>> {
        if self.availability.is_none() {
            let end = source.offset().saturating_add(self.promised as u64);
            self.availability = source.source.availability(end);
        }
        let Some(availability) = &mut self.availability else { return Poll::Ready(Ok(())) };
        let available = ready!(availability.as_mut().poll(cx));
        self.availability = None;
        Poll::Ready(available)
    }

    /// Reads the whole record. None if that takes a disk access, which has been started then: see
    /// [`Self::poll_resolve`].
    pub(super) fn read_now(
        &mut self,
        source: &mut SourceReader,
    ) -> io::Result<Option<ScratchBuffer>> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let offset = source.offset();
        let mut record = ScratchBuffer::take(self.len());
        let (bytes, promised) = record.split_at_mut(self.bytes.len());
        bytes.copy_from_slice(&self.bytes);
        if source.source.read_now(offset, promised)? {
            return Ok(Some(record));
        }
        drop(record);
        let (source, length) = (Arc::clone(&source.source), self.promised);
        self.reading = Some(spawn_blocking(move || {
            let mut bytes = vec![0; length];
            source.read(offset, &mut bytes).map(|()| bytes)
        }));
        Ok(None)
    }

    /// Reads the promised bytes into memory.
    pub(super) fn poll_resolve(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut SourceReader,
    ) -> Poll<io::Result<()>> {
        while self.promised > 0 {
            let before = self.bytes.len();
            if let Some(record) = self.read_now(source)? {
                self.bytes.reserve_exact(self.promised);
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
            source.advance(read);
            self.promised = self.promised.saturating_sub(read);
        }
        Poll::Ready(Ok(()))
    }

    /// Empties the record after it was written, and frees its memory.
    pub(super) fn clear_written(&mut self, source: &mut SourceReader) {
        self.bytes = Vec::new();
        source.advance(std::mem::take(&mut self.promised));
    }
}
