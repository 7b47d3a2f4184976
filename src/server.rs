//! Config → services: the one place where all meets. Binds the listeners, serves until told to
//! stop, drains.
//!
//! The accept loop is dripline's own, around Pingora's proxy, because Pingora's has a fixed
//! handshake timeout, a fixed grace period and no way to count connections.

mod introduction;
mod reload;
mod tunnels;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use log::{debug, info, warn};
use openssl::error::ErrorStack;
use openssl::x509::X509;
use pingora_core::OrErr;
use pingora_core::apps::ServerApp;
use pingora_core::apps::http_app::HttpServer;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::SslStream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::config::{self, Config, ListenerTls};
use crate::drip::lanes::Lanes;
use crate::drip::stream::PacedStream;
use crate::lifecycle::Lifecycle;
use crate::limits::conversation;
use crate::limits::door::Door;
use crate::memory;
use crate::metrics::Metrics;
use crate::profile::{Facts, Profiles};
use crate::proxy::running::Drips;
use crate::proxy::upload::Uploads;
use crate::proxy::{Board, DripProxy};
use crate::proxy_protocol::Trusted;
use crate::s3::client::Client;
use crate::s3::put::Putter;
use crate::s3::resolve::Resolver;
use crate::s3::upstream::Upstream;
use crate::shape::{Shaper, TreeError};
use crate::spool::{self, Spool};
use crate::tls::combined::Combined;
use crate::tls::listener;
use crate::tls::reload::Reloading;
use crate::upgrade::{Handed, Inherited, Role};
pub use reload::Reloader;
use tunnels::Tunnels;

/// Connections that the kernel keeps for a listener until they are accepted; it lowers this to
/// net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel keeps for a client beyond what the network has taken. A device that stalls
/// gets no more than this in one go when it reads on, and costs no more.
const NOTSENT_LOWAT: u32 = 16 << 10;

/// How long to wait before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The profiles in force, for handshakes and requests.
type Profiling = Arc<ArcSwap<Profiles>>;

/// The process's settings in force.
type Shared = Arc<ArcSwap<config::Server>>;

/// A server whose sockets are bound.
pub struct Server {
    devices: Vec<Device>,
    admin: Option<Report>,
    health: Option<Report>,
    tunnels: Option<Tunnels>,
    /// None without device listeners.
    proxy: Option<Arc<HttpProxy<DripProxy>>>,
    lanes: Arc<Lanes>,
    board: Board,
    door: Arc<Door>,
    /// The class tree, if there is one.
    shaper: Option<Arc<Shaper>>,
    settings: Shared,
    reload: watch::Sender<u64>,
    reloader: Arc<Reloader>,
}

/// An admin or health listener whose socket is bound.
struct Report {
    /// As it is configured.
    addr: SocketAddr,
    socket: TcpListener,
}

/// A device listener whose socket is bound.
struct Device {
    /// As it is configured.
    addr: SocketAddr,
    socket: TcpListener,
    tls: Option<Arc<Reloading>>,
    proxy_protocol: Option<Trusted>,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Running drips go on until they are done or `server.drain_timeout` has passed.
    Drain,
    /// Running drips are cut.
    Now,
    /// Another process accepts at the same addresses: running drips go on until they are done or
    /// `server.upgrade_drain_timeout` has passed.
    HandedOver,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket cannot be bound.
    #[error("{key}: cannot listen on {addr}: {source}")]
    Bind {
        /// The configuration key.
        key: String,
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The CA file has become unreadable since it was checked.
    #[error("s3.ca: {source}")]
    Ca {
        /// Why.
        source: io::Error,
    },
    /// The system has no threads left.
    #[error("server.threads: cannot start the threads that drip: {source}")]
    Threads {
        /// Why.
        source: io::Error,
    },
    /// The class tree does not hold together, which the configuration's reader would have said.
    #[error("shaping.classes: {0}")]
    Classes(TreeError),
    /// OpenSSL refuses a listener's settings.
    #[error("{key}: {source}")]
    Tls {
        /// The configuration key.
        key: String,
        /// Why.
        source: ErrorStack,
    },
}

impl Server {
    /// Binds every listener of `config`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or OpenSSL refuses a setting.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        Self::bind_or_inherit(config, &mut Inherited::default())
    }

