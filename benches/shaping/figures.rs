//! From what was seen to figures, rows, JSON and a verdict. Pure: it neither measures nor waits.
//! Rates are bits per second.

use std::time::Duration;

use serde_json::{Value, json};

use super::echo::RoundTrips;
use super::line::Tree;
use crate::support::report::Row;

/// Who shaped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Subject {
    /// Nobody: the modem's buffer decides.
    None,
    /// The kernel's HTB, in the router.
    Htb,
    /// dripline, in the house.
    Dripline,
}

impl Subject {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Htb => "HTB",
            Self::Dripline => "dripline",
        }
    }
}

/// One subject's figures.
#[derive(Default)]
pub struct Figures {
    /// The line with nothing on it.
    pub idle: RoundTrips,
    /// A connection of the regular class meanwhile.
    pub idle_clicks: RoundTrips,
    /// Bulk alone: payload that arrived.
    pub alone: f64,
    /// Bulk alone, on the wire.
    pub alone_wire: f64,
    /// The line meanwhile.
    pub alone_trips: RoundTrips,
    /// A connection of the regular class meanwhile.
    pub alone_clicks: RoundTrips,
    /// Bulk beside regular traffic: payload that arrived.
    pub both_bulk: f64,
    /// The same on the wire.
    pub both_bulk_wire: f64,
    /// Regular traffic beside bulk: payload that arrived.
    pub both_regular: f64,
    /// The line meanwhile.
    pub both_trips: RoundTrips,
    /// A connection of the regular class meanwhile.
    pub both_clicks: RoundTrips,
    /// From the start of regular traffic to bulk's yielding, each time. None: it did not.
    pub yields: Vec<Option<Duration>>,
    /// From the end of regular traffic until bulk had borrowed back, each time. None: it had not.
    pub borrows: Vec<Option<Duration>>,
    /// Two machines, one with 1 and one with 10 connections: payload of each that arrived.
    pub machines: Option<[f64; 2]>,
    /// From the command that cut the bulk class until it was cut, each time.
    pub cuts: Vec<Option<Duration>>,
    /// Cores that dripline took while bulk was alone.
    pub cores: Option<f64>,
    /// Bytes of dripline's memory for an idle tunnel.
    pub tunnel: Option<f64>,
    /// 99 % of all packets were handed on by the delay line with less than this delay of its own.
    pub late: Duration,
    /// The machine's TCP memory was under pressure: receivers had small windows, no figure counts.
    pub pressed: bool,
}

/// What is promised of dripline beside HTB.
pub struct Bounds {
    /// Bulk alone uses at least this share of the parent.
    pub used: f64,
    /// Bulk beside regular traffic gets at least this share of its limit-at.
    pub guaranteed: f64,
    /// Bulk beside regular traffic, above its limit-at: a share of the parent.
    pub above_limit_at: f64,
    /// Yielding and borrowing back against HTB's times: a factor, and something on top.
    pub time: (f64, Duration),
    /// Median round trip under load against an idle line's: a factor, and something on top.
    pub trip: (f64, Duration),
    /// The machine with 1 connection against the one with 10, between this and its inverse.
    pub fair: f64,
    /// A class is cut within this time.
    pub cut: Duration,
}

/// The promise.
pub const PROMISED: Bounds = Bounds {
    used: 0.9,
    guaranteed: 0.7,
    above_limit_at: 0.02,
    time: (1.25, Duration::ZERO),
    trip: (1.25, Duration::ZERO),
    fair: 0.95,
    cut: Duration::from_millis(500),
};

/// What holds for a debug build on a busy machine as well, and still tells a tree from none.
pub const GENEROUS: Bounds = Bounds {
    used: 0.5,
    guaranteed: 0.4,
    above_limit_at: 0.10,
    time: (2.0, Duration::from_millis(400)),
    trip: (2.0, Duration::from_millis(10)),
    fair: 0.6,
    cut: Duration::from_millis(1500),
};

impl Figures {
    /// The rows of a table; what can be compared has a value.
    pub fn rows(&self) -> Vec<Row> {
        let rate = |bits: f64| (format!("{:.2} Mbit/s", bits / 1e6), Some(bits));
        let trips = |trips: &RoundTrips| {
            let (p50, p95) = (milliseconds(trips.p50), milliseconds(trips.p95));
            (format!("{p50:.1} / {p95:.1} ms"), Some(p50))
        };
        let times = |times: &[Option<Duration>]| {
            let median = median(times);
            let text = match median {
                Some(median) => {
                    let most = times.iter().flatten().max().copied().unwrap_or_default();
                    format!("{:.0} / {:.0} ms", milliseconds(median), milliseconds(most))
                }
                None if times.is_empty() => "-".to_owned(),
                None => "never".to_owned(),
            };
            (text, median.map(milliseconds))
        };
        let row = |name, (text, value): (String, Option<f64>)| (name, text, value);
        vec![
            row("idle: echo p50 / p95", trips(&self.idle)),
            row("  in a connection", trips(&self.idle_clicks)),
            row("bulk alone: arrived", rate(self.alone)),
            row("  echo p50 / p95", trips(&self.alone_trips)),
            row("  in a connection", trips(&self.alone_clicks)),
            row("both: bulk arrived", rate(self.both_bulk)),
            row("  bulk on the wire", rate(self.both_bulk_wire)),
            row("  regular arrived", rate(self.both_regular)),
            row("  echo p50 / p95", trips(&self.both_trips)),
            row("  in a connection", trips(&self.both_clicks)),
            row("yields in, median / worst", times(&self.yields)),
            row("borrows back in", times(&self.borrows)),
            match self.machines {
                Some([one, ten]) => (
                    "1 connection : 10",
                    format!("{:.2} : {:.2} Mbit/s", one / 1e6, ten / 1e6),
                    Some(one / ten),
                ),
                None => ("1 connection : 10", "-".to_owned(), None),
            },
            row("cut to 1 Mbit/s in", times(&self.cuts)),
            match self.cores {
                Some(cores) => {
                    ("CPU, bulk alone", format!("{:.1} % of a core", cores * 100.0), None)
                }
                None => ("CPU, bulk alone", "-".to_owned(), None),
            },
            match self.tunnel {
                Some(bytes) => {
                    ("memory of an idle tunnel", format!("{:.2} KB", bytes / 1000.0), None)
                }
                None => ("memory of an idle tunnel", "-".to_owned(), None),
            },
            ("delay line late, p99", format!("{:.2} ms", milliseconds(self.late)), None),
            ("TCP memory", if self.pressed { "UNDER PRESSURE" } else { "free" }.to_owned(), None),
        ]
    }

