//! Response bodies on their way to clients.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;

/// The counters and gauges of drips.
#[derive(Debug, Clone)]
pub struct DripMetrics {
    /// Responses that are being written to clients now.
    pub running: IntGauge,
    /// Responses ended, by how: `done`, `client`, `upstream`, `drain`.
    pub ended: IntCounterVec,
    /// Clients that closed within a second after a record, by profile and by whether that was the
    /// `head`, the `first` or a `later` body record: a device that cannot take the record size closes
    /// after the first.
    pub clients_gone: IntCounterVec,
    /// Response body bytes written to clients.
    pub body_bytes: IntCounter,
    /// Body records written to clients.
    pub body_records: IntCounter,
}

impl DripMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            running: registrar.gauge("dripline_drips", "Responses being written to clients now."),
            ended: registrar.counters(
                "dripline_drips_ended_total",
                "Responses ended, by how.",
                &["end"],
            ),
            clients_gone: registrar.counters(
                "dripline_clients_gone_after_record_total",
                "Clients that went right after a record.",
                &["profile", "record"],
            ),
            body_bytes: registrar
                .counter("dripline_body_bytes_total", "Response body bytes written to clients."),
            body_records: registrar.counter(
                "dripline_body_records_total",
                "Response body records written to clients.",
            ),
        }
    }
}
