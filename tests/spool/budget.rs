//! The budget: which objects are too large, which are evicted, and which stay.

use super::*;

async fn with_objects(world: &World, keys: &[&str], length: usize) -> Vec<u8> {
    let body = pattern(length);
    for key in keys {
        world.origin.put(key, body.clone(), "text/plain").await.unwrap();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_goes_direct_and_is_not_stored() {
    let body = pattern(MIB + 1);
    let world = Setup::new().set("DRIPLINE__SPOOL__MAX_OBJECT", "1MiB").start(&body).await;
    let just = with_objects(&world, &["just"], MIB).await;
    for n in 1..3 {
        assert_whole(&world.get(n, "").await, &body);
        assert_eq!((world.full_gets(), world.bypassed("too_large")), (n as usize, n));
    }
    assert_eq!((world.metric(OBJECTS), world.metric("dripline_spool_bytes")), (0, 0));
    for n in 1..3 {
        assert_whole(&world.ask(&world.target_of("just", n), "").await, &just);
    }
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (3, 1));
    let refused = world.ask(&forged(&world.target(9)), "").await;
    assert_eq!(refused.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_is_evicted_and_what_is_read_stays() {
    let setup = Setup::new().set("DRIPLINE__SPOOL__MAX_BYTES", "1MiB").drip(4096, "0");
    let world = setup.start(&[]).await;
    let body = with_objects(&world, &["a", "b", "c", "d"], 400 * KIB).await;
    let get = async |key: &str| {
        let before = world.full_gets();
        assert_whole(&world.ask(&world.target_of(key, 1), "").await, &body);
        wait_for("nobody", || world.metric("dripline_drips") == 0).await;
        assert!(world.metric("dripline_spool_bytes") <= MIB as u64);
        world.full_gets() - before
    };
    assert_eq!((get("a").await, get("b").await), (1, 1));
    assert_eq!(get("a").await, 0, "used again");
    assert_eq!((world.metric(OBJECTS), world.metric(EVICTIONS)), (2, 0));
    assert_eq!(get("c").await, 1);
    assert_eq!((world.metric(OBJECTS), world.metric(EVICTIONS)), (2, 1));
    assert_eq!((get("a").await, get("c").await), (0, 0));
    assert_eq!(get("b").await, 1, "it was b that went");
    assert_eq!(world.metric(EVICTIONS), 2);

    // Now b and c are there, and both are read by clients that take their time.
    let big = pattern(400 * KIB);
    let slow = [
        Slow::get(world.dripline.http, &world.target_of("b", 2), 1000).await,
        Slow::get(world.dripline.http, &world.target_of("c", 2), 1000).await,
    ];
    assert_eq!(get_direct(&world, "d", &big).await, 1);
    assert_eq!(world.metric(EVICTIONS), 2);
    drop(slow);
    wait_for("nobody", || world.metric("dripline_drips") == 0).await;
    assert_eq!(get("d").await, 1);
    assert_eq!((world.bypassed("full"), world.metric(EVICTIONS)), (1, 3));
    assert_eq!(world.metric(OBJECTS), 2);

    async fn get_direct(world: &World, key: &str, body: &[u8]) -> u64 {
        assert_whole(&world.ask(&world.target_of(key, 1), "").await, body);
        world.bypassed("full")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_objects_and_fills_than_allowed() {
    let setup = Setup::new()
        .relayed()
        .set("DRIPLINE__SPOOL__MAX_OBJECTS", "2")
        .set("DRIPLINE__SPOOL__MAX_FILLS", "1");
    let world = setup.start(&[]).await;
    let body = with_objects(&world, &["a", "b", "c"], 400 * KIB).await;
    world.relay().throttle(MIB);
    let both = vec![world.begin(world.target_of("a", 1)), world.begin(world.target_of("b", 1))];
    wait_for("one fill", || world.relay().bulk_total() == 1).await;
    let mut most = 0;
    while both.iter().any(|reader| !reader.is_finished()) {
        most = most.max(world.relay().bulk_open());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(most, 1, "one fill at a time");
    all_whole(both, &body).await;
    wait_for("nobody", || world.metric("dripline_drips") == 0).await;
    assert_whole(&world.ask(&world.target_of("c", 1), "").await, &body);
    assert_eq!((world.metric(OBJECTS), world.metric(EVICTIONS)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_objects_also_when_room_was_made_in_vain() {
    let world = Setup::new().set("DRIPLINE__SPOOL__MAX_BYTES", "1MiB").start(&[]).await;
    let small = with_objects(&world, &["a", "b"], 400 * KIB).await;
    for key in ["a", "b"] {
        assert_whole(&world.ask(&world.target_of(key, 1), "").await, &small);
    }
    wait_for("nobody", || world.metric("dripline_drips") == 0).await;
    let _reader = Slow::get(world.dripline.http, &world.target_of("a", 2), 1000).await;
    let large = with_objects(&world, &["large"], 900 * KIB).await;
    assert_whole(&world.ask(&world.target_of("large", 1), "").await, &large);
    assert_eq!(world.bypassed("full"), 1);
    let there = world.metric("dripline_spool_bytes") / small.len() as u64;
    assert!((1..=2).contains(&there), "the one that is read stays: {there}");
    assert_eq!(world.metric(OBJECTS), there);
}
