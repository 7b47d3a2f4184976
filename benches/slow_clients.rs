//! `cargo bench --bench slow_clients`: how slow, idle or non-reading clients affect drips.
//!
//! dripline serves some drips, which are observed from before a crowd comes until it is gone: clients
//! whose heads trickle in, again and again; connections that wait between two requests; downloads that
//! nobody reads; handshakes that stop. When all are there, some more connect than there is room for. Each
//! must be answered as `limits` says, each limit's counter must have counted it and nothing else, the
//! drips keep their pace, and the memory comes back.
//!
//! A wrong byte, a broken drip, another answer or another count fails the run; gaps and memory fail it
//! only with `--assert`, because they hold on a quiet machine and not on every one.
//!
//! The full form, with the limits' defaults, takes about two minutes;
//! `cargo test --bench slow_clients -- --short` is a debug build's.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use dripline::demo::origin::{Origin, OriginOptions};
use serde_json::{Value, json};

use support::client::{self, Fleet, Load};
use support::crowd::{self, Crowd, Sizes, TurnedAway};
use support::lab::{BUCKET, Lab};
use support::process::{self, Ports, Proxy, Spool, loopback};
use support::report::{self, Figures, Memory, Schedule, milliseconds};
use support::{measure, program};

/// p99 of |gap - wait| of the drips, in milliseconds.
const DEVIATION: f64 = 20.0;
/// This part of what the crowd took may be kept when it is gone.
const KEPT: f64 = 0.1;

/// What a run can be told.
#[derive(Parser)]
#[command(about = "Drips beside clients that are slow, idle or deaf")]
struct Args {
    /// Drips that are observed.
    #[arg(long, default_value_t = 200, default_value_if("short", "true", "25"))]
    drips: usize,
    /// Clients whose heads trickle in.
    #[arg(long, default_value_t = 200, default_value_if("short", "true", "15"))]
    slow_heads: usize,
    /// Connections that wait for their next request.
    #[arg(long, default_value_t = 5000, default_value_if("short", "true", "50"))]
    idle: usize,
    /// Clients that ask for an object and never read.
    #[arg(long, default_value_t = 100, default_value_if("short", "true", "15"))]
    never_read: usize,
    /// Clients that stop in the handshake.
    #[arg(long, default_value_t = 200, default_value_if("short", "true", "15"))]
    half_handshakes: usize,
    /// New clients per second while the crowd comes.
    #[arg(long, default_value_t = 300, default_value_if("short", "true", "60"))]
    ramp: u64,
    /// Plaintext bytes per record.
    #[arg(long, default_value_t = 4096)]
    chunk: usize,
    /// Time between two records, in whole milliseconds: `500ms`.
    #[arg(long, default_value = "500ms", value_parser = program::milliseconds)]
    wait: Duration,
    /// A small crowd and short timeouts, for a debug build.
    #[arg(long)]
    short: bool,
    /// Fail on gaps and memory as well.
    #[arg(long)]
    assert: bool,
    /// The dripline to measure, instead of the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_dripline"))]
    dripline: PathBuf,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// `cargo bench` says so itself.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn crowd(&self) -> Sizes {
        Sizes {
            slow_heads: self.slow_heads,
            idle: self.idle,
            never_read: self.never_read,
            half_handshakes: self.half_handshakes,
        }
    }

    /// Room for everybody, and for a slow head that comes again before the server has noticed that it
    /// had gone.
    fn connections(&self) -> usize {
        self.drips + self.crowd().all() + self.slow_heads
    }

    /// What `limits` holds: defaults, but for how many may come.
    fn timeouts(&self) -> Timeouts {
        let times = if self.short { [3, 5, 6, 4] } else { [10, 30, 60, 60] };
        let [header, handshake, idle, send] = times.map(Duration::from_secs);
        Timeouts { header, handshake, idle, send }
    }
}

struct Timeouts {
    header: Duration,
    handshake: Duration,
    idle: Duration,
    send: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("slow_clients", run(&args))
}

