//! An upgrade without a gap: a running process hands its listening sockets to its successor over a
//! Unix socket, and goes on accepting until that one says that it accepts too.
//!
//! A listening socket is one queue of connections, however many processes hold it; while one of
//! them does, no client is refused. So nothing is lost whenever either side fails:
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
//! Instead of any of its lines the running process may say `refused` and why; then, and if the
//! successor ends or takes too long, everything stays as it was. If the running process ends
//! without a word, the successor goes on: somebody has to.
//!
//! Invariant: the upgrade socket is where only this user and root can reach it, and its path is
//! removed only by the process that listens there.
//!
//! This room knows sockets and addresses; it must not know what is served there.

mod ask;
mod handover;
mod wire;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use ask::{AskError, Hand, ask};
pub use handover::{OpenError, SocketServer, Successor};

/// The version of the protocol; a process refuses a successor with another.
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
    /// Devices.
    Device,
    /// Metrics, readiness.
    Admin,
    /// Readiness alone.
    Health,
    /// Whoever asks for tunnels.
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
pub struct Handed {
    /// What it is for.
    pub role: Role,
    /// Its address as the configuration has it, with port 0 if the system chose.
    pub addr: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// The sockets that a successor was given and has not used yet; none for a process of its own.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Handed>);

impl Inherited {
    /// Takes out the socket for `role` at `addr`: one that was configured just so, or else any that
    /// is bound there.
    pub fn take(&mut self, role: Role, addr: SocketAddr) -> Option<TcpListener> {
        let same = |one: &Handed| one.role == role && one.addr == addr;
        let there = |one: &Handed| one.socket.local_addr().is_ok_and(|bound| bound == addr);
        let at = self.0.iter().position(same).or_else(|| self.0.iter().position(there))?;
        Some(self.0.remove(at).socket)
    }

    /// The addresses of the sockets that nobody took. They are closed with this.
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
        let handed = |role| Handed { role, addr: any, socket: TcpListener::bind(any).unwrap() };
        let all = [Role::Device, Role::Admin, Role::Device].map(handed);
        let real = all.each_ref().map(|one| one.socket.local_addr().unwrap());
        let mut inherited = Inherited(all.into());
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
