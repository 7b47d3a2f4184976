//! `cargo bench --bench spool`: many drips from a cache, beside nginx's and HAProxy's.
//!
//! dripline with its spool, nginx with `proxy_cache` and HAProxy with its cache, one after the other,
//! stand before the same S3, an origin of our own in this process. All are warm: ten objects of 20 MB
//! are in their caches before the first drip, and their devices' URLs are presigned. One process,
//! this one, holds every device. What is measured: memory and CPU time per drip, how far gaps are from
//! the wait, how near each drip comes to its rate; with `--full-speed`, CPU time per GB without a
//! pace. dripline asks S3 whether each device may have its object; the others ask nobody.
//!
//! A wrong byte, a broken drip, a record that is too large or a GET of a whole object while the cache
//! is warm fails the run; figures fail it only with `--assert`, because they hold on a quiet machine
//! and not on every one.
//!
//! The full form takes an hour; `cargo test --bench spool -- --short` is a debug build's.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use dripline::demo::origin::{Origin, OriginOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use support::client::{self, Load};
use support::lab::{BUCKET, Lab, Object};
use support::observe::Plan;
use support::process::{self, Proxy, Spool};
use support::report::{self, Figures};
use support::rush::Rush;
use support::{haproxy, measure, nginx, program};

/// Objects that the drips are spread over.
const OBJECTS: usize = 10;
/// Times that an object is fetched; the fastest counts, of both.
const FILLS: usize = 5;
/// Connections at full speed.
const HURRIED: usize = 8;
/// Where benches/install-peers leaves what it had to build.
const BUILT: &str = env!("CARGO_TARGET_TMPDIR");

/// What a run can be told. Sizes are bytes.
#[derive(Parser)]
#[command(about = "Many drips from a cache over HTTPS, beside nginx and HAProxy")]
struct Args {
    /// Concurrent drips, each number a round of its own; 0 for none.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,5000,9900",
        default_value_if("short", "true", "50")
    )]
    drips: Vec<usize>,
    /// Seconds observed once every drip runs.
    #[arg(long, default_value_t = 300, default_value_if("short", "true", "10"))]
    seconds: u64,
    /// New drips per second while ramping.
    #[arg(long, default_value_t = 150, default_value_if("short", "true", "25"))]
    ramp: u64,
    /// Proxies to compare with.
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy")]
    peers: Vec<Peer>,
    /// Measure the CPU time per GB without a pace as well.
    #[arg(long)]
    full_speed: bool,
    /// Seconds of that.
    #[arg(long, default_value_t = 20, default_value_if("short", "true", "3"))]
    full_speed_seconds: u64,
    /// Measure how fast the spool fetches an object as well, beside a plain download from the origin.
    #[arg(long)]
    fill: bool,
    /// Plaintext bytes per record.
    #[arg(long, default_value_t = 4096)]
    chunk: usize,
    /// Time between two records, in whole milliseconds: `500ms`.
    #[arg(long, default_value = "500ms", value_parser = program::milliseconds)]
    wait: Duration,
    /// Bytes of an object; it must outlast the observation.
    #[arg(long, default_value_t = 20_000_000)]
    object: usize,
    /// 50 drips for 10 seconds, for a debug build.
    #[arg(long)]
    short: bool,
    /// Fail when a figure is worse than what is promised beside nginx.
    #[arg(long)]
    assert: bool,
    /// The dripline to measure, instead of the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_dripline"))]
    dripline: PathBuf,
    /// A further variable for dripline, NAME=VALUE; may be repeated.
    #[arg(long = "env", value_parser = program::variable)]
    environment: Vec<(String, String)>,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// `cargo bench` says so itself.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What dripline is compared with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Nginx,
    Haproxy,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("spool", run(&args))
}

