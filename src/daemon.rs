//! The process around the server: signals, reloads, upgrades, and notifications to the service manager.
//!
//! Invariant: if a reload or an upgrade fails, the server continues unchanged. This room must not know
//! how a request is served.

mod launch;
pub(crate) mod signals;

use std::cell::OnceCell;
use std::future::pending;
use std::io;
use std::sync::Arc;

use log::{error, info, warn};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, Sources};
use crate::lifecycle::{self, Lifecycle};
use crate::notify::Notify;
use crate::server::{Reloader, Server, StartError, Stop};
use crate::upgrade::{
    self, HandedSocket, InheritedSockets, Predecessor, SocketServer, Successor, TakeoverError,
};
use launch::Launched;
use signals::{SignalRequest, Signals};

/// Why the daemon did not start, or ended without being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Signals cannot be watched.
    #[error("cannot watch signals: {0}")]
    Signals(io::Error),
    /// The server cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no process to take over from.
    #[error("upgrade: {0}")]
    Upgrade(#[from] TakeoverError),
    /// The running server failed.
    #[error("cannot serve: {0}")]
    Serve(io::Error),
}

impl Failure {
    /// Whether the operating system refused something that every program may expect: threads, signals,
    /// sockets that keep working.
    pub(crate) fn is_os(&self) -> bool {
        matches!(self, Self::Signals(_) | Self::Serve(_) | Self::Start(StartError::Threads { .. }))
    }
}

/// Serves as `config` says until a signal or a successor ends it. With `upgrade` it takes over the sockets
/// of the running process. A reload reads `sources`.
pub(crate) async fn serve(config: Config, sources: Sources, upgrade: bool) -> Result<(), Failure> {
    let signals = Signals::new().map_err(Failure::Signals)?;
    let (mut inherited, predecessor) = match upgrade {
        true => {
            let path = config.upgrade.sock.as_deref();
            let (inherited, predecessor) = upgrade::take_sockets(path).await?;
            (inherited, Some(predecessor))
        }
        false => (InheritedSockets::default(), None),
    };
    let server = Server::bind_or_inherit(&config, &mut inherited)?;
    for addr in inherited.addresses() {
        info!("upgrade: {addr} is not configured any more, and closed with the old process");
    }
    drop(inherited);
    let sockets = server.sockets().map_err(Failure::Serve)?;
    let lifecycle = server.state().lifecycle;
    let mut control = Control {
        signals,
        reloader: server.reloader(),
        notify: Notify::default(),
        lifecycle: lifecycle.clone(),
        drain: config.drain,
        upgrade: config.upgrade,
        sources,
    };
    let (stop, stopped) = oneshot::channel();
    let served = server.run(async { stopped.await.unwrap_or(Stop::Now) });
    let notify = control.notify.clone();
    let failure = OnceCell::new();
    let controlled = async {
        let why = control.until_stop(predecessor, sockets).await.unwrap_or_else(|e| {
            // The old process keeps these addresses. Connections that were accepted here in the meantime
            // are served to their end.
            let _ = failure.set(e);
            Stop::HandedOver
        });
        let _ = stop.send(why);
        control.until_second_signal(why).await;
    };
    let served = tokio::select! {
        // The listeners are polled first, since the other branches report that they accept.
        biased;
        served = served => served.map_err(Failure::Serve),
        () = controlled => Ok(0),
        () = notify.keep_informed(&lifecycle) => Ok(0),
    };
    failure.into_inner().map_or(served.map(|_| ()), |e| Err(Failure::Upgrade(e)))
}

/// The state that signals act on.
struct Control {
    signals: Signals,
    reloader: Arc<Reloader>,
    notify: Notify,
    lifecycle: Lifecycle,
    drain: lifecycle::Settings,
    upgrade: upgrade::Settings,
    sources: Sources,
}

/// The running upgrade socket; None if there is none.
type Opened = Option<JoinHandle<io::Result<Successor>>>;

