//! The phases of a run with one subject: what is sent when, and what is looked at meanwhile.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::SslConnector;

use super::dripline;
use super::echo::Echo;
use super::figures::{Figures, Subject};
use super::flows::{self, Arrived, Flow, Route};
use super::line::{BULK, CLICKS, Line, MACHINES, REGULAR, Tree};
use crate::support::lab::Lab;
use crate::support::measure;
use crate::support::process::Proxy;

/// Connections of a bulk transfer; aws CLI has up to ten, a slow line rarely fills more than these.
const BULK_FLOWS: usize = 4;
/// What a class is cut to in flight, bits per second.
const CUT: u64 = 1_000_000;
/// A rate counts as reached within this share of the parent: in 50 ms it is four packets.
const MARGIN: f64 = 0.05;
/// Bulk has borrowed back when it has this share of what it had alone.
const BACK: f64 = 0.9;
/// Tunnels that are opened at a time.
const OPENING: usize = 50;
/// TCP memory is given this time to become free.
const FREE: Duration = Duration::from_secs(30);

/// What a run is about.
pub struct Plan {
    /// The two classes and the link.
    pub tree: Tree,
    /// The senders' congestion control.
    pub congestion: String,
    /// Times that regular traffic comes and goes, and that a class is cut.
    pub rounds: usize,
    /// A third of the times.
    pub short: bool,
    /// Idle tunnels.
    pub tunnels: usize,
    /// The dripline to measure.
    pub dripline: PathBuf,
    /// Variables for it.
    pub environment: Vec<(String, String)>,
}

/// What all subjects share.
pub struct Bench {
    plan: Plan,
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

impl Bench {
    /// Makes the line; everything on it stands still.
    pub async fn new(plan: Plan) -> Result<Self, String> {
        let lab = Arc::new(Lab::new(0, 0)?);
        let line = Line::new(plan.tree, &plan.congestion).await?;
        let arrived = Arrived::default();
        for (port, arrived) in [(BULK, Some(&arrived)), (REGULAR, Some(&arrived)), (CLICKS, None)] {
            flows::serve(&line.internet, &lab, port, arrived).await?;
        }
        let echo = Echo::packets(&line.house, &line.internet).await?;
        let tls = lab.connector()?;
        let pressed = AtomicBool::new(false);
        Ok(Self { plan, line, lab, tls, arrived, echo, pressed })
    }

    /// All phases with one subject.
    pub async fn measure(&self, subject: Subject) -> Result<Figures, String> {
        self.wait_for_memory().await?;
        let (shaping, times) = (self.start(subject).await?, self.plan.times());
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
        let clicks = self.route(shaping, MACHINES[2], CLICKS);
        let clicks = Echo::connection(&self.line.house, clicks).await?;
        let idle = [self.watch(times.idle, &[]).await?];
        figures.idle = self.echo.within(&idle).await;
        figures.idle_clicks = clicks.within(&idle).await;

        let bulk = self.bulk(shaping, 0, BULK_FLOWS).await?;
        self.alone(shaping, times, &bulk, &clicks, &mut figures).await?;
        self.both(shaping, times, &bulk, &clicks, &mut figures).await?;
        self.cut(shaping, times, &bulk, &mut figures).await?;
        drop((bulk, clicks));

        // The short form asks dripline alone: the kernel's answer is known, connections count.
        if !self.plan.short || matches!(shaping, Shaping::Dripline(_)) {
            figures.machines = Some(self.machines(shaping, times).await?);
        }
        figures.tunnel = self.tunnels(shaping).await?;
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
        clicks: &Echo,
        figures: &mut Figures,
    ) -> Result<(), String> {
        self.watch(times.settle * 2, bulk).await?;
        let (before, cpu) = (self.arrived(), shaping.cpu()?);
        let alone = [self.watch(times.alone, bulk).await?];
        let seconds = (alone[0].end - alone[0].start).as_secs_f64();
        figures.alone = rates(before, self.arrived(), seconds)[0];
        let cpu = shaping.cpu()?.zip(cpu).map(|(after, before)| after.saturating_sub(before));
        figures.cores = cpu.map(|cpu| cpu.as_secs_f64() / seconds);
        figures.alone_wire = self.line.passed.rate(BULK, &alone);
        figures.alone_trips = self.echo.within(&alone).await;
        figures.alone_clicks = clicks.within(&alone).await;
        Ok(())
    }

    /// Regular traffic comes and goes while bulk is there.
    async fn both(
        &self,
        shaping: &Shaping,
        times: &Times,
        bulk: &[Flow],
        clicks: &Echo,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let tree = self.plan.tree;
        let (low, back) = (self.plan.near(tree.bulk), BACK * figures.alone_wire);
        let (mut observed, mut seconds) = (Vec::new(), 0.0);
        let mut sum = [0.0; FROM.len()];
        for _ in 0..self.plan.rounds {
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
        figures.both_clicks = clicks.within(&observed).await;
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
        let tree = self.plan.tree;
        let low = self.plan.near(CUT);
        if matches!(shaping, Shaping::None) {
            return Ok(());
        }
        for _ in 0..self.plan.rounds {
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

    /// Bytes of memory that an idle tunnel takes.
    async fn tunnels(&self, shaping: &Shaping) -> Result<Option<f64>, String> {
        let Shaping::Dripline(proxy) = shaping else { return Ok(None) };
        let (count, mut held) = (self.plan.tunnels, Vec::new());
        if count == 0 {
            return Ok(None);
        }
        let before = measure::pss(proxy.pid())?;
        while held.len() < count {
            let route = self.route(shaping, MACHINES[held.len() % 2], BULK);
            let opening: Vec<_> = (held.len()..count.min(held.len() + OPENING))
                .map(|_| flows::hold(&self.line.house, route.clone(), FROM[0]))
                .collect();
            for opened in opening {
                held.push(opened.await.map_err(|error| error.to_string())??);
            }
        }
        self.watch(Duration::from_secs(3), &[]).await?;
        let grown = measure::pss(proxy.pid())?.saturating_sub(before);
        Ok(Some(grown as f64 / count as f64))
    }

    async fn start(&self, subject: Subject) -> Result<Shaping, String> {
        let tree = self.plan.tree;
        Ok(match subject {
            Subject::None => Shaping::None,
            Subject::Htb => {
                self.line.shape(tree).await?;
                Shaping::Htb
            }
            Subject::Dripline => {
                let Plan { dripline: binary, environment, .. } = &self.plan;
                let (house, lab) = (&self.line.house, &self.lab);
                Shaping::Dripline(dripline::start(house, lab, binary, environment, tree).await?)
            }
        })
    }

    async fn limit_bulk(&self, shaping: &Shaping, max_limit: u64) -> Result<(), String> {
        let tree = self.plan.tree;
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
        let name = match port {
            BULK => dripline::BULK_NAME,
            REGULAR => dripline::REGULAR_NAME,
            _ => dripline::CLICKS_NAME,
        };
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

impl Plan {
    /// A rate that counts as this one.
    fn near(&self, rate: u64) -> f64 {
        rate as f64 + MARGIN * self.tree.parent as f64
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
}
