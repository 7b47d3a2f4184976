//! Common S3 tools behind the forward proxy: each copies and syncs in both directions under S3's real
//! name. The files arrive complete, and the transfer keeps to the rate of its class.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

#[path = "clients/house.rs"]
mod house;
#[path = "clients/machines.rs"]
mod machines;
mod support;
#[path = "clients/tools.rs"]
mod tools;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use house::House;
use support::fault::pattern;
use tools::{Job, Tool};

/// Two parts of a multipart upload, for every tool.
const SIZE: usize = 17 << 20;
/// The class's rate, in bytes per second.
const RATE: f64 = 160e6 / 8.0;
/// No job takes longer on any machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Puts all jobs to a tool.
async fn works(tool: Tool) {
    let house =
        House::new("[{name: bulk, max_limit: 160Mbit, pcq: {classifier: connection}}]").await;
    let home = house.home();
    let dir = house.dir.path();
    let (here, there) = (dir.join("here"), dir.join("there"));
    fs::create_dir_all(here.join("deeper/still")).unwrap();
    let body = pattern(SIZE);
    fs::write(here.join("large file"), &body).unwrap();
    for (name, size) in [("empty", 0), ("deeper/one", 1), ("deeper/still/some+more", 70_000)] {
        fs::write(here.join(name), pattern(size)).unwrap();
    }
    let copy = dir.join("copy");
    for job in Job::ALL {
        let (before, began) = (house.bytes("bulk"), Instant::now());
        match job {
            Job::CopyIn => home.run(tool, job, &here.join("large file"), "one", LIMIT).await,
            Job::CopyOut => {
                home.run(tool, job, &copy, "one", LIMIT).await;
                assert!(fs::read(&copy).unwrap() == body, "{tool}, {job}: the file differs");
            }
            Job::SyncIn => home.run(tool, job, &here, "all", LIMIT).await,
            Job::SyncOut => {
                fs::create_dir_all(&there).unwrap();
                home.run(tool, job, &there, "all", LIMIT).await;
                assert_same(&here, &there);
            }
        }
        let (bytes, took) = (house.bytes("bulk") - before, began.elapsed());
        assert!(bytes >= SIZE as u64, "{tool}, {job}: only {bytes} bytes went through the class");
        let rate = bytes as f64 / took.as_secs_f64() / RATE;
        println!("{tool}, {job}: {bytes} bytes in {took:?}");
        assert!(rate <= 1.03, "{tool}, {job}: {rate:.3} of the class's rate");
    }
}

/// The same files with the same bytes.
fn assert_same(one: &Path, other: &Path) {
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other), "in {}", one.display());
    for name in names(one) {
        let (a, b) = (one.join(&name), other.join(&name));
        if a.is_dir() {
            assert_same(&a, &b);
        } else {
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{} differs", a.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_v1() {
    works(Tool::AwsV1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_v2() {
    works(Tool::AwsV2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone() {
    works(Tool::Rclone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3cmd() {
    works(Tool::S3cmd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3() {
    works(Tool::Boto3).await;
}

/// A machine's share does not depend on how many connections it opens.
#[tokio::test(flavor = "multi_thread")]
async fn two_machines_have_equal_shares() {
    let house =
        House::new("[{name: bulk, max_limit: 20Mbit, pcq: {classifier: src-address}}]").await;
    let [one, ten] = machines::share(&house, [1, 10], Duration::from_secs(6)).await;
    let ratio = one as f64 / ten as f64;
    println!("1 connection: {one} bytes, 10 connections: {ten}; {ratio:.3}");
    // Shares per connection would give 0.1. Shares per machine give 0.98 on a quiet machine.
    assert!((0.6..=1.6).contains(&ratio), "1 connection: {one} bytes, 10 connections: {ten}");
    let rate = (one + ten) as f64 / 6.0 / 2.5e6;
    assert!((0.3..=1.1).contains(&rate), "{rate:.3} of the class's rate");
}
