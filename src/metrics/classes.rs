//! The class tree.

use prometheus::{CounterVec, IntCounterVec, IntGaugeVec};

use super::registrar::Registrar;

/// The label of every metric here: the class's name.
const CLASS: &[&str] = &["class"];

/// The counters and gauges of the class tree, each by class. A parent's include its children's.
#[derive(Debug, Clone)]
pub struct ShapeMetrics {
    /// Bytes that flows had a permit for and used.
    pub bytes: IntCounterVec,
    /// Bytes per second over the last second or so.
    pub rate: IntGaugeVec,
    /// The guarantee in force, in bytes per second.
    pub limit_at: IntGaugeVec,
    /// The ceiling in force, in bytes per second; 0 is none.
    pub max_limit: IntGaugeVec,
    /// Flows registered.
    pub flows: IntGaugeVec,
    /// Of them, flows that wait for a permit.
    pub queued: IntGaugeVec,
    /// Times that flows had to wait.
    pub waits: IntCounterVec,
    /// How long flows waited for a permit, in seconds, all waits together.
    pub queue_seconds: CounterVec,
    /// The part of that which came after the first second of a wait.
    pub starved_seconds: CounterVec,
    /// Permits out of turn, for flows that had waited for 10 s.
    pub trickles: IntCounterVec,
}

impl ShapeMetrics {
    pub(super) fn register(registrar: &Registrar) -> Self {
        Self {
            bytes: registrar.counters(
                "dripline_class_bytes_total",
                "Bytes that a class's flows moved.",
                CLASS,
            ),
            rate: registrar.gauges(
                "dripline_class_rate_bytes_per_second",
                "Bytes per second over the last second.",
                CLASS,
            ),
            limit_at: registrar.gauges(
                "dripline_class_limit_at_bytes_per_second",
                "What a class is guaranteed now.",
                CLASS,
            ),
            max_limit: registrar.gauges(
                "dripline_class_max_limit_bytes_per_second",
                "What a class never exceeds now; 0 is no limit.",
                CLASS,
            ),
            flows: registrar.gauges("dripline_class_flows", "Flows of a class.", CLASS),
            queued: registrar.gauges(
                "dripline_class_flows_queued",
                "Flows of a class that wait for leave.",
                CLASS,
            ),
            waits: registrar.counters(
                "dripline_class_waits_total",
                "Times that a class's flows had to wait for leave.",
                CLASS,
            ),
            queue_seconds: registrar.seconds(
                "dripline_class_queue_seconds_total",
                "How long a class's flows waited for leave, all waits together.",
                CLASS,
            ),
            starved_seconds: registrar.seconds(
                "dripline_class_starved_seconds_total",
                "What of the waits of a class's flows came after their first second.",
                CLASS,
            ),
            trickles: registrar.counters(
                "dripline_class_trickles_total",
                "Grants that kept a flow alive whose turn had not come for 10 s.",
                CLASS,
            ),
        }
    }
}