/// Every round, printed as soon as it is known. What comes back is what failed.
async fn run(args: &Args) -> Result<Vec<String>, String> {
    args.possible()?;
    install(&args.peers)?;
    let most = args.drips.iter().max().copied().unwrap_or_default();
    process::allow_open_files(most as u64 + 512)?;
    let bench = Bench::new(args).await?;
    let (mut failed, mut rounds) = (Vec::new(), json!({}));
    for &drips in args.drips.iter().filter(|drips| **drips > 0) {
        let mut figures = Vec::new();
        for subject in args.subjects() {
            let (measured, wrong) = bench.drip(subject, drips).await?;
            failed.extend(wrong);
            figures.push((name(subject), measured));
        }
        let named: Vec<_> = figures.iter().map(|(name, figures)| (*name, figures)).collect();
        println!("{}", report::table(&named));
        if args.assert {
            failed.extend(broken_bounds(&named));
        }
        let json = named.iter().map(|(name, figures)| ((*name).to_owned(), figures.json()));
        rounds[drips.to_string()] = json.collect();
    }
    let mut speeds = Vec::new();
    if args.full_speed {
        for subject in args.subjects() {
            speeds.push((name(subject), bench.rush(subject).await?));
        }
        println!("{}", speed_table(&speeds));
        if args.assert {
            failed.extend(broken_speed(&speeds));
        }
    }
    let filled = if args.fill { Some(bench.fill_speed().await?) } else { None };
    if let Some((ours, plain)) = filled {
        let ratio = ours / plain;
        println!("fill: {ours:.0} MB/s, plain download: {plain:.0} MB/s, ratio {ratio:.2}\n");
        if args.assert && ratio < 0.8 {
            failed.push(format!("fill: {ratio:.3} of a plain download's speed < 0.8"));
        }
    }
    if let Some(path) = &args.json {
        let speeds: Value =
            speeds.iter().map(|(name, speed)| ((*name).to_owned(), speed.json())).collect();
        let json = json!({
            "parameters": args.json(),
            "drips": rounds,
            "full_speed": speeds,
            "fill_mb_per_second": filled.map(|(ours, plain)| json!({ "ours": ours, "plain": plain })),
        });
        program::write_json(path, &json)?;
    }
    Ok(failed)
}

/// `None` is dripline.
type Subject = Option<Peer>;

fn name(subject: Subject) -> &'static str {
    match subject {
        None => "dripline",
        Some(Peer::Nginx) => "nginx",
        Some(Peer::Haproxy) => "haproxy",
    }
}

/// What all rounds share.
struct Bench<'a> {
    args: &'a Args,
    lab: Lab,
    origin: Origin,
}

impl<'a> Bench<'a> {
    async fn new(args: &'a Args) -> Result<Self, String> {
        let lab = Lab::new(OBJECTS, args.object)?;
        let options = OriginOptions { bucket: BUCKET.to_owned(), ..OriginOptions::default() };
        let origin = Origin::start(options).await;
        let origin = origin.map_err(|error| format!("the origin does not start: {error}"))?;
        for object in lab.objects() {
            let body = Bytes::copy_from_slice(object.body());
            let put = origin.put(&object.key, body, "application/octet-stream").await;
            put.map_err(|error| format!("the origin takes no object: {error}"))?;
        }
        Ok(Self { args, lab, origin })
    }

    /// A round of drips from one proxy, and what was wrong with it.
    async fn drip(&self, subject: Subject, drips: usize) -> Result<(Figures, Vec<String>), String> {
        let Args { wait, ramp, seconds, .. } = *self.args;
        let proxy = self.warm(subject, wait, drips).await?;
        let load = self.load(proxy.addr(), wait)?;
        let origin_port = self.origin.addr().port();
        let before = self.origin.counters().full_gets;
        let plan = Plan { drips, ramp, seconds, origin_port };
        let figures = plan.observe(&proxy, load).await;
        let figures =
            figures.map_err(|error| format!("{}: {error}\n{}", proxy.name, proxy.log_tail()))?;
        let again = self.origin.counters().full_gets - before;
        if figures.failed > 0 {
            eprintln!("{}", proxy.log_tail());
        }
        let wrong = self.wrong(subject, &figures, again);
        Ok((figures, wrong.into_iter().map(|why| format!("{}: {why}", name(subject))).collect()))
    }

