//! Client connections.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;

/// The counters and gauges of client connections.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// Client connections open now.
    pub open: IntGauge,
    /// Client connections accepted.
    pub accepted: IntCounter,
    /// TLS handshakes that failed, by reason: `error` or `timeout`.
    pub handshake_failures: IntCounterVec,
    /// PROXY protocol headers, by what came of them: `client` (it names one), `own` (the connection is
    /// the load balancer's own), `untrusted` (the connection is from elsewhere), `invalid`, `timeout`.
    pub proxy_headers: IntCounterVec,
}

impl ConnectionMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            open: registrar.gauge("dripline_connections", "Client connections open now."),
            accepted: registrar
                .counter("dripline_connections_accepted_total", "Client connections accepted."),
            handshake_failures: registrar.counters(
                "dripline_handshake_failures_total",
                "TLS handshakes that failed.",
                &["reason"],
            ),
            proxy_headers: registrar.counters(
                "dripline_proxy_protocol_total",
                "Connections on listeners with a PROXY protocol, by what came of its header.",
                &["result"],
            ),
        }
    }

    /// Counts a client connection as accepted, and as open until the guard is dropped.
    #[must_use]
    pub fn opened(&self) -> OpenConnection {
        self.accepted.inc();
        self.open.inc();
        OpenConnection(self.open.clone())
    }
}

/// A client connection that is open.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
