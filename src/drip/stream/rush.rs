//! A promised body without a pace: there is nothing to wait for but the socket, so one read of the
//! source, and one write to the socket, serve several records.
//!
//! Invariants: a record has the size that it would have with a pace; it counts as sent when the socket
//! has it. This file must not know of time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::PacedStream;
use crate::tls::combined;

/// Bytes of a body that are read and sent at once, at most. A client that does not read them costs as
/// much memory.
const BATCH: usize = 32 << 10;

impl PacedStream {
    /// Sends the next records of a body that was promised whole and of which `left` bytes are left.
    /// False if it has a pace, a class, or a record that was begun, or is not in memory: then the next
    /// record takes the ordinary way.
    pub(super) fn poll_rush(&mut self, cx: &mut Context<'_>, left: u64) -> Poll<io::Result<bool>> {
        let control = self.control();
        let (record, chunk) = (control.record, control.schedule.chunk());
        let free = control.schedule.is_free() && control.toll.is_none();
        if !free || chunk > BATCH || !chunk.is_multiple_of(record) {
            return Poll::Ready(Ok(false));
        }
        // Whole records, so that the batches' ends are records' ends.
        let most = BATCH / chunk * chunk;
        let length = usize::try_from(left).map_or(most, |left| left.min(most));
        if !self.gathered.is_empty() {
            return Poll::Ready(Ok(false));
        }
        // A batch that the socket has not taken yet needs no second read, unless it is not even
        // encrypted yet.
        if self.accepted < length {
            let read = self.supplied()?.1.read_now(length);
            let Some(bytes) = self.had(read)? else {
                return Poll::Ready(self.part().map(|()| false));
            };
            combined::hold(&self.inner, true);
            let written = self.poll_batch(cx, &bytes, record);
            combined::hold(&self.inner, false);
            ready!(written)?;
        }
        if let Err(e) = ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
            return self.gone(e);
        }
        Poll::Ready(self.part().map(|()| true))
    }

    /// Notes that what the connection has accepted of a batch was sent. Of a record that it has a part
    /// of, that part is left to the ordinary way.
    fn part(&mut self) -> io::Result<()> {
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
        let (_, supply) = self.supplied()?;
        supply.used(whole);
        let control = self.control();
        control.body_sent(whole);
        if let Some(progress) = &control.progress {
            (0..records).for_each(|at| progress.record(record.min(accepted - at * record)));
        }
        Ok(())
    }

    /// Writes what is not accepted yet of `bytes`, record by record.
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
                Ok(0) => return self.gone(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.accepted += n,
                Err(e) => return self.gone(e),
            }
        }
        Poll::Ready(Ok(()))
    }
}
