//! The forward proxy: HTTP CONNECT, for S3 alone. Tools that have HTTPS_PROXY set to it keep their TLS;
//! dripline sees a host name and bytes, and shapes the bytes.
//!
//! One connection's life: the [`limiter`](crate::limits::connections) counts it, and [`Settings::clients`]
//! must hold its address. `head` reads the request and [`connect`] parses it; [`allow`] says whether the host
//! may be reached. `dial` resolves the name once, checks every address ([`allow::address`], [`ranges`]) and
//! connects to one that passes. After the 200 the ClientHello is held back until [`hello`] has read its
//! server name, which must be the host's. Then `relay` moves bytes both ways until both are done.
//!
//! Invariants: no byte reaches a host before its name, port, address and SNI have all passed. An idle tunnel
//! holds its two sockets and its record among the transfers, no buffer.
//!
//! This room must not know what the tunnel carries, nor the configuration file.

pub mod allow;
pub mod connect;
mod dial;
mod head;
pub mod hello;
pub mod ranges;
mod refusal;
mod relay;
mod settings;

pub use settings::{ClientClass, Limits, Settings};

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::lifecycle::{Active, Lifecycle};
use crate::limits::connections::{ConnectionLimiter, ConnectionPermit};
use crate::metrics::{LimitMetrics, Metrics, TunnelMetrics};
use crate::shape::{Flow, Owner, Shaper, SocketOptions};
use crate::transfers::{self, ByteCount, ByteCounts, Live, LiveTransfer, Transfer};
use allow::Target;
use head::TunnelRequest;
use ranges::Ranges;
use refusal::Refusal;

/// How many names are looked up at a time: each look-up holds one of the threads that also read files.
const LOOKUPS: usize = 32;

/// A forward proxy at work.
pub struct ForwardProxy {
    settings: ArcSwap<Settings>,
    ranges: Arc<Ranges>,
    limiter: Arc<ConnectionLimiter>,
    lookups: Arc<Semaphore>,
    shaper: Option<Arc<Shaper>>,
    metrics: TunnelMetrics,
    transfers: Live,
}

/// A tunnel whose bytes may move.
struct Established {
    upstream: TcpStream,
    request: TunnelRequest,
    /// The client's first bytes, for the host.
    hello: Vec<u8>,
    /// Keeps a drain waiting.
    _active: Active,
}

