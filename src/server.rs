//! Builds the services that a configuration describes and connects them to each other. Binds the listeners,
//! serves until it is told to stop, then drains.

mod accept;
mod bind;
mod devices;
mod parts;
mod proxy_header;
mod reload;
mod start_error;
mod tunnels;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use log::{info, warn};
use pingora_core::apps::http_app::HttpServer;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::drip::threads::DripThreads;
use crate::lifecycle::{self, Lifecycle};
use crate::limits::connections::ConnectionLimiter;
use crate::memory;
use crate::profile::Profiles;
use crate::proxy::{DripProxy, ProcessState};
use crate::proxy_protocol::Trusted;
use crate::shape::Shaper;
use crate::tls::reload::Reloading;
use crate::upgrade::{HandedSocket, Role};
use accept::{Plain, accept};
use devices::Devices;
pub use reload::Reloader;
pub use start_error::StartError;
use tunnels::Tunnels;

/// The profiles in force, for handshakes and requests.
type SharedProfiles = Arc<ArcSwap<Profiles>>;

/// The bounds of a drain that are in force.
type SharedDrain = Arc<ArcSwap<lifecycle::Settings>>;

/// A server whose sockets are bound.
pub struct Server {
    devices: Vec<Device>,
    admin: Option<Bound>,
    health: Option<Bound>,
    tunnels: Option<Tunnels>,
    /// None without device listeners.
    proxy: Option<Arc<HttpProxy<DripProxy>>>,
    drip_threads: Arc<DripThreads>,
    state: ProcessState,
    limiter: Arc<ConnectionLimiter>,
    /// The class tree, if there is one.
    shaper: Option<Arc<Shaper>>,
    settings: SharedDrain,
    reload: watch::Sender<u64>,
    reloader: Arc<Reloader>,
}

/// A listener whose socket is bound.
struct Bound {
    /// Its address as it is configured; the port may be 0.
    addr: SocketAddr,
    socket: TcpListener,
}

/// A device listener whose socket is bound.
struct Device {
    bound: Bound,
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

impl Server {
    /// A second handle of every listening socket, for a successor.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<HandedSocket>> {
        let devices = self.devices.iter().map(|one| (Role::Device, &one.bound));
        let others = [
            (Role::Admin, self.admin.as_ref()),
            (Role::Health, self.health.as_ref()),
            (Role::ForwardProxy, self.tunnels.as_ref().map(|one| &one.bound)),
        ];
        let others = others.into_iter().filter_map(|(role, one)| Some((role, one?)));
        devices
            .chain(others)
            .map(|(role, Bound { addr, socket })| {
                Ok(HandedSocket { role, addr: *addr, socket: socket.try_clone()? })
            })
            .collect()
    }

    /// The addresses of the device listeners, in the configuration's order, with real ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.devices.iter().filter_map(|device| device.bound.socket.local_addr().ok()).collect()
    }

    /// The admin listener's address, with its real port.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.socket.local_addr().ok()
    }

    /// The forward proxy's address, with its real port.
    #[must_use]
    pub fn forward_proxy_address(&self) -> Option<SocketAddr> {
        self.tunnels.as_ref()?.bound.socket.local_addr().ok()
    }

    /// What this server counts and lists, and whether it accepts clients.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.state.clone()
    }

    /// The class tree, if there is one.
    #[must_use]
    pub fn shaper(&self) -> Option<Arc<Shaper>> {
        self.shaper.clone()
    }

    /// A change of this value makes the listeners read their certificates again.
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
        for Device { bound: Bound { addr, socket }, tls, proxy_protocol } in self.devices {
            // A configuration with device listeners has an S3.
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
        let limit = self.limiter.settings().header_timeout;
        for (listener, app, what, proxy_header) in [
            (self.admin, admin, "health and metrics", None),
            (self.health, health, "health", Some(limit)),
        ] {
            if let Some(Bound { socket, .. }) = listener {
                info!("{what} on http://{}", socket.local_addr()?);
                let app = Plain { app: Arc::new(HttpServer::new_app(app)), proxy_header };
                reports.spawn(accept(socket, Arc::new(app), lifecycle.clone(), until.clone()));
            }
        }
        let (drips, open) = (self.state.metrics.drips.running, self.state.metrics.tunnels.open);
        let running = move || usize::try_from(drips.get() + open.get()).unwrap_or(0);
        reports.spawn(memory::give_back(running));
        lifecycle.started();
        info!("ready: {devices} device listener(s)");
        let stop = stop.await;
        // After a hand-over the successor answers at these addresses. Otherwise they answer until the end
        // of the drain, so that a load balancer sees that no new clients are accepted.
        handed_over.send_replace(stop == Stop::HandedOver);
        let cut = drain(&lifecycle, stop, &self.settings).await;
        if cut > 0 {
            warn!("drain timeout: {cut} drip(s) cut");
        }
        Ok(cut)
    }
}

/// Waits for what runs, up to the drain's timeout. Returns how many drips are cut.
async fn drain(lifecycle: &Lifecycle, stop: Stop, settings: &SharedDrain) -> usize {
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
    match stop {
        Stop::Now => info!("stopping: cutting {} running drip(s)", lifecycle.active()),
        Stop::Drain | Stop::HandedOver => {
            info!("draining: {} drip(s) running, at most {timeout:?}", lifecycle.active());
        }
    }
    match stop {
        Stop::HandedOver => lifecycle.drain_behind_successor(timeout).await,
        Stop::Drain | Stop::Now => lifecycle.drain(timeout).await,
    }
}