    /// Takes the sockets of `inherited` where they fit `config`, and binds the other listeners. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or OpenSSL refuses a setting.
    pub fn bind_or_inherit(config: &Config, inherited: &mut Inherited) -> Result<Self, StartError> {
        let mut socket = |role, addr, key: &str| match inherited.take(role, addr) {
            Some(socket) => Ok(socket),
            None => bind(addr, || key.to_owned()),
        };
        let profiles: Profiling = Arc::new(ArcSwap::from_pointee(config.profiles.clone()));
        let mut devices = Vec::new();
        for (at, device) in config.listen.iter().enumerate() {
            let key = format!("listen[{at}]");
            let socket = socket(Role::Device, device.addr, &format!("{key}.addr"))?;
            let tls = device.tls.as_ref().map(|tls| reloading(&key, device.addr, tls, &profiles));
            let proxy_protocol = device.proxy_protocol.clone();
            devices.push(Device {
                addr: device.addr,
                socket,
                tls: tls.transpose()?,
                proxy_protocol,
            });
        }
        let mut report = |role, addr: Option<SocketAddr>, key| {
            let bound = |addr| Ok(Report { addr, socket: socket(role, addr, key)? });
            addr.map(bound).transpose()
        };
        let admin = report(Role::Admin, config.admin, "admin.addr")?;
        let health = report(Role::Health, config.health, "health.addr")?;
        let board =
            Board { metrics: Metrics::new(), lifecycle: Lifecycle::new(), drips: Drips::default() };
        let shaper = config.shaping.as_ref();
        let shaper = shaper.map(|tree| Shaper::new(tree, board.metrics.shape.clone())).transpose();
        let shaper = shaper.map_err(StartError::Classes)?;
        let tunnels = Tunnels::bind(config, &shaper, &board.metrics, &mut socket)?;
        let conf = pingora_conf();
        let proxy = config.s3.as_ref().map(|s3| {
            let upstream = upstream(s3, &config.upstream)?;
            let endpoint = &upstream.endpoint;
            let resolver = Arc::new(Resolver::new(endpoint.host(), endpoint.port()));
            let client = Client::new(upstream.clone(), Arc::clone(&resolver), &conf);
            let spool = spool(config.spool.as_ref(), client, &board.metrics);
            let profiles = Arc::clone(&profiles);
            let uploads = config.uploads.as_ref().map(|uploads| {
                let putter = Putter::new(upstream.clone(), Arc::clone(&resolver), &conf);
                Uploads::new(putter, uploads.class.clone())
            });
            let proxy = DripProxy::new(
                upstream,
                resolver,
                profiles,
                spool,
                shaper.clone(),
                uploads,
                board.clone(),
            );
            Ok(Arc::new(http_proxy(&conf, proxy)))
        });
        let proxy = proxy.transpose()?;
        let lanes = Lanes::start(config.server.threads);
        let lanes = Arc::new(lanes.map_err(|source| StartError::Threads { source })?);
        let door = Door::new(config.limits, board.metrics.limits.clone());
        let settings: Shared = Arc::new(ArcSwap::from_pointee(config.server.clone()));
        let tls = devices.iter().filter_map(|one| Some((one.addr, Arc::clone(one.tls.as_ref()?))));
        let reloader = Reloader::new(
            config.clone(),
            profiles,
            Arc::clone(&settings),
            Arc::clone(&door),
            shaper.clone(),
            tunnels.as_ref().map(Tunnels::proxy),
            tls.collect(),
        );
        let (reload, reloader) = (watch::Sender::new(0), Arc::new(reloader));
        Ok(Self {
            devices,
            admin,
            health,
            tunnels,
            proxy,
            lanes,
            board,
            door,
            shaper,
            settings,
            reload,
            reloader,
        })
    }

