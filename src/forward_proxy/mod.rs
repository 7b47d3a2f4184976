//! The forward proxy: HTTP CONNECT, for S3 alone. Whoever sets HTTPS_PROXY to it keeps their tools and
//! their TLS; what dripline sees is a name and bytes, and what it shapes is bytes.
//!
//! One connection's life: [`limiter`](crate::limits::connections) counts it and [`Settings::clients`] lets it in;
//! `head` reads the request, which [`connect`] judges; [`allow`] says whether the host may be reached, and
//! `dial` resolves its name once, has every address judged ([`allow::address`], [`ranges`]) and connects to
//! one of those. After the 200 the client's ClientHello is held back until [`hello`] has read its server
//! name, which must be the host's. Then `relay` moves bytes both ways until both are done.
//!
//! Invariants: no byte reaches a host whose name, port, address and SNI have not all passed; nothing is
//! held for an idle tunnel but its two sockets and a few words.
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

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::lifecycle::{Active, Lifecycle};
use crate::limits;
use crate::limits::connections::{ConnectionLimiter, ConnectionPermit};
use crate::metrics::{LimitMetrics, Metrics, TunnelMetrics};
use crate::networks::Networks;
use crate::shape::{Flow, Owner, Shaper, SocketOptions};
use crate::transfers::{self, ByteCount, ByteCounts, Live, LiveTransfer, Transfer};
use allow::{Kind, Rules, Target};
use connect::User;
use ranges::Ranges;
use refusal::Refusal;

/// How many names are looked up at a time: each look-up holds a thread of those that also read files.
const LOOKUPS: usize = 32;

/// Everything that is configured of a forward proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whose connections are served; empty for everybody's, which is for loopback alone.
    pub clients: Networks,
    /// Who may use it, by name and password; empty if nobody is asked.
    pub users: Vec<User>,
    /// Which hosts may be reached.
    pub rules: Rules,
    /// Where names lead, whatever a resolver says. These addresses are not judged.
    pub resolve: BTreeMap<String, SocketAddr>,
    /// Amazon's ip-ranges.json, if S3's names may lead only to its addresses.
    pub ip_ranges: Option<PathBuf>,
    /// The class of what goes either way, or of what clients send if the other has one of its own.
    pub class: Option<Arc<str>>,
    /// Classes of some clients, in place of `class`; the first that matches counts.
    pub classes: Vec<ClientClass>,
    /// The class of what clients receive.
    pub download_class: Option<Arc<str>>,
    /// What tunnels may take.
    pub limits: Limits,
}

/// A class of certain clients' own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientClass {
    /// Whose tunnels are counted to it.
    pub clients: Networks,
    /// Its name.
    pub class: Arc<str>,
}

/// What tunnels may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; a tunnel takes two file descriptors.
    pub connections: usize,
    /// Connections at a time of one client, an IPv4 address or an IPv6 /64; 0 for no such limit.
    pub per_client: usize,
    /// Bytes of the request's head.
    pub header_bytes: usize,
    /// For the whole head, from the connection's first moment.
    pub header_timeout: Duration,
    /// Bytes of the ClientHello.
    pub hello_bytes: usize,
    /// For the whole ClientHello, from the 200.
    pub hello_timeout: Duration,
    /// For looking the name up and connecting, all addresses together.
    pub connect_timeout: Duration,
    /// How long a tunnel may be without a byte either way.
    pub idle_timeout: Duration,
}

impl Limits {
    /// Bounds of `connections`: Linux gives one process no more file descriptors by default.
    pub const CONNECTIONS: RangeInclusive<usize> = 1..=1 << 20;
    /// Bounds of `per_client`; 0 is no limit.
    pub const PER_CLIENT: RangeInclusive<usize> = 0..=1 << 20;
    /// Bounds of `header_bytes`: at least a CONNECT with a long host name and credentials.
    pub const HEADER_BYTES: RangeInclusive<usize> = 512..=256 << 10;
    /// Bounds of `hello_bytes`; 64 KiB is four times what any client sends.
    pub const HELLO_BYTES: RangeInclusive<usize> = 512..=64 << 10;
    /// Bounds of every timeout. Zero would fail every tunnel.
    pub const TIMEOUTS: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A tool that syncs holds ten.
            connections: 10_000,
            per_client: 0,
            header_bytes: 8 << 10,
            header_timeout: Duration::from_secs(10),
            // One with post-quantum key shares has some 2 KB.
            hello_bytes: 16 << 10,
            hello_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            // S3 itself closes an idle connection after seconds; tools compute checksums of large files
            // between two requests.
            idle_timeout: Duration::from_secs(300),
        }
    }
}

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

