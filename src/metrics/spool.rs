//! The spool: its files, its fills, and what S3 was asked.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::registrar::Registrar;

/// Upper bounds of [`SpoolMetrics::check_seconds`], in seconds: from a bucket in the same region to
/// `upstream.response_timeout`.
const CHECK_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The counters and gauges of the spool.
#[derive(Debug, Clone)]
pub struct SpoolMetrics {
    /// Bytes that files hold or are promised.
    pub bytes: IntGauge,
    /// Objects that are there or being filled.
    pub objects: IntGauge,
    /// Requests, by how they were served: `hit` (the object was complete), `fill` (it was being
    /// filled, or began to be), `head` (from a head alone), `direct`, `relayed` (S3's own answer to
    /// the check, a refusal most of the time), `failed` (S3 could not be asked).
    pub requests: IntCounterVec,
    /// Requests that went to S3 directly, by reason; see `spool::Bypass`.
    pub bypassed: IntCounterVec,
    /// Fills ended, by how: `complete`, `changed`, `abandoned`, `unstorable`, `disk`, `upstream`.
    pub fills: IntCounterVec,
    /// Fills under way.
    pub filling: IntGauge,
    /// Fills that resumed after S3 had dropped their connection.
    pub resumes: IntCounter,
    /// Object bytes that fills read from S3.
    pub s3_bytes: IntCounter,
    /// Body bytes that clients were sent from the spool.
    pub client_bytes: IntCounter,
    /// Objects evicted to make room for others.
    pub evictions: IntCounter,
    /// Requests that S3 was asked to authorise, by its answer: `unchanged`, `version` (another than
    /// was known, or the first), `refused`, `direct` (nothing that can be stored), `failed`;
    /// `trusted` were not asked.
    pub checks: IntCounterVec,
    /// How long S3 took to authorise, in seconds.
    pub check_seconds: Histogram,
}

impl SpoolMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            bytes: registrar
                .gauge("dripline_spool_bytes", "Bytes that the spool's files hold or reserve."),
            objects: registrar.gauge("dripline_spool_objects", "Objects in the spool."),
            requests: registrar.counters(
                "dripline_spool_requests_total",
                "Requests, by how they were served.",
                &["result"],
            ),
            bypassed: registrar.counters(
                "dripline_spool_bypassed_total",
                "Requests that went to S3 directly.",
                &["reason"],
            ),
            fills: registrar.counters(
                "dripline_spool_fills_total",
                "Fills ended, by how.",
                &["end"],
            ),
            filling: registrar.gauge("dripline_spool_fills_running", "Fills under way."),
            resumes: registrar.counter(
                "dripline_spool_fill_resumes_total",
                "Fills that went on where S3 had dropped them.",
            ),
            s3_bytes: registrar
                .counter("dripline_spool_s3_bytes_total", "Object bytes that fills read from S3."),
            client_bytes: registrar.counter(
                "dripline_spool_client_bytes_total",
                "Body bytes that clients were sent from the spool.",
            ),
            evictions: registrar
                .counter("dripline_spool_evictions_total", "Objects that gave way to others."),
            checks: registrar.counters(
                "dripline_spool_checks_total",
                "Requests that S3 was asked to authorise, by its answer.",
                &["result"],
            ),
            check_seconds: registrar.histogram(
                "dripline_spool_check_seconds",
                "How long S3 took to authorise a request.",
                &CHECK_SECONDS,
            ),
        }
    }
}
