//! `limits`: what clients may take.

use std::time::Duration;

use super::section::Section;
use crate::limits::Settings;
use crate::units::ByteSize;

/// The shortest and the longest timeout of any kind. Zero would fail everything.
pub(super) const TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(24 * 3600));
/// The most connections; Linux gives one process no more file descriptors than that by default.
pub(super) const MAX_CONNECTIONS: usize = 1 << 20;
/// The longest request head: far beyond S3's own limit, far below what Pingora takes.
pub(super) const MAX_HEADER_BYTES: usize = 256 << 10;

/// Reads `limits`.
pub(super) fn limits(mut section: Section<'_>) -> Settings {
    let default = Settings::default();
    let range = || TIMEOUTS.0..=TIMEOUTS.1;
    let bytes = |bytes: usize| ByteSize::new(bytes as u64);
    let head = section.size(
        "header_bytes",
        bytes(default.header_bytes),
        bytes(1 << 10)..=bytes(MAX_HEADER_BYTES),
    );
    let requests = default.requests_per_connection as usize;
    let requests = section.number("requests_per_connection", requests, 1..=u32::MAX as usize);
    let limits = Settings {
        connections: section.number("connections", default.connections, 1..=MAX_CONNECTIONS),
        per_client: section.number("per_client", default.per_client, 0..=MAX_CONNECTIONS),
        header_bytes: usize::try_from(head.bytes()).unwrap_or(MAX_HEADER_BYTES),
        header_timeout: section.time("header_timeout", default.header_timeout, range()),
        handshake_timeout: section.time("handshake_timeout", default.handshake_timeout, range()),
        send_timeout: section.time("send_timeout", default.send_timeout, range()),
        receive_timeout: section.time("receive_timeout", default.receive_timeout, range()),
        requests_per_connection: u32::try_from(requests).unwrap_or(u32::MAX),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, range()),
    };
    section.finish(&[]);
    limits
}
