//! Which of S3's addresses to connect to.
//!
//! S3's names resolve to several addresses, which change within seconds. So a lookup is used for five
//! seconds. The next address is taken only after one has failed, because a pooled connection is found
//! again by its address. If a lookup fails, the addresses of the last one stay in use.
//!
//! This file must not know what a connection is used for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::Mutex;

/// How long a lookup is used. S3's own records have a time to live of about 5 s.
const FRESH: Duration = Duration::from_secs(5);

/// How long a lookup may keep requests waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// A host name of S3 and what it resolved to last.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    /// Held across a lookup, so that a burst of requests asks once.
    last: Mutex<Option<Lookup>>,
    choice: std::sync::Mutex<Choice>,
}

/// Which of several addresses is used.
#[derive(Debug, Default)]
struct Choice {
    turn: usize,
    /// The address handed out last; none once it has failed.
    given: Option<SocketAddr>,
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
        let (last, choice) = (Mutex::new(None), std::sync::Mutex::default());
        Self { host: host.to_owned(), port, last, choice }
    }

    /// An address to connect to.
    ///
    /// # Errors
    ///
    /// If the name does not resolve and never did.
    #[expect(clippy::disallowed_methods, reason = "a lookup has an age")]
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
        let mut choice = self.choice();
        choice.given = addresses.get(choice.turn % addresses.len().max(1)).copied();
        choice.given.ok_or_else(no_address)
    }

    /// Notes that an address did not answer: the next one is used, unless another request has reported
    /// the same failure already.
    pub fn failed(&self, address: SocketAddr) {
        let mut choice = self.choice();
        if choice.given == Some(address) {
            choice.turn = choice.turn.wrapping_add(1);
            choice.given = None;
        }
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        // Nothing panics while it is held.
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lookup = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = tokio::time::timeout(PATIENCE, lookup).await;
        let mut addresses: Vec<_> = found.map_err(|_| io::ErrorKind::TimedOut)??.collect();
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
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
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
        resolver.failed(addresses[0]);
        resolver.failed(addresses[0]); // of another request, which met the same address
        assert_eq!(resolver.address().await.unwrap(), addresses[1]);
        resolver.failed(addresses[0]);
        assert_eq!(resolver.address().await.unwrap(), addresses[1]);
        resolver.failed(addresses[1]);
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
