//! What clients were refused or cut off for.

use prometheus::IntCounterVec;

use super::registrar::Registrar;

/// The counters of limits.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    /// Connections and requests, by the limit that ended them: the keys of `limits`.
    pub limited: IntCounterVec,
    /// Requests refused because they can be read in several ways or in none, by reason: the label of
    /// the defect in the request's head.
    pub malformed: IntCounterVec,
}

impl LimitMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            limited: registrar.counters(
                "dripline_limited_total",
                "Connections and requests ended by a limit.",
                &["limit"],
            ),
            malformed: registrar.counters(
                "dripline_malformed_requests_total",
                "Requests refused for their framing.",
                &["reason"],
            ),
        }
    }
}
