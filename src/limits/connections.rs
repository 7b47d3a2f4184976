//! Who is let in: connections are counted, all together and by client, until they end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::Settings;
use crate::metrics::LimitMetrics;

/// How many clients at a time may be told why they are not let in.
const TOLD: usize = 256;

/// Counts the connections of one server's device listeners.
pub struct ConnectionLimiter {
    settings: ArcSwap<Settings>,
    /// What ran into them.
    pub metrics: LimitMetrics,
    open: AtomicUsize,
    /// Connections that are being told why they are not let in.
    told: AtomicUsize,
    /// Clients with a connection, if they are counted at all.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that was let in, until it is dropped.
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    client: Option<IpAddr>,
}

impl ConnectionLimiter {
    /// A limiter with those bounds.
    #[must_use]
    pub fn new(settings: Settings, metrics: LimitMetrics) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            metrics,
            open: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
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

    /// Counts a connection; None if there are as many as there may be.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let entry = ConnectionPermit { limiter: Arc::clone(self), client: None };
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        if before < self.settings().connections {
            return Some(entry);
        }
        self.count_hit("connections");
        None
    }

    /// Leave to tell a client why it is not let in; None if too many are being told already, since
    /// they too hold a connection each.
    #[must_use]
    pub fn refusal_permit(self: &Arc<Self>) -> Option<RefusalPermit> {
        let telling = RefusalPermit(Arc::clone(self));
        (self.told.fetch_add(1, Ordering::Relaxed) < TOLD).then_some(telling)
    }

    /// Counts something that ran into the limit of that name.
    pub fn count_hit(&self, limit: &str) {
        self.metrics.limited.with_label_values(&[limit]).inc();
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Whatever a panic may leave behind is a valid map.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is being told why it is not let in.
pub struct RefusalPermit(Arc<ConnectionLimiter>);

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.0.told.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionPermit {
    /// Says whose connection it is. False if that client has as many as it may.
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

/// What counts as one client: whoever has one IPv6 address has 2^64 of them.
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
    fn a_place_is_free_again_when_its_connection_ends() {
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
        let mut enter = |ip: &str| {
            let mut entry = limiter.admit().unwrap();
            let entered = entry.assign_client(ip.parse().unwrap());
            inside.extend(entered.then_some(entry));
            entered
        };
        assert!(enter("192.0.2.1"));
        assert!(!enter("192.0.2.1"));
        assert!(!enter("::ffff:192.0.2.1"));
        assert!(enter("192.0.2.2"));
        assert!(enter("2001:db8:0:1::1"));
        assert!(!enter("2001:db8:0:1:ffff::2"));
        assert!(enter("2001:db8:0:2::1"));
        assert_eq!(limiter.metrics.limited.with_label_values(&["per_client"]).get(), 3);
        inside.clear();
        assert!(limiter.clients().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn without_the_limit_nobody_is_remembered() {
        let limiter = limiter(100, 0);
        let mut entry = limiter.admit().unwrap();
        assert!(entry.assign_client("192.0.2.1".parse().unwrap()));
        assert!(limiter.clients().is_empty());
    }
}
