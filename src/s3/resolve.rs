//! Which of S3's addresses to connect to.
//!
//! S3's names live for seconds and answer with several addresses, so every lookup is good for
//! five seconds and the addresses are used in turn only after one has failed: a pooled connection is
//! found again by its address. If a lookup fails, the last good answer serves on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::Mutex;

/// How long a lookup is good for. S3's own records have a time to live of about 5 s.
const FRESH: Duration = Duration::from_secs(5);

/// A host name of S3 and what it resolved to last.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    /// Held across a lookup, so that a burst of requests asks once.
    last: Mutex<Option<Lookup>>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Lookup {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Resolver {
    /// A resolver for one host, which may be an IP address.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, last: Mutex::new(None), turn: AtomicUsize::new(0) }
    }

    /// An address to connect to.
    ///
    /// # Errors
    ///
    /// If the name does not resolve and never did.
    pub async fn address(&self) -> io::Result<SocketAddr> {
        if let Some(address) = self.without_lookup() {
            return Ok(address);
        }
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|lookup| lookup.at.elapsed() >= FRESH) {
            match self.lookup().await {
                Ok(addresses) => *last = Some(Lookup { at: Instant::now(), addresses }),
                Err(e) => match last.as_mut() {
                    None => return Err(e),
                    Some(lookup) => {
                        warn!(host = self.host.as_str(); "the last addresses serve on: {e}");
                        lookup.at = Instant::now();
                    }
                },
            }
        }
        let addresses = last.as_ref().map(|l| l.addresses.as_slice()).unwrap_or_default();
        let turn = self.turn.load(Ordering::Relaxed);
        addresses.get(turn % addresses.len().max(1)).copied().ok_or_else(no_address)
    }

    /// Notes that the present address did not answer: the next one is used.
    pub fn failed(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// An IP address is itself, and names under `localhost` are loopback (RFC 6761 §6.3), whatever
    /// a resolver says.
    fn without_lookup(&self) -> Option<SocketAddr> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Some((ip, self.port).into());
        }
        let local = self.host == "localhost" || self.host.ends_with(".localhost");
        local.then(|| (Ipv4Addr::LOCALHOST, self.port).into())
    }

    async fn lookup(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<_> =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        if addresses.is_empty() {
            return Err(no_address());
        }
        // A stable order keeps the choice, and the pooled connections, over a new lookup.
        addresses.sort_unstable();
        Ok(addresses)
    }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_local_names_need_no_lookup() {
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1:9000"),
            ("::1", "[::1]:9000"),
            ("localhost", "127.0.0.1:9000"),
            ("bucket.s3.localhost", "127.0.0.1:9000"),
        ] {
            let resolved = Resolver::new(host, 9000).address().await.unwrap();
            assert_eq!(resolved.to_string(), address);
        }
    }

    #[tokio::test]
    async fn a_failed_address_gives_way_to_the_next_one() {
        let resolver = Resolver::new("s3.invalid", 443);
        let addresses: Vec<SocketAddr> =
            vec!["192.0.2.1:443".parse().unwrap(), "192.0.2.2:443".parse().unwrap()];
        *resolver.last.lock().await =
            Some(Lookup { at: Instant::now(), addresses: addresses.clone() });
        assert_eq!(resolver.address().await.unwrap(), addresses[0]);
        assert_eq!(resolver.address().await.unwrap(), addresses[0]);
        resolver.failed();
        assert_eq!(resolver.address().await.unwrap(), addresses[1]);
        resolver.failed();
        assert_eq!(resolver.address().await.unwrap(), addresses[0]);
    }

    #[tokio::test]
    async fn an_unknown_name_is_an_error_and_old_addresses_outlive_one() {
        let resolver = Resolver::new("no-such-host.invalid", 443);
        assert!(resolver.address().await.is_err());
        let address = "192.0.2.1:443".parse().unwrap();
        let at = Instant::now().checked_sub(FRESH).unwrap();
        *resolver.last.lock().await = Some(Lookup { at, addresses: vec![address] });
        assert_eq!(resolver.address().await.unwrap(), address);
    }
}
