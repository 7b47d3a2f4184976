//! The async shell around [`Schedule`]: wraps a client's connection, cuts the response body into
//! records and holds each one back until it is due. This file has the stream's state and its reads and
//! writes; `body` sends the records, `waits` has what a record waits for.
//!
//! Why here and not in a body filter: on the uncached path Pingora collects what the upstream has
//! sent, runs the filters, and then writes everything at once, so a delay returned by a filter
//! turns into a burst. The filters therefore only [arm](PacedStream::arm) the stream for the coming
//! response, and the stream, through which every byte passes last, cuts and waits.
//!
//! Invariants:
//! - one `poll_write` of a full record to the TLS stream below is one TLS record;
//! - the response head is sent at once, as it is written, and never shares a record with the body;
//!   the first body record follows within 25 ms ([`super::schedule`] says why not at once);
//! - a body record of a response with a Content-Length is [`Pace::record`] bytes, but for the last;
//! - while it waits, for a record's time or for its bytes, the stream reads a little of what the client
//!   sends, so that the end of the connection ends the write at once;
//! - it holds no bytes of a [promised](super::source) body while it waits, and never sends a promise as
//!   it is: a promise without a source is an error.
//!
//! This room must not know what is in the body, or of S3.

mod body;
mod class_permit;
mod delegate;
mod head;
mod pending_record;
mod read_ahead;
mod unpaced;
mod waits;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::schedule::Schedule;
use super::source::{Source, is_promise};
use super::{Pace, Progress};
use crate::shape::Flow;
use crate::valve::Valve;
use class_permit::ClassPermit;
use head::head_length;
use pending_record::{PendingRecord, SourceReader};
use read_ahead::ReadAhead;

/// A client's connection whose response bodies are paced once it is armed.
pub struct PacedStream {
    inner: Stream,
    /// Behind a lock only because Pingora lends the stream out by shared reference; the connection's
    /// one task is the only user.
    control: Mutex<Control>,
    /// None while no response is armed.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the clock of the drip thread wakes this stream's task, if it was asked to.
    clock_wake: Option<Instant>,
    /// A record that is not complete yet, or whose bytes are promised.
    pending: PendingRecord,
    /// How many bytes of the caller's present buffer are in `pending` already.
    taken: usize,
    /// How many bytes of the record in flight the socket has accepted (a TLS stream takes all or
    /// nothing).
    accepted: usize,
    /// The whole rest of the body was promised, and the caller was told that it is written.
    dripping: bool,
    read_ahead: ReadAhead,
    listener: Option<SocketAddr>,
}

struct Control {
    schedule: Schedule,
    /// Plaintext bytes of a record.
    record: usize,
    phase: Phase,
    /// The armed response's.
    progress: Option<Arc<Progress>>,
    /// The armed response's; closed while body bytes wait here.
    valve: Option<Arc<Valve>>,
    /// The armed response's: where promised bytes are.
    source: Option<SourceReader>,
    /// The armed response's: permission of its class. Boxed, since most responses have none.
    class_permit: Option<Box<ClassPermit>>,
}

/// Where the body of a response comes from.
#[derive(Debug, Clone)]
pub enum Feed {
    /// From the caller, whenever it has some.
    Free,
    /// From the caller, which reads no further while the valve is closed, that is while body bytes wait.
    Valve(Arc<Valve>),
    /// From the caller, which may write [promises](super::source::promise) of this source's bytes, in
    /// their order, in place of the bytes.
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
    /// How many bytes of the body are not sent yet, if that is known.
    fn body_left(&self) -> Option<u64> {
        match self.phase {
            Phase::Body { left } => left,
            Phase::Idle | Phase::Head { .. } => None,
        }
    }

