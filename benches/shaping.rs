//! `cargo bench --bench shaping`: dripline's class tree beside the kernel's HTB, on a line of 20 Mbit/s.
//!
//! Four network namespaces make a house with a router, a modem that is the bottleneck, and an
//! internet 10 ms away. In the house four bulk flows and one regular flow send as fast as they may.
//! The tree is the one that people write for a queue tree: regular traffic is guaranteed nearly all of
//! the line, bulk a little, and each may have what the other leaves. The router's HTB shapes first, with
//! flows that go straight to the far end; then dripline shapes, with the same flows as tunnels through its
//! forward proxy. `--subjects none,…` shows the line with neither. What is measured: shares, how fast
//! bulk yields and borrows back, how long a small packet takes meanwhile, whether two machines get
//! the same with 1 and 10 connections, and how fast a class is cut in flight.
//!
//! It needs root, for the namespaces, and iproute2. Nothing outlives the run: namespaces have no
//! names and end with it on every path, even with SIGKILL.
//!
//! A broken flow fails the run; figures fail it only with `--assert` or, within generous bounds, in the
//! short form. The full form takes three minutes; `cargo test --bench shaping -- --short` is a debug build's.

mod support;

#[path = "shaping/delay.rs"]
mod delay;
#[path = "shaping/dripline.rs"]
mod dripline;
#[path = "shaping/figures.rs"]
mod figures;
#[path = "shaping/flows.rs"]
mod flows;
#[path = "shaping/line.rs"]
mod line;
#[path = "shaping/passed.rs"]
mod passed;
#[path = "shaping/place.rs"]
mod place;

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use openssl::ssl::SslConnector;
use serde_json::json;

use figures::{Figures, GENEROUS, PROMISED, Subject};
use flows::{Arrived, Echo, Flow, Route};
use line::{BULK, Line, MACHINES, REGULAR, Tree};
use support::lab::Lab;
use support::process::Proxy;
use support::{measure, program, report};

/// Connections of a bulk transfer; aws CLI has up to ten, a slow line rarely fills more than these.
const BULK_FLOWS: usize = 4;
/// What a class is cut to in flight, bits per second.
const CUT: u64 = 1_000_000;
/// A rate counts as reached within this share of the parent: in 50 ms it is four packets.
const MARGIN: f64 = 0.05;
/// Bulk has borrowed back when it has this share of what it had alone.
const BACK: f64 = 0.9;
/// TCP memory is given this time to become free.
const FREE: Duration = Duration::from_secs(30);

/// What a run can be told.
#[derive(Parser)]
#[command(about = "dripline's class tree beside the kernel's HTB, on a slow line (needs root)")]
struct Args {
    /// What the modem sends, bits per second on the wire.
    #[arg(long, default_value_t = 20_000_000)]
    link: u64,
    /// The tree's max-limit: a little below the link, so that the queue is the tree's.
    #[arg(long, default_value_t = 19_500_000)]
    parent: u64,
    /// What bulk is guaranteed. Regular traffic has the rest of the parent.
    #[arg(long, default_value_t = 1_000_000)]
    bulk: u64,
    /// The senders' congestion control.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Who shapes, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "htb,dripline")]
    subjects: Vec<Subject>,
    /// Times that regular traffic comes and goes, and that a class is cut.
    #[arg(long, default_value_t = 7, default_value_if("short", "true", "1"))]
    rounds: usize,
    /// A third of the times, for a debug build; generous bounds are asserted.
    #[arg(long)]
    short: bool,
    /// Fail when a figure is worse than what is promised.
    #[arg(long)]
    assert: bool,
    /// The dripline to measure, instead of the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_dripline"))]
    dripline: PathBuf,
    /// A variable for dripline, NAME=VALUE; may be repeated.
    #[arg(long = "env", value_parser = program::variable)]
    environment: Vec<(String, String)>,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// `cargo bench` says so itself.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("shaping", run(&args))
}

