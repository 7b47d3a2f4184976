//! `cargo bench --bench drips`: many drips at once, seen from the wire.
//!
//! A real nginx plays the HTTPS S3 origin, the dripline binary runs with the environment alone, and
//! one process holds every device. The spool is off, so that each drip reads from S3 itself; `spool`
//! is the benchmark beside this one. What is measured: that every byte and every record is right, how
//! far the gaps between records are from the wait, and what a drip costs in memory (process and
//! sockets, both legs) and CPU. `--nginx` gives the same load to an nginx proxy tuned for the job.
//!
//! A wrong byte, a wrong record or a broken drip fails the run; figures fail it only with `--assert`,
//! because they hold on a quiet machine and not on every one. Nothing outlives the run: processes
//! and files end with it on every path, Ctrl-C included.
//!
//! The full form takes about four minutes; `cargo test --bench drips -- --short` is a debug build's.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use support::client::Load;
use support::lab::Lab;
use support::nginx;
use support::observe::Plan;
use support::process::{self, Proxy, Spool};
use support::program;
use support::report::{self, Figures};

/// What a run can be told. Sizes are bytes.
#[derive(Parser)]
#[command(about = "Many drips at once over HTTPS: gaps, memory, CPU")]
struct Args {
    /// Concurrent drips.
    #[arg(long, default_value_t = 1000, default_value_if("short", "true", "20"))]
    drips: usize,
    /// Seconds observed once every drip runs.
    #[arg(long, default_value_t = 120, default_value_if("short", "true", "5"))]
    seconds: u64,
    /// New drips per second while ramping.
    #[arg(long, default_value_t = 100)]
    ramp: u64,
    /// Plaintext bytes per record.
    #[arg(long, default_value_t = 4096)]
    chunk: usize,
    /// Time between two records, in whole milliseconds: `500ms`.
    #[arg(long, default_value = "500ms", value_parser = program::milliseconds)]
    wait: Duration,
    /// Bytes of the object; it must outlast the observation.
    #[arg(long, default_value_t = 20_000_000)]
    object: usize,
    /// 20 drips for 5 seconds, for a debug build.
    #[arg(long)]
    short: bool,
    /// Give the same load to a tuned nginx as well.
    #[arg(long)]
    nginx: bool,
    /// Measure this proxy alone.
    #[arg(long)]
    only: Option<Subject>,
    /// Fail when p99 of the deviation is over 10 ms or a drip costs 195 KB or more.
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

/// The proxy under load.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    Dripline,
    Nginx,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Dripline => "dripline",
            Self::Nginx => "nginx",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("drips", run(&args))
}

/// Measures every subject and prints the figures. What comes back is what failed.
async fn run(args: &Args) -> Result<Vec<String>, String> {
    args.possible()?;
    process::allow_open_files(2 * args.drips as u64 + 512)?;
    let lab = Lab::new(1, args.object)?;
    lab.write_objects()?;
    let origin = nginx::start_origin(&lab).await?;
    let mut measured = Vec::new();
    for subject in args.subjects() {
        let proxy = match subject {
            Subject::Dripline => {
                let settings = process::Settings {
                    chunk: args.chunk,
                    wait: args.wait,
                    spool: Spool::Off,
                    origin: format!("https://localhost:{}", origin.port),
                    environment: &args.environment,
                };
                process::start_dripline(&lab, &args.dripline, &settings).await?
            }
            Subject::Nginx => nginx::start_direct(&lab, origin.port, args.chunk, args.wait).await?,
        };
        let figures = observe(args, &lab, &proxy, origin.port)
            .await
            .map_err(|error| format!("{}: {error}\n{}", subject.name(), proxy.log_tail()))?;
        if figures.failed > 0 {
            eprintln!("{}", proxy.log_tail());
        }
        measured.push((subject, figures));
    }
    let named: Vec<_> =
        measured.iter().map(|(subject, figures)| (subject.name(), figures)).collect();
    print!("{}", report::table(&named));
    if let Some(path) = &args.json {
        write_json(path, args, &named)?;
    }
    Ok(measured
        .iter()
        .flat_map(|(subject, figures)| verdict(*subject, figures, args.assert))
        .collect())
}

/// One proxy's run.
async fn observe(
    args: &Args,
    lab: &Lab,
    proxy: &Proxy,
    origin_port: u16,
) -> Result<Figures, String> {
    let load = Load {
        addr: proxy.addr(),
        tls: lab.connector()?,
        objects: lab.objects().to_vec(),
        chunk: args.chunk,
        wait: args.wait,
        stall: (args.wait * 10).max(Duration::from_secs(10)),
    };
    support::client::warm_up(&load).await?;
    let plan = Plan { drips: args.drips, ramp: args.ramp, seconds: args.seconds, origin_port };
    plan.observe(proxy, load).await
}

/// What counts as failed: a broken drip always, a figure only if asked for, and records of another
/// size only where exact ones are promised (nginx does not).
fn verdict(subject: Subject, figures: &Figures, assert: bool) -> Vec<String> {
    let mut failed: Vec<String> =
        figures.failures.iter().map(|why| format!("{}: {why}", subject.name())).collect();
    if subject == Subject::Nginx {
        return failed;
    }
    if figures.odd_records > 0 {
        failed.push(format!("{} records of another size than the chunk", figures.odd_records));
    }
    if figures.gaps.count == 0 {
        failed.push("not one gap was observed".to_owned());
    }
    if assert && figures.gaps.deviation_p99 > 10.0 {
        failed.push(format!(
            "p99 of |gap - wait| is {:.1} ms, over 10 ms",
            figures.gaps.deviation_p99
        ));
    }
    if assert && figures.per_drip() >= 195_000.0 {
        failed
            .push(format!("a drip costs {:.0} KB, not below 195 KB", figures.per_drip() / 1000.0));
    }
    failed
}

fn write_json(path: &Path, args: &Args, named: &[(&str, &Figures)]) -> Result<(), String> {
    let mut json = serde_json::json!({
        "parameters": {
            "drips": args.drips,
            "observed_seconds": args.seconds,
            "ramp_per_second": args.ramp,
            "chunk_bytes": args.chunk,
            "wait_ms": args.wait.as_millis() as u64,
            "object_bytes": args.object,
            "debug_build": cfg!(debug_assertions),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        },
    });
    for (name, figures) in named {
        json[*name] = figures.json();
    }
    program::write_json(path, &json)
}

impl Args {
    fn subjects(&self) -> Vec<Subject> {
        match self.only {
            Some(subject) => vec![subject],
            None if self.nginx => vec![Subject::Dripline, Subject::Nginx],
            None => vec![Subject::Dripline],
        }
    }

    /// Refuses what could not be measured, before anything starts.
    fn possible(&self) -> Result<(), String> {
        if self.drips == 0 || self.ramp == 0 || self.seconds == 0 || self.chunk == 0 {
            return Err("--drips, --ramp, --seconds and --chunk start at 1".to_owned());
        }
        let lasts = self.wait.as_secs_f64() * (self.object / self.chunk) as f64;
        let needed = self.drips as f64 / self.ramp as f64 + self.seconds as f64 + 30.0;
        if lasts < needed {
            return Err(format!(
                "the object is dripped within {lasts:.0} s but the run needs {needed:.0} s: raise --object or --wait"
            ));
        }
        Ok(())
    }
}
