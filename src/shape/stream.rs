//! A connection whose writes, and reads if asked for, wait for leave of the tree.
//!
//! Writes: leave first, then the write; what the socket did not take is given back. Reads: the bytes
//! first, since nobody knows when they come; what there is no leave for is kept here until there is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flow::Flow;

/// A connection that is shaped.
#[derive(Debug)]
pub struct Shaped<S> {
    inner: S,
    writes: Option<Flow>,
    reads: Option<Flow>,
    /// Bytes that were read and have no leave yet: at most what a caller's buffer holds.
    ahead: Vec<u8>,
}

impl<S> Shaped<S> {
    /// `inner`, with its writes and reads waiting for leave of a flow each; None: not shaped.
    pub fn new(inner: S, writes: Option<Flow>, reads: Option<Flow>) -> Self {
        Self { inner, writes, reads, ahead: Vec::new() }
    }

    /// The connection itself.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The connection itself; what is written and read there is not shaped.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shaped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(flow) = &mut this.reads else {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            // With leave for all of it, as most of the time, nothing is copied.
            let mut allowed = 0;
            while allowed < read
                && let Poll::Ready(leave) = flow.poll_acquire(cx, read - allowed)
            {
                flow.spend(leave);
                allowed += leave;
            }
            this.ahead = buf.filled()[before + allowed..].to_vec();
            buf.set_filled(before + allowed);
            return if allowed > 0 { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let leave = ready!(flow.poll_acquire(cx, this.ahead.len().min(buf.remaining())));
        flow.spend(leave);
        buf.put_slice(&this.ahead[..leave]);
        this.ahead.drain(..leave);
        if this.ahead.is_empty() {
            this.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shaped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(flow) = this.writes.as_mut().filter(|_| !buf.is_empty()) else {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        };
        let leave = ready!(flow.poll_acquire(cx, buf.len()));
        let written = Pin::new(&mut this.inner).poll_write(cx, &buf[..leave]);
        flow.spend(match &written {
            Poll::Ready(Ok(written)) => *written,
            _ => 0,
        });
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
