//! What is configured of a forward proxy: types, bounds and defaults, and which class a client's bytes count to.
//!
//! Pure. This file must not know where the configuration comes from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::allow::{Rules, TargetKind};
use super::connect::User;
use crate::limits;
use crate::networks::Networks;

/// Everything that is configured of a forward proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Networks of the clients that are served; empty for every client, which is for loopback alone.
    pub clients: Networks,
    /// Who may use it, by name and password; if empty, no credentials are asked for.
    pub users: Vec<User>,
    /// Which hosts may be reached.
    pub rules: Rules,
    /// Addresses of names, in place of a resolver's answer. These addresses are not checked.
    pub resolve: BTreeMap<String, SocketAddr>,
    /// Amazon's ip-ranges.json, if S3's names may lead only to its addresses.
    pub ip_ranges: Option<PathBuf>,
    /// The class of both directions; only of what clients send if `download_class` is given.
    pub class: Option<Arc<str>>,
    /// Classes of some clients, in place of `class`; the first one that holds the client counts.
    pub classes: Vec<ClientClass>,
    /// The class of what clients receive, if it is another one.
    pub download_class: Option<Arc<str>>,
    /// The bounds of connections and tunnels.
    pub limits: Limits,
}

/// A class for some clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientClass {
    /// Networks of the clients.
    pub clients: Networks,
    /// The class's name.
    pub class: Arc<str>,
}

/// The bounds of connections and tunnels.
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

impl Settings {
    /// The most users; all are compared for every tunnel.
    pub const MAX_USERS: usize = 1000;

    /// Whether a client may connect at all.
    pub(super) fn allows(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.contains(client)
    }

    /// The class of what this client sends to a target of that kind; None if it is not shaped.
    pub(super) fn upload_class(&self, client: IpAddr, kind: TargetKind) -> Option<&Arc<str>> {
        let own = |class: &&ClientClass| class.clients.contains(client);
        let class = self.classes.iter().find(own).map(|own| &own.class).or(self.class.as_ref());
        // A request for credentials has a few KB, and uploads wait for its answer.
        class.filter(|_| kind != TargetKind::Credentials)
    }

    /// The class of what this client receives from a target of that kind; None if it is not shaped.
    pub(super) fn download_class(&self, client: IpAddr, kind: TargetKind) -> Option<&Arc<str>> {
        let class = self.download_class.as_ref().filter(|_| kind != TargetKind::Credentials);
        class.or_else(|| self.upload_class(client, kind))
    }
}

impl Limits {
    /// The part that the [`ConnectionLimiter`](limits::connections::ConnectionLimiter) keeps.
    pub(super) fn of_connections(&self) -> limits::Settings {
        let Self { connections, per_client, .. } = *self;
        limits::Settings { connections, per_client, ..limits::Settings::default() }
    }
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
            let client = client.parse().unwrap();
            let up = settings.upload_class(client, TargetKind::S3);
            assert_eq!(up.unwrap().as_ref(), class);
            assert_eq!(settings.download_class(client, TargetKind::S3), up);
            assert_eq!(settings.upload_class(client, TargetKind::Credentials), None);
        }
        let client = "192.0.2.1".parse().unwrap();
        let own = Settings { download_class: Some("down".into()), ..settings };
        assert_eq!(own.download_class(client, TargetKind::S3).unwrap().as_ref(), "down");
        assert_eq!(own.download_class(client, TargetKind::Credentials), None);
        let settings = super::tests::settings(None, &classes);
        assert_eq!(settings.upload_class(client, TargetKind::S3), None);
    }
}
