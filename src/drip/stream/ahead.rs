//! What a client sends while its response drips: kept for whoever reads the next request, and the
//! only way to notice at once that the client is gone. A connection is read when its socket has
//! something, not at every record, since to ask OpenSSL in vain costs as much as to encrypt a record.
//!
//! Invariant: whoever reads the connection otherwise says so by [`Ahead::look`]. This file must not
//! know why nobody reads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use atomic_waker::AtomicWaker;
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
    /// None until the connection was read for the first time, and then until [`Self::look`].
    watch: Option<Arc<Watch>>,
}

/// What the socket wakes when there is something to read: it notes that, and wakes the drip.
#[derive(Debug, Default)]
struct Watch {
    came: AtomicBool,
    drip: AtomicWaker,
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.came.store(true, Ordering::Release);
        self.drip.wake();
    }
}

impl Ahead {
    /// Has the connection read the next time, whether or not its socket has said something.
    pub(super) fn look(&mut self) {
        self.watch = None;
    }

    /// Reads what has come, up to [`READ_AHEAD`] bytes. Returns why the client is gone, if it is.
    pub(super) fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Option<io::Error> {
        let watch = match &self.watch {
            Some(watch) => {
                // Before the look, so that nothing that comes after it is missed.
                watch.drip.register(cx.waker());
                if !watch.came.swap(false, Ordering::Acquire) {
                    return self.gone();
                }
                Arc::clone(watch)
            }
            None => {
                let watch = Arc::<Watch>::default();
                watch.drip.register(cx.waker());
                Arc::clone(self.watch.insert(watch))
            }
        };
        let waker = Waker::from(watch);
        let cx = &mut Context::from_waker(&waker);
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
        self.gone()
    }

    fn gone(&self) -> Option<io::Error> {
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
