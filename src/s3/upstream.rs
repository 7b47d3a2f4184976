//! How dripline connects to S3: what an operator sets, its default and its bounds, and the Pingora peer
//! that is made of it.
//!
//! This file must not know the configuration file, nor what a connection is used for.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
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
use crate::units::ByteSize;
use crate::valve::Valve;

/// The pool's group of connections with a valve. None of them is ever pooled.
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
    /// How long each step may take.
    pub settings: Settings,
}

/// What an operator sets for the connections to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Time for the TCP and the TLS handshake together; within [`Self::TIMEOUTS`].
    pub connect_timeout: Duration,
    /// Time without a byte that was waited for, before and within the response; within [`Self::TIMEOUTS`].
    pub response_timeout: Duration,
    /// How long an idle connection is kept for the next request; within [`Self::TIMEOUTS`].
    pub idle_timeout: Duration,
    /// Kernel receive buffer of a connection whose reader is paced; within [`Self::RECV_BUFFERS`]. S3 feels
    /// the back-pressure after about twice as many bytes.
    pub recv_buffer: ByteSize,
}

impl Settings {
    /// The range of each timeout: zero would end every connection at once.
    pub const TIMEOUTS: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

    /// The range of the receive buffer. With less than 4 KiB TCP sends segment by segment; 16 MiB are
    /// more than a paced reader can use.
    pub const RECV_BUFFERS: RangeInclusive<ByteSize> =
        ByteSize::new(4 << 10)..=ByteSize::new(16 << 20);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(20),
            // S3 closes an idle connection after about 5 s. Close it earlier, or a request may be sent
            // while S3 closes it.
            idle_timeout: Duration::from_secs(4),
            recv_buffer: ByteSize::new(16 << 10),
        }
    }
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
        let Settings { connect_timeout, response_timeout, idle_timeout, recv_buffer } =
            self.settings;
        let mut peer = HttpPeer::new(address, self.endpoint.tls(), host);
        let options = &mut peer.options;
        options.connection_timeout = Some(connect_timeout);
        options.total_connection_timeout = Some(connect_timeout);
        options.read_timeout = Some(response_timeout);
        options.write_timeout = Some(response_timeout);
        options.idle_timeout = Some(idle_timeout);
        options.alpn = ALPN::H1;
        options.curves = Some(GROUPS.into());
        options.ca.clone_from(&self.ca);
        if let Some(valve) = valve {
            // The connection counts this time itself, since it waits for nothing while its valve is closed.
            options.read_timeout = None;
            options.custom_l4 = Some(Arc::new(ValvedConnect {
                valve: Arc::clone(valve),
                connect_timeout,
                response_timeout,
                recv_buffer: usize::try_from(recv_buffer.bytes()).unwrap_or(usize::MAX),
            }));
            // Keeps it apart from pooled connections, which have no valve.
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
