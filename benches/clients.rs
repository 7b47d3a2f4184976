//! `cargo bench --bench clients`: how near the tools that people have come to the rate of their class,
//! behind the forward proxy.
//!
//! An S3 of our own stands under Amazon's name for a region; aws CLI v1 and v2, rclone, s3cmd and boto3
//! copy and sync 50 MB in and out, at a class of 20 Mbit/s. Measured is what the class let through,
//! from the first byte to the last, TLS and heads included: what a tool does before and after is its
//! own affair. For comparison aws CLI with its own `max_bandwidth` and no class. Last, two machines in
//! the house, one with 1 and one with 10 connections, under `pcq: {classifier: src-address}`.
//!
//! A tool that fails, or files that differ, fail the run; figures fail it only with `--assert`. The full
//! form takes ten minutes; `--only` measures some of it. The tools come from Debian and from
//! tests/clients/build.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

#[path = "../tests/clients/house.rs"]
mod house;
#[path = "../tests/clients/machines.rs"]
mod machines;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/clients/tools.rs"]
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use house::House;
use serde_json::{Value, json};
use tools::{Job, Tool};

/// How often the class is asked what it has let through.
const SAMPLE: Duration = Duration::from_millis(5);
/// How far a figure may be off with `--assert`.
const TOLERANCE: f64 = 0.02;

#[derive(Parser)]
#[command(about = "How near tools come to the rate of their class, behind the forward proxy")]
struct Arguments {
    /// The class's rate in Mbit/s.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// How much is moved, in MB.
    #[arg(long, default_value_t = 50)]
    size: usize,
    /// Only what has this in its name, such as "rclone", "v2, cp in", "max_bandwidth" or "machines".
    #[arg(long)]
    only: Option<String>,
    /// Seconds that the two machines are watched.
    #[arg(long, default_value_t = 15)]
    window: u64,
    /// Figures as JSON into this file, besides the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail if a figure under a class is more than 2 % off.
    #[arg(long)]
    assert: bool,
    /// What cargo says of every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the class let through.
struct Moved {
    /// How many bytes by when, from the first to the last.
    samples: Vec<(Instant, u64)>,
    /// The tool's whole life.
    whole: Duration,
}

impl Moved {
    fn bytes(&self) -> u64 {
        self.samples[self.samples.len() - 1].1 - self.samples[0].1
    }

    fn took(&self) -> Duration {
        self.samples[self.samples.len() - 1].0 - self.samples[0].0
    }

