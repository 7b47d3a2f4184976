//! Makes metrics and registers them, so that each is declared in one line: its name, help text and
//! labels.
//!
//! Invariant: every name begins with `dripline_` and is registered once. Another name, or one that
//! Prometheus does not allow, panics when the registry is built, which every test that makes a
//! [`Metrics`](super::Metrics) shows.
//!
//! It must not know any metric's name.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// A registry to which metrics are added.
#[derive(Default)]
pub(super) struct Registrar(Registry);

impl Registrar {
    /// The registry with all that was added.
    pub(super) fn into_registry(self) -> Registry {
        self.0
    }

    /// A counter.
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// A gauge.
    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// A counter for each combination of the labels' values.
    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge for each combination of the labels' values.
    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A counter of seconds for each combination of the labels' values.
    pub(super) fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.add(CounterVec::new(Opts::new(name, help), labels))
    }

    /// A histogram with these upper bounds.
    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("a valid name");
        let ours = metric.desc().iter().all(|desc| desc.fq_name.starts_with("dripline_"));
        assert!(ours, "a metric's name begins with dripline_");
        self.0.register(Box::new(metric.clone())).expect("a name of its own");
        metric
    }
}
