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
//! - a body record of a response with a Content-Length is [`Pace::record`] bytes, but for the last;
//! - while it waits, the stream reads ahead (a little), so a vanished client ends the write at once.
//!
//! This file must not know what is in the body, or of S3.

mod delegate;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::schedule::{Next, Schedule};
use super::valve::Valve;
use super::{Pace, Progress};

/// How many bytes of the client's next requests are read while a record waits. Enough for a few
/// pipelined requests of a device; a client that sends more is left to the kernel's buffer, and
/// its disappearance is noticed at the next write.
const READ_AHEAD: usize = 2048;

/// A client's connection whose response bodies are paced once it is armed.
pub struct PacedStream {
    inner: Stream,
    /// What times are measured from.
    epoch: Instant,
    /// Behind a lock only because Pingora lends the stream out by shared reference; the connection's
    /// one task is the only user.
    control: Mutex<Control>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The bytes of a record that is not complete yet.
    partial: Vec<u8>,
    /// How many bytes of the caller's present buffer are in `partial` already.
    taken: usize,
    /// How many bytes of the record in flight the socket has accepted (a TLS stream takes all or
    /// nothing).
    accepted: usize,
    ahead: Vec<u8>,
    ahead_end: bool,
    listener: Option<SocketAddr>,
}

struct Control {
    schedule: Schedule,
    /// Plaintext bytes of a record.
    record: usize,
    phase: Phase,
    /// Of the armed response.
    progress: Option<Arc<Progress>>,
    /// Closed while body bytes wait here.
    valve: Option<Arc<Valve>>,
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

impl PacedStream {
    /// Wraps a connection. Nothing is paced before [`Self::arm`].
    #[must_use]
    pub fn new(inner: Stream) -> Self {
        Self {
            inner,
            epoch: Instant::now(),
            control: Mutex::new(Control {
                schedule: Schedule::new(usize::MAX, Duration::ZERO),
                record: usize::MAX,
                phase: Phase::Idle,
                progress: None,
                valve: None,
            }),
            timer: None,
            partial: Vec::new(),
            taken: 0,
            accepted: 0,
            ahead: Vec::new(),
            ahead_end: false,
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
    /// is delimited otherwise) at that pace. `valve` is closed while bytes of that body wait here.
    pub fn arm(
        &self,
        pace: Pace,
        length: Option<u64>,
        progress: Arc<Progress>,
        valve: Option<Arc<Valve>>,
    ) {
        let mut control = self.lock();
        control.schedule.begin(pace.chunk, pace.wait);
        control.record = pace.record;
        control.phase = Phase::Head { matched: 0, left: length };
        control.progress = Some(progress);
        control.valve = valve;
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
    /// until they make one.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        left: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let chunk = self.control().schedule.chunk();
        let record = left.map_or(chunk, |left| chunk.min(usize::try_from(left).unwrap_or(chunk)));
        if self.partial.is_empty() && buf.len() >= record {
            ready!(self.poll_record(cx, Some(&buf[..record])))?;
            return Poll::Ready(Ok(record));
        }
        if self.taken == 0 {
            self.taken = buf.len().min(record - self.partial.len());
            self.partial.reserve_exact(record - self.partial.len());
            self.partial.extend_from_slice(&buf[..self.taken]);
        }
        if self.partial.len() == record {
            ready!(self.poll_record(cx, None))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// Waits for the record's time and writes it: `record`, or what is in `partial`.
    fn poll_record(&mut self, cx: &mut Context<'_>, record: Option<&[u8]>) -> Poll<io::Result<()>> {
        if self.accepted == 0 {
            ready!(self.poll_due(cx))?;
        }
        let length = record.map_or(self.partial.len(), <[u8]>::len);
        let limit = self.control().record;
        while self.accepted < length {
            let end = length.min((self.accepted / limit + 1).saturating_mul(limit));
            let rest = match record {
                Some(record) => &record[self.accepted..end],
                None => &self.partial[self.accepted..end],
            };
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, rest));
            match written {
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
        self.accepted = 0;
        if record.is_none() {
            self.partial.clear();
        }
        let now = self.epoch.elapsed();
        let control = self.control();
        control.schedule.sent(now);
        if let Phase::Body { left: Some(left) } = &mut control.phase {
            *left -= length as u64;
            if *left == 0 {
                control.phase = Phase::Idle;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the next record may leave; an error as soon as the client is gone.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.epoch.elapsed();
        let Next::WaitUntil(due) = self.control().schedule.next(now, None) else {
            return Poll::Ready(Ok(()));
        };
        let due = self.epoch + due;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_read_ahead(cx) {
            Some(e) => self.gone(e),
            None => Poll::Pending,
        }
    }

    /// Reads what the client has sent meanwhile, up to [`READ_AHEAD`] bytes. Returns why the client
    /// is gone, if it is.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        while !self.ahead_end && self.ahead.len() < READ_AHEAD {
            let mut space = [0; 512];
            let room = space.len().min(READ_AHEAD - self.ahead.len());
            let mut buf = ReadBuf::new(&mut space[..room]);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Pending => return None,
                Poll::Ready(Err(e)) => return Some(e),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.ahead_end = true,
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(buf.filled()),
            }
        }
        self.ahead_end
            .then(|| io::Error::new(io::ErrorKind::BrokenPipe, "the client closed the connection"))
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

/// How many bytes of `buf` belong to a head of whose CRLF CRLF `matched` bytes came before, and how
/// many are matched after those.
fn head_length(buf: &[u8], mut matched: u8) -> (usize, u8) {
    const END: &[u8; 4] = b"\r\n\r\n";
    for (at, byte) in buf.iter().enumerate() {
        matched = match *byte {
            b if b == END[usize::from(matched)] => matched + 1,
            b'\r' => 1,
            _ => 0,
        };
        if matched == 4 {
            return (at + 1, 4);
        }
    }
    (buf.len(), matched)
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
        match this.control().phase {
            Phase::Idle => Pin::new(&mut this.inner).poll_write(cx, buf),
            Phase::Head { matched, left } => this.poll_head(cx, buf, matched, left),
            Phase::Body { left } => {
                this.set_valve(false);
                let taken = ready!(this.poll_body(cx, buf, left))?;
                // With its last byte gone the caller comes for more.
                this.set_valve(taken == buf.len());
                Poll::Ready(Ok(taken))
            }
        }
    }

    /// A body of known length is complete without a flush, so a piece of a record is held until the
    /// rest of it comes. Otherwise a flush is the only sign that nothing more may come for a while.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.control().phase, Phase::Body { left: None }) && !this.partial.is_empty() {
            ready!(this.poll_record(cx, None))?;
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        if !this.ahead.is_empty() {
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..n]);
            this.ahead.drain(..n);
            return Poll::Ready(Ok(()));
        }
        if this.ahead_end {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
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
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n";
    const WAIT: Duration = Duration::from_millis(500);

    fn paced(capacity: usize) -> (PacedStream, DuplexStream) {
        let (near, far) = duplex(capacity);
        (PacedStream::new(Box::new(near)), far)
    }

    /// Arms with a record size in bytes, and returns what counts the records.
    fn arm(
        stream: &PacedStream,
        chunk: usize,
        wait: Duration,
        length: Option<u64>,
    ) -> Arc<Progress> {
        let counter = || prometheus::IntCounter::new("name", "help").unwrap();
        let progress = Arc::new(Progress::new(counter(), counter()));
        let pace = Pace { chunk, record: chunk, wait };
        stream.arm(pace, length, Arc::clone(&progress), None);
        progress
    }

    /// Reads what arrives until `total` bytes have, with the time of each arrival.
    async fn arrivals(far: &mut DuplexStream, total: usize) -> Vec<(Duration, usize)> {
        let start = Instant::now();
        let (mut seen, mut got) = (Vec::new(), 0);
        while got < total {
            let mut buf = vec![0; 65_536];
            let n = far.read(&mut buf).await.unwrap();
            assert!(n > 0, "closed after {got} of {total}");
            got += n;
            seen.push((start.elapsed(), n));
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_of_any_size_leave_as_whole_records_on_the_grid() {
        let (mut stream, mut far) = paced(1 << 20);
        let body: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let reader = tokio::spawn(async move {
            let seen = arrivals(&mut far, HEAD.len() + 10_000).await;
            (seen, far)
        });
        let progress = arm(&stream, 4096, WAIT, Some(10_000));
        let mut all = HEAD.to_vec();
        all.extend_from_slice(&body[..3]); // the first body bytes may come in the head's buffer
        stream.write_all(&all).await.unwrap();
        let mut rest = &body[3..];
        for size in [1, 17, 5000, 100, 4000, 10_000] {
            let n = size.min(rest.len());
            stream.write_all(&rest[..n]).await.unwrap();
            rest = &rest[n..];
        }
        let (seen, _far) = reader.await.unwrap();
        let sizes: Vec<_> = seen.iter().map(|s| s.1).collect();
        assert_eq!(sizes, [HEAD.len() + 4096, 4096, 1808]);
        // tokio's timer rounds up to the millisecond
        let times: Vec<_> = seen.iter().map(|s| s.0.as_millis()).collect();
        assert!(times[0] <= 1, "{times:?}");
        assert!((500..=502).contains(&times[1]) && (1000..=1002).contains(&times[2]), "{times:?}");
        let sent = (progress.bytes(), progress.records(), progress.last_record());
        assert_eq!(sent, (10_000, 3, 1808));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_in_order_through_a_tight_pipe() {
        let (mut stream, mut far) = paced(100);
        let body: Vec<u8> = (0..20_000u32).map(|i| (i % 253) as u8).collect();
        let expected = body.clone();
        let reader = tokio::spawn(async move {
            let mut got = vec![0; HEAD.len() + 20_000];
            far.read_exact(&mut got).await.unwrap();
            got
        });
        let progress = arm(&stream, 999, Duration::ZERO, Some(20_000));
        stream.write_all(HEAD).await.unwrap();
        for piece in body.chunks(1234) {
            stream.write_all(piece).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!(reader.await.unwrap()[HEAD.len()..], expected);
        assert_eq!(progress.records(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_response_waits_for_the_grid_of_the_first() {
        let (mut stream, mut far) = paced(1 << 20);
        let reader = tokio::spawn(async move { arrivals(&mut far, 2 * (HEAD.len() + 10)).await });
        for _ in 0..2 {
            arm(&stream, 4096, WAIT, Some(10));
            stream.write_all(HEAD).await.unwrap();
            stream.write_all(&[7; 10]).await.unwrap();
        }
        let seen = reader.await.unwrap();
        let last = seen.last().unwrap();
        assert_eq!(last.1, 10);
        assert!((500..=502).contains(&last.0.as_millis()), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_length_a_flush_ends_a_record() {
        let (mut stream, mut far) = paced(1 << 20);
        let progress = arm(&stream, 64, WAIT, None);
        stream.write_all(HEAD).await.unwrap();
        stream.write_all(&[1; 100]).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(progress.records(), 2);
        let seen = arrivals(&mut far, HEAD.len() + 100).await;
        assert_eq!(seen.iter().map(|s| s.1).sum::<usize>(), HEAD.len() + 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_is_noticed_while_a_record_waits() {
        let (mut stream, far) = paced(1 << 20);
        let progress = arm(&stream, 64, Duration::from_secs(3600), Some(1000));
        stream.write_all(HEAD).await.unwrap();
        stream.write_all(&[0; 64]).await.unwrap();
        let start = Instant::now();
        let write =
            tokio::spawn(async move { stream.write_all(&[0; 64]).await.unwrap_err().kind() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(far);
        assert_eq!(write.await.unwrap(), io::ErrorKind::BrokenPipe);
        assert!(progress.client_gone() && progress.records() == 1);
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_valve_is_closed_while_a_record_waits_and_open_when_all_is_taken() {
        let (mut stream, _far) = paced(1 << 20);
        let valve = Arc::new(Valve::default());
        let open = || {
            let cx = Context::from_waker(std::task::Waker::noop());
            valve.poll_open(&cx).is_ready()
        };
        let counter = || prometheus::IntCounter::new("name", "help").unwrap();
        let progress = Arc::new(Progress::new(counter(), counter()));
        let pace = Pace { chunk: 64, record: 64, wait: WAIT };
        stream.arm(pace, Some(1000), progress, Some(Arc::clone(&valve)));
        stream.write_all(HEAD).await.unwrap();
        assert!(open(), "the head holds nothing back");
        let write = tokio::spawn(async move {
            stream.write_all(&[0; 128]).await.unwrap();
            stream
        });
        tokio::time::sleep(WAIT / 2).await;
        assert!(!open(), "the second record waits");
        let _stream = write.await.unwrap();
        assert!(open(), "nothing waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn pipelined_requests_are_kept_for_the_reader() {
        let (mut stream, mut far) = paced(1 << 20);
        far.write_all(b"GET /2 HTTP/1.1\r\n\r\n").await.unwrap();
        arm(&stream, 64, WAIT, Some(128));
        stream.write_all(HEAD).await.unwrap();
        stream.write_all(&[0; 128]).await.unwrap();
        let mut next = [0; 19];
        stream.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"GET /2 HTTP/1.1\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_armed_passes() {
        let (mut stream, mut far) = paced(1 << 20);
        stream.write_all(&[9; 50_000]).await.unwrap();
        assert_eq!(arrivals(&mut far, 50_000).await.len(), 1);
    }

    #[test]
    fn the_end_of_a_head_is_found_across_writes() {
        assert_eq!(head_length(b"a\r\n\r\nbody", 0), (5, 4));
        assert_eq!(head_length(b"a\r\n", 0), (3, 2));
        assert_eq!(head_length(b"\r\nbody", 2), (2, 4));
        assert_eq!(head_length(b"\r\r\n\r\n", 0), (5, 4));
        assert_eq!(head_length(b"x: y\r\nz", 0), (7, 0));
    }
}
