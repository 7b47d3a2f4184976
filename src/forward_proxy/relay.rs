//! Moves a tunnel's bytes, both ways at once, until both ways are done, one of the two sides is gone, or
//! nothing has moved for too long.
//!
//! An idle tunnel holds no buffer: bytes wait in the sockets. They are read only when there is room to write
//! them, into a buffer that all tunnels of a thread share. If a socket takes only a part of them, the rest is
//! kept until it takes that too.
//!
//! This file must not know how the tunnel came about, nor who lists or logs it.

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

/// The most bytes that are moved at a time.
const PIECE: usize = 64 << 10;

thread_local! {
    /// Holds bytes between a read and the write that follows at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// Moves bytes until the tunnel ends; `hello` was read from the client before.
pub(super) async fn relay(
    client: &TcpStream,
    upstream: &TcpStream,
    hello: Vec<u8>,
    [up, down]: [Option<Flow>; 2],
    moved: &ByteCounts,
    idle: Duration,
) -> End {
    let clock = IdleClock::new();
    let side = |socket, end| Side { socket, end };
    let (client, upstream) = (side(client, End::Client), side(upstream, End::Upstream));
    let direction =
        |from, to, held, flow, count| Direction { from, to, held, flow, count, clock: &clock };
    let up = direction(client, upstream, hello, up, &moved.up);
    let down = direction(upstream, client, Vec::new(), down, &moved.down);
    tokio::select! {
        ended = async { tokio::try_join!(up.run(), down.run()) } => match ended {
            Ok(_) => End::Done,
            Err(end) => end,
        },
        () = clock.idle_for(idle) => End::Idle,
    }
}

/// One side of a tunnel, and how the tunnel ends if that side fails.
#[derive(Clone, Copy)]
struct Side<'a> {
    socket: &'a TcpStream,
    end: End,
}

impl Side<'_> {
    /// Waits until there are bytes to read. Returns how many; 0 at the end of the stream.
    async fn readable(&self) -> Result<usize, End> {
        let there = || {
            let bytes = rustix::io::ioctl_fionread(self.socket)?;
            if bytes > 0 {
                return Ok(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            // Either the end of the stream, or no bytes yet: then recv says WouldBlock.
            let mut one = [0];
            Ok(rustix::net::recv(self.socket, &mut one, RecvFlags::PEEK)?.0)
        };
        self.socket.async_io(Interest::READABLE, there).await.map_err(|_| self.end)
    }

    async fn writable(&self) -> Result<(), End> {
        self.socket.writable().await.map_err(|_| self.end)
    }

    /// Reads what has come; 0 if nothing has.
    fn read(&self, into: &mut [u8]) -> Result<usize, End> {
        self.or_nothing(self.socket.try_read(into))
    }

    /// Writes as much as the socket takes; 0 if it takes nothing.
    fn write(&self, bytes: &[u8]) -> Result<usize, End> {
        self.or_nothing(self.socket.try_write(bytes))
    }

    fn or_nothing(&self, moved: io::Result<usize>) -> Result<usize, End> {
        match moved {
            Ok(moved) => Ok(moved),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(self.end),
        }
    }
}

/// One direction of a tunnel.
struct Direction<'a> {
    from: Side<'a>,
    to: Side<'a>,
    /// Bytes that were read and not written yet.
    held: Vec<u8>,
    /// Its flow in the class tree; None if it is not shaped.
    flow: Option<Flow>,
    count: &'a ByteCount,
    clock: &'a IdleClock,
}

impl Direction<'_> {
    /// Moves bytes until the end of the stream, and passes that end on.
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
            let permitted = self.acquire(there.min(PIECE)).await;
            let moved = self.step(permitted);
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
            // A side that has closed its connection needs no end of the stream.
            Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(self.to.end),
            _ => Ok(()),
        }
    }

    /// Waits for the class's permit to move bytes. Returns how many, at most `want`.
    async fn acquire(&mut self, want: usize) -> usize {
        let Some(flow) = &mut self.flow else { return want };
        let _waiting = self.clock.waiting();
        flow.acquire(want).await.min(want)
    }

    /// Moves at most `most` bytes, without waiting.
    fn step(&mut self, most: usize) -> Result<usize, End> {
        if !self.held.is_empty() {
            let written = self.to.write(&self.held[..most])?;
            self.held.drain(..written);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
            return Ok(written);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let read = self.from.read(&mut scratch[..most])?;
            if read == 0 {
                return Ok(0);
            }
            let written = self.to.write(&scratch[..read])?;
            self.held = scratch[written..read].to_vec();
            Ok(written)
        })
    }
}

/// Knows when bytes moved last.
struct IdleClock {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// How many directions wait for their class: such a tunnel is not idle.
    waits: AtomicU8,
}

impl IdleClock {
    #[expect(clippy::disallowed_methods, reason = "a tunnel's silence is measured from its begin")]
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0), waits: AtomicU8::new(0) }
    }

    #[expect(clippy::disallowed_methods, reason = "a tunnel's silence is measured from its begin")]
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moved(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// A direction waits for its class until the guard is dropped.
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

/// See [`IdleClock::waiting`].
struct Waiting<'a>(&'a IdleClock);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.moved();
        self.0.waits.fetch_sub(1, Ordering::Relaxed);
    }
}
