//! The async shell around [`Schedule`]: wraps a client's connection, cuts the response body into
//! records and holds each one back until its time.
//!
//! Why here and not in a body filter: on the uncached path Pingora collects what the upstream has
//! sent, runs the filters, and then writes everything at once, so a delay returned by a filter
//! turns into a burst. The filters therefore only [arm](PacedStream::arm) the stream with what is
//! to happen, and the stream, which sees every byte last, slices and waits.
//!
//! Invariants:
//! - one `poll_write` of a full record to the TLS stream below is one TLS record;
//! - the response head goes out at once, as it is written, and never shares a record with the body;
//!   the first body record follows within 25 ms ([`super::schedule`] says why not at once);
//! - a body record of a response with a Content-Length is [`Pace::record`] bytes, but for the last;
//! - while it waits, for a record's time or for its bytes, the stream reads ahead (a little), so a
//!   vanished client ends the write at once;
//! - of a [promised](super::source) body it holds nothing while it waits, and a promise is never
//!   sent as it is: without a source it is an error.
//!
//! This file must not know what is in the body, or of S3.

mod ahead;
mod delegate;
mod gathered;
mod head;
mod rush;
mod toll;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::lanes::ticks;
use super::schedule::{Next, Schedule};
use super::source::{Source, is_promise};
use super::{Pace, Progress};
use crate::shape::Flow;
use crate::valve::Valve;
use ahead::Ahead;
use gathered::{Gathered, Supply};
use head::head_length;
use toll::Toll;

/// What every connection's times are measured from, so that their records are due at equal instants
/// and one wake-up serves them all. A while before the first use, so that no time lies before it.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// A client's connection whose response bodies are paced once it is armed.
pub struct PacedStream {
    inner: Stream,
    /// Behind a lock only because Pingora lends the stream out by shared reference; the connection's
    /// one task is the only user.
    control: Mutex<Control>,
    /// None while no response is armed.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the lane that this stream is on wakes its task, if it was told to.
    ticked: Option<Instant>,
    /// A record that is not complete yet, or that a source owes.
    gathered: Gathered,
    /// How many bytes of the caller's present buffer are in `gathered` already.
    taken: usize,
    /// How many bytes of the record in flight the socket has accepted (a TLS stream takes all or
    /// nothing).
    accepted: usize,
    /// All that is left of the body was promised and the caller told that it is written.
    dripping: bool,
    ahead: Ahead,
    listener: Option<SocketAddr>,
}

struct Control {
    schedule: Schedule,
    /// Plaintext bytes of a record.
    record: usize,
    phase: Phase,
    /// Of the armed response.
    progress: Option<Arc<Progress>>,
    /// Of the armed response: closed while body bytes wait here.
    valve: Option<Arc<Valve>>,
    /// Of the armed response: where promised bytes are.
    supply: Option<Supply>,
    /// Of the armed response: the class that its records need leave of.
    toll: Option<Box<Toll>>,
}

/// Where the body of a response comes from.
#[derive(Debug, Clone)]
pub enum Feed {
    /// From the caller, whenever it has some.
    Free,
    /// From the caller, which reads no further while the valve is closed: while body bytes wait.
    Valve(Arc<Valve>),
    /// From the caller, which may hand out [promises](super::source::promise) of this source's
    /// bytes, in their order, in place of them.
    Source(Arc<dyn Source>),
}

/// Which part of a response the next written byte belongs to.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Not armed, or the armed response is complete: everything passes.
    Idle,
    /// The head of the armed response; `matched` bytes of its CRLF CRLF have been seen.
    Head { matched: u8, left: Option<u64> },
    /// The body; `left` bytes are missing, if its length is known.
    Body { left: Option<u64> },
}

impl Control {
    /// How many bytes of the body are missing, if that is known.
    fn body_left(&self) -> Option<u64> {
        match self.phase {
            Phase::Body { left } => left,
            Phase::Idle | Phase::Head { .. } => None,
        }
    }

    /// Notes that so many bytes of the body have left.
    fn body_sent(&mut self, length: usize) {
        if let Phase::Body { left: Some(left) } = &mut self.phase {
            *left -= length as u64;
            if *left == 0 {
                self.phase = Phase::Idle;
            }
        }
    }
}

