//! How a body becomes records: bytes are collected until they make a record, each record waits until it
//! is due, promised bytes are read then, and the record is written in one piece.
//!
//! Invariant: while a record waits for its time or its class, no part of it has been written. This file
//! must not know how long a record waits, nor why.

use std::io;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::pending_record::{PendingRecord, SourceReader};
use super::waits::now;
use super::{PacedStream, Phase, is_promise, no_source};

impl PacedStream {
    /// Takes bytes of the body: writes a whole record when it is due, or keeps the bytes (of a promise:
    /// their number) until they make a record.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        left: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let chunk = self.control().schedule.chunk();
        let record = left.map_or(chunk, |left| chunk.min(usize::try_from(left).unwrap_or(chunk)));
        let promised = is_promise(buf);
        let missing = left.map(|left| left - self.pending.len() as u64);
        if promised && self.taken == 0 && missing == Some(buf.len() as u64) {
            self.pending_and_source()?;
            // The rest may be sent from another thread, which has timers of its own.
            (self.timer, self.clock_wake) = (None, None);
            self.read_ahead.forget_readiness();
            self.dripping = true;
            return Poll::Ready(Ok(buf.len()));
        }
        if !promised && self.pending.is_empty() && buf.len() >= record {
            ready!(self.poll_record(cx, Some(&buf[..record])))?;
            return Poll::Ready(Ok(record));
        }
        if self.taken == 0 {
            let taken = buf.len().min(record - self.pending.len());
            if promised {
                self.pending_and_source()?;
                self.pending.add_promised(taken);
            } else {
                ready!(self.poll_resolve(cx))?;
                self.pending.add_bytes(&buf[..taken], record);
            }
            self.taken = taken;
        }
        if self.pending.len() == record {
            ready!(self.poll_record(cx, None))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// Sends the rest of a promised body.
    pub(super) fn poll_drip_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.dripping {
            let Phase::Body { left: Some(left) } = self.control().phase else { break };
            match ready!(self.poll_unpaced(cx, left)) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => return self.abort_body(e),
            }
            let chunk = self.control().schedule.chunk();
            let record = chunk.min(usize::try_from(left).unwrap_or(chunk));
            self.pending.add_promised(record - self.pending.len());
            if let Err(e) = ready!(self.poll_record(cx, None)) {
                return self.abort_body(e);
            }
        }
        if std::mem::take(&mut self.dripping) {
            self.finish_response();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives up a promised body after an error.
    fn abort_body(&mut self, e: io::Error) -> Poll<io::Result<()>> {
        self.dripping = false;
        self.finish_response();
        Poll::Ready(Err(e))
    }

    /// Waits until the record is due and permitted, and writes it: `record`, or the pending one.
    pub(super) fn poll_record(
        &mut self,
        cx: &mut Context<'_>,
        record: Option<&[u8]>,
    ) -> Poll<io::Result<()>> {
        let length = record.map_or(self.pending.len(), <[u8]>::len);
        if self.accepted == 0 {
            ready!(self.poll_due(cx))?;
            ready!(self.poll_class_permit(cx, length))?;
        }
        match record {
            Some(record) => ready!(self.poll_pieces(cx, record))?,
            None => ready!(self.poll_pending(cx))?,
        }
        self.accepted = 0;
        let now = now();
        let control = self.control();
        control.schedule.sent(now);
        if let Some(permit) = &mut control.class_permit {
            permit.use_up(length);
        }
        control.body_sent(length);
        Poll::Ready(Ok(()))
    }

    /// Writes the pending record, after reading its promised bytes. If the socket is full, bytes that were
    /// read from memory are read again the next time.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.has_promised() {
            ready!(self.poll_available(cx))?;
            let (pending, source) = self.pending_and_source()?;
            let read = pending.read_now(source);
            if let Some(record) = self.note_source_error(read)? {
                ready!(self.poll_pieces(cx, &record))?;
                let (pending, source) = self.pending_and_source()?;
                pending.clear_written(source);
                return Poll::Ready(Ok(()));
            }
        }
        ready!(self.poll_resolve(cx))?;
        let bytes = self.pending.take_bytes();
        let written = self.poll_pieces(cx, &bytes);
        if written.is_pending() {
            self.pending.put_back(bytes);
        }
        written
    }

    /// Ready when the source has the promised bytes; an error as soon as the client has gone.
    fn poll_available(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (pending, source) = self.pending_and_source()?;
        if let Poll::Ready(available) = pending.poll_available(cx, source) {
            return Poll::Ready(self.note_source_error(available));
        }
        match self.read_ahead.poll_read(&mut self.inner, cx) {
            Some(e) => self.client_gone(e),
            None => Poll::Pending,
        }
    }

    /// Reads promised bytes of the pending record into memory.
    fn poll_resolve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pending.has_promised() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_available(cx))?;
        let (pending, source) = self.pending_and_source()?;
        let read = ready!(pending.poll_resolve(cx, source));
        Poll::Ready(self.note_source_error(read))
    }

    /// Writes the part of this grid point's bytes that the socket has not accepted yet, in records of the
    /// client's size.
    fn poll_pieces(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let limit = self.control().record;
        while self.accepted < bytes.len() {
            let end = bytes.len().min((self.accepted / limit + 1).saturating_mul(limit));
            let rest = &bytes[self.accepted..end];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest)) {
                Ok(0) => return self.client_gone(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.accepted += n,
                Err(e) => return self.client_gone(e),
            }
            if self.accepted == end
                && let Some(progress) = &self.control().progress
            {
                progress.record(end - (end - 1) / limit * limit);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The pending record and the source of its promised bytes.
    pub(super) fn pending_and_source(
        &mut self,
    ) -> io::Result<(&mut PendingRecord, &mut SourceReader)> {
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        match &mut control.source {
            Some(source) => Ok((&mut self.pending, source)),
            None => Err(no_source()),
        }
    }

    /// Notes a failure of the source in the response's progress, and returns the result.
    pub(super) fn note_source_error<T>(&mut self, read: io::Result<T>) -> io::Result<T> {
        if read.is_err()
            && let Some(progress) = &self.control().progress
        {
            progress.no_source();
        }
        read
    }
}
