//! Faults between dripline and S3 during a fill do not reach the readers.

use super::relay::Fault;
use super::*;

/// Set to what a failed run printed to see it again.
fn seed() -> u64 {
    let given = std::env::var("SPOOL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("SPOOL_SEED={seed}");
    seed
}

/// Offsets, each relative to the one before, that all lie within an object of `length` bytes.
fn offsets(random: &mut fastrand::Rng, count: u64, length: usize) -> Vec<u64> {
    let step = length as u64 / (count + 1);
    // More than a response's head, so that every answer brings some of the body.
    (0..count).map(|_| random.u64(2048..step)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_cuts_at_random_offsets_cost_ten_resumes_and_no_byte() {
    let mut random = fastrand::Rng::with_seed(seed());
    let body = pattern(3 * MIB + 1);
    let world = Setup::new().relayed().drip(1024, "0").start(&body).await;
    let faults = offsets(&mut random, 10, body.len());
    let kinds = [Fault::Reset, Fault::Truncate];
    world.relay().plan(faults.into_iter().zip(kinds.into_iter().cycle()));
    let readers = world.readers(0..100);
    all_whole(readers, &body).await;
    assert_eq!(world.relay().planned(), 0);
    assert_eq!(world.metric(RESUMES), 10);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
    assert_eq!(world.full_gets(), 1);
    assert_eq!(world.ranged_gets(), 100 + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_and_paced_cuts_are_not_seen_either() {
    let mut random = fastrand::Rng::with_seed(seed());
    let body = pattern(400 * KIB + 9);
    let world = Setup::new().relayed().drip(4096, "5ms").start(&body).await;
    let faults = offsets(&mut random, 4, body.len());
    world.relay().plan(faults.into_iter().map(|after| (after, Fault::Reset)));
    let targets: Vec<String> = (0..10).map(|n| world.target(n)).collect();
    let all = targets.iter().map(|target| world.get_tls(target, "", 4096));
    for response in futures::future::join_all(all).await {
        assert_whole(&response, &body);
    }
    assert_eq!(world.metric(RESUMES), 4);
    assert_eq!(world.full_gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_end_after_the_response_timeout_and_refused_connections_are_tried_again() {
    let body = pattern(2 * MIB);
    let setup = Setup::new().relayed().set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "1s");
    let world = setup.start(&body).await;
    world.relay().plan([(300_000, Fault::Stall), (700_000, Fault::Stall)]);
    let readers = world.readers(0..100);
    wait_for("a stall", || world.relay().planned() == 1).await;
    all_whole(readers, &body).await;
    assert_eq!((world.metric(RESUMES), world.full_gets()), (2, 1));

    // Another object, and a while without new connections.
    world.origin.put("fw.bin", body[..MIB].to_vec(), "text/plain").await.unwrap();
    let before = world.metric(RESUMES);
    world.relay().let_through(MIB / 3);
    let readers = world.readers(100..200);
    wait_for("a third", || world.relay().passed() >= 2 * MIB as u64 + MIB as u64 / 3).await;
    wait_for("all checks", || world.checks("version") + world.checks("unchanged") == 200).await;
    world.relay().refuse(true);
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.relay().refuse(false);
    all_whole(readers, &body[..MIB]).await;
    assert_eq!((world.metric(RESUMES) - before, world.full_gets()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_goes_away_and_comes_back() {
    let body = pattern(2 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().let_through(MIB);
    let readers = world.readers(0..100);
    wait_for("half of it", || world.relay().passed() >= MIB as u64).await;
    wait_for("all checks", || world.ranged_gets() == 100).await;
    world.until("dripline_drips", 100).await;
    world.origin.stop().await;
    // The kernel may hold all that the origin had written, and would deliver it still.
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.origin.resume().await.unwrap();
    all_whole(readers, &body).await;
    assert_eq!((world.metric(RESUMES), world.full_gets()), (1, 1));
}

/// A reader whose presigned query ends in a moment, and one whose does not.
async fn expiring(first_is_short: bool) {
    let body = pattern(2 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().let_through(MIB);
    let short = file(&world.presign("fw.bin").expires(Duration::from_secs(2)));
    let mut targets = [short.clone(), world.target(1)];
    if !first_is_short {
        targets.reverse();
    }
    let first = world.begin(targets[0].clone());
    world.until("dripline_drips", 1).await;
    let second = world.begin(targets[1].clone());
    world.until("dripline_drips", 2).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(world.ask(&short, "").await.status, 403, "it has expired");
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    all_whole(vec![first, second], &body).await;
    assert_eq!((world.metric(RESUMES), world.full_gets()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_the_first_reader_expires() {
    expiring(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_the_newest_reader_expires() {
    expiring(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_query_readers_are_closed_short_in_the_end_unless_one_brings_a_new() {
    let body = pattern(2 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    let short = |n: u64| file(&world.presign("fw.bin").expires(Duration::from_secs(2 + n)));
    let readers = |relay: &Relay| {
        relay.let_through(MIB);
        (0..2).map(|n| world.begin(short(n))).collect::<Vec<_>>()
    };
    let rescued = readers(world.relay());
    world.until("dripline_drips", 2).await;
    tokio::time::sleep(Duration::from_millis(4100)).await;
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    wait_for("a refusal of both", || world.ranged_gets() >= 4).await;
    assert_whole(&world.get(1, "").await, &body);
    all_whole(rescued, &body).await;
    assert_eq!((world.metric(RESUMES), world.full_gets()), (1, 1));

    let newer = pattern(2 * MIB + 1);
    world.origin.put("fw.bin", newer.clone(), "text/plain").await.unwrap();
    let lost = readers(world.relay());
    world.until("dripline_drips", 2).await;
    tokio::time::sleep(Duration::from_millis(4100)).await;
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    let began = std::time::Instant::now();
    for reader in lost {
        let response = reader.await.unwrap();
        assert!(!response.complete && newer.starts_with(&response.body));
        assert!(!response.body.is_empty());
    }
    println!("closed short after {:?}", began.elapsed());
    assert_eq!(world.metric("dripline_spool_fills_total{end=\"upstream\"}"), 1);
    assert_eq!(world.metric(OBJECTS), 0);
    assert_whole(&world.get(2, "").await, &newer);
}
