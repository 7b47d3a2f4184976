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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::metrics::Metrics;
    use crate::shape::{ClassSettings, Owner, Settings, Shaper};
    use crate::units::Rate;

    /// A class of 8 Mbit/s, which is 1 MB/s.
    fn shaper() -> Arc<Shaper> {
        let max_limit = Some(Rate::from_bits(8_000_000));
        let class = ClassSettings { max_limit, ..ClassSettings::new("bulk") };
        let settings = Settings { classes: vec![class], ..Settings::default() };
        Shaper::new(&settings, Metrics::new().shape).unwrap()
    }

    fn flow(shaper: &Arc<Shaper>) -> Option<Flow> {
        shaper.flow("bulk", &Owner { client: IpAddr::V4(Ipv4Addr::LOCALHOST), user: None })
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 % 251) as u8).collect()
    }

    async fn drained(mut stream: DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    }

    /// Whether something took as long as `bytes` do at 1 MB/s, less the burst.
    fn as_long_as(took: Duration, bytes: usize) -> bool {
        let due = bytes as f64 / 1e6;
        (due - 0.02..due + 0.02).contains(&took.as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn writes_wait_and_arrive_whole() {
        let shaper = shaper();
        let (near, far) = duplex(64 << 10);
        let reader = tokio::spawn(drained(far));
        let (wanted, start) = (body(500_000), Instant::now());
        let mut stream = Shaped::new(near, flow(&shaper), None);
        stream.write_all(&wanted).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(as_long_as(start.elapsed(), wanted.len()), "{:?}", start.elapsed());
        drop(stream);
        assert!(reader.await.unwrap() == wanted);
        assert_eq!((shaper.report()[0].bytes, shaper.report()[0].flows), (500_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn reads_wait_and_arrive_whole_whatever_the_buffer() {
        for buffer in [1, 700, 8192, 200_000] {
            let shaper = shaper();
            let (near, mut far) = duplex(64 << 10);
            let wanted = body(if buffer == 1 { 20_000 } else { 300_000 });
            let sent = wanted.clone();
            let writer = tokio::spawn(async move { far.write_all(&sent).await });
            let start = Instant::now();
            let mut stream = Shaped::new(near, None, flow(&shaper));
            let (mut all, mut piece) = (Vec::new(), vec![0; buffer]);
            loop {
                match stream.read(&mut piece).await.unwrap() {
                    0 => break,
                    read => all.extend_from_slice(&piece[..read]),
                }
            }
            assert!(all == wanted, "{buffer}: {} of {}", all.len(), wanted.len());
            assert!(as_long_as(start.elapsed(), wanted.len()), "{buffer}: {:?}", start.elapsed());
            assert_eq!(shaper.report()[0].bytes, wanted.len() as u64);
            writer.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_keeps_nothing_from_others() {
        let shaper = shaper();
        let (stuck, _far) = duplex(1000);
        let mut stuck = Shaped::new(stuck, flow(&shaper), None);
        let blocked = tokio::spawn(async move { stuck.write_all(&body(100_000)).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((shaper.report()[0].bytes, shaper.report()[0].queued), (1000, 0));
        let (near, far) = duplex(64 << 10);
        let reader = tokio::spawn(drained(far));
        let mut stream = Shaped::new(near, flow(&shaper), None);
        let start = Instant::now();
        stream.write_all(&body(300_000)).await.unwrap();
        assert!(as_long_as(start.elapsed(), 300_000), "{:?}", start.elapsed());
        drop(stream);
        assert_eq!(reader.await.unwrap().len(), 300_000);
        blocked.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_that_is_read_takes_no_turn() {
        let shaper = shaper();
        let (near, _far) = duplex(1000);
        let mut idle = Shaped::new(near, flow(&shaper), flow(&shaper));
        let reading = tokio::spawn(async move { idle.read_u8().await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((shaper.report()[0].flows, shaper.report()[0].queued), (2, 0));
        reading.abort();
    }

    #[tokio::test]
    async fn without_flows_it_is_the_connection_itself() {
        let (near, mut far) = duplex(100);
        let mut stream = Shaped::new(near, None, None);
        stream.write_all(b"there").await.unwrap();
        far.write_all(b"back").await.unwrap();
        let mut piece = [0; 4];
        stream.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"back");
    }
}