    /// Failures that do not depend on the machine's speed. Only dripline promises exact records.
    fn wrong(&self, subject: Subject, figures: &Figures, full_gets: usize) -> Vec<String> {
        let mut wrong = figures.failures.clone();
        if subject.is_none() && figures.odd_records > 0 {
            wrong.push(format!("{} records of another size than the chunk", figures.odd_records));
        }
        if figures.largest > self.args.chunk {
            wrong.push(format!("a record of {} bytes", figures.largest));
        }
        if full_gets > 0 {
            wrong.push(format!("fetched {full_gets} objects from S3 again"));
        }
        if figures.gaps.count == 0 {
            wrong.push("not one gap was observed".to_owned());
        }
        wrong
    }

    /// One proxy without a pace.
    async fn rush(&self, subject: Subject) -> Result<Speed, String> {
        let proxy = self.warm(subject, Duration::ZERO, HURRIED).await?;
        eprintln!("{}: {HURRIED} clients at full speed …", proxy.name);
        let mut rush = Rush::launch(self.load(proxy.addr(), Duration::ZERO)?, HURRIED);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (start, bytes, cpu) = (Instant::now(), rush.bytes(), measure::cpu(proxy.pid())?);
        tokio::time::sleep(Duration::from_secs(self.args.full_speed_seconds)).await;
        let bytes = rush.bytes() - bytes;
        let cpu = measure::cpu(proxy.pid())?.saturating_sub(cpu);
        rush.unbroken()
            .map_err(|error| format!("{}: {error}\n{}", proxy.name, proxy.log_tail()))?;
        Ok(Speed { bytes, cpu, elapsed: start.elapsed() })
    }

