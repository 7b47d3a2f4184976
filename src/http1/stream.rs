//! The client's stream as Pingora sees it. Bytes that the client sends while a request is served belong to
//! the next request: Pingora does not get them before their head was judged.
//!
//! Invariant: [`HttpStream`] hands Pingora only bytes of a body that was
//! [allowed](HttpStream::allow_body), up to that body's end. Request heads reach Pingora through
//! [`super::connection`]. The end of the client's stream and its errors do pass, so that a client that is
//! gone ends its response.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Body;
use super::framing::chunks::Chunks;
use super::linger::Linger;
use crate::drip::stream::PacedStream;
use crate::limits::{self, connections::ConnectionLimiter};

/// How many bytes of the next requests are read while one is served, to notice that the client is gone.
/// What it sends beyond that stays in the kernel's buffer.
const READ_AHEAD: usize = 2048;

/// How much of a body one read hands out, in bytes: it waits in memory until its class lets it go on.
const BODY_PIECE: usize = 16 << 10;

/// For how long, and how many bytes, a body that is not wanted is still read at the end of a connection. A
/// client that is sending it would otherwise be reset before it has read the answer.
const LINGER: (Duration, u64) = (Duration::from_secs(5), 64 << 20);

/// A client's connection. Pingora can write to it, and read bodies that were allowed.
pub struct HttpStream {
    stream: PacedStream,
    /// Bytes that came after the present request's head.
    rest: BytesMut,
    limiter: Arc<ConnectionLimiter>,
    body: Incoming,
    /// Atomic because Pingora gives access to the stream by shared reference only.
    body_allowed: AtomicBool,
    linger: Option<Linger>,
}

/// The part of the present request's body that is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Nothing,
    Length(u64),
    Chunked(Chunks),
}

impl HttpStream {
    /// The HTTP stream over `stream`, without a body to read at first.
    #[must_use]
    pub fn new(stream: PacedStream, limiter: Arc<ConnectionLimiter>) -> Self {
        Self {
            stream,
            rest: BytesMut::new(),
            limiter,
            body: Incoming::Nothing,
            body_allowed: AtomicBool::new(false),
            linger: None,
        }
    }

    /// Lets Pingora read the present request's body.
    pub fn allow_body(&self) {
        self.body_allowed.store(true, Ordering::Relaxed);
    }

    /// Counts a client that ran into the limit of that name.
    pub fn count_hit(&self, limit: &str) {
        self.limiter.count_hit(limit);
    }

    /// The bounds that hold for this client.
    #[must_use]
    pub fn limits(&self) -> limits::Settings {
        self.limiter.settings()
    }

    /// Counts a body whose framing is ambiguous, by that reason.
    pub fn malformed(&self, reason: &str) {
        self.limiter.metrics.malformed.with_label_values(&[reason]).inc();
    }

    /// A request begins; its head announces that body.
    pub(super) fn expect(&mut self, body: Body) {
        self.body_allowed = AtomicBool::new(false);
        self.body = match body {
            Body::None => Incoming::Nothing,
            Body::Length(length) => Incoming::Length(length),
            Body::Chunked => Incoming::Chunked(Chunks::default()),
        };
    }

    /// Whether a part of the present request's body is still to come.
    pub(super) fn is_owed_body(&self) -> bool {
        self.body != Incoming::Nothing
    }

    /// The stream that paces the responses.
    #[must_use]
    pub fn paced(&self) -> &PacedStream {
        &self.stream
    }

    /// Takes the bytes that came after the last request.
    pub(super) fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.rest)
    }

    /// Keeps bytes that came after the present request's head.
    pub(super) fn keep_rest(&mut self, rest: BytesMut) {
        self.rest = rest;
    }

    /// The connection as the client has it, without the filter that Pingora reads through.
    pub(super) fn unfiltered(&mut self) -> Unfiltered<'_> {
        Unfiltered(self)
    }

    /// Sends the rest of a body that was promised: see [`PacedStream::drip_out`].
    pub(super) async fn drip_out(&mut self) -> io::Result<()> {
        let sent = self.stream.drip_out().await;
        self.count_timeout(sent)
    }

    /// Ends the connection, with TLS's close_notify if the client takes it.
    pub(super) async fn shutdown_stream(&mut self) {
        self.stream.shutdown().await;
    }

    /// Reads the body up to its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut most = buf.remaining().min(BODY_PIECE);
        if let Incoming::Length(left) = self.body {
            most = most.min(usize::try_from(left).unwrap_or(most));
        }
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(most));
        if self.rest.is_empty() {
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece));
            self.count_timeout(read)?;
        } else {
            let ahead = most.min(self.rest.len());
            piece.put_slice(&self.rest[..ahead]);
            self.rest.advance(ahead);
        }
        let piece = piece.filled();
        let mut length = piece.len();
        self.body = match self.body {
            Incoming::Nothing => Incoming::Nothing,
            Incoming::Length(left) => match left - length as u64 {
                0 => Incoming::Nothing,
                left => Incoming::Length(left),
            },
            Incoming::Chunked(mut chunks) => {
                let end = chunks.pass(piece);
                match end.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
                    None => Incoming::Chunked(chunks),
                    Some(end) => {
                        let behind = BytesMut::from(&piece[end..]);
                        let rest = std::mem::replace(&mut self.rest, behind);
                        self.rest.extend_from_slice(&rest);
                        length = end;
                        Incoming::Nothing
                    }
                }
            }
        };
        buf.advance(length);
        Poll::Ready(Ok(()))
    }

    /// Counts an error of the kernel's timeout: it ends a connection whose client took nothing for
    /// [`limits::Settings::send_timeout`].
    fn count_timeout<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(timed_out) {
            self.limiter.count_hit("send_timeout");
        }
        result
    }
}

/// Whether the kernel gave the connection up. OpenSSL may keep that error in its own queue, where an errno has
/// a flag beside its number (ERR_get_error(3), ERR_SYSTEM_FLAG).
fn timed_out(e: &io::Error) -> bool {
    const SYSTEM_ETIMEDOUT: libc::c_ulong = 0x8000_0000 | libc::ETIMEDOUT as libc::c_ulong;
    let queue = || {
        let e = e.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
        Some(e.ssl_error()?.errors().iter().any(|e| e.code() == SYSTEM_ETIMEDOUT))
    };
    e.kind() == io::ErrorKind::TimedOut || queue().unwrap_or(false)
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_owed_body() && *this.body_allowed.get_mut() {
            return this.poll_body(cx, buf);
        }
        while this.rest.len() < READ_AHEAD {
            let mut space = [0; 256];
            let mut ahead = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut ahead));
            this.count_timeout(read)?;
            if ahead.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rest.extend_from_slice(ahead.filled());
        }
        Poll::Pending
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.count_timeout(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.count_timeout(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.is_owed_body() {
            let linger = this.linger.get_or_insert_with(|| Linger::new(LINGER.0, LINGER.1));
            ready!(linger.poll(cx, &mut this.stream));
        }
        Poll::Ready(Ok(()))
    }
}

/// See [`HttpStream::unfiltered`].
pub(super) struct Unfiltered<'a>(&'a mut HttpStream);

impl AsyncRead for Unfiltered<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0.stream).poll_read(cx, buf));
        Poll::Ready(self.0.count_timeout(read))
    }
}

impl AsyncWrite for Unfiltered<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

// The traits that Pingora requires of every connection, forwarded to the inner stream.

#[async_trait]
impl Shutdown for HttpStream {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for HttpStream {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for HttpStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for HttpStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for HttpStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for HttpStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl Peek for HttpStream {}