/// Measures every subject and prints the figures. What comes back is what failed.
async fn run(args: &Args) -> Result<Vec<String>, String> {
    args.possible()?;
    let bench = Bench::new(args).await?;
    let mut measured = Vec::new();
    for &subject in &args.subjects {
        eprintln!("{} …", subject.name());
        let figures = bench.measure(subject).await;
        measured.push((subject, figures.map_err(|error| format!("{}: {error}", subject.name()))?));
    }
    // The first column is compared with the others: dripline first.
    let mut columns: Vec<_> =
        measured.iter().map(|(subject, figures)| (subject.name(), figures.rows())).collect();
    columns.sort_by_key(|(name, _)| *name != Subject::Dripline.name());
    print!("{}", report::lay_out(&columns));
    if let Some(path) = &args.json {
        let mut json = json!({ "parameters": args.json() });
        for (subject, figures) in &measured {
            json[subject.name()] = figures.json();
        }
        program::write_json(path, &json)?;
    }
    Ok(args.verdict(&measured))
}

/// What all subjects share.
struct Bench<'a> {
    args: &'a Args,
    line: Line,
    lab: Arc<Lab>,
    tls: SslConnector,
    arrived: Arrived,
    echo: Echo,
    pressed: AtomicBool,
}

/// Lengths of the phases.
struct Times {
    idle: Duration,
    /// Until slow start is over and queues are as they will be.
    settle: Duration,
    alone: Duration,
    both: Duration,
    /// After regular traffic has ended, or a class was changed.
    rest: Duration,
    machines: Duration,
}

/// Who shapes, running.
enum Shaping {
    None,
    Htb,
    Dripline(Proxy),
}

/// Whose bytes: what flows start with.
const FROM: [u8; 3] = [0, 1, 2];

impl<'a> Bench<'a> {
    async fn new(args: &'a Args) -> Result<Self, String> {
        let lab = Arc::new(Lab::new(0, 0)?);
        let line = Line::new(args.tree(), &args.congestion).await?;
        let arrived = Arrived::default();
        for port in [BULK, REGULAR] {
            flows::sink(&line.internet, &lab, port, &arrived).await?;
        }
        let echo = Echo::start(&line.house, &line.internet).await?;
        let tls = lab.connector()?;
        let pressed = AtomicBool::new(false);
        Ok(Self { args, line, lab, tls, arrived, echo, pressed })
    }

    /// All phases with one subject.
    async fn measure(&self, subject: Subject) -> Result<Figures, String> {
        self.wait_for_memory().await?;
        let (shaping, times) = (self.start(subject).await?, self.args.times());
        let measured = self.phases(&shaping, &times).await;
        if let Shaping::Htb = shaping {
            self.line.unshape().await?;
        }
        measured.map_err(|error| match &shaping {
            Shaping::Dripline(proxy) => format!("{error}\n{}", proxy.log_tail()),
            _ => error,
        })
    }

    async fn phases(&self, shaping: &Shaping, times: &Times) -> Result<Figures, String> {
        let mut figures = Figures::default();
        // What the one before left in the modem is on its way by then.
        self.watch(times.rest, &[]).await?;
        self.line.passed.forget();
        let idle = self.watch(times.idle, &[]).await?;
        figures.idle = self.echo.within(&[idle]).await;

        let bulk = self.bulk(shaping, 0, BULK_FLOWS).await?;
        self.alone(shaping, times, &bulk, &mut figures).await?;
        self.both(shaping, times, &bulk, &mut figures).await?;
        self.cut(shaping, times, &bulk, &mut figures).await?;
        drop(bulk);

        // The short form asks dripline alone: the kernel's answer is known, connections count.
        if !self.args.short || matches!(shaping, Shaping::Dripline(_)) {
            figures.machines = Some(self.machines(shaping, times).await?);
        }
        figures.late = self.line.passed.lateness(0.99);
        figures.pressed = self.pressed.load(Ordering::Relaxed);
        Ok(figures)
    }

    /// Bulk has the line for itself.
    async fn alone(
        &self,
        shaping: &Shaping,
        times: &Times,
        bulk: &[Flow],
        figures: &mut Figures,
    ) -> Result<(), String> {
        self.watch(times.settle * 2, bulk).await?;
        let (before, cpu) = (self.arrived(), shaping.cpu()?);
        let alone = self.watch(times.alone, bulk).await?;
        let seconds = (alone.end - alone.start).as_secs_f64();
        figures.alone = rates(before, self.arrived(), seconds)[0];
        let cpu = shaping.cpu()?.zip(cpu).map(|(after, before)| after.saturating_sub(before));
        figures.cores = cpu.map(|cpu| cpu.as_secs_f64() / seconds);
        figures.alone_wire = self.line.passed.rate(BULK, std::slice::from_ref(&alone));
        figures.alone_trips = self.echo.within(&[alone]).await;
        Ok(())
    }

