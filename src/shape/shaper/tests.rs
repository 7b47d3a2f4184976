//! The shell on tokio's paused clock: who waits is woken, in time, and nothing is lost.

#![expect(clippy::disallowed_methods, reason = "tests measure time")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicI64;
use std::task::{Context, Poll};

use jiff::tz::TimeZone;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::Metrics;
use crate::shape::settings::{ClassSettings, Dscp};
use crate::shape::timetable::Timetable;

const OWNER: Owner = Owner { client: IpAddr::V4(Ipv4Addr::LOCALHOST), user: None };

fn mbit(mbit: u64) -> Rate {
    Rate::from_bits(mbit * 1_000_000)
}

fn class(name: &str, parent: Option<&str>, max: Option<u64>) -> ClassSettings {
    let parent = parent.map(Into::into);
    ClassSettings { parent, max_limit: max.map(mbit), ..ClassSettings::new(name) }
}

fn settings(classes: Vec<ClassSettings>) -> Settings {
    Settings { classes, ..Settings::default() }
}

fn shaper(classes: Vec<ClassSettings>) -> Arc<Shaper> {
    Shaper::new(&settings(classes), Metrics::new().shape).unwrap()
}

/// Moves as much as it may, for ever.
fn greedy(shaper: &Arc<Shaper>, class: &str) -> JoinHandle<()> {
    let mut flow = shaper.register_flow(class, &OWNER).unwrap();
    tokio::spawn(async move {
        loop {
            let permit = flow.acquire(16 << 10).await;
            // Without limits it never waits.
            tokio::task::yield_now().await;
            flow.spend(permit);
        }
    })
}

/// Bits per second of a class over the next `time`.
async fn rate(shaper: &Shaper, class: usize, time: Duration) -> u64 {
    let before = shaper.report()[class].bytes;
    tokio::time::sleep(time).await;
    (shaper.report()[class].bytes - before) * 8_000 / u64::try_from(time.as_millis()).unwrap()
}

fn near(got: u64, mbit: u64) -> bool {
    (got as f64 / (mbit as f64 * 1e6) - 1.0).abs() < 0.02
}

const SECOND: Duration = Duration::from_secs(1);
const HALF: Duration = Duration::from_millis(500);

