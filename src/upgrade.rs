//! An upgrade without a gap: a running process hands its listening sockets to its successor over a
//! Unix socket, and goes on accepting until the successor says that it accepts too.
//!
//! A listening socket is one queue of connections, however many processes hold it. As long as one of
//! them holds it, no client is refused. So no connection is lost if either side fails:
//!
//! ```text
//! successor: its configuration is read and valid    connects
//!                                    ────────────▶  running: same user or root?
//!            hello, version 1        ────────────▶
//!                                    ◀────────────  socket ROLE ADDRESS, one line and one descriptor each
//!                                    ◀────────────  end
//!            binds what is new, accepts
//!            ready                   ────────────▶
//!                                    ◀────────────  yours: it stops accepting, and drains
//!            takes over the path of the upgrade socket
//! ```
//!
//! Instead of any of its lines the running process may say `refused` and why. Then everything stays as it
//! was, and so it does if the successor ends or takes too long. If the running process ends without
//! such a line, the successor goes on, since no other process serves.
//!
//! Invariant: only this user and root can reach the upgrade socket, and only the process that listens
//! there removes its path.
//!
//! `takeover` is the successor's side, `handover` that of the running process; both speak through `wire`.
//! This room knows sockets and addresses; it must not know what is served there.

mod handover;
mod takeover;
mod wire;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use handover::{SocketServer, SocketServerError, Successor};
pub use takeover::{Predecessor, TakeoverError, take_sockets};

/// The version of the protocol. A process refuses a successor with another one.
const VERSION: u32 = 1;

/// How a process is upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a successor may take from its start to its first accept.
    pub timeout: Duration,
    /// Where a successor asks for the listening sockets; None if upgrades are switched off.
    pub sock: Option<PathBuf>,
}

impl Settings {
    /// Bounds of `timeout`.
    pub const TIMEOUT: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(3600);
    /// The longest `sock` in bytes: sun_path holds 108 (unix(7)), and a temporary name beside it is
    /// up to 12 longer.
    pub const MAX_SOCK: usize = 90;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            sock: Some(PathBuf::from("/run/dripline/upgrade.sock")),
        }
    }
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Requests of devices.
    Device,
    /// Metrics, readiness and the API.
    Admin,
    /// Readiness alone.
    Health,
    /// Requests for tunnels.
    ForwardProxy,
}

const ROLES: [(Role, &str); 4] = [
    (Role::Device, "device"),
    (Role::Admin, "admin"),
    (Role::Health, "health"),
    (Role::ForwardProxy, "forward_proxy"),
];

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ROLES.iter().find(|(role, _)| role == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        ROLES.iter().find(|(_, name)| *name == text).map(|(role, _)| *role).ok_or(())
    }
}

/// A listening socket that changes hands.
#[derive(Debug)]
pub struct HandedSocket {
    /// What it is for.
    pub role: Role,
    /// Its address as the configuration has it, with port 0 if the system chose.
    pub addr: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// The sockets that a successor was given and has not used yet; empty for a process without predecessor.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<HandedSocket>);

impl InheritedSockets {
    /// Takes out the socket for `role` at `addr`: one with just that configuration, or else any that is
    /// bound to that address.
    pub fn take(&mut self, role: Role, addr: SocketAddr) -> Option<TcpListener> {
        let same = |one: &HandedSocket| one.role == role && one.addr == addr;
        let there = |one: &HandedSocket| one.socket.local_addr().is_ok_and(|bound| bound == addr);
        let at = self.0.iter().position(same).or_else(|| self.0.iter().position(there))?;
        Some(self.0.remove(at).socket)
    }

    /// The addresses of the sockets that were not taken. They are closed when this is dropped.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|one| one.socket.local_addr().unwrap_or(one.addr)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_configured_or_its_real_address() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let handed =
            |role| HandedSocket { role, addr: any, socket: TcpListener::bind(any).unwrap() };
        let all = [Role::Device, Role::Admin, Role::Device].map(handed);
        let real = all.each_ref().map(|one| one.socket.local_addr().unwrap());
        let mut inherited = InheritedSockets(all.into());
        let mut take = |role, addr| inherited.take(role, addr).map(|s| s.local_addr().unwrap());
        assert_eq!(take(Role::Health, any), None);
        assert_eq!(take(Role::Admin, any), Some(real[1]));
        assert_eq!(take(Role::Device, any), Some(real[0]));
        assert_eq!(take(Role::Health, real[2]), Some(real[2]), "a port may change its role");
        assert_eq!(take(Role::Device, any), None);
        assert!(inherited.addresses().is_empty());
    }

    #[test]
    fn roles_are_read_as_they_are_written() {
        for (role, _) in ROLES {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }
}
