//! `cargo bench --bench restarts`: what drips and new clients notice of an upgrade, a drain and a stop.
//!
//! Three rounds, each with real processes. *Upgrade*: a successor takes over under running drips while
//! a client connects every 10 ms. *Drain*: SIGTERM under drips that end within `server.drain_timeout`
//! and others that do not. *Stop*: SIGTERM with nothing running. The object comes from a spool before
//! an S3 of our own in this process, and one process, this one, holds every device.
//!
//! A broken drip, a wrong byte, a connection that is refused or not answered, a cut within a record or
//! another exit code than 0 fails the run; so do times beyond three times what is promised, and with
//! `--assert` beyond what is promised.
//!
//! The full form takes two minutes; `cargo test --bench restarts -- --short` is a debug build's.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use dripline::demo::origin::{Origin, OriginOptions};
use serde_json::{Value, json};

use support::client::{self, Load};
use support::journeys::{self, Ended, Journeys};
use support::lab::{BUCKET, Lab, Object};
use support::prober::Prober;
use support::process::{self, End, Ports, Proxy, Spool, loopback};
use support::program;
use support::report::milliseconds;

/// Time between two connections of the prober.
const CONNECT_EVERY: Duration = Duration::from_millis(10);
/// An old process is gone so soon after its last drip.
const GONE_AFTER_LAST: Duration = Duration::from_secs(2);
/// A process with nothing to do is gone so soon after SIGTERM.
const GONE_IDLE: Duration = Duration::from_secs(1);
/// What outlives a drain's time is cut so soon after its end.
const CUT_WITHIN: Duration = Duration::from_secs(1);
/// Without `--assert`, promised times may be missed by this factor: the machine may be busy.
const LENIENCE: u32 = 3;

/// What a run can be told.
#[derive(Parser)]
#[command(about = "Upgrade, drain and stop under running drips")]
struct Args {
    /// Drips that an upgrade meets.
    #[arg(long, default_value_t = 500, default_value_if("short", "true", "50"))]
    drips: usize,
    /// Seconds that each of them takes.
    #[arg(long, default_value_t = 60, default_value_if("short", "true", "8"))]
    seconds: u64,
    /// Drips of each length that a drain meets.
    #[arg(long, default_value_t = 100, default_value_if("short", "true", "20"))]
    drained: usize,
    /// Seconds of `server.drain_timeout`; half of it is what the shorter of them take, three times it
    /// the longer.
    #[arg(long, default_value_t = 20, default_value_if("short", "true", "4"))]
    drain: u64,
    /// New drips per second while ramping.
    #[arg(long, default_value_t = 100)]
    ramp: u64,
    /// Plaintext bytes per record.
    #[arg(long, default_value_t = 4096)]
    chunk: usize,
    /// Time between two records, in whole milliseconds: `500ms`.
    #[arg(long, default_value = "500ms", value_parser = program::milliseconds)]
    wait: Duration,
    /// Fewer and shorter drips, for a debug build.
    #[arg(long)]
    short: bool,
    /// Fail when a promised time is missed by less than three times as well.
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

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("restarts", run(&args))
}

/// Every round. What comes back is what failed.
async fn run(args: &Args) -> Result<Vec<String>, String> {
    if [args.drips, args.drained, args.chunk].contains(&0) || args.ramp == 0 {
        return Err("--drips, --drained, --ramp and --chunk start at 1".to_owned());
    }
    if args.seconds < 2 || args.drain < 2 {
        return Err("--seconds and --drain start at 2".to_owned());
    }
    process::allow_open_files(args.drips.max(2 * args.drained) as u64 + 1024)?;
    let bench = Bench::new(args).await?;
    let mut failed = Vec::new();
    let (successor, upgrade) = bench.upgrade(&mut failed).await?;
    let stop = bench.stop(successor, &mut failed).await?;
    let drain = bench.drain(&mut failed).await?;
    if let Some(path) = &args.json {
        let parameters = args.json();
        let json =
            json!({ "parameters": parameters, "upgrade": upgrade, "stop": stop, "drain": drain });
        program::write_json(path, &json)?;
    }
    Ok(failed)
}

/// What all rounds share.
struct Bench<'a> {
    args: &'a Args,
    lab: Lab,
    origin: Origin,
    environment: Vec<(String, String)>,
    /// The objects of the upgrade's drips, and of a drain's shorter and longer ones.
    upgraded: Object,
    shorter: Object,
    longer: Object,
}

