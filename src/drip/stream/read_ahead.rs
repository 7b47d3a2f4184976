//! Reads what a client sends while its response drips, and keeps it for the reader of the next request.
//! Reading is also the only way to notice at once that the client has gone. The connection is read when
//! its socket has become readable, not at every record: a read that finds nothing costs as much in
//! OpenSSL as the encryption of a record.
//!
//! Invariant: code that reads the connection elsewhere calls [`ReadAhead::forget_readiness`]. This file
//! must not know why the connection is not read elsewhere.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use atomic_waker::AtomicWaker;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of the client's next requests that are read while a record waits: enough for a few pipelined
/// requests of a device. What a client sends beyond that stays in the kernel's buffer, and its end is
/// then noticed at the next write.
const LIMIT: usize = 2048;

/// The bytes that were read ahead.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    bytes: Vec<u8>,
    /// The client has closed its side.
    end: bool,
    /// Whether the socket has become readable since the last read; None before the first read and
    /// after [`Self::forget_readiness`], when the connection has to be read to find out.
    readiness: Option<Arc<Readiness>>,
}

/// The waker that the socket wakes when it becomes readable: it notes that and wakes the drip.
#[derive(Debug, Default)]
struct Readiness {
    readable: AtomicBool,
    drip: AtomicWaker,
}

impl Wake for Readiness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.readable.store(true, Ordering::Release);
        self.drip.wake();
    }
}

impl ReadAhead {
    /// Makes the next [`poll_read`](Self::poll_read) read the connection, whether or not its socket has
    /// become readable.
    pub(super) fn forget_readiness(&mut self) {
        self.readiness = None;
    }

    /// Reads what has arrived, up to [`LIMIT`] bytes in all. Returns an error if the client has gone.
    pub(super) fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Option<io::Error> {
        let readiness = match &self.readiness {
            Some(readiness) => {
                // Registered before the flag is read, so that no later wake-up is missed.
                readiness.drip.register(cx.waker());
                if !readiness.readable.swap(false, Ordering::Acquire) {
                    return self.gone();
                }
                Arc::clone(readiness)
            }
            None => {
                let readiness = Arc::<Readiness>::default();
                readiness.drip.register(cx.waker());
                Arc::clone(self.readiness.insert(readiness))
            }
        };
        let waker = Waker::from(readiness);
        let cx = &mut Context::from_waker(&waker);
        while !self.end && self.bytes.len() < LIMIT {
            let mut space = [0; 512];
            let room = space.len().min(LIMIT - self.bytes.len());
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

    /// Moves what was read ahead to `buf`; also reports an end that was read. Returns false if nothing
    /// was read ahead, and the caller has to read the connection.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.bytes.is_empty() {
            return self.end;
        }
        let n = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..n]);
        self.bytes.drain(..n);
        if self.bytes.is_empty() {
            // Frees the memory: an idle connection keeps none.
            self.bytes = Vec::new();
        }
        true
    }
}
