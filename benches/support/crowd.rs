//! Clients that hold connections and do nothing useful with them: heads that trickle, connections
//! without a request, downloads that nobody reads, handshakes that stop, and clients that are one too
//! many. Each notes how it was answered. It must not know the limits that it meets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{self, Load};

/// The time within which every attempt of a slow client must have ended.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two bytes of a head that trickles.
const TRICKLE: Duration = Duration::from_millis(700);
/// How long a client that was turned away waits.
const AGAIN: Duration = Duration::from_millis(200);
/// The receive buffer of a client that never reads, in bytes: the smallest that Linux has.
const SMALL: u32 = 2048;

/// How many clients of each kind.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Send a head byte by byte, again and again.
    pub slow_heads: usize,
    /// Have had an answer, and ask for nothing more.
    pub idle: usize,
    /// Ask for an object and never read.
    pub never_read: usize,
    /// Send the beginning of a ClientHello.
    pub half_handshakes: usize,
}

impl Sizes {
    /// All of them.
    pub fn all(&self) -> usize {
        self.slow_heads + self.idle + self.never_read + self.half_handshakes
    }
}

/// How one connection of a client ended.
#[derive(Debug)]
pub enum End {
    /// A head that trickled: the answer's status, after so long.
    SlowHead(u16, Duration),
    /// Closed without a word, so long after its last answer.
    Idle(Duration),
    /// Closed within the handshake, after so long.
    HalfHandshake(Duration),
    /// There was no room when it came again.
    TurnedAway,
    /// An unexpected end.
    Unexpected(String),
}

/// The clients of a run. They end when this is dropped.
pub struct Crowd {
    clients: JoinSet<Vec<End>>,
    stop: watch::Sender<bool>,
    come: Arc<AtomicUsize>,
}

impl Crowd {
    /// Starts them, mixed, `per_second` of them each second.
    pub fn launch(load: &Load, sizes: Sizes, per_second: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (load, come) = (Arc::new(load.clone()), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for (number, kind) in mixed(sizes).into_iter().enumerate() {
            let at = Duration::from_secs_f64(number as f64 / per_second as f64);
            let (load, come, stopped) = (Arc::clone(&load), Arc::clone(&come), stopped.clone());
            clients.spawn(async move {
                tokio::time::sleep(at).await;
                let client = Client { load, come, stopped };
                let ends = match kind {
                    Kind::SlowHead => client.slow_heads().await,
                    Kind::Idle => client.idle().await.map(|end| vec![end]),
                    Kind::NeverRead => client.never_read().await.map(|()| Vec::new()),
                    Kind::HalfHandshake => client.half_handshake().await.map(|end| vec![end]),
                };
                ends.unwrap_or_else(|why| vec![End::Unexpected(format!("{kind:?}: {why}"))])
            });
        }
        Self { clients, stop, come }
    }

    /// How many clients have reached their final state.
    pub fn come(&self) -> usize {
        self.come.load(Ordering::Relaxed)
    }

    /// Waits until every client has met its end; those that come again do not any more, and those that
    /// never read give up.
    pub async fn end(mut self) -> Vec<End> {
        let _ = self.stop.send(true);
        let mut ends = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            ends.extend(client.unwrap_or_else(|error| vec![End::Unexpected(error.to_string())]));
        }
        ends
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    SlowHead,
    Idle,
    NeverRead,
    HalfHandshake,
}

/// Every kind spread evenly over the whole.
fn mixed(sizes: Sizes) -> Vec<Kind> {
    let kinds = [
        (Kind::SlowHead, sizes.slow_heads),
        (Kind::Idle, sizes.idle),
        (Kind::NeverRead, sizes.never_read),
        (Kind::HalfHandshake, sizes.half_handshakes),
    ];
    let mut mixed: Vec<(f64, Kind)> = Vec::with_capacity(sizes.all());
    for (kind, count) in kinds {
        mixed.extend((0..count).map(|number| ((number as f64 + 0.5) / count as f64, kind)));
    }
    mixed.sort_by(|a, b| a.0.total_cmp(&b.0));
    mixed.into_iter().map(|(_, kind)| kind).collect()
}

struct Client {
    load: Arc<Load>,
    come: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
}

impl Client {
    fn comes(&self) {
        self.come.fetch_add(1, Ordering::Relaxed);
    }