impl<'a> Bench<'a> {
    async fn new(args: &'a Args) -> Result<Self, String> {
        let size = |seconds: u64| {
            let records = seconds * 1000 / args.wait.as_millis() as u64;
            usize::try_from(records).unwrap_or(0) * args.chunk
        };
        let lab = Lab::new(1, size(args.seconds.max(3 * args.drain)))?;
        let options = OriginOptions { bucket: BUCKET.to_owned(), ..OriginOptions::default() };
        let origin = Origin::start(options).await;
        let origin = origin.map_err(|error| format!("the origin does not start: {error}"))?;
        let mut objects = Vec::new();
        for (key, seconds) in
            [("upgraded", args.seconds), ("shorter", args.drain / 2), ("longer", 3 * args.drain)]
        {
            let object = lab.objects()[0].beginning(key, size(seconds));
            let body = Bytes::copy_from_slice(object.body());
            let put = origin.put(&object.key, body, "application/octet-stream").await;
            put.map_err(|error| format!("the origin takes no object: {error}"))?;
            let query = origin.presign(&object.key).signed_query();
            objects.push(object.asked_with(&query));
        }
        let [upgraded, shorter, longer] =
            objects.try_into().map_err(|_| "three objects".to_owned())?;
        let environment = [
            ("DRIPLINE__SERVER__UPGRADE_SOCK", lab.path("upgrade.sock").display().to_string()),
            ("DRIPLINE__SERVER__DRAIN_TIMEOUT", format!("{}s", args.drain)),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Self { args, lab, origin, environment, upgraded, shorter, longer })
    }

    /// A successor takes over while drips run and clients come. Returns the successor.
    async fn upgrade(&self, failed: &mut Vec<String>) -> Result<(Proxy, Value), String> {
        let args = self.args;
        let (mut old, ports) = self.start().await?;
        let load = self.load(&old)?;
        let devices = Journeys::new(&load);
        let mut drips = devices.launch(&self.upgraded, args.drips, args.ramp);
        devices.all_begun(args.drips, args.drips as u64 / args.ramp).await?;
        eprintln!("upgrade: {} drips run", args.drips);
        let prober = Prober::start(load.clone(), CONNECT_EVERY);
        tokio::time::sleep(Duration::from_secs(1)).await;

        let asked = Instant::now();
        let successor = self.successor(ports).await?;
        let took_over = asked.elapsed();
        eprintln!("upgrade: the successor accepts after {took_over:.1?}");
        let ends = journeys::join(&mut drips).await;
        let (gone, code) = old.ended(LENIENCE * GONE_AFTER_LAST).await?;
        let probed = prober.end().await?;
        client::warm_up(&load).await.map_err(|error| format!("the successor: {error}"))?;

        let whole = ends.iter().filter(|end| end.is_whole()).count();
        let last = ends.iter().map(|end| end.at).max().unwrap_or(asked);
        let first = ends.iter().map(|end| end.at).min().unwrap_or(asked);
        let gone_after = gone.saturating_duration_since(last);
        let gap = devices.deviation_p99();
        if first < asked + took_over {
            failed.push("upgrade: a drip ended before the successor accepted".to_owned());
        }
        failed.extend(
            ends.iter()
                .filter_map(|end| Some(format!("upgrade: {}", end.failure.as_ref()?)))
                .take(5),
        );
        failed.extend((probed.connections == 0).then(|| "upgrade: no client connected".to_owned()));
        failed.extend(probed.failures().take(5).map(|why| format!("upgrade: {why}")));
        failed.extend((code != 0).then(|| format!("upgrade: the old process exits with {code}")));
        self.promised(
            "upgrade: the old process's end after its last drip",
            gone_after,
            GONE_AFTER_LAST,
            failed,
        );
        let broken = ends.len() - whole;
        println!(
            "upgrade under {} drips of {} s\n  broken drips                      {broken}\n  \
             connections, refused, cut         {}, {}, {}\n  slowest of them                   {:.1} ms\n  \
             successor accepts after           {:.1} ms\n  old process gone after last drip  {:.1} ms\n  \
             |gap - wait| p99                  {gap:.2} ms",
            ends.len(),
            args.seconds,
            probed.connections,
            probed.refused.len(),
            probed.cut.len(),
            milliseconds(probed.slowest),
            milliseconds(took_over),
            milliseconds(gone_after),
        );
        let json = json!({
            "drips": ends.len(), "broken": broken, "connections": probed.connections,
            "refused": probed.refused.len(), "cut": probed.cut.len(),
            "slowest_connection_ms": milliseconds(probed.slowest),
            "accepts_after_ms": milliseconds(took_over),
            "gone_after_last_drip_ms": milliseconds(gone_after),
            "deviation_p99_ms": gap,
        });
        Ok((successor, json))
    }

    /// SIGTERM to a process that has nothing to do.
    async fn stop(&self, mut idle: Proxy, failed: &mut Vec<String>) -> Result<Value, String> {
        // The prober's last connections, and the request that followed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = Instant::now();
        idle.signal(libc::SIGTERM);
        let (gone, code) = idle.ended(LENIENCE * GONE_IDLE).await?;
        failed.extend((code != 0).then(|| format!("stop: exit code {code}")));
        self.promised("stop: the end of an idle process", gone - told, GONE_IDLE, failed);
        println!(
            "stop with nothing running\n  gone after                        {:.1} ms",
            milliseconds(gone - told)
        );
        Ok(json!({ "gone_after_ms": milliseconds(gone - told) }))
    }

