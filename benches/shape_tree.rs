//! `cargo bench --bench shape_tree`: what the class tree costs, without sockets. Every flow has a task of
//! its own and moves bytes as soon as it has a permit.
//!
//! Measured: the share of a core that the process takes at a rate, how far it is off that rate, and the
//! time of an acquire when nobody waits. `--assert` fails the run if 10,000 flows at 1 Gbit/s take
//! more than a tenth of a core or the rate is off by more than 1 %, which holds on a quiet machine and
//! in a release build. Any run fails if the rate is exceeded by more than 1 %, or missed by more than
//! 20 %: timers that come later than the burst of 10 ms cost rate. `cargo test --bench shape_tree -- --short` is a debug build's.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dripline::metrics::Metrics;
use dripline::shape::{ClassSettings, Classifier, Owner, Pcq, Settings, Shaper};
use dripline::units::Rate;

/// What a run can be told.
#[derive(Parser)]
#[command(about = "The class tree: CPU, accuracy, time of an acquire")]
struct Args {
    /// Flows, all of which always have something to send.
    #[arg(long, default_value_t = 10_000, default_value_if("short", "true", "1000"))]
    flows: u32,
    /// The rate of the class that they share.
    #[arg(long, default_value = "1Gbit", default_value_if("short", "true", "100Mbit"))]
    rate: Rate,
    /// Seconds observed, after one that is not.
    #[arg(long, default_value_t = 10, default_value_if("short", "true", "3"))]
    seconds: u64,
    /// 1,000 flows at 100 Mbit/s for 3 seconds, for a debug build.
    #[arg(long)]
    short: bool,
    /// Fail if more than a tenth of a core is taken or the rate is missed.
    #[arg(long)]
    assert: bool,
    /// What cargo passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (cpu, rate) = runtime.block_on(loaded(&args));
    let acquire = runtime.block_on(alone());
    let off = rate / args.rate.bits() as f64 - 1.0;
    println!(
        "{} flows at {}: {:.1} % of a core, rate {:+.3} %",
        args.flows,
        args.rate,
        cpu * 100.0,
        off * 100.0
    );
    println!("an acquire where nobody waits: {} ns", acquire.as_nanos());
    let failed = !(-0.2..=0.01).contains(&off) || (args.assert && (cpu > 0.1 || off < -0.01));
    if failed {
        println!("FAILED");
    }
    ExitCode::from(u8::from(failed))
}

fn tree(rate: Rate) -> Arc<Shaper> {
    let up = ClassSettings { max_limit: Some(rate), ..ClassSettings::new("up") };
    let bulk = ClassSettings {
        parent: Some("up".into()),
        pcq: Pcq { classifier: Classifier::SrcAddress, rate: Rate::ZERO },
        ..ClassSettings::new("bulk")
    };
    let settings = Settings { classes: vec![up, bulk], ..Settings::default() };
    Shaper::new(&settings, Metrics::new().shape).expect("a tree")
}

fn owner(number: u32) -> Owner {
    Owner { client: IpAddr::V4(Ipv4Addr::from(number)), user: None }
}

/// Cores taken, and bits per second.
async fn loaded(args: &Args) -> (f64, f64) {
    let shaper = tree(args.rate);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..args.flows {
        let mut flow = shaper.register_flow("bulk", &owner(number)).expect("a leaf");
        tasks.spawn(async move {
            loop {
                let permit = flow.acquire(64 << 10).await;
                flow.spend(permit);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (began, cpu, bytes) = (Instant::now(), cpu_time(), shaper.report()[0].bytes);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_time() - cpu);
    let bytes = shaper.report()[0].bytes - bytes;
    tasks.shutdown().await;
    (cpu.as_secs_f64() / took, bytes as f64 * 8.0 / took)
}

/// What acquire and spend take together, with a rate that is never used up.
async fn alone() -> Duration {
    const TIMES: u32 = 200_000;
    let shaper = tree(Rate::from_bits(1_000_000_000_000));
    let mut flow = shaper.register_flow("bulk", &owner(1)).expect("a leaf");
    let began = Instant::now();
    for _ in 0..TIMES {
        let permit = flow.acquire(1000).await;
        flow.spend(permit);
    }
    began.elapsed() / TIMES
}

/// CPU time of this process, all threads together: fields 14 and 15 of /proc/self/stat (proc(5)), in
/// ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields = stat.rsplit(") ").next().expect("fields behind the name");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>());
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().expect("numbers");
    assert_eq!(ticks.len(), 2, "{stat}");
    Duration::from_millis(ticks.iter().sum::<u64>() * 10)
}