    async fn slow_heads(self) -> Result<Vec<End>, String> {
        let mut ends = Vec::new();
        loop {
            let mut stream = match client::connect(&self.load).await {
                Ok(stream) => stream,
                Err(why) if ends.is_empty() => return Err(why),
                // Its old place may not be free yet, and the last one may be somebody else's.
                Err(_) if *self.stopped.borrow() => return Ok(ends),
                Err(_) => {
                    ends.push(End::TurnedAway);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if ends.is_empty() {
                self.comes();
            }
            let start = Instant::now();
            let answer = timeout(PATIENCE, trickle(&mut stream)).await;
            let answer = answer.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
            let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
            let status = status.and_then(|code| String::from_utf8_lossy(code).parse().ok());
            let status =
                status.ok_or_else(|| format!("answered {:?}", client::first_line(&answer)))?;
            ends.push(End::SlowHead(status, start.elapsed()));
            if *self.stopped.borrow() {
                return Ok(ends);
            }
        }
    }

    async fn idle(self) -> Result<End, String> {
        let mut stream = client::connect(&self.load).await?;
        let ask = b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(ask).await.map_err(|error| format!("write: {error}"))?;
        let mut answer = vec![0; 4096];
        let read = timeout(self.load.stall, stream.read(&mut answer)).await;
        let read = read.map_err(|_| "no answer")?.map_err(|error| format!("read: {error}"))?;
        if !answer[..read].starts_with(b"HTTP/1.1 404 ") {
            return Err(format!("answered {:?}", client::first_line(&answer[..read])));
        }
        drop(answer);
        self.comes();
        let start = Instant::now();
        loop {
            // The answer's body comes in a record of its own.
            let mut byte = [0; 512];
            match timeout(PATIENCE, stream.read(&mut byte)).await {
                Ok(Ok(0)) => return Ok(End::Idle(start.elapsed())),
                Ok(Ok(_)) if start.elapsed() < Duration::from_secs(1) => {}
                Ok(Ok(_)) => return Err("told something".to_owned()),
                Ok(Err(error)) => return Err(format!("cut: {error}")),
                Err(_) => return Err(format!("still open after {PATIENCE:?}")),
            }
        }
    }

    /// What its socket has no room for stays with the server. That ends the connection without a word,
    /// so the server's own count is what tells.
    async fn never_read(mut self) -> Result<(), String> {
        let tcp = small_window(self.load.addr).await;
        let tcp = tcp.map_err(|error| format!("connect: {error}"))?;
        let mut stream = client::handshake(&self.load, tcp).await?;
        client::send(&mut stream, &self.load.objects[0], "").await?;
        self.comes();
        let _ = self.stopped.wait_for(|stop| *stop).await;
        Ok(())
    }

    async fn half_handshake(self) -> Result<End, String> {
        let mut tcp = client::tcp(&self.load).await?;
        // A record header, and a ClientHello's type: 512 bytes are announced (RFC 8446 §5.1, §4).
        let begin = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc];
        tcp.write_all(&begin).await.map_err(|error| format!("write: {error}"))?;
        self.comes();
        let start = Instant::now();
        match timeout(PATIENCE, end_of(&mut tcp)).await {
            Ok(Ok(_)) => Ok(End::HalfHandshake(start.elapsed())),
            Ok(Err(error)) => Err(format!("read: {error}")),
            Err(_) => Err(format!("still open after {PATIENCE:?}")),
        }
    }
}

/// A head that does not end, a byte at a time, until there is an answer. Returns all of that.
async fn trickle<S: AsyncRead + AsyncWriteExt + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut head = b"GET /file/x HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    loop {
        stream.write_all(&[head.next().unwrap_or(b'x')]).await?;
        if let Ok(read) = timeout(TRICKLE, stream.read_buf(&mut answer)).await {
            read?;
            stream.read_to_end(&mut answer).await?;
            return Ok(answer);
        }
    }
}

async fn small_window(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL)?;
    socket.connect(addr).await
}

/// All that comes before the end; a reset is an end too.
async fn end_of(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match tcp.read_to_end(&mut bytes).await {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(bytes),
    }
}

/// How clients beyond the limit were answered.
#[derive(Default)]
pub struct TurnedAway {
    /// Let in all the same.
    pub inside: usize,
    /// The responses to clients that a plain listener refused.
    pub told: Vec<String>,
    /// Clients that a TLS listener refused: closed without a byte.
    pub closed: usize,
}

/// Connects `count` times to each door, and stays for as long as it takes to see who is let in.
pub async fn knock(plain: SocketAddr, tls: SocketAddr, count: usize) -> Result<TurnedAway, String> {
    let mut clients = JoinSet::new();
    for addr in [plain, tls].repeat(count) {
        clients.spawn(async move {
            let mut tcp = TcpStream::connect(addr).await?;
            // An admitted client receives nothing.
            let heard = timeout(Duration::from_secs(2), end_of(&mut tcp)).await;
            heard.ok().transpose().map(|heard| (addr == tls, heard))
        });
    }
    let mut turned_away = TurnedAway::default();
    while let Some(client) = clients.join_next().await {
        match client
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("knock: {error}"))?
        {
            (_, None) => turned_away.inside += 1,
            (true, Some(heard)) if heard.is_empty() => turned_away.closed += 1,
            (_, Some(heard)) => turned_away.told.push(String::from_utf8_lossy(&heard).into_owned()),
        }
    }
    Ok(turned_away)
}
