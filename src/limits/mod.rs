//! What one client, and all clients together, may take: connections, and the size and time of what they
//! send. [`connections`] counts connections; [`crate::http1`] applies the other bounds.
//!
//! Invariants: the only limit that can end a running drip is [`Settings::send_timeout`], which the kernel
//! enforces. A timer exists only while a head or a body is awaited. An open connection costs a few words.
//!
//! This room must not know of S3, nor what a request asks for.

pub mod connections;

use std::ops::RangeInclusive;
use std::time::Duration;

/// The bounds. The defaults are for a small machine with many devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Client connections at a time. Each takes a file descriptor and some 35 KB.
    pub connections: usize,
    /// Connections at a time of one client: an IPv4 address, or an IPv6 /64; 0 for no such limit.
    pub per_client: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// For a whole request head, and for the first byte on a new connection.
    pub header_timeout: Duration,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take none of the bytes that were sent to it.
    pub send_timeout: Duration,
    /// How long a client may send nothing of a body that it owes.
    pub receive_timeout: Duration,
    /// Requests on one connection.
    pub requests_per_connection: u32,
    /// How long a connection may be without a request after the first.
    pub idle_timeout: Duration,
}

impl Settings {
    /// Bounds of `connections`: Linux gives one process no more file descriptors by default.
    pub const CONNECTIONS: RangeInclusive<usize> = 1..=1 << 20;
    /// Bounds of `per_client`; 0 is no limit.
    pub const PER_CLIENT: RangeInclusive<usize> = 0..=1 << 20;
    /// Bounds of `header_bytes`: far beyond S3's own limit of 8 KB, far below what Pingora takes.
    pub const HEADER_BYTES: RangeInclusive<usize> = 1 << 10..=256 << 10;
    /// Bounds of `requests_per_connection`.
    pub const REQUESTS_PER_CONNECTION: RangeInclusive<u32> = 1..=u32::MAX;
    /// Bounds of every timeout. Zero would fail every request.
    pub const TIMEOUTS: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 20_000,
            per_client: 0,
            // A presigned URL with a session token has some 2 KB; S3 itself takes 8 KB.
            header_bytes: 8 << 10,
            header_timeout: Duration::from_secs(10),
            // A slow device needs seconds for the handshake's arithmetic alone.
            handshake_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            // S3 itself gives up after some 20 s, and then its answer is relayed.
            receive_timeout: Duration::from_secs(30),
            requests_per_connection: 1000,
            idle_timeout: Duration::from_secs(60),
        }
    }
}
