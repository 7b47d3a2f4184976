//! How far apart records came, counted. It must not know who counts, nor what the figures are for.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Gaps between two body records of one drip, of all drips together, counted as they come: their
/// memory does not grow. Microseconds, up to a minute.
pub struct Histograms {
    wait: Duration,
    /// The gaps.
    pub gaps: Histogram<u64>,
    /// |gap - wait|.
    pub deviations: Histogram<u64>,
}

/// A longer gap counts as one minute.
const LONGEST: u64 = 60_000_000;

impl Histograms {
    /// Nothing counted yet. The records are `wait` apart when all is well.
    pub fn new(wait: Duration) -> Self {
        // Four digits: 0.05 ms at 500 ms.
        let new = || Histogram::new_with_bounds(1, LONGEST, 4).expect("constant and valid bounds");
        Self { wait, gaps: new(), deviations: new() }
    }

    /// Counts one gap.
    pub fn note(&mut self, gap: Duration) {
        let count = |histogram: &mut Histogram<u64>, time: Duration| {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST));
        };
        count(&mut self.gaps, gap);
        count(&mut self.deviations, gap.abs_diff(self.wait));
    }

    /// The 99th percentile of |gap - wait| in milliseconds.
    pub fn deviation_p99(&self) -> f64 {
        milliseconds_at(&self.deviations, 0.99)
    }
}

/// A quantile of microseconds, in milliseconds.
pub fn milliseconds_at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}
