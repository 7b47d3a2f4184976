//! With `spool.trust` a request that S3 has authorised is not checked again for a while.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_identical_request_passes_and_no_other() {
    let body = pattern(300 * KIB);
    let world = Setup::new().set("DRIPLINE__SPOOL__TRUST", "30s").start(&body).await;
    assert_whole(&world.get(1, "").await, &body);
    assert_eq!((world.ranged_gets(), world.checks("trusted")), (1, 0));
    assert_whole(&world.get(1, "").await, &body);
    assert_eq!(world.head(&world.target(1), "").await.status, 200);
    let part = world.get(1, "Range: bytes=5-9\r\n").await;
    assert_eq!((part.status, &part.body[..]), (206, &body[5..10]));
    assert_eq!((world.ranged_gets(), world.checks("trusted")), (1, 3));

    assert_whole(&world.get(2, "").await, &body);
    assert_eq!(world.ranged_gets(), 2, "another signature is another request");
    assert_eq!(world.get(1, "If-Match: \"x\"\r\n").await.status, 412, "S3 judges conditions");
    assert_eq!(world.ranged_gets(), 3);
    let forged = forged(&world.target(1));
    for _ in 0..2 {
        assert_eq!(world.ask(&forged, "").await.status, 403);
    }
    assert_eq!(world.ranged_gets(), 5);
    assert_eq!(world.full_gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_ends_with_the_signature() {
    let body = pattern(100 * KIB);
    let world = Setup::new().set("DRIPLINE__SPOOL__TRUST", "30s").start(&body).await;
    let short = file(&world.presign("fw.bin").expires(Duration::from_secs(2)));
    assert_whole(&world.ask(&short, "").await, &body);
    assert_whole(&world.ask(&short, "").await, &body);
    assert_eq!(world.ranged_gets(), 1);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let expired = world.ask(&short, "").await;
    assert_eq!(expired.status, 403, "{}", expired.text());
    assert_eq!(world.head(&short, "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_ends_with_its_own_time_and_a_change_is_seen_then() {
    let (old, new) = (pattern(100 * KIB), pattern(50 * KIB));
    let world = Setup::new().set("DRIPLINE__SPOOL__TRUST", "2s").start(&old).await;
    let target = world.target(1);
    assert_whole(&world.ask(&target, "").await, &old);
    world.origin.put("fw.bin", new.clone(), "text/plain").await.unwrap();
    assert_whole(&world.ask(&target, "").await, &old);
    assert_eq!(world.ranged_gets(), 1);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert_whole(&world.ask(&target, "").await, &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_s3_the_trusted_are_served_and_others_are_told() {
    let body = pattern(100 * KIB);
    let world = Setup::new().set("DRIPLINE__SPOOL__TRUST", "30s").start(&body).await;
    assert_whole(&world.get(1, "").await, &body);
    world.origin.stop().await;
    assert_whole(&world.get(1, "").await, &body);
    assert_eq!(world.head(&world.target(1), "").await.status, 200);
    let other = world.get(2, "").await;
    assert_eq!(other.status, 502, "{}", other.text());
    assert_eq!(world.checks("failed"), 1);
    world.origin.resume().await.unwrap();
    assert_whole(&world.get(2, "").await, &body);
    assert_eq!(world.full_gets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_trust_every_request_is_checked() {
    let body = pattern(100 * KIB);
    let world = Setup::new().start(&body).await;
    for n in 1..4 {
        assert_whole(&world.get(1, "").await, &body);
        assert_eq!((world.ranged_gets(), world.full_gets()), (n, 1));
    }
    world.origin.stop().await;
    assert_eq!(world.get(1, "").await.status, 502);
}