/// What was agreed on with a client: where to, and who it is.
struct Agreed {
    target: Target,
    kind: Kind,
    user: Option<Arc<str>>,
}

/// A tunnel that may begin.
struct Ready {
    upstream: TcpStream,
    agreed: Agreed,
    /// The client's first bytes, for the server.
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
        let limiter = ConnectionLimiter::new(bounds(settings.limits), limited);
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

    /// Puts other settings in place, for connections to come. The address stays, and if the new settings
    /// have another one, so does who may use it: what is right on loopback would open it to a network. The
    /// classes stay where the tree has none of a new name that can be fed: the tree may need an upgrade
    /// that this does not, and until then nothing goes unshaped.
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
        self.limiter.set(bounds(settings.limits));
        self.ranges.set(settings.ip_ranges.as_deref());
        self.settings.store(Arc::new(settings));
    }

    /// Reads ip-ranges.json whenever it changes. Never ends.
    pub async fn watch(self: Arc<Self>) {
        Arc::clone(&self.ranges).watch().await;
    }

    /// Serves one connection to its end, or to that of a drain.
    pub async fn serve(&self, mut client: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let connection = lifecycle.connection();
        let served = async {
            let mut permit = self.limiter.admit();
            let busy = || {
                // In this order: a drain must not miss it.
                let active = lifecycle.enter();
                connection.busy();
                active
            };
            // Boxed, so that an idle tunnel does not keep the room that its beginning needs.
            let Ready { upstream, agreed, hello, _active } =
                match Box::pin(self.begin(&mut client, peer, &mut permit, busy)).await {
                    Ok(ready) => ready,
                    Err(refusal) => {
                        return Box::pin(self.refuse(&mut client, peer, &refusal)).await;
                    }
                };
            let idle = self.settings.load().limits.idle_timeout;
            let flows = self.flows(&agreed, peer);
            let (mut tunnel, moved) = self.tunnel(agreed, peer);
            let end = relay::relay(&client, &upstream, hello, flows, &moved, idle).await;
            tunnel.set_end(end);
        };
        tokio::select! {
            biased;
            () = served => {}
            () = connection.dismissed() => {}
        }
    }

    /// Leads a connection to where its tunnel begins; `busy` says that it is there for something.
    async fn begin(
        &self,
        client: &mut TcpStream,
        peer: SocketAddr,
        permit: &mut Option<ConnectionPermit>,
        busy: impl FnOnce() -> Active,
    ) -> Result<Ready, Refusal> {
        let permit = permit.as_mut().ok_or(Refusal::Full)?;
        let settings = &*self.settings.load_full();
        if !settings.admits(peer.ip()) {
            return Err(Refusal::Network);
        }
        if !permit.assign_client(peer.ip()) {
            return Err(Refusal::PerClient);
        }
        let (agreed, early) = head::agree(client, settings).await?;
        let active = busy();
        let limit = settings.limits.connect_timeout;
        let marks = self.marks(settings, &agreed, peer);
        let dial = dial::dial(settings, &self.ranges, &self.lookups, &agreed, marks);
        let upstream = timeout(limit, dial).await.map_err(|_| Refusal::Slow(limit))??;
        head::accept(client).await?;
        let hello = head::hello(client, &agreed, early, settings.limits).await?;
        Ok(Ready { upstream, agreed, hello, _active: active })
    }

    /// Counts, lists and logs a tunnel that begins.
    fn tunnel(&self, agreed: Agreed, peer: SocketAddr) -> (LiveTransfer, Arc<ByteCounts>) {
        let class = Self::class_of(&self.settings.load(), &agreed, peer).cloned();
        let Agreed { target: Target { host, port }, user, .. } = agreed;
        let up = ByteCount::new(self.metrics.up.clone());
        let down = ByteCount::new(self.metrics.down.clone());
        let moved = Arc::new(ByteCounts { up, down });
        let tunnel =
            transfers::Kind::Tunnel(transfers::Tunnel { host, port, moved: Arc::clone(&moved) });
        let transfer = Transfer::new(Some(peer), tunnel).user(user).class(class);
        (self.transfers.begin(transfer), moved)
    }

    /// The flows of what goes up and of what comes down; None for what is not shaped.
    fn flows(&self, agreed: &Agreed, peer: SocketAddr) -> [Option<Flow>; 2] {
        let settings = self.settings.load();
        let owner = Owner { client: peer.ip().to_canonical(), user: agreed.user.clone() };
        let up = settings.class_of(peer.ip());
        let down = settings.download_class.as_ref().or(up);
        [up, down].map(|class| {
            let class = class.filter(|_| agreed.kind != Kind::Credentials)?;
            self.shaper.as_ref()?.register_flow(class, &owner)
        })
    }

    /// The class of what the client sends; what is sent for credentials has none.
    fn class_of<'a>(
        settings: &'a Settings,
        agreed: &Agreed,
        peer: SocketAddr,
    ) -> Option<&'a Arc<str>> {
        settings.class_of(peer.ip()).filter(|_| agreed.kind != Kind::Credentials)
    }

    /// How the class would have the socket to S3 marked.
    fn marks(&self, settings: &Settings, agreed: &Agreed, peer: SocketAddr) -> SocketOptions {
        let class = Self::class_of(settings, agreed, peer);
        let marks = class.and_then(|class| self.shaper.as_ref()?.socket_options(class));
        marks.unwrap_or_default()
    }

    async fn refuse(&self, client: &mut TcpStream, peer: SocketAddr, refusal: &Refusal) {
        // The limiter has counted what is its own.
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

impl Settings {
    /// The most users; all are compared for every tunnel.
    pub const MAX_USERS: usize = 1000;

    /// The class of what this client sends.
    fn class_of(&self, client: IpAddr) -> Option<&Arc<str>> {
        let own = |class: &&ClientClass| class.clients.contains(client);
        self.classes.iter().find(own).map(|own| &own.class).or(self.class.as_ref())
    }

    fn admits(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.contains(client)
    }
}

/// The bounds that a [`ConnectionLimiter`] keeps.
fn bounds(limits: Limits) -> limits::Settings {
    let Limits { connections, per_client, .. } = limits;
    limits::Settings { connections, per_client, ..limits::Settings::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(class: Option<&str>, classes: &[(&str, &str)]) -> Settings {
        let own = |(network, class): &(&str, &str)| ClientClass {
            clients: network.parse().unwrap(),
            class: (*class).into(),
        };
        Settings {
            addr: SocketAddr::from(([127, 0, 0, 1], 3128)),
            clients: Networks::default(),
            users: Vec::new(),
            rules: Rules::default(),
            resolve: BTreeMap::new(),
            ip_ranges: None,
            class: class.map(Into::into),
            classes: classes.iter().map(own).collect(),
            download_class: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn a_client_has_the_first_class_that_names_it_or_that_of_all() {
        let classes = [("10.0.0.7/32", "desk"), ("10.0.0.0/8", "house"), ("fd00::/8", "house")];
        let settings = settings(Some("rest"), &classes);
        for (client, class) in [
            ("10.0.0.7", "desk"),
            ("::ffff:10.0.0.7", "desk"),
            ("10.9.9.9", "house"),
            ("fd00::1", "house"),
            ("192.0.2.1", "rest"),
            ("2001:db8::1", "rest"),
        ] {
            assert_eq!(settings.class_of(client.parse().unwrap()).unwrap().as_ref(), class);
        }
        let settings = super::tests::settings(None, &classes);
        assert_eq!(settings.class_of("192.0.2.1".parse().unwrap()), None);
    }
}