    /// A second handle of every listening socket, for a successor.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<Handed>> {
        let devices = self.devices.iter().map(|one| (Role::Device, one.addr, &one.socket));
        let report =
            |role, one: Option<&Report>| one.map(|one| (role, one.addr, one.socket.try_clone()));
        let tunnels = self.tunnels.as_ref().map(|one| &one.report);
        let reports = [
            report(Role::Admin, self.admin.as_ref()),
            report(Role::Health, self.health.as_ref()),
            report(Role::ForwardProxy, tunnels),
        ];
        let devices = devices.map(|(role, addr, socket)| (role, addr, socket.try_clone()));
        devices
            .chain(reports.into_iter().flatten())
            .map(|(role, addr, socket)| Ok(Handed { role, addr, socket: socket? }))
            .collect()
    }

    /// The addresses of the device listeners, in the configuration's order, with real ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.devices.iter().filter_map(|device| device.socket.local_addr().ok()).collect()
    }

    /// The admin listener's address, with its real port.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.socket.local_addr().ok()
    }

    /// The forward proxy's address, with its real port.
    #[must_use]
    pub fn forward_proxy_address(&self) -> Option<SocketAddr> {
        self.tunnels.as_ref()?.report.socket.local_addr().ok()
    }

    /// Where this server counts and lists what it does.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// The class tree, if there is one.
    #[must_use]
    pub fn shaper(&self) -> Option<Arc<Shaper>> {
        self.shaper.clone()
    }

    /// To be raised for certificates to be read again.
    #[must_use]
    pub fn reload(&self) -> watch::Sender<u64> {
        self.reload.clone()
    }

    /// Puts new configurations in place.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Serves until `stop` resolves, then drains: no new connections, running drips go on until
    /// they are done or `server.drain_timeout` has passed. Returns how many were cut.
    ///
    /// # Errors
    ///
    /// If a bound socket cannot be used.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> io::Result<usize> {
        let lifecycle = self.board.lifecycle;
        let mut listeners = JoinSet::new();
        let devices = self.devices.len();
        for Device { addr, socket, tls, proxy_protocol } in self.devices {
            // The configuration has an S3 for them.
            let Some(proxy) = &self.proxy else { continue };
            let kind = if tls.is_some() { "https" } else { "http" };
            info!("listening on {kind}://{}", socket.local_addr()?);
            if let Some(tls) = &tls {
                listeners.spawn(Arc::clone(tls).watch(self.reload.subscribe()));
            }
            let app = Devices {
                addr,
                proxy: Arc::clone(proxy),
                lanes: Arc::clone(&self.lanes),
                tls,
                proxy_protocol,
                door: Arc::clone(&self.door),
                metrics: self.board.metrics.clone(),
            };
            listeners.spawn(accept(socket, Arc::new(app), lifecycle.clone(), lifecycle.draining()));
        }
        if let Some(tunnels) = self.tunnels {
            tunnels.serve(&mut listeners, &lifecycle)?;
        }
        let mut reports = JoinSet::new();
        let addr = self.admin.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |admin| admin.addr.ip());
        if let Some(shaper) = &self.shaper {
            shaper.keep_time();
        }
        let admin = Admin::new(lifecycle.clone(), self.board.metrics.clone(), self.shaper, addr);
        let health = Admin::health(lifecycle.clone());
        let (handed_over, until) = watch::channel(false);
        let patience = self.door.settings().header_timeout;
        for (report, app, what, tolerates) in [
            (self.admin, admin, "health and metrics", None),
            (self.health, health, "health", Some(patience)),
        ] {
            if let Some(Report { socket, .. }) = report {
                info!("{what} on http://{}", socket.local_addr()?);
                let app = Plain { app: Arc::new(HttpServer::new_app(app)), tolerates };
                reports.spawn(accept(socket, Arc::new(app), lifecycle.clone(), until.clone()));
            }
        }
        let (drips, open) = (self.board.metrics.drips, self.board.metrics.tunnels.open);
        let running = move || usize::try_from(drips.get() + open.get()).unwrap_or(0);
        reports.spawn(memory::give_back(running));
        lifecycle.started();
        info!("ready: {devices} device listener(s)");
        let stop = stop.await;
        // What is asked at the successor's address is for the successor to answer. Otherwise these
        // answer to the end: a load balancer must see why no new clients are taken.
        handed_over.send_replace(stop == Stop::HandedOver);
        let cut = drain(&lifecycle, stop, &self.settings).await;
        if cut > 0 {
            warn!("drain timeout: {cut} drip(s) cut");
        }
        Ok(cut)
    }
}

/// Lets what runs come to its end, as long as it may. Returns how many drips are cut.
async fn drain(lifecycle: &Lifecycle, stop: Stop, settings: &Shared) -> usize {
    let config::Server { shutdown_delay, drain_timeout, upgrade_drain_timeout, .. } =
        **settings.load();
    if stop == Stop::Drain && !shutdown_delay.is_zero() {
        lifecycle.unready();
        info!("not ready any more; new connections are taken for another {shutdown_delay:?}");
        tokio::time::sleep(shutdown_delay).await;
    }
    let timeout = match stop {
        Stop::Drain => drain_timeout,
        Stop::Now => Duration::ZERO,
        Stop::HandedOver => upgrade_drain_timeout,
    };
    info!("draining: {} drip(s) running, at most {timeout:?}", lifecycle.active());
    match stop {
        Stop::HandedOver => lifecycle.drain_behind_successor(timeout).await,
        Stop::Drain | Stop::Now => lifecycle.drain(timeout).await,
    }
}

