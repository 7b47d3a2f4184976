//! The PROXY protocol's header at the start of a connection, before its TLS handshake: it names the
//! client that a load balancer connects for.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use log::{debug, info};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest};
use prometheus::IntCounterVec;
use tokio::time::timeout;

use crate::proxy_protocol::{self as proxy, Trusted};

/// Reads the header that a connection to this listener must begin with, and makes the client that
/// it names the connection's peer. False if the connection is to be closed.
pub(super) async fn read(
    socket: &mut L4Stream,
    trusted: &Trusted,
    limit: Duration,
    results: &IntCounterVec,
) -> bool {
    let peer = peer(socket);
    let count = |result: &str| results.with_label_values(&[result]).inc();
    if !peer.is_some_and(|peer| trusted.has(peer.ip())) {
        info!(peer = shown(peer).as_str(); "connection closed: proxy_protocol.from does not hold its address");
        count("untrusted");
        return false;
    }
    match timeout(limit, proxy::read(socket)).await {
        Ok(Ok(Some(client))) => {
            // The old digest has its peer already, which can be set only once.
            let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
            let _ = digest.peer_addr.set(Some(client.into()));
            socket.set_socket_digest(digest);
            count("client");
        }
        Ok(Ok(None)) => count("own"),
        Ok(Err(e)) => {
            info!(peer = shown(peer).as_str(); "connection closed: {e}");
            count("invalid");
            return false;
        }
        Err(_) => {
            info!(peer = shown(peer).as_str(); "connection closed: no PROXY header in time");
            count("timeout");
            return false;
        }
    }
    true
}

/// Skips a header, if there is one: a load balancer's health checks may or may not send it. False if
/// the connection is to be closed.
pub(super) async fn skip(socket: &mut L4Stream, limit: Duration) -> bool {
    match timeout(limit, proxy::skip(socket)).await {
        Ok(Ok(unread)) => {
            socket.rewind(&unread);
            true
        }
        Ok(Err(e)) => {
            debug!("health check closed: {e}");
            false
        }
        Err(_) => false,
    }
}

/// The address of a connection's client; before the header was read, that of the load balancer.
pub(super) fn peer(socket: &L4Stream) -> Option<SocketAddr> {
    socket.get_socket_digest()?.peer_addr()?.as_inet().copied()
}

/// An address for the log; empty if it is unknown.
fn shown(address: Option<SocketAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}
