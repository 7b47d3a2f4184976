//! A new configuration for a running server: certificates, profiles, limits and timeouts apply to new
//! handshakes and requests. Keys that cannot change in a running process are reported to the caller.
//!
//! Invariants: running transfers keep their settings, except the rates of classes. A new setting that
//! names a class which the running tree lacks is not applied, so that nothing is sent unshaped.

use std::net::SocketAddr;
use std::sync::Arc;

use log::warn;

use super::{SharedDrain, SharedProfiles};
use crate::config::{Config, Listener};
use crate::forward_proxy::{self, ForwardProxy};
use crate::limits::connections::ConnectionLimiter;
use crate::proxy_protocol::Trusted;
use crate::shape::{Shaper, TreeError};
use crate::tls::reload::Reloading;
use crate::upgrade;

/// Applies new configurations.
pub struct Reloader {
    /// The configuration that the server was started with.
    running: Config,
    profiles: SharedProfiles,
    settings: SharedDrain,
    limiter: Arc<ConnectionLimiter>,
    shaper: Option<Arc<Shaper>>,
    tunnels: Option<Arc<ForwardProxy>>,
    /// The listeners with TLS.
    tls: Vec<(SocketAddr, Arc<Reloading>)>,
}

impl Reloader {
    pub(super) fn new(
        running: Config,
        profiles: SharedProfiles,
        settings: SharedDrain,
        limiter: Arc<ConnectionLimiter>,
        shaper: Option<Arc<Shaper>>,
        tunnels: Option<Arc<ForwardProxy>>,
        tls: Vec<(SocketAddr, Arc<Reloading>)>,
    ) -> Self {
        Self { running, profiles, settings, limiter, shaper, tunnels, tls }
    }

    /// Applies what can change in a running process. Returns the keys whose new values need an upgrade.
    pub fn apply(&self, config: Config) -> Vec<&'static str> {
        self.settings.store(Arc::new(config.drain));
        self.limiter.set(config.limits);
        let reshaped = match (&self.shaper, &config.shaping) {
            (Some(shaper), Some(tree)) => shaper.reload(tree),
            (None, None) => Ok(()),
            _ => Err(TreeError::Structure),
        };
        // The running tree counts: it may have refused the new one.
        let known = |class| self.shaper.as_ref().is_some_and(|shaper| shaper.has_leaf(class));
        let profiles_fit = config.profiles.classes().all(known);
        if profiles_fit {
            self.profiles.store(Arc::new(config.profiles.clone()));
        }
        if let (Some(tunnels), Some(settings)) = (&self.tunnels, &config.forward_proxy) {
            tunnels.set(settings.clone());
        }
        for (addr, reloading) in &self.tls {
            let same = |listener: &&Listener| listener.addr == *addr;
            let Some(tls) = config.listen.iter().find(same).and_then(|l| l.tls.as_ref()) else {
                continue;
            };
            // A new self-signed certificate is no better than the one in use.
            let identities = (!tls.self_signed).then_some(&tls.identities[..]);
            let done = reloading.renew(identities, &tls.files, tls.tickets, tls.mfl_prefers_tls12);
            if let Err(e) = done {
                warn!("{addr}: the old certificates stay: {e}");
            }
        }
        let mut keys = needs_upgrade(&self.running, &config);
        if let Err(e) = reshaped {
            warn!("shaping: the old classes stay: {e}");
            keys.push("shaping.classes");
        }
        if !profiles_fit {
            warn!("the old profiles stay: the running tree lacks a class that the new ones name");
            keys.push("profiles");
        }
        keys
    }
}

/// The keys that differ and cannot change in a running process.
///
/// Without `..`, so that a new field of [`Config`] does not compile until it is compared here or named as
/// one that changes in place. A new field of a domain's settings is not noticed, except in the upgrade's.
fn needs_upgrade(running: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        listen,
        s3,
        spool,
        uploads,
        upstream,
        forward_proxy,
        admin,
        health,
        log,
        threads,
        upgrade: upgrade::Settings { sock, timeout: _ },
        // Put in place by `apply`; `drip` is the default profile.
        drip: _,
        profiles: _,
        shaping: _,
        limits: _,
        drain: _,
        // No setting.
        warnings: _,
    } = new;
    let tunnels = |settings: &Option<forward_proxy::Settings>| settings.as_ref().map(|s| s.addr);
    let differs = [
        ("listen", sockets(&running.listen) != sockets(listen)),
        ("s3", running.s3 != *s3),
        ("forward_proxy.addr", tunnels(&running.forward_proxy) != tunnels(forward_proxy)),
        ("spool", running.spool != *spool),
        ("uploads", running.uploads != *uploads),
        ("upstream", running.upstream != *upstream),
        ("admin", running.admin != *admin),
        ("health", running.health != *health),
        ("log", running.log != *log),
        ("server.threads", running.threads != *threads),
        ("server.upgrade_sock", running.upgrade.sock != *sock),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// What of the listeners cannot change in place: all but the contents of their TLS.
fn sockets(listen: &[Listener]) -> Vec<(SocketAddr, bool, &Option<Trusted>)> {
    fn one(listener: &Listener) -> (SocketAddr, bool, &Option<Trusted>) {
        let Listener { addr, tls, proxy_protocol } = listener;
        (*addr, tls.is_some(), proxy_protocol)
    }
    listen.iter().map(one).collect()
}
