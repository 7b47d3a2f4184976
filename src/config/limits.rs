//! `limits`: what clients may take.

use super::section::Section;
use crate::limits::Settings;

/// Reads `limits`.
pub(super) fn limits(mut section: Section<'_>) -> Settings {
    let default = Settings::default();
    let times = Settings::TIMEOUTS;
    let limits = Settings {
        connections: section.number("connections", default.connections, Settings::CONNECTIONS),
        per_client: section.number("per_client", default.per_client, Settings::PER_CLIENT),
        header_bytes: section.bytes("header_bytes", default.header_bytes, Settings::HEADER_BYTES),
        header_timeout: section.time("header_timeout", default.header_timeout, &times),
        handshake_timeout: section.time("handshake_timeout", default.handshake_timeout, &times),
        send_timeout: section.time("send_timeout", default.send_timeout, &times),
        receive_timeout: section.time("receive_timeout", default.receive_timeout, &times),
        requests_per_connection: section.number(
            "requests_per_connection",
            default.requests_per_connection,
            Settings::REQUESTS_PER_CONNECTION,
        ),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, &times),
    };
    section.finish(&[]);
    limits
}
