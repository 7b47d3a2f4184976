//! Tunnels of the forward proxy.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;

/// The counters and gauges of the forward proxy.
#[derive(Debug, Clone)]
pub struct TunnelMetrics {
    /// Tunnels that stand now.
    pub open: IntGauge,
    /// Tunnels ended, by how: `done`, `client` or `upstream` (that one's connection failed), `idle`,
    /// `drain`.
    pub ended: IntCounterVec,
    /// Connections that became no tunnel, by reason: see docs/forward-proxy.md.
    pub refused: IntCounterVec,
    /// Bytes from clients to S3.
    pub up: IntCounter,
    /// Bytes from S3 to clients.
    pub down: IntCounter,
}

impl TunnelMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        let bytes = registrar.counters(
            "dripline_tunnel_bytes_total",
            "Bytes moved in tunnels of the forward proxy.",
            &["direction"],
        );
        Self {
            open: registrar
                .gauge("dripline_tunnels", "Tunnels of the forward proxy that stand now."),
            ended: registrar.counters(
                "dripline_tunnels_ended_total",
                "Tunnels ended, by how.",
                &["end"],
            ),
            refused: registrar.counters(
                "dripline_tunnels_refused_total",
                "Connections to the forward proxy that became no tunnel.",
                &["reason"],
            ),
            up: bytes.with_label_values(&["up"]),
            down: bytes.with_label_values(&["down"]),
        }
    }
}
