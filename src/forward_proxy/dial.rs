//! Connects to a host. Its name is looked up once, every address is checked, and those that pass are tried.
//!
//! Invariant: nothing is looked up again between the check and the connection, so a resolver cannot exchange
//! an address that has passed.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::allow::address::special;
use super::allow::{Target, TargetKind};
use super::head::TunnelRequest;
use super::ranges::Ranges;
use super::refusal::Refusal;
use super::settings::Settings;
use crate::shape::SocketOptions;

/// The most addresses that are tried: S3 answers with eight.
const MOST: usize = 8;

/// Connects to the request's host. The caller limits the time.
#[expect(clippy::disallowed_methods, reason = "all attempts to connect share one deadline")]
pub(super) async fn dial(
    settings: &Settings,
    ranges: &Ranges,
    lookups: &Arc<Semaphore>,
    request: &TunnelRequest,
    options: SocketOptions,
) -> Result<TcpStream, Refusal> {
    let deadline = Instant::now() + settings.limits.connect_timeout;
    let addresses = match settings.resolve.get(&request.target.host) {
        Some(address) => vec![*address],
        None => {
            let found = resolve(lookups, request).await;
            let found = found.map_err(|e| Refusal::Unresolved(request.target.clone(), e))?;
            pass(&found, request, ranges)?
        }
    };
    let mut last = None;
    for (at, address) in addresses.iter().enumerate() {
        // The time that is left is shared equally: one address that does not answer must not take it all.
        let left = deadline.saturating_duration_since(Instant::now());
        let tries = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let opened = open(*address, options, settings.limits.idle_timeout);
        match connect(opened, *address, left / tries).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some((*address, e)),
        }
    }
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    Err(match last {
        Some((_, e)) if e.kind() == io::ErrorKind::TimedOut => {
            Refusal::Slow(settings.limits.connect_timeout)
        }
        Some((address, e)) => Refusal::Connect(address, e),
        None => Refusal::Unresolved(request.target.clone(), none()),
    })
}

/// All addresses of the name, in the resolver's order of preference.
///
/// The name is looked up with the root's dot, so that resolv.conf's `search` does not apply: a name that a
/// client made up must not lead to a host of the local domain. Only names that the configuration has in full
/// are looked up as they stand.
async fn resolve(lookups: &Arc<Semaphore>, request: &TunnelRequest) -> io::Result<Vec<SocketAddr>> {
    // The semaphore is never closed.
    let permit = Arc::clone(lookups).acquire_owned().await.map_err(io::Error::other)?;
    let Target { mut host, port } = request.target.clone();
    if request.kind != TargetKind::Named {
        host.push('.');
    }
    let look_up = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Held until the thread is free again, even if nobody waits for the answer any more.
        drop(permit);
        found
    };
    tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
}

/// Those addresses that may be used; an error if there is none.
fn pass(
    found: &[SocketAddr],
    request: &TunnelRequest,
    ranges: &Ranges,
) -> Result<Vec<SocketAddr>, Refusal> {
    let prefixes = ranges.current().filter(|_| request.kind == TargetKind::S3);
    let mut refusal = None;
    let mut passed = Vec::new();
    for address in found {
        let ip = address.ip();
        let what = special(ip).filter(|what| request.kind != TargetKind::Named || !what.is_local());
        if let Some(what) = what {
            refusal.get_or_insert(Refusal::Address(request.target.clone(), ip, what));
        } else if prefixes.as_ref().is_some_and(|prefixes| !prefixes.has(ip)) {
            refusal.get_or_insert(Refusal::NotS3(request.target.clone(), ip));
        } else if passed.len() < MOST {
            passed.push(*address);
        }
    }
    match refusal {
        Some(refusal) if passed.is_empty() => Err(refusal),
        _ => Ok(passed),
    }
}

async fn connect(
    opened: io::Result<TcpSocket>,
    address: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let connected = timeout(limit, opened?.connect(address)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A socket whose options are set before it connects, so that the handshake's packets bear the mark too.
fn open(address: SocketAddr, options: SocketOptions, patience: Duration) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    let raw = SockRef::from(&socket);
    raw.set_tcp_nodelay(true)?;
    // The kernel gives up a host that takes nothing any more.
    raw.set_tcp_user_timeout(Some(patience))?;
    options.apply(&socket)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward_proxy::allow::Rules;

    fn checked(host: &str, rules: &Rules, addresses: &str) -> Result<Vec<String>, &'static str> {
        let target: Target = host.parse().unwrap();
        let kind = rules.check(&target).unwrap();
        let request = TunnelRequest { target, kind, user: None };
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 443);
        let found: Vec<SocketAddr> = addresses.split_whitespace().map(address).collect();
        pass(&found, &request, &Ranges::default())
            .map(|passed| passed.iter().map(|address| address.ip().to_string()).collect())
            .map_err(|refusal| refusal.label())
    }

    #[test]
    fn every_address_is_checked_and_those_that_pass_are_used() {
        let endpoints = ["minio.lan:443", "*.store.example:443"].map(|text| text.parse().unwrap());
        let rules = Rules { endpoints: endpoints.to_vec(), ..Rules::default() };
        let s3 = "b.s3.us-east-1.amazonaws.com:443";
        for (host, addresses, verdict) in [
            (s3, "52.216.0.1 2600:1ff9::1", Ok(vec!["52.216.0.1", "2600:1ff9::1"])),
            (s3, "127.0.0.1 52.216.0.1 64:ff9b::34d8:1", Ok(vec!["52.216.0.1"])),
            (s3, "127.0.0.1", Err("address")),
            (s3, "169.254.169.254 10.0.0.1 ::ffff:52.216.0.1", Err("address")),
            (s3, "", Ok(vec![])),
            ("sts.us-east-1.amazonaws.com:443", "10.0.0.1", Err("address")),
            ("minio.lan:443", "192.168.1.10 127.0.0.1", Ok(vec!["192.168.1.10", "127.0.0.1"])),
            ("minio.lan:443", "169.254.169.254", Err("address")),
            ("a.store.example:443", "192.168.1.10", Err("address")),
        ] {
            let verdict = verdict.map(|ips| ips.into_iter().map(str::to_owned).collect());
            assert_eq!(checked(host, &rules, addresses), verdict, "{host} {addresses}");
        }
    }
}
