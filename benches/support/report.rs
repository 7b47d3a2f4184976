//! From observations to figures, a table and JSON. Pure: it neither measures nor waits.
//! KB are 1,000 bytes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{FleetSeen, Seen};
use super::histograms::{Histograms, milliseconds_at};
use super::measure::Sockets;

/// A proxy's memory in bytes through a run. The samples were taken within the observation.
#[derive(Default)]
pub struct Memory {
    /// The process after one warm-up request.
    pub idle: u64,
    /// Samples of the process.
    pub process: Vec<u64>,
    /// Samples of its sockets, taken at the same times.
    pub sockets: Vec<Sockets>,
    /// The process after every device has gone.
    pub after: u64,
    /// Its sockets at that time.
    pub sockets_after: Sockets,
}

/// What a drip should be like.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// Body bytes of a record.
    pub chunk: usize,
    /// Time between two records.
    pub wait: Duration,
}

/// What the histograms say, in milliseconds, and how far drips were from their schedule.
#[derive(Default)]
pub struct Gaps {
    /// How many gaps there are.
    pub count: u64,
    /// The 1st percentile.
    pub p1: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// Median of |gap - wait|.
    pub deviation_p50: f64,
    /// 99th percentile of |gap - wait|.
    pub deviation_p99: f64,
    /// Largest |gap - wait|.
    pub deviation_max: f64,
    /// A drip's time for its bytes against the schedule's, in percent, the mean of all drips:
    /// positive is slow.
    pub drift_mean: f64,
    /// The same of the drip that is farthest off, without its sign.
    pub drift_worst: f64,
    /// The 1st percentile of all drips' rates, 1 being the schedule's.
    pub rate_p1: f64,
}

/// What a run says of one proxy.
pub struct Figures {
    /// Drips in all.
    pub drips: usize,
    /// Drips that broke.
    pub failed: usize,
    /// Why, the first few of them.
    pub failures: Vec<String>,
    /// Body records, the ramp's included.
    pub records: u64,
    /// Of those, records of another size than the chunk.
    pub odd_records: u64,
    /// Plaintext bytes of the largest record.
    pub largest: usize,
    /// When they came.
    pub gaps: Gaps,
    seconds: u64,
    cpu: Duration,
    memory: Memory,
    lag_p99: f64,
}

impl Gaps {
    fn of(fleet: &FleetSeen, schedule: Schedule) -> Self {
        let at = milliseconds_at;
        let Histograms { gaps, deviations, .. } = &fleet.gaps;
        let mut rates: Vec<f64> =
            fleet.drips.iter().filter_map(|drip| rate(drip, fleet.until, schedule)).collect();
        rates.sort_by(f64::total_cmp);
        let drifts = || rates.iter().map(|rate| (1.0 / rate - 1.0) * 100.0);
        Self {
            count: gaps.len(),
            p1: at(gaps, 0.01),
            p50: at(gaps, 0.5),
            p99: at(gaps, 0.99),
            deviation_p50: at(deviations, 0.5),
            deviation_p99: at(deviations, 0.99),
            deviation_max: at(deviations, 1.0),
            drift_mean: drifts().sum::<f64>() / rates.len().max(1) as f64,
            drift_worst: drifts().fold(0.0, |worst, drift| drift.abs().max(worst)),
            rate_p1: percentile(&rates, 1.0),
        }
    }
}

/// The bytes that a drip got against the schedule's, between its first record and its last; up to the
/// observation's end, if it has been silent for longer than it should.
fn rate(drip: &Seen, until: Instant, schedule: Schedule) -> Option<f64> {
    let (first, last) = (drip.first?, drip.last?);
    let end = if until.saturating_duration_since(last) > 2 * schedule.wait { until } else { last };
    let due = (end - first).as_secs_f64() / schedule.wait.as_secs_f64() * schedule.chunk as f64;
    (due > 0.0).then(|| drip.bytes as f64 / due)
}

impl Figures {
    /// Sums a run up.
    pub fn new(
        schedule: Schedule,
        seconds: u64,
        cpu: Duration,
        memory: Memory,
        fleet: FleetSeen,
    ) -> Self {
        let mut lags: Vec<f64> = fleet.lags.iter().copied().map(milliseconds).collect();
        lags.sort_by(f64::total_cmp);
        let failures: Vec<&String> =
            fleet.drips.iter().filter_map(|drip| drip.failure.as_ref()).collect();
        Self {
            drips: fleet.drips.len(),
            failed: failures.len(),
            failures: failures.iter().take(5).map(|why| (*why).clone()).collect(),
            records: fleet.drips.iter().map(|drip| drip.records).sum(),
            odd_records: fleet.drips.iter().map(|drip| drip.odd_records).sum(),
            largest: fleet.drips.iter().map(|drip| drip.largest).max().unwrap_or_default(),
            gaps: Gaps::of(&fleet, schedule),
            seconds,
            cpu,
            memory,
            lag_p99: percentile(&lags, 99.0),
        }
    }

    /// What a drip costs in bytes: process and sockets, each at its highest sample.
    pub fn per_drip(&self) -> f64 {
        self.process_per_drip() + self.device_per_drip() + self.upstream_per_drip()
    }

    /// What a drip costs in seconds of CPU time, within the observation.
    pub fn cpu_per_drip(&self) -> f64 {
        self.cpu.as_secs_f64() / self.drips as f64
    }

    fn process_per_drip(&self) -> f64 {
        let highest = self.memory.process.iter().max().copied().unwrap_or_default();
        highest.saturating_sub(self.memory.idle) as f64 / self.drips as f64
    }