    /// Regular traffic comes and goes while bulk is there.
    async fn both(
        &self,
        shaping: &Shaping,
        times: &Times,
        bulk: &[Flow],
        figures: &mut Figures,
    ) -> Result<(), String> {
        let tree = self.args.tree();
        let (low, back) = (self.args.near(tree.bulk), BACK * figures.alone_wire);
        let (mut observed, mut seconds) = (Vec::new(), 0.0);
        let mut sum = [0.0; FROM.len()];
        for _ in 0..self.args.rounds {
            let regular = self.route(shaping, MACHINES[2], REGULAR);
            let regular = Flow::start(&self.line.house, regular, FROM[2]).await?;
            let began = regular.began;
            self.watch(times.settle, bulk).await?;
            let before = self.arrived();
            let both = self.watch(times.both, bulk).await?;
            let length = (both.end - both.start).as_secs_f64();
            for (sum, rate) in sum.iter_mut().zip(rates(before, self.arrived(), length)) {
                *sum += rate * length;
            }
            seconds += length;
            regular.finish().await?;

            let passed = &self.line.passed;
            let yielded = passed.changed(BULK, began, both.end, |rate| rate <= low);
            figures.yields.push(yielded);
            let ended = passed.last(REGULAR, both.start).ok_or("no regular traffic was seen")?;
            let rest = self.watch(times.rest, bulk).await?;
            figures.borrows.push(passed.changed(BULK, ended, rest.end, |rate| rate >= back));
            observed.push(both);
        }
        [figures.both_bulk, figures.both_regular] = [sum[0] / seconds, sum[2] / seconds];
        figures.both_bulk_wire = self.line.passed.rate(BULK, &observed);
        figures.both_trips = self.echo.within(&observed).await;
        Ok(())
    }

    /// The bulk class loses nearly all it has, and gets it back.
    async fn cut(
        &self,
        shaping: &Shaping,
        times: &Times,
        bulk: &[Flow],
        figures: &mut Figures,
    ) -> Result<(), String> {
        let tree = self.args.tree();
        let low = self.args.near(CUT);
        if matches!(shaping, Shaping::None) {
            return Ok(());
        }
        for _ in 0..self.args.rounds {
            let began = Instant::now();
            self.limit_bulk(shaping, CUT).await?;
            let rest = self.watch(times.rest, bulk).await?;
            let cut = self.line.passed.changed(BULK, began, rest.end, |rate| rate <= low);
            figures.cuts.push(cut);
            self.limit_bulk(shaping, tree.parent).await?;
            self.watch(times.rest, bulk).await?;
        }
        Ok(())
    }

    /// One machine with 1 connection, another with 10, both in the bulk class.
    async fn machines(&self, shaping: &Shaping, times: &Times) -> Result<[f64; 2], String> {
        let mut flows = self.bulk(shaping, 0, 1).await?;
        flows.extend(self.bulk(shaping, 1, 10).await?);
        self.watch(times.settle * 2, &flows).await?;
        let before = self.arrived();
        let time = self.watch(times.machines, &flows).await?;
        let rates = rates(before, self.arrived(), (time.end - time.start).as_secs_f64());
        Ok([rates[0], rates[1]])
    }

    async fn start(&self, subject: Subject) -> Result<Shaping, String> {
        let tree = self.args.tree();
        Ok(match subject {
            Subject::None => Shaping::None,
            Subject::Htb => {
                self.line.shape(tree).await?;
                Shaping::Htb
            }
            Subject::Dripline => {
                let Args { dripline, environment, .. } = self.args;
                let (house, lab) = (&self.line.house, &self.lab);
                Shaping::Dripline(dripline::start(house, lab, dripline, environment, tree).await?)
            }
        })
    }

    async fn limit_bulk(&self, shaping: &Shaping, max_limit: u64) -> Result<(), String> {
        let tree = self.args.tree();
        match shaping {
            Shaping::None => Ok(()),
            Shaping::Htb => self.line.limit_bulk(tree, max_limit).await,
            Shaping::Dripline(_) => dripline::limit_bulk(&self.line.house, tree, max_limit).await,
        }
    }

