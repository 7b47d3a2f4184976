//! Uploads by PUT.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;

/// The counters and gauges of uploads.
#[derive(Debug, Clone)]
pub struct UploadMetrics {
    /// Uploads under way.
    pub running: IntGauge,
    /// Uploads ended, by how: `done` (S3 answered, whatever it said), `client`, `upstream`, `drain`.
    pub ended: IntCounterVec,
    /// Body bytes that were sent on to S3.
    pub bytes: IntCounter,
}

impl UploadMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            running: registrar.gauge("dripline_uploads", "Uploads under way."),
            ended: registrar.counters(
                "dripline_uploads_ended_total",
                "Uploads ended, by how.",
                &["end"],
            ),
            bytes: registrar.counter(
                "dripline_upload_bytes_total",
                "Body bytes of uploads that were sent on to S3.",
            ),
        }
    }
}
