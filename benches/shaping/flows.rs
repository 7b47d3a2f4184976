//! What the house sends: flows over TLS that never run out of bytes. They go straight to the far end
//! or through a forward proxy, and are the same otherwise.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::{Ssl, SslAcceptor, SslConnector, SslFiletype, SslMethod};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;

use super::line::INTERNET;
use super::place::Place;
use crate::support::lab::Lab;

/// Bytes that a sender writes at once: a TLS record.
const PIECE: usize = 16 * 1024;
/// What a sender's socket may hold beyond what is on its way. A flow that is told to end does so soon
/// then, as one of a program that watches its progress would.
const UNSENT: usize = 128 * 1024;
/// Connecting and the handshake take a few round trips, each at most the modem's buffer long.
const OPEN: Duration = Duration::from_secs(20);
/// The last bytes of a flow that ends are through the line by then.
const DRAIN: Duration = Duration::from_secs(20);
/// Bytes that arrived, by the number that each flow starts with.
pub type Arrived = Arc<[AtomicU64; NUMBERS]>;
/// Flows are numbered below this.
const NUMBERS: usize = 4;

/// Has the far end take whatever comes to `port`: count it, or send it back.
pub async fn serve(
    internet: &Place,
    lab: &Lab,
    port: u16,
    arrived: Option<&Arrived>,
) -> Result<(), String> {
    let acceptor = || -> Result<SslAcceptor, openssl::error::ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_private_key_file(lab.key(), SslFiletype::PEM)?;
        builder.set_certificate_chain_file(lab.cert())?;
        Ok(builder.build())
    };
    let acceptor = acceptor().map_err(|error| format!("no TLS server: {error}"))?;
    let arrived = arrived.cloned();
    let listen = async move {
        let listener = TcpListener::bind((INTERNET, port)).await?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, arrived) = (acceptor.clone(), arrived.clone());
                let answer = async move {
                    let _ = stream.set_nodelay(true);
                    let mut stream = SslStream::new(Ssl::new(acceptor.context())?, stream)?;
                    Pin::new(&mut stream).accept().await?;
                    match &arrived {
                        Some(arrived) => swallow(&mut stream, arrived).await?,
                        None => send_back(&mut stream).await?,
                    }
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
                };
                // A flow that is cut ends with an error here, and may.
                tokio::spawn(async move { answer.await.ok() });
            }
        });
        Ok::<_, std::io::Error>(())
    };
    let listening = internet.run(listen).await;
    listening.map_err(|error| format!("the far end does not listen: {error}"))
}

async fn swallow(
    stream: &mut SslStream<TcpStream>,
    arrived: &[AtomicU64; NUMBERS],
) -> std::io::Result<()> {
    let number = usize::from(stream.read_u8().await?);
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece).await? {
            0 => break,
            bytes => {
                if let Some(arrived) = arrived.get(number) {
                    arrived.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            }
        }
    }
    // The sender waits for this: everything has arrived.
    stream.shutdown().await
}

async fn send_back(stream: &mut SslStream<TcpStream>) -> std::io::Result<()> {
    stream.read_u8().await?;
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            bytes => stream.write_all(&piece[..bytes]).await?,
        }
    }
}

/// How a flow gets to the far end.
#[derive(Clone)]
pub struct Route {
    /// The machine that it comes from.
    pub from: Ipv4Addr,
    /// A port of the far end.
    pub port: u16,
    /// The forward proxy and the name by which it knows that port; none to go straight.
    pub proxy: Option<(SocketAddr, &'static str)>,
    /// Trusts the far end.
    pub tls: SslConnector,
}

/// A flow under way.
pub struct Flow {
    /// When its first byte was there to be sent.
    pub began: Instant,
    enough: Arc<AtomicBool>,
    task: JoinHandle<Result<(), String>>,
}

impl Flow {
    /// Connects and begins to send. Its bytes are counted under `number`.
    pub async fn start(house: &Place, route: Route, number: u8) -> Result<Self, String> {
        let mut stream = house.run(async move { open_in_time(&route, number).await }).await?;
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let began = Instant::now();
        let task = house.spawn(async move {
            let sent = send(&mut stream, &told).await;
            sent.map_err(|error| format!("a flow broke: {error}"))
        });
        Ok(Self { began, enough, task })
    }