impl ForwardProxy {
    /// A forward proxy with these settings.
    #[must_use]
    pub fn new(
        settings: Settings,
        shaper: Option<Arc<Shaper>>,
        metrics: &Metrics,
        transfers: Live,
    ) -> Arc<Self> {
        let malformed = metrics.limits.malformed.clone();
        let metrics = metrics.tunnels.clone();
        let limited = LimitMetrics { limited: metrics.refused.clone(), malformed };
        let limiter = ConnectionLimiter::new(settings.limits.of_connections(), limited);
        let ranges = Arc::new(Ranges::default());
        ranges.set(settings.ip_ranges.as_deref());
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            ranges,
            limiter,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            shaper,
            metrics,
            transfers,
        })
    }

    /// Puts other settings in place, for connections to come. The address stays as it is. If the new settings
    /// have another one, `clients` and `users` stay as well: settings for loopback would open a public
    /// address to everyone. If they name a class that is no leaf of the running tree, all classes stay: the
    /// new tree may need an upgrade, and until then nothing goes unshaped.
    pub fn set(&self, mut settings: Settings) {
        let old = self.settings.load_full();
        if settings.addr != old.addr {
            settings.addr = old.addr;
            settings.clients.clone_from(&old.clients);
            settings.users.clone_from(&old.users);
        }
        let known =
            |class: &Arc<str>| self.shaper.as_ref().is_some_and(|shaper| shaper.has_leaf(class));
        let own = settings.classes.iter().map(|own| &own.class);
        if !settings.class.iter().chain(&settings.download_class).chain(own).all(known) {
            settings.class.clone_from(&old.class);
            settings.classes.clone_from(&old.classes);
            settings.download_class.clone_from(&old.download_class);
        }
        self.limiter.set(settings.limits.of_connections());
        self.ranges.set(settings.ip_ranges.as_deref());
        self.settings.store(Arc::new(settings));
    }

    /// Reads ip-ranges.json whenever it changes. Never ends.
    pub async fn watch(self: Arc<Self>) {
        Arc::clone(&self.ranges).watch().await;
    }

    /// Serves one connection until it ends, or until a drain ends it.
    pub async fn serve(&self, mut client: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let connection = lifecycle.connection();
        let served = async {
            let mut permit = self.limiter.admit();
            let busy = || {
                // In this order: at each moment a drain counts it as one or the other.
                let active = lifecycle.enter();
                connection.busy();
                active
            };
            // Boxed, so that an idle tunnel does not keep the room that its beginning needs.
            let Established { upstream, request, hello, _active } =
                match Box::pin(self.establish(&mut client, peer, &mut permit, busy)).await {
                    Ok(ready) => ready,
                    Err(refusal) => {
                        return Box::pin(self.refuse(&mut client, peer, &refusal)).await;
                    }
                };
            let idle = self.settings.load().limits.idle_timeout;
            let flows = self.flows(&request, peer);
            let (mut transfer, moved) = self.begin_transfer(request, peer);
            let end = relay::relay(&client, &upstream, hello, flows, &moved, idle).await;
            transfer.set_end(end);
        };
        tokio::select! {
            biased;
            () = served => {}
            () = connection.dismissed() => {}
        }
    }

    /// Does everything up to the first byte that is relayed. `busy` is called once the client has asked for a
    /// tunnel: from then on a drain waits for this connection.
    async fn establish(
        &self,
        client: &mut TcpStream,
        peer: SocketAddr,
        permit: &mut Option<ConnectionPermit>,
        busy: impl FnOnce() -> Active,
    ) -> Result<Established, Refusal> {
        let permit = permit.as_mut().ok_or(Refusal::Full)?;
        let settings = &*self.settings.load_full();
        if !settings.allows(peer.ip()) {
            return Err(Refusal::Network);
        }
        if !permit.assign_client(peer.ip()) {
            return Err(Refusal::PerClient);
        }
        let (request, early) = head::read_request(client, settings).await?;
        let active = busy();
        let limit = settings.limits.connect_timeout;
        let options = self.socket_options(settings, &request, peer);
        let dial = dial::dial(settings, &self.ranges, &self.lookups, &request, options);
        let upstream = timeout(limit, dial).await.map_err(|_| Refusal::Slow(limit))??;
        head::confirm(client).await?;
        let hello = head::read_hello(client, &request, early, settings.limits).await?;
        Ok(Established { upstream, request, hello, _active: active })
    }

    /// Counts, lists and logs the tunnel's beginning.
    fn begin_transfer(
        &self,
        request: TunnelRequest,
        peer: SocketAddr,
    ) -> (LiveTransfer, Arc<ByteCounts>) {
        let TunnelRequest { target: Target { host, port }, kind, user } = request;
        let class = self.settings.load().upload_class(peer.ip(), kind).cloned();
        let up = ByteCount::new(self.metrics.up.clone());
        let down = ByteCount::new(self.metrics.down.clone());
        let moved = Arc::new(ByteCounts { up, down });
        let tunnel =
            transfers::Kind::Tunnel(transfers::Tunnel { host, port, moved: Arc::clone(&moved) });
        let transfer = Transfer::new(Some(peer), tunnel).user(user).class(class);
        (self.transfers.begin(transfer), moved)
    }

    /// The flows of what goes up and of what comes down; None for what is not shaped.
    fn flows(&self, request: &TunnelRequest, peer: SocketAddr) -> [Option<Flow>; 2] {
        let settings = self.settings.load();
        let owner = Owner { client: peer.ip().to_canonical(), user: request.user.clone() };
        let (ip, kind) = (peer.ip(), request.kind);
        let classes = [settings.upload_class(ip, kind), settings.download_class(ip, kind)];
        classes.map(|class| self.shaper.as_ref()?.register_flow(class?, &owner))
    }

    /// The options that the class asks for on the socket to the host.
    fn socket_options(
        &self,
        settings: &Settings,
        request: &TunnelRequest,
        peer: SocketAddr,
    ) -> SocketOptions {
        let class = settings.upload_class(peer.ip(), request.kind);
        let options = class.and_then(|class| self.shaper.as_ref()?.socket_options(class));
        options.unwrap_or_default()
    }

    /// Counts, logs and, if the client can be told, answers why there is no tunnel.
    async fn refuse(&self, client: &mut TcpStream, peer: SocketAddr, refusal: &Refusal) {
        // The limiter has counted these two.
        if !matches!(refusal, Refusal::Full | Refusal::PerClient) {
            self.metrics.refused.with_label_values(&[refusal.label()]).inc();
        }
        log::info!(client:% = peer, reason = refusal.label(); "tunnel refused: {refusal}");
        if let Some(status) = refusal.status()
            && let Some(_permit) = self.limiter.refusal_permit()
        {
            head::refuse(client, status, refusal).await;
        }
    }
}