impl PacedStream {
    /// Wraps a connection. Nothing is paced before [`Self::arm`].
    #[must_use]
    pub fn new(inner: Stream) -> Self {
        Self {
            inner,
            control: Mutex::new(Control {
                schedule: Schedule::new(usize::MAX, Duration::ZERO),
                record: usize::MAX,
                phase: Phase::Idle,
                progress: None,
                valve: None,
                supply: None,
                toll: None,
            }),
            timer: None,
            ticked: None,
            gathered: Gathered::default(),
            taken: 0,
            accepted: 0,
            dripping: false,
            ahead: Ahead::default(),
            listener: None,
        }
    }

    /// The same, accepted by the listener with that address in the configuration.
    #[must_use]
    pub fn accepted_by(mut self, listener: SocketAddr) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The address of the listener that accepted it, as it is configured.
    #[must_use]
    pub fn listener(&self) -> Option<SocketAddr> {
        self.listener
    }

    /// Announces a response: the head is written next, then a body of `length` bytes (`None` if it
    /// is delimited otherwise) at that pace, from that feed.
    pub fn arm(&self, pace: Pace, length: Option<u64>, progress: Arc<Progress>, feed: Feed) {
        let mut control = self.lock();
        control.schedule.begin(pace.chunk, pace.wait);
        control.record = pace.record;
        control.phase = Phase::Head { matched: 0, left: length };
        control.progress = Some(progress);
        control.toll = None;
        (control.valve, control.supply) = match feed {
            Feed::Free => (None, None),
            Feed::Valve(valve) => (Some(valve), None),
            Feed::Source(source) => (None, Some(Supply::new(source))),
        };
    }

    /// Makes every record of the armed response wait, once it is due, for leave of that flow's class.
    pub fn held_back_by(&self, flow: Flow) {
        self.lock().toll = Some(Box::new(Toll::new(flow)));
    }

    /// Whether a body goes out whose rest was promised in one piece: the caller was told at once that
    /// it is written, and whoever has the stream is to [drip it out](Self::drip_out).
    #[must_use]
    pub fn is_dripping(&self) -> bool {
        self.dripping
    }

    /// Whether no more than one record of that body is left.
    #[must_use]
    pub fn is_dripping_its_last(&self) -> bool {
        let control = self.lock();
        let Phase::Body { left: Some(left) } = control.phase else { return true };
        left <= control.schedule.chunk() as u64
    }

    /// Records in a second that the armed response is sent at, rounded up; `usize::MAX` without a pace.
    #[must_use]
    pub fn records_per_second(&self) -> usize {
        let control = self.lock();
        let records = control.schedule.chunk().div_ceil(control.record.max(1));
        control.schedule.per_second().saturating_mul(records)
    }

