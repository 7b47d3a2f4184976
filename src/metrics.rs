//! Every metric, with its name, unit and meaning. Prometheus text, base units, one registry per
//! server, so that two of them in one process do not count together.

use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

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
    /// The uploads'.
    pub uploads: UploadMetrics,
    /// PROXY protocol headers, by what came of them: `client` (it names one), `own` (the connection is
    /// the balancer's own), `untrusted` (the connection is from elsewhere), `invalid`, `timeout`.
    pub proxy_headers: IntCounterVec,
    /// The limits'.
    pub limits: LimitMetrics,
    /// The spool's.
    pub spool: SpoolMetrics,
    /// The class tree's.
    pub shape: ShapeMetrics,
    /// The forward proxy's.
    pub tunnels: TunnelMetrics,
}

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

/// The counters and gauges of the class tree, each by class. Parents count what their children do.
#[derive(Debug, Clone)]
pub struct ShapeMetrics {
    /// Bytes that flows had leave for and used.
    pub bytes: IntCounterVec,
    /// Bytes per second over the last second or so.
    pub rate: IntGaugeVec,
    /// The guarantee in force, in bytes per second.
    pub limit_at: IntGaugeVec,
    /// The ceiling in force, in bytes per second; 0 is none.
    pub max_limit: IntGaugeVec,
    /// Flows registered.
    pub flows: IntGaugeVec,
    /// Of them, flows that wait for leave.
    pub queued: IntGaugeVec,
    /// Times that flows had to wait.
    pub waits: IntCounterVec,
    /// How long flows waited for leave, in seconds, all waits together.
    pub queue_seconds: CounterVec,
    /// What of that came after the first second of a wait.
    pub starved_seconds: CounterVec,
    /// Grants that kept a flow alive which its class's turn had not reached for 10 s.
    pub trickles: IntCounterVec,
}

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

/// What clients ran into.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    /// Connections and requests, by the limit that ended them: the keys of `limits`.
    pub limited: IntCounterVec,
    /// Requests refused because they can be read in several ways or in none, by
    /// [`reason`](crate::framing::Defect::label).
    pub malformed: IntCounterVec,
}

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
    /// Fills that went on from where S3 had dropped them.
    pub resumes: IntCounter,
    /// Object bytes that fills read from S3.
    pub s3_bytes: IntCounter,
    /// Body bytes that clients were sent from the spool.
    pub client_bytes: IntCounter,
    /// Objects that gave way to others.
    pub evictions: IntCounter,
    /// Requests that S3 was asked to authorise, by its answer: `unchanged`, `version` (another than
    /// was known, or the first), `refused`, `direct` (nothing that can be stored), `failed`;
    /// `trusted` were not asked.
    pub checks: IntCounterVec,
    /// How long S3 took to authorise, in seconds.
    pub check_seconds: Histogram,
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
        let levels = |name: &str, help: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &["class"]).expect("a valid name");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            family
        };
        let seconds = |name: &str, help: &str| {
            let family = CounterVec::new(Opts::new(name, help), &["class"]).expect("a valid name");
            registry.register(Box::new(family.clone())).expect("a name of its own");
            family
        };
        let shape = ShapeMetrics {
            bytes: family(
                "dripline_class_bytes_total",
                "Bytes that a class's flows moved.",
                "class",
            ),
            rate: levels(
                "dripline_class_rate_bytes_per_second",
                "Bytes per second over the last second.",
            ),
            limit_at: levels(
                "dripline_class_limit_at_bytes_per_second",
                "What a class is guaranteed now.",
            ),
            max_limit: levels(
                "dripline_class_max_limit_bytes_per_second",
                "What a class never exceeds now; 0 is no limit.",
            ),
            flows: levels("dripline_class_flows", "Flows of a class."),
            queued: levels("dripline_class_flows_queued", "Flows of a class that wait for leave."),
            waits: family(
                "dripline_class_waits_total",
                "Times that a class's flows had to wait for leave.",
                "class",
            ),
            queue_seconds: seconds(
                "dripline_class_queue_seconds_total",
                "How long a class's flows waited for leave, all waits together.",
            ),
            starved_seconds: seconds(
                "dripline_class_starved_seconds_total",
                "What of the waits of a class's flows came after their first second.",
            ),
            trickles: family(
                "dripline_class_trickles_total",
                "Grants that kept a flow alive whose turn had not come for 10 s.",
                "class",
            ),
        };
        let tunnel_bytes = family(
            "dripline_tunnel_bytes_total",
            "Bytes moved in tunnels of the forward proxy.",
            "direction",
        );
        let tunnels = TunnelMetrics {
            open: gauge("dripline_tunnels", "Tunnels of the forward proxy that stand now."),
            ended: family("dripline_tunnels_ended_total", "Tunnels ended, by how.", "end"),
            refused: family(
                "dripline_tunnels_refused_total",
                "Connections to the forward proxy that became no tunnel.",
                "reason",
            ),
            up: tunnel_bytes.with_label_values(&["up"]),
            down: tunnel_bytes.with_label_values(&["down"]),
        };
        let check_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "dripline_spool_check_seconds",
                "How long S3 took to authorise a request.",
            )
            .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
        )
        .expect("a valid name");
        registry.register(Box::new(check_seconds.clone())).expect("a name of its own");
        let spool = SpoolMetrics {
            bytes: gauge("dripline_spool_bytes", "Bytes that the spool's files hold or reserve."),
            objects: gauge("dripline_spool_objects", "Objects in the spool."),
            requests: family(
                "dripline_spool_requests_total",
                "Requests, by how they were served.",
                "result",
            ),
            bypassed: family(
                "dripline_spool_bypassed_total",
                "Requests that went to S3 directly.",
                "reason",
            ),
            fills: family("dripline_spool_fills_total", "Fills ended, by how.", "end"),
            filling: gauge("dripline_spool_fills_running", "Fills under way."),
            resumes: counter(
                "dripline_spool_fill_resumes_total",
                "Fills that went on where S3 had dropped them.",
            ),
            s3_bytes: counter(
                "dripline_spool_s3_bytes_total",
                "Object bytes that fills read from S3.",
            ),
            client_bytes: counter(
                "dripline_spool_client_bytes_total",
                "Body bytes that clients were sent from the spool.",
            ),
            evictions: counter(
                "dripline_spool_evictions_total",
                "Objects that gave way to others.",
            ),
            checks: family(
                "dripline_spool_checks_total",
                "Requests that S3 was asked to authorise, by its answer.",
                "result",
            ),
            check_seconds,
        };
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
            uploads: UploadMetrics {
                running: gauge("dripline_uploads", "Uploads under way."),
                ended: family("dripline_uploads_ended_total", "Uploads ended, by how.", "end"),
                bytes: counter(
                    "dripline_upload_bytes_total",
                    "Body bytes of uploads that were sent on to S3.",
                ),
            },
            proxy_headers: family(
                "dripline_proxy_protocol_total",
                "Connections on listeners with a PROXY protocol, by what came of its header.",
                "result",
            ),
            limits: LimitMetrics {
                limited: family(
                    "dripline_limited_total",
                    "Connections and requests ended by a limit.",
                    "limit",
                ),
                malformed: family(
                    "dripline_malformed_requests_total",
                    "Requests refused for their framing.",
                    "reason",
                ),
            },
            spool,
            shape,
            tunnels,
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