    /// The spool's fetch of one object while a device drips, and a plain download of it: the fastest
    /// of several each, in turn, in MB/s.
    async fn fill_speed(&self) -> Result<(f64, f64), String> {
        let (mut ours, mut plain) = (f64::INFINITY, f64::INFINITY);
        for round in 0..FILLS {
            plain = plain.min(self.download().await?.as_secs_f64());
            let settings = process::Settings {
                chunk: self.args.chunk,
                wait: self.args.wait,
                spool: Spool::On(self.lab.path(&format!("fill{round}"))),
                origin: format!("http://{}", self.origin.addr()),
                environment: &self.args.environment,
            };
            let proxy = process::start_dripline(&self.lab, &self.args.dripline, &settings).await?;
            let load = self.load(proxy.addr(), self.args.wait)?;
            let mut stream = client::connect(&load).await?;
            let (all, object) = (self.args.object as u64, load.objects[0].clone());
            let (before, start) = (self.origin.counters().bytes_sent, Instant::now());
            let mut device = JoinSet::new();
            device.spawn(
                async move { client::fetch(&mut stream, &object, load.stall, |_| ()).await },
            );
            // What the sockets hold when the origin has sent its last byte is a percent of an object.
            while (self.origin.counters().bytes_sent - before) < all {
                if start.elapsed() > Duration::from_secs(60) {
                    return Err(format!("no fill within 60 s\n{}", proxy.log_tail()));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            ours = ours.min(start.elapsed().as_secs_f64());
        }
        let speed = |seconds: f64| self.args.object as f64 / 1e6 / seconds;
        Ok((speed(ours), speed(plain)))
    }

    /// Reads one object from the origin, over HTTP as the spool does.
    async fn download(&self) -> Result<Duration, String> {
        let failed = |error: std::io::Error| format!("a plain download: {error}");
        let (origin, object) = (self.origin.addr(), self.presigned().swap_remove(0));
        let target = object.target.replacen("/file/", &format!("/{BUCKET}/"), 1);
        let start = Instant::now();
        let mut stream = TcpStream::connect(origin).await.map_err(failed)?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.map_err(failed)?;
        let (mut space, mut bytes) = (vec![0; 64 << 10], 0);
        loop {
            match stream.read(&mut space).await.map_err(failed)? {
                0 => break,
                n => bytes += n,
            }
        }
        // The head comes on top.
        match bytes >= self.args.object {
            true => Ok(start.elapsed()),
            false => Err(format!("a plain download ended after {bytes} bytes")),
        }
    }

    /// Starts a proxy and has it fetch every object.
    async fn warm(&self, subject: Subject, wait: Duration, drips: usize) -> Result<Proxy, String> {
        let (lab, args, origin) = (&self.lab, self.args, self.origin.addr());
        let (proxy, door) = match subject {
            None => {
                let settings = process::Settings {
                    chunk: args.chunk,
                    wait,
                    spool: Spool::On(lab.path("spool")),
                    origin: format!("http://{origin}"),
                    environment: &args.environment,
                };
                (process::start_dripline(lab, &args.dripline, &settings).await?, None)
            }
            Some(Peer::Nginx) => (nginx::start_cached(lab, origin, args.chunk, wait).await?, None),
            Some(Peer::Haproxy) => {
                let program = haproxy::find(Path::new(BUILT)).ok_or(MISSING)?;
                let settings = haproxy::Settings {
                    origin,
                    chunk: args.chunk,
                    wait,
                    object: args.object,
                    drips,
                };
                let (proxy, door) = haproxy::start(lab, &program, &settings).await?;
                (proxy, Some(door))
            }
        };
        let filled = self.fill(door.unwrap_or(proxy.addr())).await;
        filled.map_err(|error| format!("{}: {error}\n{}", proxy.name, proxy.log_tail()))?;
        Ok(proxy)
    }

    /// Asks for every object until the origin has sent them all: dripline and nginx fetch faster than
    /// their clients read.
    async fn fill(&self, door: SocketAddr) -> Result<(), String> {
        let all = (OBJECTS * self.args.object) as u64 + self.origin.counters().bytes_sent;
        let mut readers = JoinSet::new();
        for object in self.presigned() {
            let load = self.load(door, self.args.wait)?;
            readers.spawn(async move {
                let mut stream = client::connect(&load).await?;
                client::fetch(&mut stream, &object, load.stall, |_| ()).await
            });
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.origin.counters().bytes_sent < all {
            if let Some(Ok(Err(error))) = readers.try_join_next() {
                return Err(format!("does not fill its cache: {error}"));
            }
            if Instant::now() > deadline {
                return Err("does not fill its cache within 60 s".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The last bytes have yet to arrive, and to be written.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    fn load(&self, addr: SocketAddr, wait: Duration) -> Result<Load, String> {
        Ok(Load {
            addr,
            tls: self.lab.connector()?,
            objects: self.presigned(),
            chunk: self.args.chunk,
            wait,
            stall: (wait * 10).max(Duration::from_secs(20)),
        })
    }

    /// The objects as devices ask for them: with a signature that is good for an hour.
    fn presigned(&self) -> Vec<Object> {
        let sign = |object: &Object| {
            let query = self.origin.presign(&object.key).signed_query();
            object.asked_with(&query)
        };
        self.lab.objects().iter().map(sign).collect()
    }
}

const MISSING: &str =
    "nginx, ss or a HAProxy that can limit bandwidth is missing: run benches/install-peers as root";

/// Installs what is missing, as far as this user may.
fn install(peers: &[Peer]) -> Result<(), String> {
    let there = process::find("ss").is_some()
        && peers.iter().all(|peer| match peer {
            Peer::Nginx => process::find("nginx").is_some(),
            Peer::Haproxy => haproxy::find(Path::new(BUILT)).is_some(),
        });
    if there {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("{MISSING}, or choose others with --peers"));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/install-peers");
    let status = Command::new(script).arg(BUILT).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{script}: {status}")),
        Err(error) => Err(format!("{script}: {error}")),
    }
}

/// A run at full speed.
struct Speed {
    bytes: u64,
    cpu: Duration,
    elapsed: Duration,
}

impl Speed {
    fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes.max(1) as f64 / 1e9)
    }

    fn json(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "cpu_seconds": self.cpu.as_secs_f64(),
            "cpu_seconds_per_gb": self.cpu_per_gb(),
        })
    }
}

fn speed_table(speeds: &[(&str, Speed)]) -> String {
    let rows = |speed: &Speed| {
        let cpu = speed.cpu_per_gb();
        let rate = speed.bytes as f64 / 1e6 / speed.elapsed.as_secs_f64();
        vec![
            ("full speed", format!("{rate:.0} MB/s"), None),
            ("  CPU per GB", format!("{cpu:.2} s"), Some(cpu)),
        ]
    };
    let columns: Vec<_> = speeds.iter().map(|(name, speed)| (*name, rows(speed))).collect();
    report::lay_out(&columns)
}

/// What is promised of drips beside nginx, and not kept.
fn broken_bounds(named: &[(&str, &Figures)]) -> Vec<String> {
    let Some((_, ours)) = named.first() else {
        return Vec::new();
    };
    let mut bounds = vec![
        ("mean drift, %", ours.gaps.drift_mean.abs(), 0.1),
        ("shortfall of the rate's 1st percentile", 1.0 - ours.gaps.rate_p1, 0.005),
    ];
    if let Some((_, nginx)) = named.iter().find(|(name, _)| *name == "nginx") {
        bounds.extend([
            ("memory against nginx's", ours.per_drip() / nginx.per_drip(), 1.3),
            ("CPU time against nginx's", ours.cpu_per_drip() / nginx.cpu_per_drip(), 1.0),
            // The devices' own noise is a millisecond.
            ("p99 of |gap - wait|, ms", ours.gaps.deviation_p99, nginx.gaps.deviation_p99 + 1.0),
        ]);
    }
    over(&format!("{} drips", ours.drips), &bounds)
}

fn broken_speed(speeds: &[(&str, Speed)]) -> Vec<String> {
    let per_gb = |wanted: &str| {
        speeds.iter().find(|(name, _)| *name == wanted).map(|(_, speed)| speed.cpu_per_gb())
    };
    match per_gb("dripline").zip(per_gb("nginx")) {
        Some((ours, nginx)) => over("full speed", &[("CPU against nginx's", ours / nginx, 1.1)]),
        None => Vec::new(),
    }
}

fn over(round: &str, bounds: &[(&str, f64, f64)]) -> Vec<String> {
    let broken = bounds.iter().filter(|(_, value, bound)| value.is_nan() || value > bound);
    broken.map(|(what, value, bound)| format!("{round}: {what}: {value:.3} > {bound:.3}")).collect()
}

impl Args {
    fn subjects(&self) -> Vec<Subject> {
        std::iter::once(None).chain(self.peers.iter().copied().map(Some)).collect()
    }

    /// Refuses what could not be measured, before anything starts.
    fn possible(&self) -> Result<(), String> {
        if self.ramp == 0 || self.seconds == 0 || self.chunk == 0 || self.full_speed_seconds == 0 {
            return Err("--ramp, --chunk and seconds start at 1".to_owned());
        }
        let most = self.drips.iter().max().copied().unwrap_or_default();
        let lasts = self.wait.as_secs_f64() * (self.object / self.chunk) as f64;
        let needed = most as f64 / self.ramp as f64 + self.seconds as f64 + 30.0;
        if lasts < needed {
            return Err(format!(
                "an object is dripped within {lasts:.0} s but the run needs {needed:.0} s: raise --object or --wait"
            ));
        }
        Ok(())
    }

    fn json(&self) -> Value {
        json!({
            "drips": self.drips,
            "observed_seconds": self.seconds,
            "ramp_per_second": self.ramp,
            "chunk_bytes": self.chunk,
            "wait_ms": self.wait.as_millis() as u64,
            "objects": OBJECTS,
            "object_bytes": self.object,
            "debug_build": cfg!(debug_assertions),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }
}