#[tokio::test]
async fn classes_without_children_are_fed() {
    let shaper = shaper(vec![class("up", None, Some(100)), class("bulk", Some("up"), Some(20))]);
    for (name, feeds) in [("bulk", true), ("up", false), ("none", false)] {
        assert_eq!(
            (shaper.has_leaf(name), shaper.register_flow(name, &OWNER).is_some()),
            (feeds, feeds),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_cut_in_flight_is_slower_within_500_ms_and_faster_again() {
    let shaper = shaper(vec![class("up", None, Some(100)), class("bulk", Some("up"), Some(20))]);
    let flows: Vec<_> = (0..4).map(|_| greedy(&shaper, "bulk")).collect();
    assert!(near(rate(&shaper, 1, 5 * SECOND).await, 20));
    for max in [1, 20, 50] {
        let max_limit = Some(Some(mbit(max)));
        shaper.change("bulk", &Change { max_limit, ..Change::default() }).unwrap();
        tokio::time::sleep(HALF).await;
        let got = rate(&shaper, 1, 5 * SECOND).await;
        assert!(near(got, max), "{max}: {got}");
    }
    let mut new = settings(vec![class("up", None, Some(5)), class("bulk", Some("up"), Some(20))]);
    shaper.reload(&new).unwrap();
    tokio::time::sleep(HALF).await;
    assert!(near(rate(&shaper, 0, 5 * SECOND).await, 5));
    new.classes[1].parent = None;
    assert_eq!(shaper.reload(&new), Err(TreeError::Structure));
    flows.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_loses_nothing_and_takes_nothing() {
    let shaper = shaper(vec![class("bulk", None, Some(8))]);
    let mut first = shaper.register_flow("bulk", &OWNER).unwrap();
    // All of the burst, 10 ms, and one more.
    for _ in 0..11 {
        let permit = first.acquire(1000).await;
        first.spend(permit);
    }
    let mut second = shaper.register_flow("bulk", &OWNER).unwrap();
    let waited = tokio::time::timeout(Duration::from_micros(100), second.acquire(1000)).await;
    assert!(waited.is_err());
    assert_eq!(shaper.report()[0].queued, 1, "it keeps its place");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(second.acquire(400).await, 400, "what came in the meantime is there at once");
    assert_eq!(second.acquire(2000).await, 1000, "and is the same until it is spent");
    second.spend(300);
    assert_eq!(shaper.report()[0].bytes, 11_300);
    // A flow that goes while it waits, and one that goes with a permit.
    let mut third = shaper.register_flow("bulk", &OWNER).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(permit) = first.poll_acquire(&mut context, 1000) {
        first.spend(permit);
    }
    assert!(third.poll_acquire(&mut context, 1).is_pending());
    assert_eq!(second.acquire(1).await, 1);
    assert_eq!(shaper.report()[0].flows, 3);
    drop((first, second, third));
    let report = &shaper.report()[0];
    assert_eq!((report.flows, report.queued), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_flow_had_goes_to_the_next_at_once() {
    let shaper = shaper(vec![class("bulk", None, Some(8))]);
    let mut rich = shaper.register_flow("bulk", &OWNER).unwrap();
    assert_eq!(rich.acquire(2000).await, 2000);
    let mut others: Vec<_> =
        (0..9).map(|_| shaper.register_flow("bulk", &OWNER).unwrap()).collect();
    for flow in &mut others {
        let permit = flow.acquire(1000).await;
        flow.spend(permit);
    }
    let mut last = shaper.register_flow("bulk", &OWNER).unwrap();
    let waiting = tokio::spawn(async move { (last.acquire(1000).await, Instant::now()) });
    tokio::task::yield_now().await;
    assert_eq!(shaper.report()[0].queued, 1, "it has asked, and waits");
    let now = Instant::now();
    drop(rich);
    assert_eq!(waiting.await.unwrap(), (1000, now));
}

#[tokio::test(start_paused = true)]
async fn a_class_without_limits_does_not_wait() {
    let shaper = shaper(vec![class("free", None, None), class("slow", None, Some(1))]);
    let mut flow = shaper.register_flow("free", &OWNER).unwrap();
    let start = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(flow.acquire(10_000).await, 10_000);
        flow.spend(10_000);
    }
    assert_eq!((Instant::now(), shaper.report()[0].bytes), (start, 100_000_000));
}

#[tokio::test(start_paused = true)]
async fn the_timetable_changes_rates_in_flight_whatever_the_clock_on_the_wall_does() {
    let table = Timetable::parse("08:00,2Mbit 18:00,10Mbit 23:00,off", TimeZone::UTC).unwrap();
    let bulk = ClassSettings { timetable: Some(table), ..class("bulk", None, Some(20)) };
    let today: Timestamp = "2026-03-02T17:59:00Z".parse().unwrap();
    // What the clock on the wall was put forward by, in seconds.
    let put_forward = Arc::new(AtomicI64::new(0));
    let (start, more) = (Instant::now(), Arc::clone(&put_forward));
    let wall = move || {
        let passed = i64::try_from(start.elapsed().as_secs()).unwrap();
        Timestamp::from_second(today.as_second() + passed + more.load(Ordering::Relaxed)).unwrap()
    };
    let metrics = Metrics::new().shape;
    let shaper = Shaper::with_clock(&settings(vec![bulk]), metrics, Box::new(wall)).unwrap();
    let flow = greedy(&shaper, "bulk");
    let got = rate(&shaper, 0, 30 * SECOND).await;
    assert!(near(got, 2), "{got}");
    tokio::time::sleep(30 * SECOND + HALF).await;
    let got = rate(&shaper, 0, 5 * SECOND).await;
    assert!(near(got, 10), "at 18:00 on the second: {got}");
    assert_eq!(shaper.report()[0].max_limit, Some(mbit(10)));
    // The machine sleeps for six hours: the daemon's clock has stood still.
    put_forward.store(6 * 3600, Ordering::Relaxed);
    tokio::time::sleep(61 * SECOND).await;
    let got = rate(&shaper, 0, 5 * SECOND).await;
    assert!(near(got, 20), "off, within a minute: {got}");
    assert_eq!(shaper.report()[0].next_change, "2026-03-03T08:00:00Z".parse().ok());
    // Asleep until ten, and put back.
    put_forward.store(16 * 3600, Ordering::Relaxed);
    tokio::time::sleep(61 * SECOND).await;
    assert!(near(rate(&shaper, 0, 5 * SECOND).await, 2));
    flow.abort();
}

#[tokio::test(start_paused = true)]
async fn changes_that_do_not_hold_together_change_nothing() {
    let bulk = ClassSettings { limit_at: mbit(1), ..class("bulk", Some("up"), Some(20)) };
    let shaper = shaper(vec![class("up", None, Some(20)), bulk]);
    let change = |class, limit_at, max: Option<u64>| {
        let limit_at: Option<u64> = limit_at;
        let change = Change {
            limit_at: limit_at.map(mbit),
            max_limit: max.map(|max| Some(mbit(max))),
            priority: None,
        };
        shaper.change(class, &change).map_err(|e| e.to_string())
    };
    assert_eq!(change("nobody", None, None), Err("there is no class `nobody`".to_owned()));
    assert_eq!(
        change("bulk", Some(30), Some(40)),
        Err("max_limit: class up: the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit".to_owned())
    );
    assert_eq!(
        change("bulk", Some(2), Some(1)),
        Err("max_limit: 1Mbit is less than limit_at, 2Mbit; a guarantee cannot exceed the ceiling"
            .to_owned())
    );
    let report = &shaper.report()[1];
    assert_eq!((report.limit_at, report.max_limit), (mbit(1), Some(mbit(20))));
    assert_eq!(change("bulk", Some(0), Some(5)), Ok(()));
    let report = &shaper.report()[1];
    assert_eq!((report.limit_at, report.max_limit), (Rate::ZERO, Some(mbit(5))));
}

#[tokio::test(start_paused = true)]
async fn flows_join_leaves_alone_and_everything_is_counted() {
    let bulk =
        ClassSettings { dscp: Dscp::new(1), pacing: true, ..class("bulk", Some("up"), None) };
    let metrics = Metrics::new();
    let tree = settings(vec![class("up", None, Some(20)), bulk]);
    let shaper = Shaper::new(&tree, metrics.shape.clone()).unwrap();
    assert!(
        shaper.register_flow("up", &OWNER).is_none()
            && shaper.register_flow("down", &OWNER).is_none()
    );
    let marks = SocketOptions { tos: Some(0x04), max_pacing_rate: Some(3_000_000) };
    assert_eq!((shaper.socket_options("bulk"), shaper.socket_options("down")), (Some(marks), None));
    let flows: Vec<_> = (0..3).map(|_| greedy(&shaper, "bulk")).collect();
    tokio::time::sleep(5 * SECOND).await;
    shaper.update_metrics();
    shaper.update_metrics();
    let text = String::from_utf8(metrics.text()).unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{class=\"up\"}}")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!((value("dripline_class_bytes_total") / 12_500_000.0 - 1.0).abs() < 0.01);
    assert!((value("dripline_class_rate_bytes_per_second") / 2_500_000.0 - 1.0).abs() < 0.01);
    assert_eq!(value("dripline_class_max_limit_bytes_per_second"), 2_500_000.0);
    assert_eq!(
        (value("dripline_class_flows"), value("dripline_class_limit_at_bytes_per_second")),
        (3.0, 0.0)
    );
    // Three flows wait all the time.
    assert!(value("dripline_class_queue_seconds_total") > 10.0);
    assert_eq!(value("dripline_class_starved_seconds_total"), 0.0);
    flows.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn the_timer_ends_with_the_tree() {
    let shaper = shaper(vec![class("bulk", None, Some(8))]);
    let flow = shaper.register_flow("bulk", &OWNER);
    tokio::task::yield_now().await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(alive(), 1);
    drop((shaper, flow));
    tokio::task::yield_now().await;
    assert_eq!(alive(), 0);
}