    /// Several flows of one machine.
    pub async fn start_all(
        house: &Place,
        route: &Route,
        number: u8,
        count: usize,
    ) -> Result<Vec<Self>, String> {
        let mut flows = Vec::new();
        for _ in 0..count {
            flows.push(Self::start(house, route.clone(), number).await?);
        }
        Ok(flows)
    }

    /// Ends it when what it has written has arrived.
    pub async fn finish(mut self) -> Result<(), String> {
        self.enough.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(DRAIN, &mut self.task).await;
        ended
            .map_err(|_| format!("a flow did not end within {DRAIN:?}"))?
            .map_err(|error| error.to_string())?
    }

    /// Whether it still sends. A flow ends early only because of a fault.
    pub fn runs(&self) -> bool {
        !self.task.is_finished()
    }
}

/// Closes the flow without waiting for its bytes to arrive.
impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects and sends nothing more.
pub fn hold(
    house: &Place,
    route: Route,
    number: u8,
) -> JoinHandle<Result<SslStream<TcpStream>, String>> {
    house.spawn(async move { open_in_time(&route, number).await })
}

async fn open_in_time(route: &Route, number: u8) -> Result<SslStream<TcpStream>, String> {
    let opened = tokio::time::timeout(OPEN, open(route, number)).await;
    opened.unwrap_or_else(|_| Err(format!("no connection within {OPEN:?}")))
}

async fn open(route: &Route, number: u8) -> Result<SslStream<TcpStream>, String> {
    let far = SocketAddr::from((INTERNET, route.port));
    let to = route.proxy.map_or(far, |(proxy, _)| proxy);
    let stream = connect(route.from, to).await;
    let mut stream = stream.map_err(|error| format!("cannot connect to {to}: {error}"))?;
    let name = match route.proxy {
        Some((_, name)) => {
            tunnel(&mut stream, name).await?;
            name
        }
        None => "localhost",
    };
    let broken = |error: &dyn std::fmt::Display| format!("no TLS with {name}: {error}");
    let ssl = route.tls.configure().and_then(|mut ssl| {
        // The lab has one certificate, whatever the far end is called.
        ssl.set_verify_hostname(false);
        ssl.into_ssl(name)
    });
    let ssl = ssl.map_err(|error| broken(&error))?;
    let mut stream = SslStream::new(ssl, stream).map_err(|error| broken(&error))?;
    Pin::new(&mut stream).connect().await.map_err(|error| broken(&error))?;
    stream.write_u8(number).await.map_err(|error| broken(&error))?;
    Ok(stream)
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let options = socket2::SockRef::from(&stream);
    options.set_tcp_notsent_lowat(UNSENT as u32)?;
    // A flow that is cut must not go on in the kernel.
    options.set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

/// Asks a forward proxy for a tunnel, as tools with HTTPS_PROXY do.
async fn tunnel(stream: &mut TcpStream, name: &str) -> Result<(), String> {
    let ask = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
    let refused = |error: &dyn std::fmt::Display| format!("no tunnel to {name}: {error}");
    stream.write_all(ask.as_bytes()).await.map_err(|error| refused(&error))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        answer.push(byte.map_err(|error| {
            refused(&format!("{error} after {:?}", String::from_utf8_lossy(&answer)))
        })?);
    }
    if answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 ") {
        return Ok(());
    }
    Err(refused(&String::from_utf8_lossy(&answer)))
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    enough: &AtomicBool,
) -> std::io::Result<()> {
    let piece = vec![0; PIECE];
    while !enough.load(Ordering::Relaxed) {
        stream.write_all(&piece).await?;
    }
    stream.shutdown().await?;
    // Its end is the far end's word that all is there.
    while stream.read(&mut [0]).await? > 0 {}
    Ok(())
}
