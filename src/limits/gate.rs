//! The client's stream as Pingora sees it: while a request is served, nothing more is read for it.
//! What the client sends meanwhile is the next request, and that is judged before Pingora gets it.
//!
//! Invariant: [`Gate`] hands Pingora no byte; request heads reach it by [`super::conversation`]. The
//! end of the client's stream and errors do pass, so that a client that is gone ends its response.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::door::Door;
use crate::drip::stream::PacedStream;

/// How many bytes of the next requests are read while one is served, to see whether the client is
/// still there. A client that sends more is left to the kernel's buffer.
const READ_AHEAD: usize = 2048;

/// A client's connection, of which Pingora can only write.
pub struct Gate {
    stream: PacedStream,
    /// What came after the last request's head.
    rest: BytesMut,
    door: Arc<Door>,
}

impl Gate {
    /// Before that stream.
    #[must_use]
    pub fn new(stream: PacedStream, door: Arc<Door>) -> Self {
        Self { stream, rest: BytesMut::new(), door }
    }

    /// The stream that paces the responses.
    #[must_use]
    pub fn paced(&self) -> &PacedStream {
        &self.stream
    }

    /// What the client has sent after the last request.
    pub(super) fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.rest)
    }

    /// Keeps what belongs to the next request.
    pub(super) fn keep_rest(&mut self, rest: BytesMut) {
        self.rest = rest;
    }

    /// Reads what comes next into the room that `bytes` has, past the gate.
    pub(super) async fn receive(&mut self, bytes: &mut BytesMut) -> io::Result<usize> {
        let read = self.stream.read_buf(bytes).await;
        self.noted(read)
    }

    /// Sends the rest of a body that was promised: see [`PacedStream::drip_out`].
    pub(super) async fn drip_out(&mut self) -> io::Result<()> {
        let sent = self.stream.drip_out().await;
        self.noted(sent)
    }

    /// Ends the connection, in good order if it can be.
    pub(super) async fn shutdown_stream(&mut self) {
        self.stream.shutdown().await;
    }

    /// The kernel ends a connection whose client took nothing for [`super::Settings::send_timeout`].
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(timed_out) {
            self.door.hit("send_timeout");
        }
        result
    }
}

/// Whether the kernel gave the connection up. OpenSSL may keep that in its own queue of errors, where
/// one of the system's has a flag beside its number (ERR_get_error(3), ERR_SYSTEM_FLAG).
fn timed_out(e: &io::Error) -> bool {
    const SYSTEM_ETIMEDOUT: libc::c_ulong = 0x8000_0000 | libc::ETIMEDOUT as libc::c_ulong;
    let queue = || {
        let e = e.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
        Some(e.ssl_error()?.errors().iter().any(|e| e.code() == SYSTEM_ETIMEDOUT))
    };
    e.kind() == io::ErrorKind::TimedOut || queue().unwrap_or(false)
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.len() < READ_AHEAD {
            let mut space = [0; 256];
            let mut buf = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf));
            this.noted(read)?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rest.extend_from_slice(buf.filled());
        }
        Poll::Pending
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.noted(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.noted(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("stream", &self.stream).finish_non_exhaustive()
    }
}

// What Pingora asks of every connection, answered by the one inside.

#[async_trait]
impl Shutdown for Gate {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Gate {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Gate {
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

impl GetTimingDigest for Gate {
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

impl GetProxyDigest for Gate {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Gate {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl Peek for Gate {}