    /// SIGTERM under drips of both lengths.
    async fn drain(&self, failed: &mut Vec<String>) -> Result<Value, String> {
        let args = self.args;
        let (mut proxy, _) = self.start().await?;
        let load = self.load(&proxy)?;
        let devices = Journeys::new(&load);
        // Those that are to be cut first, so that the others have the least of their time behind them.
        let mut cut = devices.launch(&self.longer, args.drained, 2 * args.ramp);
        devices.all_begun(args.drained, args.drained as u64 / args.ramp).await?;
        let mut done = devices.launch(&self.shorter, args.drained, 2 * args.ramp);
        devices.all_begun(2 * args.drained, args.drained as u64 / args.ramp).await?;
        eprintln!("drain: {} drips run", 2 * args.drained);
        let told = Instant::now();
        proxy.signal(libc::SIGTERM);
        let (done, cut) = (journeys::join(&mut done).await, journeys::join(&mut cut).await);
        let drain = Duration::from_secs(args.drain);
        let (gone, code) = proxy.ended(LENIENCE * CUT_WITHIN).await?;

        let whole = done.iter().filter(|end| end.is_whole()).count();
        if whole < done.len() {
            failed.push(format!(
                "drain: {whole} of {} drips complete: {:?}",
                done.len(),
                done[0].failure
            ));
        }
        let clean = |end: &&Ended| {
            !end.is_whole() && end.at_boundary && end.bytes.is_multiple_of(args.chunk)
        };
        let clean = cut.iter().filter(clean).count();
        if clean < cut.len() {
            failed.push(format!("drain: {clean} of {} drips cut between two records", cut.len()));
        }
        let first = cut.iter().map(|end| end.at).min().unwrap_or(told) - told;
        let last = cut.iter().map(|end| end.at).max().unwrap_or(told) - told;
        if first < drain {
            failed.push(format!("drain: cut after {first:?}"));
        }
        failed.extend((code != 0).then(|| format!("drain: exit code {code}")));
        self.promised("drain: the last cut", last.saturating_sub(drain), CUT_WITHIN, failed);
        self.promised("drain: the exit", (gone - told).saturating_sub(drain), CUT_WITHIN, failed);
        println!(
            "SIGTERM with drain_timeout {} s\n  drips of {} s, complete           {}, {whole}\n  \
             drips of {} s, cut at a boundary  {}, {clean}\n  cut after                         {:.3} to {:.3} s\n  \
             gone after, exit code             {:.3} s, {code}",
            args.drain,
            args.drain / 2,
            done.len(),
            3 * args.drain,
            cut.len(),
            first.as_secs_f64(),
            last.as_secs_f64(),
            (gone - told).as_secs_f64(),
        );
        Ok(json!({
            "shorter": done.len(), "shorter_complete": whole, "longer": cut.len(),
            "longer_cut_between_records": clean, "first_cut_ms": milliseconds(first),
            "last_cut_ms": milliseconds(last), "gone_after_ms": milliseconds(gone - told),
            "exit_code": code,
        }))
    }

    async fn start(&self) -> Result<(Proxy, Ports), String> {
        let proxy = process::tries(async |tls| {
            let ports = Ports { tls, plain: None, admin: process::free_port()? };
            let command = self.command(ports);
            let proxy = process::spawn(&self.lab, "dripline", tls, End::Kill, command)?;
            let proxy = proxy.started(|_| process::is_ready(loopback(ports.admin))).await?;
            Ok((proxy, ports))
        });
        proxy.await
    }

    /// `dripline run --upgrade`, once it has taken over.
    async fn successor(&self, ports: Ports) -> Result<Proxy, String> {
        let mut command = self.command(ports);
        command.arg("--upgrade");
        let started = process::spawn(&self.lab, "successor", ports.tls, End::Kill, command)?;
        started.started(|proxy| proxy.logged("upgrade: this process has taken over")).await
    }

    fn command(&self, ports: Ports) -> std::process::Command {
        let settings = process::Settings {
            chunk: self.args.chunk,
            wait: self.args.wait,
            spool: Spool::On(self.lab.path("spool")),
            origin: format!("http://{}", self.origin.addr()),
            environment: &self.environment,
        };
        process::dripline(&self.lab, &self.args.dripline, &settings, ports)
    }

    fn load(&self, proxy: &Proxy) -> Result<Load, String> {
        Ok(Load {
            addr: proxy.addr(),
            tls: self.lab.connector()?,
            objects: vec![self.upgraded.clone()],
            chunk: self.args.chunk,
            wait: self.args.wait,
            stall: (self.args.wait * 10).max(Duration::from_secs(20)),
        })
    }

    fn promised(&self, what: &str, took: Duration, promise: Duration, failed: &mut Vec<String>) {
        let most = if self.args.assert { promise } else { LENIENCE * promise };
        if took > most {
            failed.push(format!("{what}: {took:.3?}, promised within {promise:?}"));
        }
    }
}

impl Args {
    fn json(&self) -> Value {
        json!({
            "drips": self.drips,
            "drip_seconds": self.seconds,
            "drained_drips_of_each_length": self.drained,
            "drain_seconds": self.drain,
            "ramp_per_second": self.ramp,
            "connect_every_ms": milliseconds(CONNECT_EVERY),
            "chunk_bytes": self.chunk,
            "wait_ms": milliseconds(self.wait),
            "debug_build": cfg!(debug_assertions),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }
}
