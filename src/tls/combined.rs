//! A buffer between a TLS connection and its socket, so that several records can be written in one system
//! call. OpenSSL writes every record to its socket separately, and at full speed that call costs several
//! times as much as the encryption.
//!
//! Invariants: bytes are kept only while [`hold`] is set, or the socket is full, and are written before a
//! flush is complete; the records themselves are not changed.
//!
//! This file must not know what is in the records, or why they are written together.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslStream;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, SocketDigest, Stream, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept at most. Callers of [`hold`] write less than this before a flush.
const MOST: usize = 64 << 10;

/// A socket under a TLS connection.
pub struct Combined {
    socket: L4Stream,
    held: AtomicBool,
    /// Bytes to be written first; `sent` of them are written.
    bytes: Vec<u8>,
    sent: usize,
}

impl Combined {
    /// A buffer before that socket.
    #[must_use]
    pub fn new(socket: L4Stream) -> Self {
        Self { socket, held: AtomicBool::new(false), bytes: Vec::new(), sent: 0 }
    }

    /// Writes what is kept, and frees its memory.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if self.sent > 0 {
            (self.bytes, self.sent) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

/// Sets whether what is written to `stream` is kept until a flush, up to 64 KiB. Returns false, and has
/// no effect, if `stream` is not a TLS connection over a [`Combined`].
pub fn hold(stream: &Stream, hold: bool) -> bool {
    let stream = (**stream).as_any().downcast_ref::<SslStream<Combined>>();
    stream.is_some_and(|stream| {
        stream.get_ref().held.store(hold, Ordering::Relaxed);
        true
    })
}

impl AsyncWrite for Combined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let held = *this.held.get_mut();
        if !held || this.bytes.len() + buf.len() > MOST {
            ready!(this.poll_send(cx))?;
        }
        if !held || buf.len() > MOST {
            return Pin::new(&mut this.socket).poll_write(cx, buf);
        }
        this.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsyncRead for Combined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl fmt::Debug for Combined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combined").field("socket", &self.socket).finish_non_exhaustive()
    }
}

// What Pingora asks of every connection; the socket answers.

impl UniqueID for Combined {
    fn id(&self) -> UniqueIDType {
        self.socket.id()
    }
}

impl GetTimingDigest for Combined {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.socket.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.socket.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.socket.get_write_pending_time()
    }
}

impl GetProxyDigest for Combined {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.socket.get_proxy_digest()
    }
}

impl GetSocketDigest for Combined {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.get_socket_digest()
    }
}
