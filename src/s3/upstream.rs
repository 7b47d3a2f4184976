//! How dripline talks to S3: what an operator sets, and the Pingora peer that comes of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::x509::X509;
use pingora::prelude::HttpPeer;
use pingora::protocols::ALPN;
use pingora::{Error, ErrorType, Result};

use super::connect::ValvedConnect;
use super::endpoint::Endpoint;
use super::outgoing::Authority;
use super::resolve::Resolver;
use crate::valve::Valve;

/// The pool's group of connections with a valve, of which none is ever pooled.
const VALVED: u64 = 1;

/// Key exchange groups towards S3. ML-KEM, which OpenSSL would add, costs 6 KB a connection.
const GROUPS: &str = "X25519:P-256:P-384";

/// How dripline talks to S3.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where the bucket is.
    pub endpoint: Endpoint,
    /// Certificates to trust instead of the system's.
    pub ca: Option<Arc<Box<[X509]>>>,
    /// Whether the client's Authorization header is forwarded.
    pub authorization: bool,
    /// Time for the TCP and the TLS handshake together.
    pub connect_timeout: Duration,
    /// Time without a byte that was waited for, before and within the response.
    pub response_timeout: Duration,
    /// How long an idle connection is kept for the next request.
    pub idle_timeout: Duration,
    /// Kernel receive buffer of a connection whose reader is paced, in bytes: S3 feels the
    /// back-pressure after about twice as many.
    pub recv_buffer: usize,
}

impl Upstream {
    /// Who vouches for a request to this bucket.
    #[must_use]
    pub fn authority(&self) -> Authority {
        Authority::Client { authorization: self.authorization }
    }

    /// The peer for a request to S3 at `address`, read through `valve` if there is one.
    #[must_use]
    pub fn peer(&self, address: SocketAddr, valve: Option<&Arc<Valve>>) -> HttpPeer {
        let host = self.endpoint.host().to_owned();
        let mut peer = HttpPeer::new(address, self.endpoint.tls(), host);
        let options = &mut peer.options;
        options.connection_timeout = Some(self.connect_timeout);
        options.total_connection_timeout = Some(self.connect_timeout);
        options.read_timeout = Some(self.response_timeout);
        options.write_timeout = Some(self.response_timeout);
        options.idle_timeout = Some(self.idle_timeout);
        options.alpn = ALPN::H1;
        options.curves = Some(GROUPS.into());
        options.ca.clone_from(&self.ca);
        if let Some(valve) = valve {
            // The connection keeps this time itself: with its valve closed it waits for nobody.
            options.read_timeout = None;
            options.custom_l4 = Some(Arc::new(ValvedConnect {
                valve: Arc::clone(valve),
                connect_timeout: self.connect_timeout,
                response_timeout: self.response_timeout,
                recv_buffer: self.recv_buffer,
            }));
            // A pooled connection of the other kind has no valve.
            peer.group_key = VALVED;
        }
        peer
    }

    /// The peer for a request of dripline's own to the next of S3's addresses, and that address.
    ///
    /// # Errors
    ///
    /// If S3's host has no address. The error's source is the upstream.
    pub async fn next_peer(&self, resolver: &Resolver) -> Result<(SocketAddr, HttpPeer)> {
        let address = resolver.address().await.map_err(|e| {
            let context = format!("cannot resolve {}", self.endpoint.host());
            Error::because(ErrorType::ConnectError, context, e).into_up()
        })?;
        Ok((address, self.peer(address, None)))
    }
}