    fn device_per_drip(&self) -> f64 {
        self.highest_sockets().device_bytes as f64 / self.drips as f64
    }

    fn upstream_per_drip(&self) -> f64 {
        self.highest_sockets().upstream_bytes as f64 / self.drips as f64
    }

    fn highest_sockets(&self) -> Sockets {
        self.memory
            .sockets
            .iter()
            .max_by_key(|sockets| sockets.bytes())
            .copied()
            .unwrap_or_default()
    }

    fn left(&self) -> i64 {
        self.memory.after.cast_signed() - self.memory.idle.cast_signed()
    }

    /// Every figure, sizes in bytes, times in milliseconds unless the name says otherwise.
    pub fn json(&self) -> Value {
        json!({
            "drips": self.drips,
            "failed": self.failed,
            "records": self.records,
            "odd_records": self.odd_records,
            "largest_record_bytes": self.largest,
            "gaps": self.gaps.count,
            "gap_ms": { "p1": self.gaps.p1, "p50": self.gaps.p50, "p99": self.gaps.p99 },
            "deviation_ms": { "p50": self.gaps.deviation_p50, "p99": self.gaps.deviation_p99, "max": self.gaps.deviation_max },
            "drift_percent": { "mean": self.gaps.drift_mean, "worst": self.gaps.drift_worst },
            "rate_p1": self.gaps.rate_p1,
            "client_lag_p99_ms": self.lag_p99,
            "memory_per_drip_bytes": {
                "process": self.process_per_drip(),
                "device_socket": self.device_per_drip(),
                "upstream_socket": self.upstream_per_drip(),
                "sum": self.per_drip(),
            },
            "process_bytes": { "idle": self.memory.idle, "samples": self.memory.process, "after": self.memory.after },
            "sockets_after": self.memory.sockets_after.count(),
            "cpu_seconds": self.cpu.as_secs_f64(),
            "cpu_seconds_per_drip": self.cpu_per_drip(),
        })
    }

    fn rows(&self) -> Vec<Row> {
        let kilobytes = |bytes: f64| (format!("{:.1} KB", bytes / 1000.0), Some(bytes));
        let ms = |value: f64| format!("{value:.2} ms");
        let row = |name, (text, value): (String, Option<f64>)| (name, text, value);
        let gaps = &self.gaps;
        vec![
            ("drips, failed", format!("{}, {}", self.drips, self.failed), None),
            (
                "body records, of another size",
                format!("{}, {}", self.records, self.odd_records),
                None,
            ),
            ("largest record", format!("{} bytes", self.largest), None),
            (
                "gap p1, p50, p99",
                format!("{:.1} {:.1} {:.1} ms", gaps.p1, gaps.p50, gaps.p99),
                None,
            ),
            ("|gap - wait| p50", ms(gaps.deviation_p50), Some(gaps.deviation_p50)),
            ("|gap - wait| p99", ms(gaps.deviation_p99), Some(gaps.deviation_p99)),
            ("|gap - wait| max", ms(gaps.deviation_max), Some(gaps.deviation_max)),
            (
                "drift mean, worst",
                format!("{:+.3} %, {:.3} %", gaps.drift_mean, gaps.drift_worst),
                None,
            ),
            ("rate p1, schedule = 1", format!("{:.4}", gaps.rate_p1), Some(gaps.rate_p1)),
            row("memory per drip: process", kilobytes(self.process_per_drip())),
            row("  device socket", kilobytes(self.device_per_drip())),
            row("  upstream socket", kilobytes(self.upstream_per_drip())),
            row("  in all", kilobytes(self.per_drip())),
            (
                "process idle, 5 s after",
                format!(
                    "{:.1} MB, {:+.1} MB",
                    self.memory.idle as f64 / 1e6,
                    self.left() as f64 / 1e6
                ),
                None,
            ),
            ("sockets 5 s after", self.memory.sockets_after.count().to_string(), None),
            ("CPU", format!("{:.2} s in {} s", self.cpu.as_secs_f64(), self.seconds), None),
            (
                "  per drip",
                format!("{:.2} ms", self.cpu_per_drip() * 1000.0),
                Some(self.cpu_per_drip()),
            ),
            ("devices' own lag p99", ms(self.lag_p99), None),
        ]
    }
}

/// The figures side by side; behind each column but the first, the first against it.
pub fn table(named: &[(&str, &Figures)]) -> String {
    let columns: Vec<_> = named.iter().map(|(name, figures)| (*name, figures.rows())).collect();
    lay_out(&columns)
}

/// A line of a table: what it is, the value for people, the value to compare if that makes sense.
pub type Row = (&'static str, String, Option<f64>);

/// Columns of the same rows, as text.
pub fn lay_out(columns: &[(&str, Vec<Row>)]) -> String {
    let Some(((ours, rows), others)) = columns.split_first() else {
        return String::new();
    };
    let mut text = format!("{:<30}{ours:>26}", "");
    for (theirs, _) in others {
        text += &format!("{theirs:>26}{:>8}", "ratio");
    }
    text.push('\n');
    for (index, (name, ours, ours_value)) in rows.iter().enumerate() {
        text += &format!("{name:<30}{ours:>26}");
        for (_, rows) in others {
            let (_, theirs, theirs_value) = &rows[index];
            let ratio = ours_value.zip(theirs_value.filter(|value| *value > 0.0));
            let ratio = ratio.map(|(ours, theirs)| format!("{:.2}", ours / theirs));
            text += &format!("{theirs:>26}{:>8}", ratio.unwrap_or_default());
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The value below which `percent` of the sorted values lie; 0 if there are none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or_default()
}

/// In milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
