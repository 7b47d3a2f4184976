//! What a client sends while its response drips: kept for whoever reads the next request, and the
//! only way to notice at once that the client is gone. This file must not know why nobody reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// How many bytes of the client's next requests are read while a record waits. Enough for a few
/// pipelined requests of a device; a client that sends more is left to the kernel's buffer, and
/// its disappearance is noticed at the next write.
const READ_AHEAD: usize = 2048;

/// The bytes that were read ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    /// The client has closed its side.
    end: bool,
}

impl Ahead {
    /// Reads what has come, up to [`READ_AHEAD`] bytes. Returns why the client is gone, if it is.
    pub(super) fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Option<io::Error> {
        while !self.end && self.bytes.len() < READ_AHEAD {
            let mut space = [0; 512];
            let room = space.len().min(READ_AHEAD - self.bytes.len());
            let mut buf = ReadBuf::new(&mut space[..room]);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => return None,
                Poll::Ready(Err(e)) => return Some(e),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.end = true,
                Poll::Ready(Ok(())) => self.bytes.extend_from_slice(buf.filled()),
            }
        }
        self.end
            .then(|| io::Error::new(io::ErrorKind::BrokenPipe, "the client closed the connection"))
    }

    /// Hands over what was read ahead, an end as well. False if there is nothing: the connection is
    /// to be read then.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.bytes.is_empty() {
            return self.end;
        }
        let n = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..n]);
        self.bytes.drain(..n);
        if self.bytes.is_empty() {
            // An idle connection keeps no room for them.
            self.bytes = Vec::new();
        }
        true
    }
}
