//! From observations to figures, a table and JSON. Pure: it neither measures nor waits.
//! KB are 1,000 bytes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{FleetSeen, Seen};
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

/// The gaps between two body records of one drip, of all drips together. Milliseconds.
#[derive(Default)]
pub struct Gaps {
    /// How many gaps there are.
    pub count: usize,
    /// The 1st percentile.
    pub p1: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// 99th percentile of |gap - wait|.
    pub deviation_p99: f64,
    /// Largest |gap - wait|.
    pub deviation_max: f64,
    /// A drip's time for its records against the schedule's, in percent, the mean of all drips:
    /// positive is slow.
    pub drift_mean: f64,
    /// The same of the drip that is farthest off, without its sign.
    pub drift_worst: f64,
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
    /// When they came.
    pub gaps: Gaps,
    seconds: u64,
    cpu: Duration,
    memory: Memory,
    lag_p99: f64,
}

impl Gaps {
    /// The gaps of `drips`, whose schedule has one record per `wait`.
    fn of(drips: &[Seen], wait: Duration) -> Self {
        let wait = milliseconds(wait);
        let gap = |pair: &[Instant]| milliseconds(pair[1] - pair[0]);
        let mut gaps: Vec<f64> =
            drips.iter().flat_map(|drip| drip.arrivals.windows(2).map(gap)).collect();
        gaps.sort_by(f64::total_cmp);
        let mut deviations: Vec<f64> = gaps.iter().map(|gap| (gap - wait).abs()).collect();
        deviations.sort_by(f64::total_cmp);
        let drifts: Vec<f64> =
            drips.iter().filter_map(|drip| drift(&drip.arrivals, wait)).collect();
        Self {
            count: gaps.len(),
            p1: percentile(&gaps, 1.0),
            p50: percentile(&gaps, 50.0),
            p99: percentile(&gaps, 99.0),
            deviation_p99: percentile(&deviations, 99.0),
            deviation_max: percentile(&deviations, 100.0),
            drift_mean: drifts.iter().sum::<f64>() / drifts.len().max(1) as f64,
            drift_worst: drifts.iter().fold(0.0, |worst, drift| drift.abs().max(worst)),
        }
    }
}

/// The time that a drip took for its records against the schedule's, in percent.
fn drift(arrivals: &[Instant], wait: f64) -> Option<f64> {
    let (first, last) = (arrivals.first()?, arrivals.last()?);
    let due = wait * (arrivals.len() - 1) as f64;
    (due > 0.0).then(|| (milliseconds(*last - *first) / due - 1.0) * 100.0)
}

impl Figures {
    /// Sums a run up.
    pub fn new(
        wait: Duration,
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
            gaps: Gaps::of(&fleet.drips, wait),
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
            "gaps": self.gaps.count,
            "gap_ms": { "p1": self.gaps.p1, "p50": self.gaps.p50, "p99": self.gaps.p99 },
            "deviation_ms": { "p99": self.gaps.deviation_p99, "max": self.gaps.deviation_max },
            "drift_percent": { "mean": self.gaps.drift_mean, "worst": self.gaps.drift_worst },
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
        })
    }

    /// The table's lines but for the first: name, value for people, value to compare.
    fn rows(&self) -> Vec<(&'static str, String, Option<f64>)> {
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
            (
                "gap p1, p50, p99",
                format!("{:.1} {:.1} {:.1} ms", gaps.p1, gaps.p50, gaps.p99),
                None,
            ),
            ("|gap - wait| p99", ms(gaps.deviation_p99), None),
            ("|gap - wait| max", ms(gaps.deviation_max), None),
            (
                "drift mean, worst",
                format!("{:+.3} %, {:.3} %", gaps.drift_mean, gaps.drift_worst),
                None,
            ),
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
            (
                "CPU",
                format!("{:.2} s in {} s", self.cpu.as_secs_f64(), self.seconds),
                Some(self.cpu.as_secs_f64()),
            ),
            ("devices' own lag p99", ms(self.lag_p99), None),
        ]
    }
}

/// The figures side by side; with two proxies, the first against the second.
pub fn table(named: &[(&str, &Figures)]) -> String {
    let columns: Vec<_> = named.iter().map(|(_, figures)| figures.rows()).collect();
    let header: String = named.iter().map(|(name, _)| format!("{name:>26}")).collect();
    let ratio = if named.len() == 2 { format!("{:>8}", "ratio") } else { String::new() };
    let mut text = format!("{:<30}{header}{ratio}\n", "");
    let Some(first) = columns.first() else {
        return text;
    };
    for (index, (name, ..)) in first.iter().enumerate() {
        let cells: String = columns.iter().map(|rows| format!("{:>26}", rows[index].1)).collect();
        let ratio = match columns.as_slice() {
            [ours, theirs] => ours[index]
                .2
                .zip(theirs[index].2.filter(|theirs| *theirs > 0.0))
                .map(|(ours, theirs)| format!("{:>8.2}", ours / theirs)),
            _ => None,
        };
        text += &format!("{name:<30}{cells}{}\n", ratio.unwrap_or_default());
    }
    text
}

/// The value below which `percent` of the sorted values lie; 0 if there are none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