    /// Counts bytes of the body that were sent.
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
                source: None,
                class_permit: None,
            }),
            timer: None,
            clock_wake: None,
            pending: PendingRecord::default(),
            taken: 0,
            accepted: 0,
            dripping: false,
            read_ahead: ReadAhead::default(),
            listener: None,
        }
    }

    /// Sets the address, as it is configured, of the listener that accepted the connection.
    #[must_use]
    pub fn accepted_by(mut self, listener: SocketAddr) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The configured address of the listener that accepted the connection.
    #[must_use]
    pub fn listener(&self) -> Option<SocketAddr> {
        self.listener
    }

    /// Announces a response: its head is written next, then a body of `length` bytes (`None` if it is
    /// delimited otherwise) at that pace, from that feed.
    pub fn arm(&self, pace: Pace, length: Option<u64>, progress: Arc<Progress>, feed: Feed) {
        let mut control = self.lock();
        control.schedule.begin(pace.chunk, pace.wait);
        control.record = pace.record;
        control.phase = Phase::Head { matched: 0, left: length };
        control.progress = Some(progress);
        control.class_permit = None;
        (control.valve, control.source) = match feed {
            Feed::Free => (None, None),
            Feed::Valve(valve) => (Some(valve), None),
            Feed::Source(source) => (None, Some(SourceReader::new(source))),
        };
    }

    /// Makes every record of the armed response wait, once it is due, for permission of that flow's
    /// class.
    pub fn wait_for_class(&self, flow: Flow) {
        self.lock().class_permit = Some(Box::new(ClassPermit::new(flow)));
    }

    /// Whether the rest of a body was promised in one piece and is not sent yet. The writer was told that
    /// it is written; the owner of the stream has to [drip it out](Self::drip_out).
    #[must_use]
    pub fn is_dripping(&self) -> bool {
        self.dripping
    }

    /// Whether at most one record of that body is left.
    #[must_use]
    pub fn is_dripping_its_last(&self) -> bool {
        let control = self.lock();
        let Phase::Body { left: Some(left) } = control.phase else { return true };
        left <= control.schedule.chunk() as u64
    }

    /// Records per second of the armed response, rounded up; `usize::MAX` without a pace.
    #[must_use]
    pub fn records_per_second(&self) -> usize {
        let control = self.lock();
        let records = control.schedule.chunk().div_ceil(control.record.max(1));
        control.schedule.per_second().saturating_mul(records)
    }

    /// Sends the rest of a promised body. Reads, writes and shutdowns do the same first, so nothing is
    /// lost or reordered if this is not called. It is called so that the time it takes does not count
    /// against a read's timeout.
    ///
    /// # Errors
    ///
    /// If the client has gone or the source fails. The connection cannot be used any more then.
    pub async fn drip_out(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drip_out(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        // Nothing panics while the lock is held, and after a panic it would still hold a valid Control.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&mut self) -> &mut Control {
        self.control.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes bytes of the head to the connection, and no byte of the body with them.
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

    /// Drops what the armed response needed, once it is complete.
    fn finish_response(&mut self) {
        (self.timer, self.clock_wake) = (None, None);
        self.read_ahead.forget_readiness();
        let control = self.control();
        control.progress = None;
        control.source = None;
        control.class_permit = None;
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
}

fn no_source() -> io::Error {
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
        ready!(this.poll_drip_out(cx))?;
        let written = match this.control().phase {
            Phase::Idle | Phase::Head { .. } if is_promise(buf) => {
                return Poll::Ready(Err(no_source()));
            }
            Phase::Idle => return Pin::new(&mut this.inner).poll_write(cx, buf),
            Phase::Head { matched, left } => ready!(this.poll_head(cx, buf, matched, left))?,
            Phase::Body { left } => {
                this.set_valve(false);
                let taken = ready!(this.poll_body(cx, buf, left))?;
                // The caller's buffer is taken whole: it may read more.
                this.set_valve(taken == buf.len());
                taken
            }
        };
        if matches!(this.control().phase, Phase::Idle) {
            this.finish_response();
        }
        Poll::Ready(Ok(written))
    }

    /// A body of known length is complete without a flush, so part of a record is held until the rest of
    /// it is written. Without a length, a flush is the only sign that nothing may follow for a while.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.control().phase, Phase::Body { left: None }) && !this.pending.is_empty() {
            ready!(this.poll_record(cx, None))?;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drip_out(cx))?;
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
        ready!(this.poll_drip_out(cx))?;
        if this.read_ahead.take(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        this.read_ahead.forget_readiness();
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
