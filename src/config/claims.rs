//! Which addresses are spoken for: no two listeners of any kind may want one.

use std::net::{IpAddr, SocketAddr};

use super::reader::Reader;

/// The addresses that are spoken for, and by whom.
#[derive(Default)]
pub(super) struct Claims(Vec<(String, SocketAddr)>);

impl Claims {
    /// Takes `addr` for a listener that nobody configured. Those of this kind come first and are
    /// known not to collide.
    pub(super) fn claim_default(&mut self, at: &str, addr: SocketAddr) {
        self.0.push((format!("{at} ({addr}, the default)"), addr));
    }

    /// Takes `addr` for `at`, or reports who has it already; `otherwise` says what else to do.
    pub(super) fn claim(&mut self, reader: &Reader, at: &str, addr: SocketAddr, otherwise: &str) {
        if let Some((other, _)) = self.0.iter().find(|(_, taken)| collide(*taken, addr)) {
            reader.fail(at, format!("{addr} is taken by {other}; choose another port{otherwise}"));
        }
        self.0.push((format!("{at} ({addr})"), addr));
    }
}

/// Whether two sockets cannot both be bound. A wildcard takes its port on every address; the IPv6
/// one on the IPv4 addresses too, since Linux binds it for both.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers =
        |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
