//! Config → services: the one place where all meets. Binds the listeners, serves until told to
//! stop, drains.

mod accept;
mod devices;
mod introduction;
mod parts;
mod reload;
mod tunnels;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use log::{info, warn};
use openssl::error::ErrorStack;
use pingora_core::apps::http_app::HttpServer;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::config::Config;
use crate::drip::threads::DripThreads;
use crate::lifecycle::{self, Lifecycle};
use crate::limits::connections::ConnectionLimiter;
use crate::memory;
use crate::profile::Profiles;
use crate::proxy::upload::Uploads;
use crate::proxy::{DripProxy, ProcessState};
use crate::proxy_protocol::Trusted;
use crate::s3::client::Client;
use crate::s3::put::Putter;
use crate::s3::resolve::Resolver;
use crate::shape::{Shaper, TreeError};
use crate::tls::reload::Reloading;
use crate::upgrade::{HandedSocket, InheritedSockets, Role};
use accept::{Plain, accept, bind};
use devices::{Devices, reloading};
use parts::{pingora_conf, spool, upstream};
pub use reload::Reloader;
use tunnels::Tunnels;

/// The profiles in force, for handshakes and requests.
type Profiling = Arc<ArcSwap<Profiles>>;

/// The bounds of a drain that are in force.
type Shared = Arc<ArcSwap<lifecycle::Settings>>;

/// A server whose sockets are bound.
pub struct Server {
    devices: Vec<Device>,
    admin: Option<Report>,
    health: Option<Report>,
    tunnels: Option<Tunnels>,
    /// None without device listeners.
    proxy: Option<Arc<HttpProxy<DripProxy>>>,
    drip_threads: Arc<DripThreads>,
    state: ProcessState,
    limiter: Arc<ConnectionLimiter>,
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
    #[error("{key}: cannot listen on {addr}: {source}{}", privileged_port(*addr, source))]
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

/// What to do about a port that only the privileged may bind (capabilities(7)).
fn privileged_port(addr: SocketAddr, source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied && addr.port() < 1024 {
        "; a port below 1024 needs CAP_NET_BIND_SERVICE, which the drop-in systemd/port-443.conf grants"
    } else {
        ""
    }
}

impl Server {
    /// Binds every listener of `config`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or OpenSSL refuses a setting.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        Self::bind_or_inherit(config, &mut InheritedSockets::default())
    }

    /// Takes the sockets of `inherited` where they fit `config`, and binds the other listeners. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or OpenSSL refuses a setting.
    pub fn bind_or_inherit(
        config: &Config,
        inherited: &mut InheritedSockets,
    ) -> Result<Self, StartError> {
        // Without `..`, so that a new key does not compile until it is used here or named as used
        // elsewhere.
        let Config {
            listen,
            s3,
            profiles,
            spool: spool_settings,
            uploads,
            shaping,
            upstream: upstream_settings,
            forward_proxy,
            limits,
            admin,
            health,
            threads,
            drain,
            // The default profile.
            drip: _,
            // The daemon's and the command line's.
            upgrade: _,
            log: _,
            warnings: _,
        } = config;
        let mut socket = |role, addr, key: &str| match inherited.take(role, addr) {
            Some(socket) => Ok(socket),
            None => bind(addr, || key.to_owned()),
        };
        let profiles: Profiling = Arc::new(ArcSwap::from_pointee(profiles.clone()));
        let mut devices = Vec::new();
        for (at, device) in listen.iter().enumerate() {
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
        let admin = report(Role::Admin, *admin, "admin.addr")?;
        let health = report(Role::Health, *health, "health.addr")?;
        let state = ProcessState::new();
        let shaper = shaping.as_ref();
        let shaper = shaper.map(|tree| Shaper::new(tree, state.metrics.shape.clone())).transpose();
        let shaper = shaper.map_err(StartError::Classes)?;
        let tunnels = Tunnels::bind(forward_proxy.as_ref(), &shaper, &state, &mut socket)?;
        let conf = pingora_conf();
        let proxy = s3.as_ref().map(|s3| {
            let upstream = upstream(s3, upstream_settings)?;
            let endpoint = &upstream.endpoint;
            let resolver = Arc::new(Resolver::new(endpoint.host(), endpoint.port()));
            let client = Client::new(upstream.clone(), Arc::clone(&resolver), &conf);
            let spool = spool(spool_settings.as_ref(), client, &state.metrics);
            let profiles = Arc::clone(&profiles);
            let uploads = uploads.as_ref().map(|uploads| {
                let putter = Putter::new(upstream.clone(), Arc::clone(&resolver), &conf);
                Uploads::new(putter, uploads.class.clone())
            });
            let proxy = DripProxy {
                upstream,
                resolver,
                profiles,
                spool,
                shaper: shaper.clone(),
                uploads,
                state: state.clone(),
            };
            Ok(Arc::new(http_proxy(&conf, proxy)))
        });
        let proxy = proxy.transpose()?;
        let drip_threads = DripThreads::start(*threads);
        let drip_threads = Arc::new(drip_threads.map_err(|source| StartError::Threads { source })?);
        let limiter = ConnectionLimiter::new(*limits, state.metrics.limits.clone());
        let settings: Shared = Arc::new(ArcSwap::from_pointee(*drain));
        let tls = devices.iter().filter_map(|one| Some((one.addr, Arc::clone(one.tls.as_ref()?))));
        let reloader = Reloader::new(
            config.clone(),
            profiles,
            Arc::clone(&settings),
            Arc::clone(&limiter),
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
            drip_threads,
            state,
            limiter,
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
    pub fn sockets(&self) -> io::Result<Vec<HandedSocket>> {
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
            .map(|(role, addr, socket)| Ok(HandedSocket { role, addr, socket: socket? }))
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

    /// What this server counts and lists, and whether it takes clients.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.state.clone()
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
        let lifecycle = self.state.lifecycle;
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
                drip_threads: Arc::clone(&self.drip_threads),
                tls,
                proxy_protocol,
                limiter: Arc::clone(&self.limiter),
                metrics: self.state.metrics.clone(),
            };
            listeners.spawn(accept(socket, Arc::new(app), lifecycle.clone(), lifecycle.draining()));
        }
        if let Some(tunnels) = self.tunnels {
            tunnels.serve(&mut listeners, &lifecycle)?;
        }
        let mut reports = JoinSet::new();
        let addr = self.admin.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |admin| admin.addr.ip());
        if let Some(shaper) = &self.shaper {
            shaper.start_timer();
        }
        let admin = Admin::new(lifecycle.clone(), self.state.metrics.clone(), self.shaper, addr);
        let health = Admin::health(lifecycle.clone());
        let (handed_over, until) = watch::channel(false);
        let patience = self.limiter.settings().header_timeout;
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
        let (drips, open) = (self.state.metrics.drips.running, self.state.metrics.tunnels.open);
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
    let lifecycle::Settings { shutdown_delay, drain_timeout, upgrade_drain_timeout } =
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
