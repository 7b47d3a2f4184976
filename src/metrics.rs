//! Every metric, with its name, unit and meaning. Prometheus text, base units, one registry per
//! server, so that two of them in one process do not count together.

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// The counters and gauges of one server.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Client connections accepted.
    pub connections_accepted: IntCounter,
    /// TLS handshakes that failed, by reason: `error` or `timeout`.
    pub handshake_failures: IntCounterVec,
    /// Responses to clients that are being written now.
    pub drips: IntGauge,
    /// Responses ended, by how: `done`, `client`, `upstream`, `drain`.
    pub drips_ended: IntCounterVec,
    /// Responses begun, by status code.
    pub responses: IntCounterVec,
    /// Clients that went within a second after a record, by profile and by whether that was the
    /// `head`, the `first` or a `later` body record: a device that cannot take the record size goes
    /// after the first.
    pub clients_gone: IntCounterVec,
    /// Response body bytes written to clients.
    pub body_bytes: IntCounter,
    /// Body records written to clients.
    pub body_records: IntCounter,
    /// Requests that S3 could not answer, by reason: `connect`, `timeout`, `redirect`, `response`.
    pub upstream_failures: IntCounterVec,
}

impl Metrics {
    /// A registry with every metric at zero.
    ///
    /// # Panics
    ///
    /// If two metrics below have one name, which the tests would show.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid name");
            registry.register(Box::new(counter.clone())).expect("a name of its own");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a valid name");
            registry.register(Box::new(gauge.clone())).expect("a name of its own");
            gauge
        };
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            family
        };
        let family = |name: &str, help: &str, label: &str| labelled(name, help, &[label]);
        Self {
            connections: gauge("dripline_connections", "Client connections open now."),
            connections_accepted: counter(
                "dripline_connections_accepted_total",
                "Client connections accepted.",
            ),
            handshake_failures: family(
                "dripline_handshake_failures_total",
                "TLS handshakes that failed.",
                "reason",
            ),
            drips: gauge("dripline_drips", "Responses being written to clients now."),
            drips_ended: family("dripline_drips_ended_total", "Responses ended, by how.", "end"),
            responses: family("dripline_responses_total", "Responses begun.", "status"),
            clients_gone: labelled(
                "dripline_clients_gone_after_record_total",
                "Clients that went right after a record.",
                &["profile", "record"],
            ),
            body_bytes: counter(
                "dripline_body_bytes_total",
                "Response body bytes written to clients.",
            ),
            body_records: counter(
                "dripline_body_records_total",
                "Response body records written to clients.",
            ),
            upstream_failures: family(
                "dripline_upstream_failures_total",
                "Requests that S3 could not answer.",
                "reason",
            ),
            registry,
        }
    }

    /// Counts a client connection until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> OpenConnection {
        self.connections_accepted.inc();
        self.connections.inc();
        OpenConnection(self.connections.clone())
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

/// A client connection that is open.
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_touched_metric_under_the_product_name() {
        let metrics = Metrics::new();
        metrics.drips_ended.with_label_values(&["done"]).inc();
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("dripline_drips_ended_total{end=\"done\"} 1"));
        assert!(text.contains("dripline_connections 0"));
        let names = text.lines().filter(|line| !line.starts_with('#'));
        assert!(names.into_iter().all(|line| line.starts_with("dripline_")));
    }
}
