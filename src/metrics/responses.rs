//! Responses to clients, whatever was asked for, and S3's failures to give one.

use prometheus::IntCounterVec;

use super::registrar::Registrar;

/// The counters of responses.
#[derive(Debug, Clone)]
pub struct ResponseMetrics {
    /// Responses begun, by status code.
    pub begun: IntCounterVec,
    /// Requests that S3 could not answer, by reason: `connect`, `timeout`, `redirect`, `response`.
    pub upstream_failures: IntCounterVec,
}

impl ResponseMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            begun: registrar.counters("dripline_responses_total", "Responses begun.", &["status"]),
            upstream_failures: registrar.counters(
                "dripline_upstream_failures_total",
                "Requests that S3 could not answer.",
                &["reason"],
            ),
        }
    }
}