/// The TLS of one listener, whose handshakes are capped as its profiles say.
fn reloading(
    key: &str,
    addr: SocketAddr,
    tls: &ListenerTls,
    profiles: &Profiling,
) -> Result<Arc<Reloading>, StartError> {
    let profiles = Arc::clone(profiles);
    let settings = listener::Settings {
        cap: Arc::new(move |client: listener::Client<'_>| {
            profiles.load().handshake_cap(&Facts {
                listener: Some(addr),
                client: client.address,
                server_name: client.server_name,
                request: None,
            })
        }),
        tickets: tls.tickets,
        mfl_prefers_tls12: tls.mfl_prefers_tls12,
    };
    let key = format!("{key}.tls");
    Reloading::new(key.clone(), &tls.identities, tls.files.clone(), settings)
        .map(Arc::new)
        .map_err(|source| StartError::Tls { key, source })
}

fn upstream(s3: &config::S3, upstream: &config::Upstream) -> Result<Upstream, StartError> {
    let ca = s3.ca.as_deref().map(authorities).transpose();
    Ok(Upstream {
        endpoint: s3.endpoint.clone(),
        ca: ca.map_err(|source| StartError::Ca { source })?,
        authorization: s3.authorization,
        connect_timeout: upstream.connect_timeout,
        response_timeout: upstream.response_timeout,
        idle_timeout: upstream.idle_timeout,
        recv_buffer: usize::try_from(upstream.recv_buffer.bytes()).unwrap_or(usize::MAX),
    })
}

/// The spool, if there is to be one and its directory can be used. Without it downloads work all the
/// same, so that is no reason not to start.
fn spool(
    settings: Option<&spool::Settings>,
    client: Client,
    metrics: &Metrics,
) -> Option<Arc<Spool>> {
    let settings = settings?;
    let open = Spool::open(settings.clone(), client, metrics.spool.clone());
    open.inspect_err(|e| {
        let dir = settings.dir.display();
        warn!("spool.dir: {dir}: {e}; every download goes to S3 directly");
    })
    .ok()
}

/// The certificates of a PEM file.
fn authorities(path: &Path) -> io::Result<Arc<Box<[X509]>>> {
    let pem = std::fs::read(path)?;
    Ok(Arc::new(X509::stack_from_pem(&pem)?.into_boxed_slice()))
}

/// Pingora's own settings; a vendored OpenSSL does not know where the system keeps its
/// certificates.
fn pingora_conf() -> Arc<ServerConf> {
    let ca_file = openssl_probe::probe().cert_file;
    let ca_file = ca_file.map(|path| path.to_string_lossy().into_owned());
    Arc::new(ServerConf { ca_file, ..ServerConf::default() })
}

fn bind(addr: SocketAddr, key: impl Fn() -> String) -> Result<TcpListener, StartError> {
    let socket = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the last run's connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    socket().map_err(|source| StartError::Bind { key: key(), addr, source })
}

/// What happens to a connection once it is accepted.
trait Serve: Send + Sync + 'static {
    /// Sets the options of an accepted socket.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        prepare(stream)
    }

    fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        lifecycle: Lifecycle,
    ) -> impl Future<Output = ()> + Send;
}

