//! What one client, and all clients together, may take: connections, and the size and time of what they
//! send. [`connections`] counts connections; [`crate::http1`] applies the other bounds.
//!
//! Invariants: no limit touches a running drip but [`Settings::send_timeout`], which the kernel keeps. A
//! timer exists only while a head or a body is awaited. An open connection costs a few words.
//!
//! This room must not know of S3, nor what a request asks for.

pub mod connections;

use std::time::Duration;

/// The bounds. Each default is for a small machine with many devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Client connections at a time, 1 to 1,048,576. Each takes a file descriptor and some 35 KB.
    pub connections: usize,
    /// Connections at a time of one client: an IPv4 address, or an IPv6 /64; 0 for no such limit.
    pub per_client: usize,
    /// Bytes of a request's head, 1 KiB to 256 KiB.
    pub header_bytes: usize,
    /// For a whole request head, and for the first byte on a new connection; 1 ms to 24 h.
    pub header_timeout: Duration,
    /// For the TLS handshake; 1 ms to 24 h.
    pub handshake_timeout: Duration,
    /// How long a client may leave untaken what was sent to it; 1 ms to 24 h.
    pub send_timeout: Duration,
    /// How long a client may send nothing of a body that it owes; 1 ms to 24 h.
    pub receive_timeout: Duration,
    /// Requests on one connection, 1 to 2^32 - 1.
    pub requests_per_connection: u32,
    /// How long a connection may be without a request after the first; 1 ms to 24 h.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 20_000,
            per_client: 0,
            // A presigned URL with a session token has some 2 KB; S3 itself takes 8 KB.
            header_bytes: 8 << 10,
            header_timeout: Duration::from_secs(10),
            // A device on a slow modem needs seconds for the arithmetic alone.
            handshake_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            // S3 itself gives up after some 20 s, and then its own words are relayed.
            receive_timeout: Duration::from_secs(30),
            requests_per_connection: 1000,
            idle_timeout: Duration::from_secs(60),
        }
    }
}