impl Control {
    /// Takes over from `predecessor`, if there is one, and does what signals ask
    /// for until one asks for the end or a successor has taken over.
    async fn until_stop(
        &mut self,
        predecessor: Option<Predecessor>,
        sockets: Vec<HandedSocket>,
    ) -> Result<Stop, TakeoverError> {
        let taking_over = predecessor.is_some();
        if let Some(predecessor) = predecessor {
            match predecessor.accepting().await? {
                true => info!("upgrade: this process has taken over"),
                false => warn!("upgrade: the old process ended by itself; this one goes on"),
            }
        }
        let mut upgrade_socket = self.open_socket(sockets, taking_over);
        let mut launched = None;
        self.notify.ready(&self.lifecycle);
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    SignalRequest::Stop(stop) => {
                        self.notify.stopping(&self.lifecycle);
                        return Ok(stop);
                    }
                    SignalRequest::Reload => self.reload().await,
                    SignalRequest::Upgrade if upgrade_socket.is_none() => {
                        error!("SIGUSR2: there is no upgrade socket (see the warning at the start)");
                    }
                    SignalRequest::Upgrade if launched.is_some() => {
                        warn!("SIGUSR2: a successor is being started already");
                    }
                    SignalRequest::Upgrade => launched = self.launch().await,
                },
                successor = passed(&mut upgrade_socket) => match successor {
                    Ok(successor) => {
                        info!("upgrade: process {} accepts; this one drains", successor.pid);
                        self.notify.set_main_pid(successor.pid);
                        return Ok(Stop::HandedOver);
                    }
                    Err(e) => {
                        error!("upgrade: the upgrade socket has failed: {e}; no upgrades any more");
                        upgrade_socket = None;
                    }
                },
                why = failed(&mut launched) => {
                    error!("upgrade: the successor {why}; this process goes on");
                    launched = None;
                }
            }
        }
    }

    /// Returns when a second signal ends the drain that began for that reason.
    async fn until_second_signal(&mut self, mut why: Stop) {
        loop {
            let next = self.signals.stop().await;
            if why != Stop::HandedOver || next != Stop::Drain {
                return warn!("a second signal: not waiting any longer");
            }
            // The service is being stopped, and this process with it, though it had more time.
            why = Stop::Drain;
            let timeout = self.drain.drain_timeout;
            info!("draining: at most {timeout:?} from now");
            self.lifecycle.shorten_drain(timeout);
        }
    }

    fn open_socket(&self, sockets: Vec<HandedSocket>, taking_over: bool) -> Opened {
        let path = self.upgrade.sock.as_deref()?;
        match SocketServer::open(path, sockets, self.upgrade.timeout, taking_over) {
            Ok(upgrade_socket) => {
                Some(tokio::spawn(upgrade_socket.handed_over(self.lifecycle.draining())))
            }
            Err(e) => {
                warn!("server.upgrade_sock: {e}; no upgrade without a gap");
                None
            }
        }
    }

    async fn reload(&mut self) {
        info!("SIGHUP: reading the configuration again");
        self.notify.reloading();
        let sources = self.sources.clone();
        // Reading files and checking keys would block a thread that drips.
        match tokio::task::spawn_blocking(move || Config::load(&sources)).await {
            Ok(Ok(config)) => {
                for warning in &config.warnings {
                    warn!("{warning}");
                }
                self.drain = config.drain;
                self.upgrade = config.upgrade.clone();
                let reloader = Arc::clone(&self.reloader);
                // Certificates and ip_ranges are read there.
                match tokio::task::spawn_blocking(move || reloader.apply(config)).await {
                    Ok(keys) => reloaded(&keys),
                    Err(e) => error!("reloaded only in part: {e}"),
                }
            }
            Ok(Err(errors)) => {
                for error in errors.as_slice() {
                    error!("{error}");
                }
                error!("not reloaded: nothing has changed");
            }
            Err(e) => error!("not reloaded: {e}"),
        }
        self.notify.ready(&self.lifecycle);
    }

    #[expect(clippy::disallowed_methods, reason = "a successor that is started has a deadline")]
    async fn launch(&self) -> Option<(Launched, Instant)> {
        let launched = Launched::start().await;
        let launched = launched
            .inspect_err(|e| error!("SIGUSR2: cannot start a successor: {e}; this process goes on"))
            .ok()?;
        info!("SIGUSR2: process {} is started as the successor", launched.pid);
        Some((launched, Instant::now() + self.upgrade.timeout))
    }
}

fn reloaded(needing_upgrade: &[&str]) {
    for key in needing_upgrade {
        warn!("{key}: the new value needs an upgrade or a restart; the old one stays");
    }
    info!("reloaded: certificates, profiles, limits and timeouts are those of the configuration");
}

/// Resolves when a successor has taken over, or with an error if none can any more.
async fn passed(upgrade_socket: &mut Opened) -> io::Result<Successor> {
    match upgrade_socket {
        Some(upgrade_socket) => upgrade_socket.await.map_err(io::Error::other)?,
        None => pending().await,
    }
}

/// Resolves when a successor that was started here has not taken over, with what became of it.
async fn failed(launched: &mut Option<(Launched, Instant)>) -> &'static str {
    let Some((launched, deadline)) = launched else { return pending().await };
    match timeout_at(*deadline, launched.ended()).await {
        Ok(()) => "has ended; its reason is above",
        Err(_) => {
            launched.kill();
            "was not ready in time, and was killed"
        }
    }
}
