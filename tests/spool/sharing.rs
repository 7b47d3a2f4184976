//! One read of S3 serves every authorised client, and no other client gets a byte.

use super::*;

/// Refused with S3's own words, and without a byte of the object.
fn assert_refused(response: &Response, code: &str) {
    assert_eq!(response.status, 403);
    let text = response.text();
    assert!(text.starts_with("<?xml") && text.contains(code), "{text}");
    assert_eq!(response.header("content-type"), Some("application/xml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_key_is_read_once_however_many_ask_and_nobody_unauthorised_gets_a_byte() {
    let body = pattern(3 * MIB + 17);
    let world = Setup::new().latency(Duration::from_millis(50)).start(&body).await;
    let mut invalid = Vec::new();
    for n in 0..50 {
        invalid.push(world.begin(forged(&world.target(n * 4))));
    }
    let valid = world.readers(0..200);
    all_whole(valid, &body).await;
    for client in invalid {
        assert_refused(&client.await.unwrap(), "SignatureDoesNotMatch");
    }
    assert_eq!(world.full_gets(), 1);
    assert_eq!(world.ranged_gets(), 250, "a check each");
    for n in 300..310 {
        assert!(world.get(n, "").await.body == body);
    }
    assert_eq!(world.full_gets(), 1);
    assert_eq!(world.ranged_gets(), 260);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
    assert_eq!(world.metric("dripline_spool_s3_bytes_total"), body.len() as u64);
    wait_for("what clients were sent", || {
        world.metric("dripline_spool_client_bytes_total") == 210 * body.len() as u64
    })
    .await;
}

/// The fill takes about two seconds. Meanwhile unauthorised clients ask and authorised clients join.
#[tokio::test(flavor = "multi_thread")]
async fn requests_during_a_fill_are_authorised_like_all_others() {
    let body = pattern(2 * MIB + 5);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().throttle(MIB);
    let mut valid = world.readers(0..20);
    world.until(FILLING, 1).await;
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(86_400);
    let expired = file(&world.presign("fw.bin").at(yesterday));
    let stranger = file(&world.presign("fw.bin").credentials("nobody", "no"));
    let mut during = 0;
    while world.metric(FILLING) == 1 {
        let n = 100 + during;
        valid.push(world.begin(world.target(n)));
        let (forged, expired, stranger, unsigned) = tokio::join!(
            world.begin(forged(&world.target(n))),
            world.begin(expired.clone()),
            world.begin(stranger.clone()),
            world.begin("/file/fw.bin".into()),
        );
        assert_refused(&forged.unwrap(), "SignatureDoesNotMatch");
        assert_refused(&expired.unwrap(), "Request has expired");
        assert_refused(&stranger.unwrap(), "InvalidAccessKeyId");
        assert_refused(&unsigned.unwrap(), "AccessDenied");
        during += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(during > 5, "the fill was over after {during} rounds");
    let clients = valid.len();
    all_whole(valid, &body).await;
    assert_eq!(world.full_gets(), 1);
    assert_eq!(world.ranged_gets(), clients + 4 * during as usize, "a check each");
    assert_eq!(world.checks("refused"), 4 * during);
    assert_eq!(world.metric(RESUMES), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_two_hundred_kilobytes_come_as_records_of_the_configured_size() {
    let body = pattern(200 * KIB + 10);
    let world = Setup::new().relayed().drip(4096, "2ms").start(&body).await;
    world.relay().throttle(MIB);
    let (a, b) = (world.target(1), world.target(2));
    let (cold, joined) = tokio::join!(world.get_tls(&a, "", 4096), world.get_tls(&b, "", 4096));
    assert_whole(&cold, &body);
    assert_whole(&joined, &body);
    assert_whole(&world.get_tls(&world.target(3), "", 4096).await, &body);
    let part = world.get_tls(&world.target(4), "Range: bytes=5000-150000\r\n", 4096).await;
    assert_eq!(part.status, 206);
    assert!(part.body == body[5000..=150_000]);
    assert_eq!(world.full_gets(), 1);
}

/// A drip may take a day. The read of S3 ends within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn no_connection_to_s3_is_held_while_clients_drip() {
    let body = pattern(400 * KIB);
    let setup = Setup::new().drip(4096, "50ms").set("DRIPLINE__UPSTREAM__IDLE_TIMEOUT", "200ms");
    let world = setup.start(&body).await;
    let readers = world.readers(0..20);
    world.until(COMPLETE, 1).await;
    world.until("dripline_drips", 20).await;
    wait_for("no connection to S3", || world.origin.counters().connections_open == 0).await;
    assert_eq!(world.metric("dripline_drips"), 20, "all still drip");
    all_whole(readers, &body).await;
    assert_eq!(world.origin.counters().connections_open, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_access_log_tell_what_happened() {
    crate::support::logs::capture();
    let body = pattern(100 * KIB);
    let world = Setup::new().start(&body).await;
    let key = "counted.bin";
    world.origin.put(key, body.clone(), "text/plain").await.unwrap();
    let target = |n| world.target_of(key, n);

    assert_whole(&world.ask(&target(1), "").await, &body);
    assert_whole(&world.ask(&target(2), "").await, &body);
    assert_eq!(world.ask(&target(3), "Range: bytes=0-9\r\n").await.status, 206);
    assert_eq!(world.head(&target(4), "").await.status, 200);
    assert_eq!(world.ask(&forged(&target(5)), "").await.status, 403);
    assert_eq!(world.ask(&format!("{}&acl", target(6)), "").await.status, 403);
    assert_eq!(world.head(&world.target(7), "").await.status, 200);

    wait_for("the last drip's end", || world.metric("dripline_drips") == 0).await;
    assert_eq!(world.served("fill"), 1);
    assert_eq!(world.served("hit"), 3);
    assert_eq!(world.served("head"), 1);
    assert_eq!(world.served("relayed"), 1);
    assert_eq!(world.served("direct"), 1);
    assert_eq!(world.bypassed("query"), 1);
    assert_eq!(world.checks("version"), 2);
    assert_eq!(world.checks("unchanged"), 3);
    assert_eq!(world.checks("refused"), 1);
    assert_eq!(world.checks("trusted"), 0);
    assert_eq!(world.metric("dripline_spool_check_seconds_count"), 6);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
    assert_eq!(world.metric(FILLING), 0);
    assert_eq!(world.metric(RESUMES), 0);
    assert_eq!(world.metric(EVICTIONS), 0);
    assert_eq!(world.metric(OBJECTS), 1);
    assert_eq!(world.metric("dripline_spool_bytes"), body.len() as u64);
    assert_eq!(world.metric("dripline_spool_s3_bytes_total"), body.len() as u64);
    assert_eq!(world.metric("dripline_spool_client_bytes_total"), 2 * body.len() as u64 + 10);

    let lines: Vec<String> = crate::support::logs::lines()
        .into_iter()
        .filter(|line| line.starts_with("INFO access end") && line.contains("key=counted.bin"))
        .collect();
    let with = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert_eq!(with("source=spool"), 4, "{lines:#?}");
    assert_eq!(with("source=direct"), 2, "{lines:#?}");
    assert_eq!(with("status=200 bytes=102400 records=25"), 2, "{lines:#?}");
    assert_eq!(with("status=206 bytes=10 records=1"), 1, "{lines:#?}");
    assert_eq!(with("method=HEAD"), 1, "{lines:#?}");
    assert!(crate::support::logs::lines().iter().all(|line| !line.contains("Signature=")));
}
