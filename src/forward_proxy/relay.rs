//! Moves a tunnel's bytes, both ways at once, until both ways are done, one of the two is gone, or nothing
//! has moved for too long.
//!
//! While nothing is to be moved, nothing is held: bytes wait in the sockets, and are read only when there
//! is room to write them, into a buffer that all tunnels of a thread share. What a socket takes only in
//! part is kept until it takes the rest.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::shape::Flow;
use crate::transfers::{ByteCount, ByteCounts, End};

/// The most bytes that are moved in one go.
const PIECE: usize = 64 << 10;

thread_local! {
    /// Between a read and the write that follows at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// Moves bytes; `hello` was read of the client's already.
pub(super) async fn relay(
    client: &TcpStream,
    upstream: &TcpStream,
    hello: Vec<u8>,
    [up, down]: [Option<Flow>; 2],
    moved: &ByteCounts,
    idle: Duration,
) -> End {
    let clock = Clock::new();
    let side = |socket, end| Side { socket, end };
    let (client, upstream) = (side(client, End::Client), side(upstream, End::Upstream));
    let lane = |from, to, held, flow, count| Lane { from, to, held, flow, count, clock: &clock };
    let up = lane(client, upstream, hello, up, &moved.up);
    let down = lane(upstream, client, Vec::new(), down, &moved.down);
    tokio::select! {
        ended = async { tokio::try_join!(up.run(), down.run()) } => match ended {
            Ok(_) => End::Done,
            Err(end) => end,
        },
        () = clock.idle_for(idle) => End::Idle,
    }
}

/// One end of a tunnel, and how the tunnel ends if it fails.
#[derive(Clone, Copy)]
struct Side<'a> {
    socket: &'a TcpStream,
    end: End,
}

impl Side<'_> {
    /// Waits until there is something to read. Returns how many bytes; 0 at the end.
    async fn readable(&self) -> Result<usize, End> {
        let there = || {
            let bytes = rustix::io::ioctl_fionread(self.socket)?;
            if bytes > 0 {
                return Ok(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            // The end, or nothing yet: then the socket is not readable after all.
            let mut one = [0];
            Ok(rustix::net::recv(self.socket, &mut one, RecvFlags::PEEK)?.0)
        };
        self.socket.async_io(Interest::READABLE, there).await.map_err(|_| self.end)
    }

    async fn writable(&self) -> Result<(), End> {
        self.socket.writable().await.map_err(|_| self.end)
    }

    /// Reads what there is; 0 if there is nothing yet.
    fn read(&self, into: &mut [u8]) -> Result<usize, End> {
        self.now(self.socket.try_read(into))
    }

    /// Writes what there is room for; 0 if there is none.
    fn write(&self, bytes: &[u8]) -> Result<usize, End> {
        self.now(self.socket.try_write(bytes))
    }

    fn now(&self, moved: io::Result<usize>) -> Result<usize, End> {
        match moved {
            Ok(moved) => Ok(moved),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(self.end),
        }
    }
}

/// One direction.
struct Lane<'a> {
    from: Side<'a>,
    to: Side<'a>,
    /// What was read and not written.
    held: Vec<u8>,
    /// Whose turn is waited for; None if it is not shaped.
    flow: Option<Flow>,
    count: &'a ByteCount,
    clock: &'a Clock,
}

impl Lane<'_> {
    /// Moves bytes to the end of them, and passes the end on.
    async fn run(mut self) -> Result<(), End> {
        loop {
            let there = match self.held.len() {
                0 => self.from.readable().await?,
                held => held,
            };
            if there == 0 {
                break;
            }
            self.to.writable().await?;
            let leave = self.leave(there.min(PIECE)).await;
            let moved = self.step(leave);
            if let Some(flow) = &mut self.flow {
                flow.spend(*moved.as_ref().unwrap_or(&0));
            }
            let moved = moved?;
            if moved > 0 {
                self.count.add(moved);
                self.clock.moved();
            }
        }
        let shutdown = SockRef::from(self.to.socket).shutdown(Shutdown::Write);
        match shutdown {
            // Whoever is gone altogether needs not be told.
            Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(self.to.end),
            _ => Ok(()),
        }
    }

    /// Leave to move up to `want` bytes.
    async fn leave(&mut self, want: usize) -> usize {
        let Some(flow) = &mut self.flow else { return want };
        let _waiting = self.clock.waiting();
        flow.acquire(want).await.min(want)
    }

    /// Moves at most `leave` bytes now.
    fn step(&mut self, leave: usize) -> Result<usize, End> {
        if !self.held.is_empty() {
            let written = self.to.write(&self.held[..leave])?;
            self.held.drain(..written);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
            return Ok(written);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let read = self.from.read(&mut scratch[..leave])?;
            if read == 0 {
                return Ok(0);
            }
            let written = self.to.write(&scratch[..read])?;
            self.held = scratch[written..read].to_vec();
            Ok(written)
        })
    }
}

/// When something moved last.
struct Clock {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// How many directions wait for their turn, which is no idleness.
    waits: AtomicU8,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "a tunnel's silence is measured from its begin")]
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0), waits: AtomicU8::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moved(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// Says that a direction waits for its turn, until the guard is dropped.
    fn waiting(&self) -> Waiting<'_> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Resolves when nothing has moved for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            if self.waits.load(Ordering::Relaxed) > 0 {
                self.moved();
            }
            let since = self.now() - self.last.load(Ordering::Relaxed);
            match limit.checked_sub(Duration::from_millis(since)) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }
}

/// See [`Clock::waiting`].
struct Waiting<'a>(&'a Clock);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.moved();
        self.0.waits.fetch_sub(1, Ordering::Relaxed);
    }
}