async fn run(args: &Args) -> Result<Vec<String>, String> {
    if args.drips == 0 || args.ramp == 0 || args.chunk == 0 {
        return Err("--drips, --ramp and --chunk start at 1".to_owned());
    }
    process::allow_open_files(args.connections() as u64 + args.slow_heads as u64 + 1024)?;
    // Four minutes' worth, and more than the sockets' buffers can hold.
    let lab = Lab::new(1, 488 * args.chunk)?;
    let options =
        OriginOptions { bucket: BUCKET.to_owned(), public: true, ..OriginOptions::default() };
    let origin = Origin::start(options).await;
    let origin = origin.map_err(|error| format!("the origin does not start: {error}"))?;
    let object = &lab.objects()[0];
    let body = Bytes::copy_from_slice(object.body());
    let put = origin.put(&object.key, body, "application/octet-stream").await;
    put.map_err(|error| format!("the origin takes no object: {error}"))?;
    let (proxy, ports) = start(args, &lab, &origin).await?;
    let load = Load {
        addr: proxy.addr(),
        tls: lab.connector()?,
        objects: lab.objects().to_vec(),
        chunk: args.chunk,
        wait: args.wait,
        stall: (args.wait * 10).max(Duration::from_secs(20)),
    };
    let seen = observe(args, &proxy, ports, load).await;
    let seen = seen.map_err(|error| format!("{error}\n{}", proxy.log_tail()))?;
    print!("{}{}", report::table(&[("dripline", &seen.figures)]), seen.table(args));
    if let Some(path) = &args.json {
        program::write_json(path, &seen.json(args))?;
    }
    Ok(seen.verdict(args))
}

async fn start(args: &Args, lab: &Lab, origin: &Origin) -> Result<(Proxy, Ports), String> {
    let Timeouts { header, handshake, idle, send } = args.timeouts();
    let limits = format!(
        "{{connections: {}, header_timeout: {header:?}, handshake_timeout: {handshake:?}, \
         idle_timeout: {idle:?}, send_timeout: {send:?}}}",
        args.connections()
    );
    let environment = [("DRIPLINE__LIMITS".to_owned(), limits)];
    let settings = process::Settings {
        chunk: args.chunk,
        wait: args.wait,
        spool: Spool::On(lab.path("spool")),
        origin: format!("http://{}", origin.addr()),
        environment: &environment,
    };
    let start = process::tries(async |tls| {
        let (plain, admin) = (process::free_port()?, process::free_port()?);
        let ports = Ports { tls, plain: Some(plain), admin };
        let command = process::dripline(lab, &args.dripline, &settings, ports);
        let proxy = process::spawn(lab, "dripline", tls, process::End::Kill, command)?;
        Ok((proxy.started(|_| process::is_ready(loopback(admin))).await?, ports))
    });
    start.await
}

