//! A TCP relay between dripline and its origin that imitates a bad network: it can be slow, stall and
//! cut connections.
//!
//! Faults affect only bulk connections: those whose request asks for the connection to be closed after
//! the response, as requests for whole objects do. Short requests pass unchanged.
//!
//! Invariants: what passes is unchanged and in order; a connection that either side closes is closed
//! on the other side at once.
//!
//! It must not know what is in an answer.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that are passed on at a time.
const PIECE: usize = 16 << 10;

/// How a connection ends, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An RST, on which what the receiver has not read yet is lost.
    Reset,
    /// A FIN in the middle of the body.
    Truncate,
    /// The connection stays open, but no further byte is passed on.
    Stall,
}

/// A relay in front of one origin. Its port and its connections go when it is dropped.
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    origin: SocketAddr,
    /// Bytes per second of each bulk connection; 0 for as fast as it goes.
    rate: AtomicU64,
    refusing: AtomicBool,
    /// Bulk bytes that were passed on so far.
    passed: AtomicU64,
    /// Bulk bytes that may pass in all.
    gate: watch::Sender<u64>,
    /// Signals a cut of every open bulk connection.
    cuts: watch::Sender<Option<Fault>>,
    /// After how many further bulk bytes which fault comes.
    planned: Mutex<VecDeque<(u64, Fault)>>,
    bulk_open: AtomicUsize,
    bulk_total: AtomicUsize,
}

impl Relay {
    /// Listens on a free port and passes everything on to `origin`.
    pub async fn to(origin: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            origin,
            rate: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            gate: watch::Sender::new(u64::MAX),
            cuts: watch::Sender::new(None),
            planned: Mutex::default(),
            bulk_open: AtomicUsize::new(0),
            bulk_total: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, accepting }
    }

    /// From now on each bulk connection gets so many bytes a second.
    pub fn throttle(&self, rate: usize) {
        self.shared.rate.store(rate as u64, Ordering::SeqCst);
    }

    /// Lets so many bulk bytes more through, and then none until told otherwise.
    pub fn let_through(&self, bytes: usize) {
        let passed = self.shared.passed.load(Ordering::SeqCst);
        self.shared.gate.send_replace(passed + bytes as u64);
    }

    /// Lets everything through again.
    pub fn let_all(&self) {
        self.shared.gate.send_replace(u64::MAX);
    }

    /// Plans faults, each so many bulk bytes after the one before it.
    pub fn plan(&self, faults: impl IntoIterator<Item = (u64, Fault)>) {
        self.shared.planned.lock().unwrap().extend(faults);
    }

    /// Planned faults that have not come yet.
    pub fn planned(&self) -> usize {
        self.shared.planned.lock().unwrap().len()
    }

    /// Applies a fault to every open bulk connection.
    pub fn cut(&self, fault: Fault) {
        self.shared.cuts.send_replace(Some(fault));
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Bulk connections open now.
    pub fn bulk_open(&self) -> usize {
        self.shared.bulk_open.load(Ordering::SeqCst)
    }

    /// Bulk connections so far.
    pub fn bulk_total(&self) -> usize {
        self.shared.bulk_total.load(Ordering::SeqCst)
    }

    /// Bulk bytes, heads included, that were passed on so far.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if shared.refusing.load(Ordering::SeqCst) {
            reset(&client);
            continue;
        }
        connections.spawn(pass(client, Arc::clone(&shared)));
    }
}

/// Makes the end of a connection an RST.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.origin).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let bulk = Bulk { shared, is: AtomicBool::new(false) };
    tokio::select! {
        () = up(from_client, to_server, &bulk) => {}
        () = down(from_server, to_client, &bulk) => {}
    }
}

/// Whether a connection is a bulk one; counted as open until it is dropped.
struct Bulk {
    shared: Arc<Shared>,
    is: AtomicBool,
}

impl Bulk {
    fn look(&self, request: &[u8]) {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        if text.contains("connection: close") && !self.is.swap(true, Ordering::SeqCst) {
            self.shared.bulk_open.fetch_add(1, Ordering::SeqCst);
            self.shared.bulk_total.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn is(&self) -> bool {
        self.is.load(Ordering::SeqCst)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        if self.is() {
            self.shared.bulk_open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Ends when the client closes.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bulk: &Bulk) {
    let mut piece = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        bulk.look(&piece[..n]);
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
}

/// Ends when the origin closes, or a fault ends the connection.
async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bulk: &Bulk) {
    let shared = &bulk.shared;
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let mut piece = vec![0; PIECE];
    let fault = tokio::select! {
        biased;
        fault = cut(&mut cuts, bulk) => fault,
        fault = forward(&mut from, &mut to, &mut piece, bulk) => match fault {
            Some(fault) => fault,
            None => return,
        },
    };
    match fault {
        Fault::Reset => reset(to.as_ref()),
        Fault::Truncate => {
            let _ = to.shutdown().await;
        }
        // Until the client closes.
        Fault::Stall => std::future::pending().await,
    }
}

async fn cut(cuts: &mut watch::Receiver<Option<Fault>>, bulk: &Bulk) -> Fault {
    loop {
        if cuts.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let (Some(fault), true) = (*cuts.borrow_and_update(), bulk.is()) {
            return fault;
        }
    }
}

/// Passes the answers on; returns the fault that is due, or nothing at the end.
async fn forward(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    piece: &mut [u8],
    bulk: &Bulk,
) -> Option<Fault> {
    let shared = &bulk.shared;
    while let Ok(n @ 1..) = from.read(piece).await {
        let mut rest = &piece[..n];
        while !rest.is_empty() {
            if !bulk.is() {
                to.write_all(rest).await.ok()?;
                break;
            }
            let mut gate = shared.gate.subscribe();
            let passed = || shared.passed.load(Ordering::SeqCst);
            gate.wait_for(|gate| *gate > passed()).await.ok()?;
            let open = gate.borrow().saturating_sub(passed());
            let length = rest.len().min(usize::try_from(open).unwrap_or(usize::MAX));
            let (length, fault) = shared.next_fault(length);
            to.write_all(&rest[..length]).await.ok()?;
            shared.passed.fetch_add(length as u64, Ordering::SeqCst);
            if fault.is_some() {
                return fault;
            }
            rest = &rest[length..];
            let rate = shared.rate.load(Ordering::SeqCst);
            if rate > 0 {
                let pause = Duration::from_secs_f64(length as f64 / rate as f64);
                tokio::time::sleep(pause).await;
            }
        }
    }
    None
}

impl Shared {
    /// How many of `length` bytes pass before the next fault, and the fault if it comes then.
    fn next_fault(&self, length: usize) -> (usize, Option<Fault>) {
        let mut planned = self.planned.lock().unwrap();
        let Some((left, fault)) = planned.front_mut() else { return (length, None) };
        if *left > length as u64 {
            *left -= length as u64;
            return (length, None);
        }
        let (length, fault) = (usize::try_from(*left).unwrap(), *fault);
        planned.pop_front();
        (length, Some(fault))
    }
}
