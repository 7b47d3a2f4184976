//! Reads on, for a while, what a client still sends after the last answer, and drops it. A connection that
//! is closed with unread bytes is reset, and a reset can overtake the answer (RFC 9112 §9.6).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How much one read drops, in bytes. It lies on the stack, and only while it is read.
const PIECE: usize = 4096;

/// A client's last bytes, being dropped.
#[derive(Debug)]
pub struct Linger {
    timer: Pin<Box<Sleep>>,
    left: u64,
}

impl Linger {
    /// For `time` from now, and up to `bytes`.
    #[must_use]
    pub fn new(time: Duration, bytes: u64) -> Self {
        Self { timer: Box::pin(sleep(time)), left: bytes }
    }

    /// Drops what comes; ready when the client has closed its end, or the time or the bytes are up.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<()> {
        let mut space = [0; PIECE];
        while self.left > 0 && self.timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
            self.left = self.left.saturating_sub(buf.filled().len() as u64);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    async fn lingered(bytes: u64, sends: usize, closes: bool) -> Duration {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        client.write_all(&vec![0; sends]).await.unwrap();
        if closes {
            client.shutdown().await.unwrap();
        }
        let start = Instant::now();
        let mut linger = Linger::new(Duration::from_secs(1), bytes);
        poll_fn(|cx| linger.poll(cx, &mut server)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_client_the_bytes_or_the_time() {
        assert_eq!(lingered(64 << 10, 10_000, true).await, Duration::ZERO);
        assert_eq!(lingered(64 << 10, 100_000, false).await, Duration::ZERO);
        assert_eq!(lingered(64 << 10, 10_000, false).await.as_secs(), 1);
    }
}
