//! An origin that misbehaves on purpose: HTTP/1.1 written by hand, for the faults that no real
//! server shows.
//!
//! A [`Plan`] says how requests are answered, down to the bytes; [`FaultOrigin`] follows it, keeps
//! every request head as it arrived and knows at any time how many connections are open.
//!
//! Invariant: a connection that the client closes is gone from [`FaultOrigin::open_connections`] at
//! once, whatever the plan was doing.
//!
//! It must not know dripline, nor judge a request: it reads heads, no bodies, and answers them all.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary compiles this file and uses its own part of it"
)]

mod plan;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::X509;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_openssl::SslStream;

pub use plan::{End, Plan, pattern};

use plan::Reaction;

/// Request heads kept by [`FaultOrigin::requests`].
const HEADS_KEPT: usize = 4096;

/// Bytes of a request head, and of what a client sends ahead.
const HEAD_LIMIT: usize = 64 * 1024;

/// How long a reset waits, so that what was written first has left the socket.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// A running origin. Dropping it closes its port and its connections.
pub struct FaultOrigin {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    // Under NoAccept: the listener that never accepts, and the connections that fill its queue.
    _deaf: Option<(Socket, Vec<std::net::TcpStream>)>,
}

impl FaultOrigin {
    /// Plain HTTP on 127.0.0.1, a free port; every request is answered by `plan`.
    pub async fn start(plan: Plan) -> io::Result<Self> {
        if plan.reaction == Reaction::NoAccept {
            return Self::deaf(plan);
        }
        Self::listen(vec![plan], None).await
    }

    /// The same over TLS, with this chain (leaf first) and key.
    pub async fn start_tls(plan: Plan, chain: &[X509], key: &PKey<Private>) -> io::Result<Self> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        for (position, certificate) in chain.iter().enumerate() {
            match position {
                0 => builder.set_certificate(certificate)?,
                _ => builder.add_extra_chain_cert(certificate.clone())?,
            }
        }
        builder.set_private_key(key)?;
        Self::listen(vec![plan], Some(builder.build())).await
    }

    /// Plain HTTP; the n-th request, on whatever connection, is answered by the n-th plan, later
    /// ones by the last.
    pub async fn start_each(plans: Vec<Plan>) -> io::Result<Self> {
        assert!(!plans.is_empty(), "an origin without a plan");
        Self::listen(plans, None).await
    }

    async fn listen(plans: Vec<Plan>, acceptor: Option<SslAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { plans: Mutex::new(plans), acceptor, ..Shared::default() });
        let accepting = Some(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Ok(Self { addr, shared, accepting, _deaf: None })
    }

    /// A listener whose queue is full: Linux then drops every further SYN.
    fn deaf(plan: Plan) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(0)?;
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut fill = Vec::new();
        while let Ok(connection) =
            std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(50))
        {
            fill.push(connection);
            assert!(fill.len() < 64, "a queue of length 0 takes connections without end");
        }
        let shared = Arc::new(Shared { plans: Mutex::new(vec![plan]), ..Shared::default() });
        Ok(Self { addr, shared, accepting: None, _deaf: Some((socket, fill)) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every request from now on by `plan`.
    pub fn set(&self, plan: Plan) {
        *lock(&self.shared.plans) = vec![plan];
    }

    /// Connections open now; one whose TLS handshake is not done yet counts too.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Responses that have ended: written completely, with whatever the plan appends, or abandoned
    /// because the client has closed.
    pub fn answers(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// The request heads so far (the first 4,096), byte for byte, the empty line included.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.heads).clone()
    }

    /// Whether, within `limit`, no connection is open any more.
    pub async fn all_closed_within(&self, limit: Duration) -> bool {
        let started = Instant::now();
        while self.open_connections() > 0 {
            if started.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }
}

impl Drop for FaultOrigin {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            // The JoinSet belongs to this task: dropping it ends the connections.
            accepting.abort();
        }
    }
}

