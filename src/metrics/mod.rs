//! Every metric, with its name, unit and meaning, in Prometheus' text format and base units.
//!
//! One file a domain: its struct says what each metric counts, and its `register` gives the metric its
//! name, help text and labels. To add a metric, add a field and a line in `register` of that file; a new
//! domain also needs a field in [`Metrics`] and a line in [`Metrics::new`]. Whoever counts is handed the
//! domain's struct alone.
//!
//! Invariants: every name begins with `dripline_`. A server has one registry of its own, so that two
//! servers in one process count apart.
//!
//! This room must not know who counts, or when.

mod classes;
mod connections;
mod drips;
mod limits;
mod registrar;
mod responses;
mod spool;
mod tunnels;
mod uploads;

pub use classes::ShapeMetrics;
pub use connections::{ConnectionMetrics, OpenConnection};
pub use drips::DripMetrics;
pub use limits::LimitMetrics;
pub use responses::ResponseMetrics;
pub use spool::SpoolMetrics;
pub use tunnels::TunnelMetrics;
pub use uploads::UploadMetrics;

use prometheus::{Encoder, Registry, TextEncoder};

use registrar::Registrar;

/// The metrics of one server. A clone counts into the same metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Client connections.
    pub connections: ConnectionMetrics,
    /// Response bodies on their way to clients.
    pub drips: DripMetrics,
    /// Responses, and S3's failures to give one.
    pub responses: ResponseMetrics,
    /// Uploads.
    pub uploads: UploadMetrics,
    /// What clients were refused or cut off for.
    pub limits: LimitMetrics,
    /// The spool.
    pub spool: SpoolMetrics,
    /// The class tree.
    pub shape: ShapeMetrics,
    /// The forward proxy.
    pub tunnels: TunnelMetrics,
}

impl Metrics {
    /// A registry with every metric at zero.
    ///
    /// # Panics
    ///
    /// If two metrics have one name, or a name is not valid; any test that calls this shows it.
    #[must_use]
    pub fn new() -> Self {
        let registrar = Registrar::default();
        Self {
            connections: ConnectionMetrics::register(&registrar),
            drips: DripMetrics::register(&registrar),
            responses: ResponseMetrics::register(&registrar),
            uploads: UploadMetrics::register(&registrar),
            limits: LimitMetrics::register(&registrar),
            spool: SpoolMetrics::register(&registrar),
            shape: ShapeMetrics::register(&registrar),
            tunnels: TunnelMetrics::register(&registrar),
            registry: registrar.into_registry(),
        }
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and the names were checked when they were registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_touched_metric_under_the_product_name() {
        let metrics = Metrics::new();
        metrics.drips.ended.with_label_values(&["done"]).inc();
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("dripline_drips_ended_total{end=\"done\"} 1"));
        assert!(text.contains("dripline_connections 0"));
        let names = text.lines().filter(|line| !line.starts_with('#'));
        assert!(names.into_iter().all(|line| line.starts_with("dripline_")));
    }
}