    /// Of the wanted rate: from the first byte to the last, and without the first and the last
    /// twentieth, where a tool begins its connections one by one and waits for the last of them.
    fn rates(&self, wanted: f64) -> (f64, f64) {
        let (start, all) = (self.samples[0].1, self.bytes());
        let by = |part: u64| self.samples.iter().position(|(_, n)| *n - start >= all * part / 20);
        let (from, to) = (by(1).unwrap_or(0), by(19).unwrap_or(self.samples.len() - 1));
        let rate = |(t, n): (Instant, u64), (u, m): (Instant, u64)| {
            (m - n) as f64 / (u - t).as_secs_f64() / wanted
        };
        let (first, last) = (self.samples[0], self.samples[self.samples.len() - 1]);
        (rate(first, last), rate(self.samples[from], self.samples[to]))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = arguments.rate as f64 * 1e6 / 8.0;
    let chosen = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only));
    let mut rows: Vec<Value> = Vec::new();
    let mut good = true;
    println!("class {} Mbit/s, {} MB\n", arguments.rate, arguments.size);
    println!(
        "{:<34} {:>9} {:>9} {:>8} {:>8} {:>10}",
        "", "of rate", "middle", "moving", "in all", "bytes"
    );
    let class = format!("[{{name: bulk, max_limit: {}Mbit}}]", arguments.rate);
    let none = "[{name: bulk, max_limit: 100Gbit}]";
    // aws CLI's KB are 1,024 bytes.
    let limit = format!("s3 =\n  max_bandwidth = {}KB/s\n", (wanted / 1024.0).round());
    let runs = Tool::ALL.into_iter().map(|tool| (tool, class.as_str(), ""));
    let own = [Tool::AwsV1, Tool::AwsV2].map(|tool| (tool, none, limit.as_str()));
    for (tool, classes, aws) in runs.chain(own) {
        let suffix = if aws.is_empty() { "" } else { ", max_bandwidth" };
        if !Job::ALL.iter().any(|job| chosen(&format!("{tool}, {job}{suffix}"))) {
            continue;
        }
        let bench = Bench::new(classes, aws, arguments.size).await;
        for job in Job::ALL {
            let name = format!("{tool}, {job}{suffix}");
            if !chosen(&name) {
                continue;
            }
            let moved = bench.measure(tool, job).await;
            let (rate, middle) = moved.rates(wanted);
            good &= !aws.is_empty() || (middle - 1.0).abs() <= TOLERANCE;
            let (took, whole) = (moved.took().as_secs_f64(), moved.whole.as_secs_f64());
            println!(
                "{name:<34} {:>8.2}% {:>8.2}% {took:>6.2} s {whole:>6.2} s {:>10}",
                rate * 100.0,
                middle * 100.0,
                moved.bytes()
            );
            rows.push(json!({
                "name": name, "of_rate": rate, "of_rate_middle": middle, "moving_s": took,
                "whole_s": whole, "bytes": moved.bytes(), "own_limit": !aws.is_empty(),
            }));
        }
    }
    if chosen("machines") {
        let classes = format!(
            "[{{name: bulk, max_limit: {}Mbit, pcq: {{classifier: src-address}}}}]",
            arguments.rate
        );
        let house = House::new(&classes).await;
        let window = Duration::from_secs(arguments.window);
        let [one, ten] = machines::share(&house, [1, 10], window).await;
        let ratio = one as f64 / ten as f64;
        let rate = (one + ten) as f64 / window.as_secs_f64() / wanted;
        println!(
            "\ntwo machines, 1 and 10 connections: {ratio:.3} ({one} and {ten} bytes), {:.2}% of the rate",
            rate * 100.0
        );
        good &= (0.95..=1.05).contains(&ratio);
        rows.push(json!({ "name": "machines", "ratio": ratio, "of_rate": rate }));
    }
    if let Some(path) = &arguments.json {
        let report =
            json!({ "rate_mbit": arguments.rate, "size_mb": arguments.size, "rows": rows });
        std::fs::write(path, format!("{report:#}\n")).expect("a file to write to");
    }
    if arguments.assert && !good { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A house, and what is moved into it and out of it.
struct Bench {
    house: House,
    home: tools::Home,
    one: PathBuf,
    many: PathBuf,
}

impl Bench {
    async fn new(classes: &str, aws: &str, megabytes: usize) -> Self {
        let house = House::new(classes).await;
        let home = house.home();
        home.set_aws(aws);
        let (one, many) = (house.dir.path().join("one"), house.dir.path().join("many"));
        let body = support::fault::pattern(megabytes * 1_000_000);
        std::fs::write(&one, &body).unwrap();
        std::fs::create_dir(&many).unwrap();
        // Of all sizes, as directories are.
        for (at, piece) in body.chunks(body.len().div_ceil(7)).enumerate() {
            std::fs::write(many.join(format!("part {at}")), piece).unwrap();
            house.origin.put(&format!("many/part {at}"), piece.to_vec(), "a/b").await.unwrap();
        }
        house.origin.put("one", body, "a/b").await.unwrap();
        Self { house, home, one, many }
    }

    async fn measure(&self, tool: Tool, job: Job) -> Moved {
        let dir = tempfile::tempdir().unwrap();
        let (local, key) = match job {
            Job::CopyIn => (self.one.clone(), "in/one"),
            Job::CopyOut => (dir.path().join("one"), "one"),
            Job::SyncIn => (self.many.clone(), "in/many"),
            Job::SyncOut => (dir.path().to_owned(), "many"),
        };
        let (before, began) = (self.house.bytes("bulk"), Instant::now());
        let limit = Duration::from_secs(300);
        let run = self.home.run(tool, job, &local, key, limit);
        tokio::pin!(run);
        let mut samples = Vec::new();
        let mut bytes = before;
        loop {
            let done = tokio::select! {
                () = &mut run => true,
                () = tokio::time::sleep(SAMPLE) => false,
            };
            let now = self.house.bytes("bulk");
            // Handshakes and listings come before what is to be moved.
            if now > bytes + 16_384 || (!samples.is_empty() && now > bytes) {
                bytes = now;
                samples.push((Instant::now(), now));
            }
            if done {
                break;
            }
        }
        assert!(samples.len() > 1, "{tool}, {job}: nothing moved");
        match job {
            Job::CopyOut => same(&self.one, &local),
            Job::SyncOut => (0..7).for_each(|n| {
                let name = format!("part {n}");
                same(&self.many.join(&name), &local.join(&name));
            }),
            Job::CopyIn | Job::SyncIn => {}
        }
        Moved { samples, whole: began.elapsed() }
    }
}

fn same(one: &Path, other: &Path) {
    let (a, b) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    assert!(a == b, "{} differs", other.display());
}