    /// Sends the rest of a body that was promised. Reads, writes and shutdowns do the same before
    /// all else, so nothing is lost or overtaken without it; they take no time off a read's timeout
    /// with it.
    ///
    /// # Errors
    ///
    /// If the client is gone or the source fails; the connection is of no more use then.
    pub async fn drip_out(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_rest(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        // Nothing panics while it is held; a poisoned lock would still hold a valid Control.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&mut self) -> &mut Control {
        self.control.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes head bytes through, and no byte of the body with them.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        matched: u8,
        left: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let (length, _) = head_length(buf, matched);
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &buf[..length]))?;
        let (_, matched) = head_length(&buf[..written], matched);
        if let Some(progress) = &self.control().progress {
            progress.head_sent(written);
        }
        self.control().phase = match (matched, left) {
            (4, Some(0)) => Phase::Idle,
            (4, _) => Phase::Body { left },
            _ => Phase::Head { matched, left },
        };
        Poll::Ready(Ok(written))
    }

    /// Takes bytes of the body: writes a whole record when its time has come, or keeps the bytes
    /// (of a promise: their number) until they make one.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        left: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let chunk = self.control().schedule.chunk();
        let record = left.map_or(chunk, |left| chunk.min(usize::try_from(left).unwrap_or(chunk)));
        let promised = is_promise(buf);
        let missing = left.map(|left| left - self.gathered.len() as u64);
        if promised && self.taken == 0 && missing == Some(buf.len() as u64) {
            self.supplied()?;
            // Whoever drips it out may be on another thread, with timers of its own.
            (self.timer, self.ticked) = (None, None);
            self.ahead.look();
            self.dripping = true;
            return Poll::Ready(Ok(buf.len()));
        }
        if !promised && self.gathered.is_empty() && buf.len() >= record {
            ready!(self.poll_record(cx, Some(&buf[..record])))?;
            return Poll::Ready(Ok(record));
        }
        if self.taken == 0 {
            let taken = buf.len().min(record - self.gathered.len());
            if promised {
                self.supplied()?;
                self.gathered.promise(taken);
            } else {
                ready!(self.poll_settle(cx))?;
                self.gathered.add(&buf[..taken], record);
            }
            self.taken = taken;
        }
        if self.gathered.len() == record {
            ready!(self.poll_record(cx, None))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// Sends what is left of a body that was promised whole.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.dripping {
            let Phase::Body { left: Some(left) } = self.control().phase else { break };
            match ready!(self.poll_rush(cx, left)) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => return self.given_up(e),
            }
            let chunk = self.control().schedule.chunk();
            let record = chunk.min(usize::try_from(left).unwrap_or(chunk));
            self.gathered.promise(record - self.gathered.len());
            if let Err(e) = ready!(self.poll_record(cx, None)) {
                return self.given_up(e);
            }
        }
        if std::mem::take(&mut self.dripping) {
            self.release();
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a promised body before its end.
    fn given_up(&mut self, e: io::Error) -> Poll<io::Result<()>> {
        self.dripping = false;
        self.release();
        Poll::Ready(Err(e))
    }

    /// Waits for the record's time and writes it: `record`, or what is gathered.
    fn poll_record(&mut self, cx: &mut Context<'_>, record: Option<&[u8]>) -> Poll<io::Result<()>> {
        let length = record.map_or(self.gathered.len(), <[u8]>::len);
        if self.accepted == 0 {
            ready!(self.poll_due(cx))?;
            ready!(self.poll_toll(cx, length))?;
        }
        match record {
            Some(record) => ready!(self.poll_pieces(cx, record))?,
            None => ready!(self.poll_gathered(cx))?,
        }
        self.accepted = 0;
        let now = EPOCH.elapsed();
        let control = self.control();
        control.schedule.sent(now);
        if let Some(toll) = &mut control.toll {
            toll.passed(length);
        }
        control.body_sent(length);
        Poll::Ready(Ok(()))
    }

    /// Writes the record that is gathered, after reading what a source owes of it. Should the socket
    /// be full, what was read at once is read again the next time.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.owes() {
            ready!(self.poll_there(cx))?;
            let (gathered, supply) = self.supplied()?;
            let read = gathered.read_now(supply);
            if let Some(record) = self.had(read)? {
                ready!(self.poll_pieces(cx, &record))?;
                let (gathered, supply) = self.supplied()?;
                gathered.written(supply);
                return Poll::Ready(Ok(()));
            }
        }
        ready!(self.poll_settle(cx))?;
        let bytes = self.gathered.take_bytes();
        let written = self.poll_pieces(cx, &bytes);
        if written.is_pending() {
            self.gathered.put_back(bytes);
        }
        written
    }

    /// Waits until the source has what it owes; an error as soon as the client is gone.
    fn poll_there(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (gathered, supply) = self.supplied()?;
        if let Poll::Ready(there) = gathered.poll_there(cx, supply) {
            return Poll::Ready(self.had(there));
        }
        match self.ahead.poll_read(&mut self.inner, cx) {
            Some(e) => self.gone(e),
            None => Poll::Pending,
        }
    }

    /// Makes ordinary bytes of those that are owed.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.owes() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_there(cx))?;
        let (gathered, supply) = self.supplied()?;
        let settled = ready!(gathered.poll_settle(cx, supply));
        Poll::Ready(self.had(settled))
    }

    /// Writes what the socket has not accepted yet of the bytes that leave at this grid point, in
    /// records of the client's size.
    fn poll_pieces(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let limit = self.control().record;
        while self.accepted < bytes.len() {
            let end = bytes.len().min((self.accepted / limit + 1).saturating_mul(limit));
            let rest = &bytes[self.accepted..end];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest)) {
                Ok(0) => return self.gone(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.accepted += n,
                Err(e) => return self.gone(e),
            }
            if self.accepted == end
                && let Some(progress) = &self.control().progress
            {
                progress.record(end - (end - 1) / limit * limit);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is gathered, and the source that owes it.
    fn supplied(&mut self) -> io::Result<(&mut Gathered, &mut Supply)> {
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        match &mut control.supply {
            Some(supply) => Ok((&mut self.gathered, supply)),
            None => Err(unsupplied()),
        }
    }

    /// What came of reading the source; notes a failure.
    fn had<T>(&mut self, read: io::Result<T>) -> io::Result<T> {
        if read.is_err()
            && let Some(progress) = &self.control().progress
        {
            progress.no_source();
        }
        read
    }

    /// Ready when the next record may leave; an error as soon as the client is gone.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = EPOCH.elapsed();
        let Next::WaitUntil(due) = self.control().schedule.next(now, None) else {
            return Poll::Ready(Ok(()));
        };
        let due = *EPOCH + due;
        if self.ticked != Some(due) {
            // On a lane there is no timer: whoever is due at one instant is woken by one.
            self.ticked = ticks::wake_at(due, *EPOCH + now, cx).then_some(due);
        }
        if self.ticked.is_some() {
            return self.poll_gone(cx);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_gone(cx)
    }

    /// Ready when the response's class has given leave for the record; an error as soon as the client
    /// is gone.
    fn poll_toll(&mut self, cx: &mut Context<'_>, record: usize) -> Poll<io::Result<()>> {
        let Some(toll) = &mut self.control().toll else { return Poll::Ready(Ok(())) };
        if toll.poll_paid(cx, record).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_gone(cx)
    }

    /// Ready, with an error, only when the client is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ahead.poll_read(&mut self.inner, cx) {
            Some(e) => self.gone(e),
            None => Poll::Pending,
        }
    }

    /// Lets go of what the armed response needed, once it is complete.
    fn release(&mut self) {
        (self.timer, self.ticked) = (None, None);
        self.ahead.look();
        let control = self.control();
        control.progress = None;
        control.supply = None;
        control.toll = None;
        if let Some(valve) = control.valve.take() {
            valve.open();
        }
    }

    fn set_valve(&mut self, open: bool) {
        match &self.control().valve {
            Some(valve) if open => valve.open(),
            Some(valve) => valve.close(),
            None => {}
        }
    }

    fn gone<T>(&mut self, e: io::Error) -> Poll<io::Result<T>> {
        if let Some(progress) = &self.control().progress {
            progress.gone();
        }
        Poll::Ready(Err(e))
    }
}

