//! A promised body without a pace. It waits for the socket alone, so one read of the source and one
//! write to the socket serve several records.
//!
//! Invariants: a record has the size that it would have with a pace; it counts as sent when the socket
//! has accepted it. This file must not know of time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::PacedStream;
use crate::tls::combined;

/// Bytes of a body that are read and sent at once, at most. A client that does not read occupies that
/// much memory.
const BATCH: usize = 32 << 10;

impl PacedStream {
    /// Sends the next records of a promised body of which `left` bytes are left. False if the response
    /// has a pace or a class, if a record was begun, or if the bytes are not in memory: the caller sends
    /// the next record by itself then.
    pub(super) fn poll_unpaced(
        &mut self,
        cx: &mut Context<'_>,
        left: u64,
    ) -> Poll<io::Result<bool>> {
        let control = self.control();
        let (record, chunk) = (control.record, control.schedule.chunk());
        let free = control.schedule.is_free() && control.class_permit.is_none();
        if !free || chunk > BATCH || !chunk.is_multiple_of(record) {
            return Poll::Ready(Ok(false));
        }
        // Whole records, so that the batches' ends are records' ends.
        let most = BATCH / chunk * chunk;
        let length = usize::try_from(left).map_or(most, |left| left.min(most));
        if !self.pending.is_empty() {
            return Poll::Ready(Ok(false));
        }
        // A batch that is encrypted but not yet taken by the socket needs no second read, only a flush.
        if self.accepted < length {
            let read = self.pending_and_source()?.1.read_now(length);
            let Some(bytes) = self.note_source_error(read)? else {
                return Poll::Ready(self.count_batch().map(|()| false));
            };
            combined::hold(&self.inner, true);
            let written = self.poll_batch(cx, &bytes, record);
            combined::hold(&self.inner, false);
            ready!(written)?;
        }
        if let Err(e) = ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
            return self.client_gone(e);
        }
        Poll::Ready(self.count_batch().map(|()| true))
    }

    /// Counts as sent what the connection has accepted of a batch. The accepted part of an incomplete
    /// record stays in `accepted`, and the record is completed by itself.
    fn count_batch(&mut self) -> io::Result<()> {
        let control = self.control();
        let (record, chunk) = (control.record, control.schedule.chunk());
        let left = control.body_left().unwrap_or(u64::MAX);
        // The last record of a body may be shorter.
        let whole = match usize::try_from(left) {
            Ok(left) if left == self.accepted => left,
            _ => self.accepted / chunk * chunk,
        };
        let records = self.accepted / record + usize::from(whole % record > 0);
        let accepted = self.accepted;
        self.accepted -= whole;
        let (_, source) = self.pending_and_source()?;
        source.advance(whole);
        let control = self.control();
        control.body_sent(whole);
        if let Some(progress) = &control.progress {
            (0..records).for_each(|at| progress.record(record.min(accepted - at * record)));
        }
        Ok(())
    }

    /// Writes the part of `bytes` that is not accepted yet, record by record.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        record: usize,
    ) -> Poll<io::Result<()>> {
        while self.accepted < bytes.len() {
            let end = bytes.len().min((self.accepted / record + 1) * record);
            let rest = &bytes[self.accepted..end];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest)) {
                Ok(0) => return self.client_gone(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.accepted += n,
                Err(e) => return self.client_gone(e),
            }
        }
        Poll::Ready(Ok(()))
    }
}
