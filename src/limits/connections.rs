//! Counts connections until they end, all together and by client, and admits no more than there may be.
//!
//! Invariant: nothing is kept of a client without a connection. This file must not know what a connection is
//! for, nor how a refusal is written.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::Settings;
use crate::metrics::LimitMetrics;

/// How many refusals are written at a time. Each of them keeps its connection open for a while.
const REFUSALS: usize = 256;

/// Counts the connections of a server's device listeners, or of its forward proxy.
pub struct ConnectionLimiter {
    settings: ArcSwap<Settings>,
    /// Counts what ran into the limits.
    pub metrics: LimitMetrics,
    open: AtomicUsize,
    /// Refusals that are being written.
    refusals: AtomicUsize,
    /// How many connections each client has; empty if they are not limited.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts an admitted connection until it is dropped.
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    client: Option<IpAddr>,
}

impl ConnectionLimiter {
    /// A limiter with these bounds.
    #[must_use]
    pub fn new(settings: Settings, metrics: LimitMetrics) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            metrics,
            open: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            clients: Mutex::default(),
        })
    }

    /// The bounds as they are now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        **self.settings.load()
    }

    /// Puts other bounds in place, for connections and requests to come.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Counts a new connection; None if there are as many as there may be.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let permit = ConnectionPermit { limiter: Arc::clone(self), client: None };
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        if before < self.settings().connections {
            return Some(permit);
        }
        self.count_hit("connections");
        None
    }

    /// A permit to write a refusal to a client; None if as many are being written as there may be.
    #[must_use]
    pub fn refusal_permit(self: &Arc<Self>) -> Option<RefusalPermit> {
        let permit = RefusalPermit(Arc::clone(self));
        (self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS).then_some(permit)
    }

    /// Counts that the limit of that name was met.
    pub fn count_hit(&self, limit: &str) {
        self.metrics.limited.with_label_values(&[limit]).inc();
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A panic cannot leave the map in an invalid state.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a refusal that is being written, until it is dropped.
pub struct RefusalPermit(Arc<ConnectionLimiter>);

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.0.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionPermit {
    /// Counts the connection to its client. False if that client has as many as it may have.
    #[must_use]
    pub fn assign_client(&mut self, client: IpAddr) -> bool {
        let most = self.limiter.settings().per_client;
        if most == 0 {
            return true;
        }
        let client = network(client);
        let mut clients = self.limiter.clients();
        let count = clients.entry(client).or_default();
        if *count >= most {
            drop(clients);
            self.limiter.count_hit("per_client");
            return false;
        }
        *count += 1;
        drop(clients);
        self.client = Some(client);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.open.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut clients = self.limiter.clients();
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, since a host with one address of it can use
/// all 2^64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn limiter(connections: usize, per_client: usize) -> Arc<ConnectionLimiter> {
        let settings = Settings { connections, per_client, ..Settings::default() };
        ConnectionLimiter::new(settings, Metrics::new().limits)
    }

    #[test]
    fn a_connection_that_ends_makes_room_for_another() {
        let limiter = limiter(2, 0);
        let first = limiter.admit().unwrap();
        let _second = limiter.admit().unwrap();
        assert!(limiter.admit().is_none());
        assert!(limiter.admit().is_none(), "the refused do not count");
        drop(first);
        assert!(limiter.admit().is_some());
        assert_eq!(limiter.metrics.limited.with_label_values(&["connections"]).get(), 2);
    }

    #[test]
    fn a_client_is_an_address_or_a_64() {
        let limiter = limiter(100, 1);
        let mut inside = Vec::new();
        let mut admit = |ip: &str| {
            let mut permit = limiter.admit().unwrap();
            let admitted = permit.assign_client(ip.parse().unwrap());
            inside.extend(admitted.then_some(permit));
            admitted
        };
        assert!(admit("192.0.2.1"));
        assert!(!admit("192.0.2.1"));
        assert!(!admit("::ffff:192.0.2.1"));
        assert!(admit("192.0.2.2"));
        assert!(admit("2001:db8:0:1::1"));
        assert!(!admit("2001:db8:0:1:ffff::2"));
        assert!(admit("2001:db8:0:2::1"));
        assert_eq!(limiter.metrics.limited.with_label_values(&["per_client"]).get(), 3);
        inside.clear();
        assert!(limiter.clients().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn without_the_limit_no_client_is_remembered() {
        let limiter = limiter(100, 0);
        let mut permit = limiter.admit().unwrap();
        assert!(permit.assign_client("192.0.2.1".parse().unwrap()));
        assert!(limiter.clients().is_empty());
    }
}
