//! The addresses that listeners use: no two listeners of any kind may have the same one.

use std::net::{IpAddr, SocketAddr};

use super::reader::Reader;

/// The addresses that are in use, each with the key path of its listener.
#[derive(Default)]
pub(super) struct Claims(Vec<(String, SocketAddr)>);

impl Claims {
    /// Notes `addr` for a listener that exists by default. These come first and do not collide.
    pub(super) fn claim_default(&mut self, at: &str, addr: SocketAddr) {
        self.0.push((format!("{at} ({addr}, the default)"), addr));
    }

    /// Notes `addr` for `at`, and reports the listener that already has it; `otherwise` is another way
    /// out for the message.
    pub(super) fn claim(&mut self, reader: &Reader, at: &str, addr: SocketAddr, otherwise: &str) {
        if let Some((other, _)) = self.0.iter().find(|(_, taken)| collide(*taken, addr)) {
            reader.fail(at, format!("{addr} is taken by {other}; choose another port{otherwise}"));
        }
        self.0.push((format!("{at} ({addr})"), addr));
    }
}

/// Whether two sockets cannot both be bound. A wildcard address takes its port on every address; the
/// IPv6 one on IPv4 addresses too, because Linux binds it for both (ipv6(7), IPV6_V6ONLY).
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers =
        |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