    /// Every figure: rates in bits per second, times in milliseconds.
    pub fn json(&self) -> Value {
        let trips = |trips: &RoundTrips| {
            json!({
                "count": trips.count,
                "lost": trips.lost,
                "p50_ms": milliseconds(trips.p50),
                "p95_ms": milliseconds(trips.p95),
            })
        };
        let times = |times: &[Option<Duration>]| {
            times.iter().map(|time| time.map(milliseconds)).collect::<Vec<_>>()
        };
        json!({
            "idle": { "echo": trips(&self.idle), "connection": trips(&self.idle_clicks) },
            "alone": {
                "bulk_arrived": self.alone,
                "bulk_on_the_wire": self.alone_wire,
                "echo": trips(&self.alone_trips),
                "connection": trips(&self.alone_clicks),
                "dripline_cores": self.cores,
            },
            "both": {
                "bulk_arrived": self.both_bulk,
                "bulk_on_the_wire": self.both_bulk_wire,
                "regular_arrived": self.both_regular,
                "echo": trips(&self.both_trips),
                "connection": trips(&self.both_clicks),
            },
            "yields_ms": times(&self.yields),
            "borrows_back_ms": times(&self.borrows),
            "machines_with_1_and_10_connections": self.machines,
            "cuts_ms": times(&self.cuts),
            "idle_tunnel_bytes": self.tunnel,
            "delay_line_late_p99_ms": milliseconds(self.late),
            "tcp_memory_pressed": self.pressed,
        })
    }

    /// What is promised and not kept. Without HTB's figures its times are no bound.
    pub fn broken(&self, tree: Tree, htb: Option<&Self>, bounds: &Bounds) -> Vec<String> {
        let mut broken = Vec::new();
        // A line on which nothing moves would keep every bound below.
        let mut at_least = |what: &str, value: f64, bound: f64| {
            if value.is_nan() || value < bound {
                broken.push(format!("{what}: {value:.3}, below {bound:.3}"));
            }
        };
        let (parent, limit_at) = (tree.parent as f64 / 1e6, tree.bulk as f64 / 1e6);
        at_least("bulk alone, Mbit/s on the wire", self.alone_wire / 1e6, bounds.used * parent);
        at_least(
            "bulk beside regular traffic, Mbit/s on the wire",
            self.both_bulk_wire / 1e6,
            bounds.guaranteed * limit_at,
        );
        for (what, trips) in
            [("idle", &self.idle), ("alone", &self.alone_trips), ("both", &self.both_trips)]
        {
            at_least(&format!("echoes, {what}"), trips.count as f64, 1.0);
        }
        let mut at_most = |what: &str, value: f64, bound: f64| {
            if value.is_nan() || value > bound {
                broken.push(format!("{what}: {value:.3}, over {bound:.3}"));
            }
        };
        let low = tree.bulk as f64 + bounds.above_limit_at * tree.parent as f64;
        at_most(
            "bulk beside regular traffic, Mbit/s on the wire",
            self.both_bulk_wire / 1e6,
            low / 1e6,
        );
        let idle = bound(self.idle.p50, bounds.trip);
        at_most("echo beside bulk, ms", milliseconds(self.alone_trips.p50), idle);
        at_most("echo beside both, ms", milliseconds(self.both_trips.p50), idle);
        let time = |times: &[Option<Duration>]| median(times).map_or(f64::NAN, milliseconds);
        let reference = |theirs: fn(&Self) -> &[Option<Duration>]| {
            htb.map_or(f64::INFINITY, |htb| match median(theirs(htb)) {
                Some(median) => bound(median, bounds.time),
                None => f64::INFINITY,
            })
        };
        at_most("yields, ms", time(&self.yields), reference(|htb| &htb.yields));
        at_most("borrows back, ms", time(&self.borrows), reference(|htb| &htb.borrows));
        let worst = self.cuts.iter().map(|cut| cut.map_or(f64::INFINITY, milliseconds));
        at_most("cut, ms", worst.reduce(f64::max).unwrap_or(f64::NAN), milliseconds(bounds.cut));
        if let Some([one, ten]) = self.machines {
            let uneven = (one / ten).max(ten / one);
            at_most("one machine's share against the other's", uneven, 1.0 / bounds.fair);
        }
        broken
    }
}

fn bound(reference: Duration, (factor, more): (f64, Duration)) -> f64 {
    factor * milliseconds(reference) + milliseconds(more)
}

/// The median; none if there is none, or if it is a time that did not end.
fn median(times: &[Option<Duration>]) -> Option<Duration> {
    let mut sorted: Vec<Duration> =
        times.iter().map(|time| time.unwrap_or(Duration::MAX)).collect();
    sorted.sort_unstable();
    sorted.get(times.len() / 2).copied().filter(|median| *median < Duration::MAX)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