    /// Bulk flows of one of the machines.
    async fn bulk(&self, shaping: &Shaping, of: usize, count: usize) -> Result<Vec<Flow>, String> {
        let route = self.route(shaping, MACHINES[of], BULK);
        Flow::start_all(&self.line.house, &route, FROM[of], count).await
    }

    fn route(&self, shaping: &Shaping, from: Ipv4Addr, port: u16) -> Route {
        let name = if port == BULK { dripline::BULK_NAME } else { dripline::REGULAR_NAME };
        let through = matches!(shaping, Shaping::Dripline(_));
        let proxy = through.then_some((dripline::DOOR, name));
        Route { from, port, proxy, tls: self.tls.clone() }
    }

    fn arrived(&self) -> [u64; FROM.len()] {
        FROM.map(|number| self.arrived[usize::from(number)].load(Ordering::Relaxed))
    }

    /// Lets time pass and says which it was. A flow that breaks meanwhile is an error.
    async fn watch(&self, length: Duration, flows: &[Flow]) -> Result<Range<Instant>, String> {
        let start = Instant::now();
        let mut left = length;
        while !left.is_zero() {
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
            left = length.saturating_sub(start.elapsed());
            if measure::tcp_memory_pressed()? {
                self.pressed.store(true, Ordering::Relaxed);
            }
        }
        match flows.iter().all(Flow::runs) {
            true => Ok(start..Instant::now()),
            false => Err("a flow broke".to_owned()),
        }
    }

    async fn wait_for_memory(&self) -> Result<(), String> {
        let began = Instant::now();
        while measure::tcp_memory_pressed()? && began.elapsed() < FREE {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.pressed.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Shaping {
    /// CPU time that dripline took so far.
    fn cpu(&self) -> Result<Option<Duration>, String> {
        match self {
            Self::Dripline(proxy) => measure::cpu(proxy.pid()).map(Some),
            _ => Ok(None),
        }
    }
}

/// Bits per second from bytes at the beginning and at the end.
fn rates<const N: usize>(before: [u64; N], after: [u64; N], seconds: f64) -> [f64; N] {
    std::array::from_fn(|of| 8.0 * (after[of] - before[of]) as f64 / seconds)
}

impl Args {
    fn tree(&self) -> Tree {
        Tree { link: self.link, parent: self.parent, bulk: self.bulk }
    }

    /// A rate that counts as this one.
    fn near(&self, rate: u64) -> f64 {
        rate as f64 + MARGIN * self.parent as f64
    }

    fn times(&self) -> Times {
        let seconds = |full, short| Duration::from_secs_f64(if self.short { short } else { full });
        Times {
            idle: seconds(3.0, 1.0),
            settle: seconds(1.5, 1.0),
            alone: seconds(6.0, 2.0),
            both: seconds(3.0, 2.0),
            rest: seconds(2.0, 1.5),
            machines: seconds(10.0, 4.0),
        }
    }

    /// Refuses what could not be measured, before anything starts.
    fn possible(&self) -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root: run this as root".to_owned());
        }
        if self.bulk == 0 || self.bulk >= self.parent || self.parent > self.link || self.rounds == 0
        {
            return Err("--bulk < --parent <= --link, and --rounds starts at 1".to_owned());
        }
        Ok(())
    }

    /// What counts as failed: figures only if asked for, and those taken under pressure never pass.
    fn verdict(&self, measured: &[(Subject, Figures)]) -> Vec<String> {
        let of = |wanted| {
            measured.iter().find(|(subject, _)| *subject == wanted).map(|(_, figures)| figures)
        };
        let bounds = match (self.assert, self.short) {
            (true, _) => &PROMISED,
            (false, true) => &GENEROUS,
            (false, false) => return Vec::new(),
        };
        let Some(ours) = of(Subject::Dripline) else {
            return Vec::new();
        };
        let mut broken = ours.broken(self.tree(), of(Subject::Htb), bounds);
        if !broken.is_empty() && measured.iter().any(|(_, figures)| figures.pressed) {
            broken.push("TCP memory was under pressure meanwhile: run it again".to_owned());
        }
        broken
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "link": self.link,
            "parent": self.parent,
            "bulk_limit_at": self.bulk,
            "regular_limit_at": self.tree().regular(),
            "congestion": self.congestion,
            "rounds": self.rounds,
            "debug_build": cfg!(debug_assertions),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }
}
