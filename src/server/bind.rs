//! Binds every listener of a configuration and builds what serves on them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::sync::watch;

use super::accept::Sockets;
use super::devices::reloading;
use super::parts::{self, pingora_conf, use_tokio_timers};
use super::tunnels::Tunnels;
use super::{Device, Reloader, Server, SharedDrain, SharedProfiles, StartError};
use crate::config::{self, Config, Listener};
use crate::drip::threads::DripThreads;
use crate::limits::connections::ConnectionLimiter;
use crate::proxy::upload::Uploads;
use crate::proxy::{DripProxy, ProcessState};
use crate::s3::client::Client;
use crate::s3::put::Putter;
use crate::s3::resolve::Resolver;
use crate::s3::upstream;
use crate::shape::Shaper;
use crate::spool;
use crate::upgrade::{InheritedSockets, Role};

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
    /// It is long because it takes the whole configuration apart; what it calls is below.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or OpenSSL refuses a setting.
    pub fn bind_or_inherit(
        config: &Config,
        inherited: &mut InheritedSockets,
    ) -> Result<Self, StartError> {
        // Without `..`, so that a new field of the configuration does not compile until it is used here
        // or named as used elsewhere.
        let Config {
            listen,
            s3,
            profiles,
            spool,
            uploads,
            shaping,
            upstream,
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
        use_tokio_timers();
        let mut sockets = Sockets::new(inherited);
        let profiles: SharedProfiles = Arc::new(ArcSwap::from_pointee(profiles.clone()));
        let devices = devices(listen, &profiles, &mut sockets)?;
        let admin = sockets.listen_if(Role::Admin, *admin, "admin.addr")?;
        let health = sockets.listen_if(Role::Health, *health, "health.addr")?;
        let state = ProcessState::new();
        let shaper = shaping.as_ref();
        let shaper = shaper.map(|tree| Shaper::new(tree, state.metrics.shape.clone())).transpose();
        let shaper = shaper.map_err(StartError::Classes)?;
        let tunnels = forward_proxy.as_ref();
        let tunnels =
            tunnels.map(|settings| Tunnels::bind(settings, &shaper, &state, &mut sockets));
        let tunnels = tunnels.transpose()?;
        let parts = ProxyParts { profiles: &profiles, shaper: &shaper, state: &state };
        let proxy =
            s3.as_ref().map(|s3| parts.proxy(s3, upstream, spool.as_ref(), uploads.as_ref()));
        let proxy = proxy.transpose()?;
        let drip_threads = DripThreads::start(*threads);
        let drip_threads = drip_threads.map_err(|source| StartError::Threads { source })?;
        let limiter = ConnectionLimiter::new(*limits, state.metrics.limits.clone());
        let settings: SharedDrain = Arc::new(ArcSwap::from_pointee(*drain));
        let tls = |one: &Device| Some((one.bound.addr, Arc::clone(one.tls.as_ref()?)));
        let reloader = Reloader::new(
            config.clone(),
            profiles,
            Arc::clone(&settings),
            Arc::clone(&limiter),
            shaper.clone(),
            tunnels.as_ref().map(Tunnels::proxy),
            devices.iter().filter_map(tls).collect(),
        );
        Ok(Self {
            devices,
            admin,
            health,
            tunnels,
            proxy,
            drip_threads: Arc::new(drip_threads),
            state,
            limiter,
            shaper,
            settings,
            reload: watch::Sender::new(0),
            reloader: Arc::new(reloader),
        })
    }
}

/// Binds the device listeners and reads their certificates.
fn devices(
    listeners: &[Listener],
    profiles: &SharedProfiles,
    sockets: &mut Sockets<'_>,
) -> Result<Vec<Device>, StartError> {
    let device = |(at, listener): (usize, &Listener)| {
        let Listener { addr, tls, proxy_protocol } = listener;
        let key = format!("listen[{at}]");
        let bound = sockets.listen(Role::Device, *addr, &format!("{key}.addr"))?;
        let tls = tls.as_ref().map(|tls| reloading(&key, *addr, tls, profiles)).transpose()?;
        Ok(Device { bound, tls, proxy_protocol: proxy_protocol.clone() })
    };
    listeners.iter().enumerate().map(device).collect()
}

/// What the proxy for devices shares with the rest of the server.
struct ProxyParts<'a> {
    profiles: &'a SharedProfiles,
    shaper: &'a Option<Arc<Shaper>>,
    state: &'a ProcessState,
}

impl ProxyParts<'_> {
    /// The proxy for devices.
    fn proxy(
        &self,
        s3: &config::S3,
        connections: &upstream::Settings,
        spooling: Option<&spool::Settings>,
        uploads: Option<&config::Uploads>,
    ) -> Result<Arc<HttpProxy<DripProxy>>, StartError> {
        let conf = pingora_conf();
        let upstream = parts::upstream(s3, connections)?;
        let endpoint = &upstream.endpoint;
        let resolver = Arc::new(Resolver::new(endpoint.host(), endpoint.port()));
        let client = Client::new(upstream.clone(), Arc::clone(&resolver), &conf);
        let uploads = uploads.map(|uploads| {
            let putter = Putter::new(upstream.clone(), Arc::clone(&resolver), &conf);
            Uploads::new(putter, uploads.class.clone())
        });
        let proxy = DripProxy {
            spool: parts::spool(spooling, client, &self.state.metrics),
            upstream,
            resolver,
            profiles: Arc::clone(self.profiles),
            shaper: self.shaper.clone(),
            uploads,
            state: self.state.clone(),
        };
        Ok(Arc::new(http_proxy(&conf, proxy)))
    }
}
