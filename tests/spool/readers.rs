//! Readers join and leave. A fill does not depend on the reader that started it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_caused_the_fill_leaves_and_the_others_get_all_of_it() {
    let body = pattern(2 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().throttle(MIB);
    let first = Slow::get(world.dripline.http, &world.target(1), 1000).await;
    let others = world.readers(2..12);
    wait_for("the others", || world.metric("dripline_drips") == 11).await;
    drop(first);
    all_whole(others, &body).await;
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE), world.metric(RESUMES)), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_nobody_reads_is_finished_if_half_of_it_is_there() {
    let body = pattern(2 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().let_through(MIB + 200 * KIB);
    let reader = Slow::get(world.dripline.http, &world.target(1), 1000).await;
    wait_for("more than half", || world.relay().passed() >= (MIB + 200 * KIB) as u64).await;
    drop(reader);
    wait_for("nobody", || world.metric("dripline_drips") == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((world.metric(FILLING), world.relay().bulk_open()), (1, 1), "it goes on");
    world.relay().let_all();
    world.until(COMPLETE, 1).await;
    assert_whole(&world.get(2, "").await, &body);
    assert_eq!((world.full_gets(), world.served("hit")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_nobody_reads_stops_below_half() {
    let body = pattern(4 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().throttle(300 * KIB);
    let readers = [
        Slow::get(world.dripline.http, &world.target(1), 1000).await,
        Slow::get(world.dripline.http, &world.target(2), 1000).await,
    ];
    let [first, last] = readers;
    drop(first);
    wait_for("one reader", || world.metric("dripline_drips") == 1).await;
    assert_eq!((world.metric(FILLING), world.metric(ABANDONED)), (1, 0));
    drop(last);
    world.until(ABANDONED, 1).await;
    wait_for("a closed connection", || world.relay().bulk_open() == 0).await;
    assert_eq!((world.metric(FILLING), world.metric(OBJECTS)), (0, 0));
    wait_for("room given back", || world.metric("dripline_spool_bytes") == 0).await;
    world.relay().throttle(0);
    assert_whole(&world.get(3, "").await, &body);
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (2, 1));
}

/// It waits for a fill that brings nothing, before the first record and after some.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_while_the_fill_stalls_is_noticed_at_once() {
    let body = pattern(4 * MIB);
    for (wait, arrived) in [("0", 2 * KIB), ("1ms", 300 * KIB)] {
        let world = Setup::new().relayed().drip(4096, wait).start(&body).await;
        world.relay().let_through(arrived);
        let left = Slow::get(world.dripline.http, &world.target(1), 17).await;
        let mut stays = TcpStream::connect(world.dripline.http).await.unwrap();
        stays.write_all(&http1::head("GET", world.target(2).as_bytes(), "")).await.unwrap();
        world.until("dripline_drips", 2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let start = std::time::Instant::now();
        drop(left);
        world.until("dripline_drips", 1).await;
        // S3 may stall for so long before the fill gives the connection up (20 s).
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(world.metric("dripline_drips_ended_total{end=\"client\"}"), 1);
        assert_eq!((world.metric(FILLING), world.metric(ABANDONED)), (1, 0));
        if arrived > 4096 {
            world.relay().let_all();
            let response = http1::response(&mut stays, false).await.unwrap();
            assert_whole(&response, &body);
        } else {
            drop(stays);
            world.until("dripline_drips", 0).await;
            world.until(ABANDONED, 1).await;
        }
    }
}

/// A waiting reader gets the bytes that S3 has sent at once, not only when more arrive.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_stall_is_served_during_it() {
    let body = pattern(MIB);
    let world = Setup::new().relayed().drip(1024, "0").start(&body).await;
    world.relay().let_through(40 * KIB);
    let mut reader = TcpStream::connect(world.dripline.http).await.unwrap();
    reader.write_all(&http1::head("GET", world.target(1).as_bytes(), "")).await.unwrap();
    let mut early = vec![0; 32 * KIB];
    let read = tokio::time::timeout(LIMIT / 2, reader.read_exact(&mut early)).await;
    read.expect("bytes that S3 has sent").unwrap();
    assert_eq!((world.metric(FILLING), world.metric(RESUMES)), (1, 0));
    world.relay().let_all();
    let mut rest = vec![0; body.len() - early.len()];
    reader.read_exact(&mut rest).await.unwrap();
    let all = [early, rest].concat();
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(all[head..] == body[..all.len() - head]);
}

/// Whether the client sleeps between two records or waits for the fill, its end is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_disconnects_in_the_middle_is_forgotten() {
    let body = pattern(600 * KIB);
    // Room for one object and a half.
    let setup = Setup::new().drip(4096, "200ms").set("DRIPLINE__SPOOL__MAX_BYTES", "900KiB");
    let world = setup.start(&body).await;
    world.origin.put("other.bin", body.clone(), "text/plain").await.unwrap();
    let reader = Slow::get(world.dripline.http, &world.target(1), 10_000).await;
    world.until(COMPLETE, 1).await;
    let other = world.head(&world.target_of("other.bin", 1), "").await;
    assert_eq!(other.status, 200);
    let full = Slow::get(world.dripline.http, &world.target_of("other.bin", 2), 1000).await;
    assert_eq!((world.bypassed("full"), world.metric(EVICTIONS)), (1, 0), "it is being read");
    drop(full);
    drop(reader);
    wait_for("nobody", || world.metric("dripline_drips") == 0).await;
    let _next = Slow::get(world.dripline.http, &world.target_of("other.bin", 3), 1000).await;
    assert_eq!((world.bypassed("full"), world.metric(EVICTIONS)), (1, 1));
}

/// A keep-alive connection that has got its answer reads nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_holds_no_object() {
    let body = pattern(600 * KIB);
    let world = Setup::new().set("DRIPLINE__SPOOL__MAX_BYTES", "900KiB").start(&body).await;
    world.origin.put("other.bin", body.clone(), "text/plain").await.unwrap();
    for headers in ["", "Range: bytes=0-300000\r\n", "Range: bytes=0-9,100-200\r\n"] {
        let mut stream = TcpStream::connect(world.dripline.http).await.unwrap();
        let request = http1::head("GET", world.target(1).as_bytes(), headers);
        stream.write_all(&request).await.unwrap();
        let response = http1::response(&mut stream, false).await.unwrap();
        assert!(response.complete && [200, 206].contains(&response.status));
        let head = http1::head("HEAD", world.target(1).as_bytes(), "");
        stream.write_all(&head).await.unwrap();
        assert_eq!(http1::response(&mut stream, true).await.unwrap().status, 200);
        wait_for("nobody", || world.metric("dripline_drips") == 0).await;
        assert_whole(&world.ask(&world.target_of("other.bin", 1), "").await, &body);
        assert_eq!(world.bypassed("full"), 0, "{headers}");
        assert_whole(&world.get(2, "").await, &body);
    }
    assert_eq!(world.bypassed("full"), 0);
}