/// Runs the drips, and the crowd from its first client to its last.
async fn observe(args: &Args, proxy: &Proxy, ports: Ports, load: Load) -> Result<Seen, String> {
    let (admin, sizes) = (loopback(ports.admin), args.crowd());
    client::warm_up(&load).await?;
    fill(&load, admin).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = measure::pss(proxy.pid())?;
    let schedule = Schedule { chunk: load.chunk, wait: load.wait };
    let mut fleet = Fleet::launch(load.clone(), args.drips, 100);
    fleet.ramped(Duration::from_secs(args.drips as u64 / 100 + 60)).await?;
    tokio::time::sleep(2 * args.wait).await;
    let before = measure::pss(proxy.pid())?;

    eprintln!("{} clients come, {} per second …", sizes.all(), args.ramp);
    let (start, cpu) = (Instant::now(), measure::cpu(proxy.pid())?);
    fleet.observe();
    let crowd = Crowd::launch(&load, sizes, args.ramp);
    let deadline = start + Duration::from_secs(sizes.all() as u64 / args.ramp + 30);
    while crowd.come() < sizes.all() {
        if Instant::now() > deadline {
            let ends = crowd.end().await;
            return Err(format!("the crowd does not come: {:?}", ends.first()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let turned_away =
        crowd::knock(loopback(ports.plain.unwrap_or(0)), load.addr, knocks(args)).await?;
    let crowded = measure::pss(proxy.pid())?;

    eprintln!("all have come; waiting for their ends …");
    let deaf = "dripline_limited_total{limit=\"send_timeout\"}";
    let deadline = Instant::now() + 3 * args.timeouts().send;
    while process::counter(admin, deaf)? < sizes.never_read as u64 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ends = crowd.end().await;
    let seconds = start.elapsed().as_secs();
    let cpu = measure::cpu(proxy.pid())?.saturating_sub(cpu);
    // A connection may end here a moment before it is counted there.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let limits =
        ["header_timeout", "handshake_timeout", "idle_timeout", "send_timeout", "connections"];
    let mut counted = Vec::new();
    for limit in limits {
        let name = format!("dripline_limited_total{{limit=\"{limit}\"}}");
        counted.push((limit, process::counter(admin, &name)?));
    }
    let left = process::counter(admin, "dripline_connections")?;
    let fleet = fleet.stop().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = measure::pss(proxy.pid())?;
    let memory = Memory { idle, process: vec![before], after, ..Memory::default() };
    let figures = Figures::new(schedule, seconds, cpu, memory, fleet);
    Ok(Seen { figures, ends, turned_away, counted, left, idle, before, crowded, after })
}

/// Has the spool fetch the object: what is measured is how it is dripped, not how an S3 in this process
/// answers everybody's first question at once.
async fn fill(load: &Load, admin: SocketAddr) -> Result<(), String> {
    let mut stream = client::connect(load).await?;
    client::send(&mut stream, &load.objects[0], "").await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while process::counter(admin, "dripline_spool_fills_total{end=\"complete\"}")? == 0 {
        if Instant::now() > deadline {
            return Err("the spool is not filled".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// How many further clients connect to each listener. There is room for as many as there are slow
/// heads.
fn knocks(args: &Args) -> usize {
    args.slow_heads + 20
}

/// What a run has shown.
struct Seen {
    figures: Figures,
    ends: Vec<crowd::End>,
    turned_away: TurnedAway,
    /// How often each limit was met, as dripline counts.
    counted: Vec<(&'static str, u64)>,
    /// Connections when the crowd had gone.
    left: u64,
    idle: u64,
    before: u64,
    crowded: u64,
    after: u64,
}

impl Seen {
    fn counted(&self, limit: &str) -> u64 {
        self.counted.iter().find(|(name, _)| *name == limit).map_or(0, |(_, count)| *count)
    }

    fn times(&self, of: impl Fn(&crowd::End) -> Option<Duration>) -> (usize, Duration, Duration) {
        let times: Vec<_> = self.ends.iter().filter_map(of).collect();
        let least = times.iter().min().copied().unwrap_or_default();
        (times.len(), least, times.iter().max().copied().unwrap_or_default())
    }

    fn slow_heads(&self) -> (usize, Duration, Duration) {
        self.times(|end| match end {
            crowd::End::SlowHead(408, after) => Some(*after),
            _ => None,
        })
    }

    /// Slow heads that found no room when they came again.
    fn again(&self) -> usize {
        self.ends.iter().filter(|end| matches!(end, crowd::End::TurnedAway)).count()
    }

    fn idle(&self) -> (usize, Duration, Duration) {
        self.times(|end| match end {
            crowd::End::Idle(after) => Some(*after),
            _ => None,
        })
    }

    fn half_handshakes(&self) -> (usize, Duration, Duration) {
        self.times(|end| match end {
            crowd::End::HalfHandshake(after) => Some(*after),
            _ => None,
        })
    }

    /// Each client has to meet its own limit, and each limit has to count its clients alone.
    fn verdict(&self, args: &Args) -> Vec<String> {
        let mut failed = self.figures.failures.clone();
        let unexpected = self.ends.iter().filter(|end| match end {
            crowd::End::Unexpected(_) => true,
            crowd::End::SlowHead(status, _) => *status != 408,
            _ => false,
        });
        let unexpected = unexpected.map(|end| format!("{end:?}"));
        failed.extend(unexpected.take(5));
        let Timeouts { header, handshake, idle, .. } = args.timeouts();
        let (heads, ..) = self.slow_heads();
        let TurnedAway { told, closed, .. } = &self.turned_away;
        for (what, limit, seen, least) in [
            ("answers of 408", "header_timeout", heads, args.slow_heads),
            (
                "handshakes ended",
                "handshake_timeout",
                self.half_handshakes().0,
                args.half_handshakes,
            ),
            ("idle connections closed", "idle_timeout", self.idle().0, args.idle),
            ("downloads cut", "send_timeout", args.never_read, args.never_read),
            ("turned away", "connections", told.len() + closed + self.again(), knocks(args)),
        ] {
            if seen < least || self.counted(limit) != seen as u64 {
                failed.push(format!(
                    "{what}: {seen} of at least {least}, counted {}",
                    self.counted(limit)
                ));
            }
        }
        for (what, (_, soonest, _), timeout) in [
            ("408", self.slow_heads(), header),
            ("the end of a handshake", self.half_handshakes(), handshake),
            ("the end of an idle connection", self.idle(), idle),
        ] {
            // Client and server begin to count at slightly different times.
            if soonest + Duration::from_secs(1) < timeout {
                failed.push(format!("{what} after {soonest:?}"));
            }
        }
        let refusal = |told: &&String| {
            told.starts_with("HTTP/1.1 503 ") && told.contains("\r\nRetry-After: 10\r\n")
        };
        if let Some(other) = told.iter().find(|told| !refusal(told)) {
            failed.push(format!("turned away with {other:?}"));
        }
        if self.left != args.drips as u64 {
            failed.push(format!("{} connections are left of {} drips", self.left, args.drips));
        }
        if self.figures.odd_records > 0 || self.figures.gaps.count == 0 {
            failed.push(format!(
                "{} odd records, {} gaps",
                self.figures.odd_records, self.figures.gaps.count
            ));
        }
        if args.assert && self.figures.gaps.deviation_p99 > DEVIATION {
            failed
                .push(format!("p99 of |gap - wait| is {:.1} ms", self.figures.gaps.deviation_p99));
        }
        if args.assert && self.kept() > KEPT {
            failed.push(format!("{:.0} % of the memory is kept", self.kept() * 100.0));
        }
        failed
    }

    /// Which part of the memory that drips and crowd took is not given back.
    fn kept(&self) -> f64 {
        let taken = self.crowded.saturating_sub(self.idle).max(1);
        self.after.saturating_sub(self.idle) as f64 / taken as f64
    }

    fn per_client(&self, args: &Args) -> f64 {
        self.crowded.saturating_sub(self.before) as f64 / args.crowd().all() as f64
    }

    fn table(&self, args: &Args) -> String {
        let line = |what: &str, limit: &str, (count, least, most): (usize, Duration, Duration)| {
            let (least, most) = (least.as_secs_f64(), most.as_secs_f64());
            format!(
                "{what:<34}{count:>6}, after {least:.1} to {most:.1} s, counted {}\n",
                self.counted(limit)
            )
        };
        let TurnedAway { told, closed, inside } = &self.turned_away;
        line("heads that trickle: 408", "header_timeout", self.slow_heads())
            + &line("idle: closed", "idle_timeout", self.idle())
            + &line("handshakes that stop: closed", "handshake_timeout", self.half_handshakes())
            + &format!(
                "{:<34}{:>6}, counted {}\n",
                "never read: cut",
                args.never_read,
                self.counted("send_timeout")
            )
            + &format!(
                "{:<34}{:>6} with 503, {closed} at TLS, {inside} let in, counted {}\n",
                "too many",
                told.len(),
                self.counted("connections")
            )
            + &format!(
                "{:<34}{:.1} MB idle, {:.1} with the drips, {:.1} with the crowd ({:.1} KB each), {:.1} after\n",
                "memory",
                mb(self.idle),
                mb(self.before),
                mb(self.crowded),
                self.per_client(args) / 1000.0,
                mb(self.after),
            )
    }

    fn json(&self, args: &Args) -> Value {
        let ends = |(count, least, most): (usize, Duration, Duration)| json!({ "count": count, "least_ms": milliseconds(least), "most_ms": milliseconds(most) });
        let counted: serde_json::Map<_, _> =
            self.counted.iter().map(|(limit, count)| ((*limit).to_owned(), json!(count))).collect();
        json!({
            "parameters": {
                "drips": args.drips, "slow_heads": args.slow_heads, "idle": args.idle,
                "never_read": args.never_read, "half_handshakes": args.half_handshakes,
                "ramp_per_second": args.ramp, "chunk_bytes": args.chunk, "wait_ms": milliseconds(args.wait),
                "debug_build": cfg!(debug_assertions),
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
            },
            "drips": self.figures.json(),
            "answered_408": ends(self.slow_heads()),
            "idle_closed": ends(self.idle()),
            "handshakes_ended": ends(self.half_handshakes()),
            "turned_away": { "503": self.turned_away.told.len(), "tls_closed": self.turned_away.closed },
            "counted": counted,
            "memory_bytes": { "idle": self.idle, "drips": self.before, "crowd": self.crowded, "after": self.after, "per_client": self.per_client(args) },
        })
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