/// Accepts until `end` turns true.
async fn accept<S: Serve>(
    socket: TcpListener,
    app: Arc<S>,
    lifecycle: Lifecycle,
    mut end: watch::Receiver<bool>,
) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(e) => return warn!("cannot use a listening socket: {e}"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = end.wait_for(|end| *end) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(e) = app.prepare(&stream) {
                    debug!("{peer}: {e}");
                    continue;
                }
                tokio::spawn(Arc::clone(&app).serve(stream, peer, lifecycle.clone()));
            }
            Err(e) => {
                warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection as Pingora has it.
fn pingoras(socket: TcpStream, peer: SocketAddr) -> L4Stream {
    let mut stream = L4Stream::from(socket);
    let digest = SocketDigest::from_raw_fd(std::os::fd::AsRawFd::as_raw_fd(&stream));
    let _ = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    stream
}

/// A record leaves when it is written, and a device that stops reading is not owed megabytes.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// A listener for devices: TLS or not, and paced.
struct Devices {
    /// As it is configured.
    addr: SocketAddr,
    proxy: Arc<HttpProxy<DripProxy>>,
    lanes: Arc<Lanes>,
    tls: Option<Arc<Reloading>>,
    proxy_protocol: Option<Trusted>,
    door: Arc<Door>,
    metrics: Metrics,
}

impl Devices {
    /// Whether the connection goes on: it is known whose it is, if a load balancer has to say so.
    async fn introduced(&self, socket: &mut L4Stream) -> bool {
        let Some(trusted) = &self.proxy_protocol else { return true };
        let patience = self.door.settings().header_timeout;
        introduction::introduce(socket, trusted, patience, &self.metrics.proxy_headers).await
    }

    async fn secure(&self, socket: L4Stream) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Box::new(socket)) };
        let client = introduction::peer(&socket).map(|peer| peer.ip());
        let limit = self.door.settings().handshake_timeout;
        match tokio::time::timeout(limit, handshake(tls, socket)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(e)) => {
                // A device that cannot take a handshake record goes without a word, so this is all
                // that an operator sees of it.
                info!(client:? = client; "TLS handshake failed: {e}");
                self.metrics.handshake_failures.with_label_values(&["error"]).inc();
            }
            Err(_) => {
                self.metrics.handshake_failures.with_label_values(&["timeout"]).inc();
                self.door.hit("handshake_timeout");
            }
        }
        None
    }

    /// Ends a connection that is one too many. A TLS client is told by the end alone: a handshake
    /// for it would cost more than what the limit protects.
    async fn turn_away(&self, socket: L4Stream, status: StatusCode, reason: &str) {
        if self.tls.is_some() {
            return;
        }
        let Some(_telling) = self.door.tell() else { return };
        conversation::turn_away(PacedStream::new(Box::new(socket)), &self.door, status, reason)
            .await;
    }
}

async fn handshake(tls: &Reloading, socket: L4Stream) -> pingora_core::Result<SslStream<Combined>> {
    let failed = pingora_core::ErrorType::TLSHandshakeFailure;
    let client = introduction::peer(&socket).map(|peer| peer.ip());
    let ssl = listener::connection(&tls.current(), client);
    let ssl = ssl.or_err(failed.clone(), "cannot make a TLS connection")?;
    let mut stream = SslStream::new(ssl, Combined::new(socket))?;
    let accepted = stream.accept().await;
    accepted.explain_err(failed, |e| match listener::negotiated(stream.ssl()) {
        Some(n) => format!("{e}; records of up to {} bytes, client offered {}", n.limit(), n.offer),
        None => format!("{e}; before its ClientHello was read"),
    })?;
    Ok(stream)
}

impl Serve for Devices {
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        prepare(stream)?;
        // TCP_USER_TIMEOUT: the kernel watches whether the client takes what it is sent (tcp(7)), so
        // that a drip needs no timer for that.
        SockRef::from(stream).set_tcp_user_timeout(Some(self.door.settings().send_timeout))
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = pingoras(socket, peer);
        let _open = self.metrics.connection();
        let connection = Arc::new(lifecycle.connection());
        let Some(mut entry) = self.door.enter() else {
            let full = "too many connections; try again later";
            return self.turn_away(socket, StatusCode::SERVICE_UNAVAILABLE, full).await;
        };
        if !self.introduced(&mut socket).await {
            return;
        }
        if introduction::peer(&socket).is_some_and(|client| !entry.belongs_to(client.ip())) {
            let many = "too many connections from this address";
            return self.turn_away(socket, StatusCode::TOO_MANY_REQUESTS, many).await;
        }
        let served = async {
            // Boxed, so that a drip of hours does not keep the room that a handshake needs.
            if let Some(stream) = Box::pin(self.secure(socket)).await {
                let stream = PacedStream::new(stream).accepted_by(self.addr);
                let (proxy, lanes, door) = (&self.proxy, &self.lanes, &self.door);
                let draining = lifecycle.draining();
                conversation::lead(proxy, lanes, stream, door, &connection, &draining).await;
            }
        };
        tokio::select! {
            biased;
            () = served => {}
            // A record is written in one go, so what has left is whole records. No close_notify
            // follows in the middle of a body (RFC 8446 §6.1): the end is not one of ours to vouch for.
            () = connection.dismissed() => {}
        }
    }
}

/// A plain HTTP listener of a Pingora app.
struct Plain<A> {
    app: Arc<A>,
    /// How long a PROXY header may take that a client may send first; None for a listener where
    /// nobody sends one.
    tolerates: Option<Duration>,
}

impl<A: ServerApp + Send + Sync + 'static> Serve for Plain<A> {
    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = pingoras(socket, peer);
        if let Some(patience) = self.tolerates
            && !introduction::tolerate(&mut socket, patience).await
        {
            return;
        }
        self.app.process_new(Box::new(socket), &lifecycle.draining()).await;
    }
}
