//! A TCP stream that notes when each TLS record's header came off the socket. It reads only what
//! is not encrypted, and must not know what the records carry.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What TLS 1.3 adds to a record's plaintext without padding: the content type and the AEAD tag
/// (RFC 8446 §5.2).
const OVERHEAD: usize = 17;

/// A socket that reads the headers of the records that pass.
pub struct Tap {
    inner: TcpStream,
    headers: Headers,
}

impl Tap {
    /// Nothing has passed yet.
    pub fn new(inner: TcpStream) -> Self {
        Self { inner, headers: Headers::default() }
    }

    /// When the record came whose plaintext is `plaintext` bytes long. Records before it (session
    /// tickets) are done with.
    pub fn take(&mut self, plaintext: usize) -> Option<Instant> {
        while let Some((at, length)) = self.headers.seen.pop_front() {
            if length == plaintext + OVERHEAD {
                return Some(at);
            }
        }
        None
    }

    /// Whether what has come so far ends with a whole record.
    pub fn is_between_records(&self) -> bool {
        self.headers.filled == 0 && self.headers.fragment_left == 0
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.headers.feed(&buffer.filled()[before..], Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Finds record headers (RFC 8446 §5.1: type, version, 16-bit length) in a byte stream.
#[derive(Default)]
struct Headers {
    header: [u8; 5],
    filled: usize,
    fragment_left: usize,
    /// Arrival and fragment length of each record that nobody took yet.
    seen: VecDeque<(Instant, usize)>,
}

impl Headers {
    fn feed(&mut self, mut bytes: &[u8], at: Instant) {
        while !bytes.is_empty() {
            let skipped = self.fragment_left.min(bytes.len());
            self.fragment_left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.header.len() - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.header.len() {
                self.filled = 0;
                self.fragment_left =
                    usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.seen.push_back((at, self.fragment_left));
            }
        }
    }
}