fn unsupplied() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a promised body met no source")
}

impl AsyncWrite for PacedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_rest(cx))?;
        let written = match this.control().phase {
            Phase::Idle | Phase::Head { .. } if is_promise(buf) => {
                return Poll::Ready(Err(unsupplied()));
            }
            Phase::Idle => return Pin::new(&mut this.inner).poll_write(cx, buf),
            Phase::Head { matched, left } => ready!(this.poll_head(cx, buf, matched, left))?,
            Phase::Body { left } => {
                this.set_valve(false);
                let taken = ready!(this.poll_body(cx, buf, left))?;
                // With its last byte gone the caller comes for more.
                this.set_valve(taken == buf.len());
                taken
            }
        };
        if matches!(this.control().phase, Phase::Idle) {
            this.release();
        }
        Poll::Ready(Ok(written))
    }

    /// A body of known length is complete without a flush, so a piece of a record is held until the
    /// rest of it comes. Otherwise a flush is the only sign that nothing more may come for a while.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.control().phase, Phase::Body { left: None }) && !this.gathered.is_empty() {
            ready!(this.poll_record(cx, None))?;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_rest(cx))?;
        if this.ahead.take(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        this.ahead.look();
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            let control = this.control();
            if let (Some(progress), Phase::Head { .. } | Phase::Body { .. }) =
                (&control.progress, control.phase)
            {
                progress.gone();
            }
        }
        Poll::Ready(read)
    }
}

impl fmt::Debug for PacedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = self.lock();
        f.debug_struct("PacedStream")
            .field("phase", &control.phase)
            .field("progress", &control.progress)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
