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

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod support;

#[path = "shaping/delay.rs"]
mod delay;
#[path = "shaping/dripline.rs"]
mod dripline;
#[path = "shaping/echo.rs"]
mod echo;
#[path = "shaping/figures.rs"]
mod figures;
#[path = "shaping/flows.rs"]
mod flows;
#[path = "shaping/line.rs"]
mod line;
#[path = "shaping/passed.rs"]
mod passed;
#[path = "shaping/phases.rs"]
mod phases;
#[path = "shaping/place.rs"]
mod place;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use figures::{Figures, GENEROUS, PROMISED, Subject};
use line::Tree;
use phases::{Bench, Plan};
use support::{process, program, report};

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
    #[arg(long, default_value_t = 5, default_value_if("short", "true", "1"))]
    rounds: usize,
    /// Idle tunnels that dripline holds at the end, for their memory; 0 for none.
    #[arg(long, default_value_t = 0)]
    tunnels: usize,
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
    // A tunnel has a client and a far end here, and two sockets in dripline.
    process::allow_open_files(2 * args.tunnels as u64 + 512)?;
    let bench = Bench::new(args.plan()).await?;
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

impl Args {
    fn tree(&self) -> Tree {
        Tree { link: self.link, parent: self.parent, bulk: self.bulk }
    }

    fn plan(&self) -> Plan {
        Plan {
            tree: self.tree(),
            congestion: self.congestion.clone(),
            rounds: self.rounds,
            short: self.short,
            tunnels: self.tunnels,
            dripline: self.dripline.clone(),
            environment: self.environment.clone(),
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