#[derive(Default)]
struct Shared {
    plans: Mutex<Vec<Plan>>,
    acceptor: Option<SslAcceptor>,
    open: AtomicUsize,
    accepted: AtomicUsize,
    answered: AtomicUsize,
    heads: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn plan(&self) -> Plan {
        let mut plans = lock(&self.plans);
        if plans.len() > 1 { plans.remove(0) } else { plans[0].clone() }
    }

    fn record(&self, head: &[u8]) {
        let mut heads = lock(&self.heads);
        if heads.len() < HEADS_KEPT {
            heads.push(head.to_vec());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        shared.open.fetch_add(1, Ordering::SeqCst);
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(tcp, Open(Arc::clone(&shared))));
    }
}

async fn serve(tcp: TcpStream, open: Open) {
    let _ = tcp.set_nodelay(true);
    let Some(acceptor) = &open.0.acceptor else {
        return converse(tcp, &open.0).await;
    };
    let Ok(mut tls) = Ssl::new(acceptor.context()).and_then(|ssl| SslStream::new(ssl, tcp)) else {
        return;
    };
    if Pin::new(&mut tls).accept().await.is_ok() {
        converse(tls, &open.0).await;
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for SslStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// Answers requests until a plan, or the client, ends the connection.
async fn converse(mut wire: impl Wire, shared: &Shared) {
    let mut ahead = Vec::new();
    while let Some(head) = read_head(&mut wire, &mut ahead).await {
        shared.record(&head);
        let plan = shared.plan();
        let (mut reader, mut writer) = tokio::io::split(wire);
        let whole = tokio::select! {
            wrote = answer(&mut writer, &plan, &head) => wrote.is_ok(),
            () = gone(&mut reader, &mut ahead) => false,
        };
        shared.answered.fetch_add(1, Ordering::SeqCst);
        if !whole {
            return;
        }
        match plan.end {
            End::KeepAlive => {}
            End::Close => {
                let _ = writer.shutdown().await;
                return;
            }
            End::Cut => return,
            End::Stall | End::Extra(_) => return gone(&mut reader, &mut ahead).await,
            End::Reset => {
                tokio::time::sleep(BEFORE_RESET).await;
                let _ =
                    SockRef::from(reader.unsplit(writer).tcp()).set_linger(Some(Duration::ZERO));
                return;
            }
        }
        wire = reader.unsplit(writer);
    }
}

/// The next request head, or nothing when the client is done.
async fn read_head(wire: &mut impl Wire, ahead: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = ahead.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = ahead.split_off(end + 4);
            return Some(std::mem::replace(ahead, rest));
        }
        if ahead.len() > HEAD_LIMIT || wire.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
}

/// Returns when the client has closed or reset; keeps what it sends meanwhile.
async fn gone(reader: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) {
    while ahead.len() <= HEAD_LIMIT && reader.read_buf(ahead).await.is_ok_and(|read| read > 0) {}
}

async fn answer(
    writer: &mut (impl AsyncWrite + Unpin),
    plan: &Plan,
    head: &[u8],
) -> io::Result<()> {
    tokio::time::sleep(plan.delay).await;
    match &plan.reaction {
        Reaction::Raw(bytes) => writer.write_all(bytes).await?,
        Reaction::Silence | Reaction::NoAccept => std::future::pending().await,
        Reaction::Answer => {
            writer.write_all(&plan.head()).await?;
            writer.flush().await?;
            let payload = if head.starts_with(b"HEAD ") { Vec::new() } else { plan.payload() };
            let mut rest = payload.as_slice();
            for &size in plan.pieces.iter().cycle() {
                let (piece, later) = rest.split_at(size.min(rest.len()));
                writer.write_all(piece).await?;
                writer.flush().await?;
                rest = later;
                if rest.is_empty() {
                    break;
                }
                tokio::time::sleep(plan.pause).await;
            }
        }
    }
    if let End::Extra(count) = plan.end {
        writer.write_all(&vec![b'+'; count]).await?;
    }
    writer.flush().await
}
