//! An object that changes: no response mixes the bytes of two versions.

use super::relay::Fault;
use super::*;

/// Two versions of the same length that differ in every stretch.
fn two(length: usize) -> (Vec<u8>, Vec<u8>) {
    let old = pattern(length);
    let new = old.iter().map(|byte| !byte).collect();
    (old, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_while_warm_the_next_request_gets_the_new_version() {
    let (old, new) = two(300 * KIB);
    let world = Setup::new().start(&old).await;
    assert_whole(&world.get(1, "").await, &old);
    assert_whole(&world.get(2, "").await, &old);
    assert_eq!(world.full_gets(), 1);
    let etag = world.origin.put("fw.bin", new.clone(), "text/plain").await.unwrap();
    let head = world.head(&world.target(3), "").await;
    assert_eq!(head.header("etag"), Some(&etag[..]), "a HEAD tells of the new one");
    assert_eq!(world.full_gets(), 1, "and fetches nothing");
    let response = world.get(4, "").await;
    assert_whole(&response, &new);
    assert_eq!(response.header("etag"), Some(&etag[..]));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_whole(&world.get(5, "").await, &new);
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (2, 2));
    assert_eq!(world.metric("dripline_spool_bytes"), new.len() as u64, "the old one has gone");
    // A hundred at once find a third version, and it is fetched once.
    world.origin.put("fw.bin", old.clone(), "text/plain").await.unwrap();
    all_whole(world.readers(10..110), &old).await;
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_during_a_fill_that_breaks_the_readers_are_closed_short() {
    let (old, new) = two(2 * MIB);
    let world = Setup::new().relayed().start(&old).await;
    world.relay().let_through(MIB);
    let readers = world.readers(0..50);
    world.until("dripline_drips", 50).await;
    world.origin.put("fw.bin", new.clone(), "text/plain").await.unwrap();
    world.relay().cut(Fault::Reset);
    world.relay().let_all();
    for reader in readers {
        let response = reader.await.unwrap();
        assert!(!response.complete && old.starts_with(&response.body));
        assert!(!response.body.is_empty());
    }
    world.until(FILLING, 0).await;
    assert_eq!((world.metric(CHANGED), world.metric(COMPLETE)), (1, 0));
    assert_whole(&world.get(60, "").await, &new);
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (2, 1));
    wait_for("room given back", || world.metric("dripline_spool_bytes") == new.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_during_a_fill_both_versions_go_on_beside_each_other() {
    let (old, new) = two(2 * MIB);
    let world = Setup::new().relayed().start(&old).await;
    world.relay().let_through(MIB);
    let old_readers = world.readers(0..20);
    world.until("dripline_drips", 20).await;
    world.origin.put("fw.bin", new.clone(), "text/plain").await.unwrap();
    let new_readers = world.readers(20..40);
    wait_for("the new fill", || world.full_gets() == 2).await;
    world.relay().let_all();
    all_whole(new_readers, &new).await;
    // S3 goes on with what it began with.
    all_whole(old_readers, &old).await;
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (2, 2));
    assert_eq!((world.metric(CHANGED), world.metric(RESUMES)), (0, 0));
}

/// Every 40 ms another version, every 100 ms a cut, and readers all the time.
#[tokio::test(flavor = "multi_thread")]
async fn no_response_mixes_versions_under_constant_change() {
    let versions: Vec<Vec<u8>> = (0..8_u8)
        .map(|n| pattern(300 * KIB).iter().map(|byte| byte.wrapping_add(n * 31)).collect())
        .collect();
    let world = Setup::new().relayed().start(&versions[0]).await;
    world.relay().throttle(2 * MIB);
    let (mut readers, mut n) = (Vec::new(), 0);
    for version in versions.iter().cycle().take(40) {
        world.origin.put("fw.bin", version.clone(), "text/plain").await.unwrap();
        readers.extend(world.readers(n..n + 5));
        n += 5;
        if n % 15 == 0 {
            world.relay().cut(Fault::Reset);
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let (mut whole, mut short) = (0, 0);
    for reader in readers {
        let response = reader.await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(versions.iter().any(|version| version.starts_with(&response.body)), "mixed");
        if response.complete { whole += 1 } else { short += 1 }
    }
    println!("{whole} whole, {short} closed short");
    assert!(whole > 0);
    assert!(world.metric(RESUMES) + world.metric(CHANGED) > 0, "no cut met a fill");
    assert_whole(&world.get(1000, "").await, &versions[39 % 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_while_warm_it_is_gone() {
    let body = pattern(100 * KIB);
    let world = Setup::new().start(&body).await;
    let missing = world.ask(&world.target_of("none.bin", 1), "").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("<Code>NoSuchKey</Code>"), "{}", missing.text());
    assert_whole(&world.get(1, "").await, &body);
    let delete = world.presign("fw.bin").method(http::Method::DELETE).target();
    let head = format!("DELETE {delete} HTTP/1.1\r\nHost: {}\r\n\r\n", world.host);
    assert_eq!(http1::request(world.origin.addr(), head.as_bytes()).await.status, 204);
    let gone = world.get(2, "").await;
    assert_eq!(gone.status, 404);
    assert!(gone.text().contains("<Code>NoSuchKey</Code>"), "{}", gone.text());
    assert_eq!(world.head(&world.target(3), "").await.status, 404);
    // The same bytes again are what is in the spool still.
    world.origin.put("fw.bin", body.clone(), "text/plain").await.unwrap();
    assert_whole(&world.get(4, "").await, &body);
}
