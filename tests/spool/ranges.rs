//! HEAD, conditions and ranges, from a cold and from a warm spool.

use super::*;

const RANGE_HALF: &str = "Range: bytes=0-1048575\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn head_cold_and_warm_signed_for_either_method() {
    let body = pattern(300 * KIB);
    let world = Setup::new().start(&body).await;
    let for_head = |n: u64| {
        let signed = world.presign("fw.bin").expires(Duration::from_secs(600 + n));
        file(&signed.method(http::Method::HEAD))
    };
    for warm in [false, true] {
        for (n, target) in [(0, for_head(1)), (1, world.target(1)), (2, for_head(2))] {
            let head = world.head(&target, "").await;
            assert_eq!(head.status, 200, "{n} {warm}");
            let length = body.len().to_string();
            assert_eq!(head.header("content-length"), Some(&length[..]), "{n} {warm}");
            assert_eq!(head.header("content-type"), Some("application/octet-stream"));
            assert!(head.header("etag").is_some() && head.header("last-modified").is_some());
            assert_eq!(head.header("content-range"), None);
        }
        assert_eq!(world.full_gets(), usize::from(warm), "a HEAD fetches nothing");
        assert_eq!(world.bypassed("head"), if warm { 5 } else { 2 }, "one was forged");
        assert_eq!(world.head(&forged(&world.target(2)), "").await.status, 403);
        if !warm {
            assert_eq!(world.metric(OBJECTS), 0);
            assert_whole(&world.get(3, "").await, &body);
        }
    }
    assert_eq!((world.served("head"), world.served("hit")), (1, 1));
    // What was signed for HEAD is no way to the body.
    assert_eq!(world.ask(&for_head(3), "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_what_is_there() {
    let body = pattern(300 * KIB);
    let world = Setup::new().start(&body).await;
    let etag = world.get(1, "").await.header("etag").unwrap().to_owned();
    let length = body.len();
    for (range, from, to) in [
        ("0-0", 0, 1),
        ("100-199", 100, 200),
        ("-100", length - 100, length),
        ("-9999999", 0, length),
        ("300000-", 300_000, length),
        ("5-9999999", 5, length),
        ("307199-307199", length - 1, length),
    ] {
        let response = world.get(2, &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(response.status, 206, "{range}");
        assert!(response.complete && response.body == body[from..to], "{range}");
        let wanted = format!("bytes {from}-{}/{length}", to - 1);
        assert_eq!(response.header("content-range"), Some(&wanted[..]), "{range}");
    }
    for range in ["307200-", "400000-500000", "-0"] {
        let response = world.get(2, &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(response.status, 416, "{range}");
        assert!(response.text().contains("<Code>InvalidRange</Code>"), "{}", response.text());
    }
    for ignored in ["lines=0-1", "bytes=9-5", "bytes=x-y"] {
        assert_whole(&world.get(2, &format!("Range: {ignored}\r\n")).await, &body);
    }
    for (if_range, status) in [(&etag[..], 206), ("\"another\"", 200)] {
        let headers = format!("Range: bytes=100-199\r\nIf-Range: {if_range}\r\n");
        let response = world.get(2, &headers).await;
        assert_eq!(response.status, status, "{if_range}");
        let wanted = if status == 206 { &body[100..200] } else { &body[..] };
        assert!(response.body == wanted, "{if_range}");
    }
    assert_eq!(world.full_gets(), 1);
    // S3 is asked about the backward one too.
    assert_eq!(world.bypassed("unsatisfiable"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_are_one_multipart_body() {
    let body = pattern(300 * KIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().throttle(200 * KIB);
    let check = async |n: u64, ranges: &[(usize, usize)]| {
        let list: Vec<String> = ranges.iter().map(|(from, to)| format!("{from}-{to}")).collect();
        let response = world.get(n, &format!("Range: bytes={}\r\n", list.join(", "))).await;
        assert_eq!(response.status, 206, "{list:?}");
        let kind = response.header("content-type").unwrap();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect(kind);
        let mut wanted = Vec::new();
        for (from, to) in ranges {
            wanted.extend_from_slice(
                format!(
                    "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                     Content-Range: bytes {from}-{to}/{}\r\n\r\n",
                    body.len()
                )
                .as_bytes(),
            );
            wanted.extend_from_slice(&body[*from..=*to]);
        }
        wanted.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(response.complete, "{} of {} bytes", response.body.len(), wanted.len());
        assert!(response.body == wanted, "{}", String::from_utf8_lossy(&response.body[..200]));
    };
    // More than half, so it is fetched; the second range is there a second later.
    check(1, &[(0, 99_999), (200_000, 299_999)]).await;
    world.relay().throttle(0);
    check(2, &[(5, 9), (307_000, 307_199)]).await;
    // Out of order, it may be ignored (RFC 9110 §14.2).
    assert_whole(&world.get(3, "Range: bytes=200000-300000, 0-70000, 3-3\r\n").await, &body);
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_cold_and_warm() {
    let body = pattern(300 * KIB);
    let world = Setup::new().start(&body).await;
    let head = world.head(&world.target(1), "").await;
    let etag = head.header("etag").unwrap().to_owned();
    let date = head.header("last-modified").unwrap().to_owned();
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    for warm in [false, true] {
        for (condition, status) in [
            (format!("If-None-Match: {etag}"), 304),
            (format!("If-None-Match: \"x\", {etag}"), 304),
            ("If-None-Match: *".to_owned(), 304),
            (format!("If-Modified-Since: {date}"), 304),
            ("If-Match: \"another\"".to_owned(), 412),
            (format!("If-Unmodified-Since: {old}"), 412),
        ] {
            let response = world.get(2, &format!("{condition}\r\n")).await;
            assert_eq!(response.status, status, "{condition} {warm}");
            if status == 412 {
                let text = response.text();
                assert!(text.contains("<Code>PreconditionFailed</Code>"), "{text}");
            }
            let head = world.head(&world.target(3), &format!("{condition}\r\n")).await;
            assert_eq!(head.status, status, "HEAD {condition} {warm}");
        }
        // Nothing of the body was asked for so far.
        assert_eq!(world.full_gets(), usize::from(warm), "{warm}");
        for condition in [
            format!("If-Match: {etag}"),
            "If-Match: *".to_owned(),
            format!("If-Unmodified-Since: {date}"),
            "If-None-Match: \"another\"".to_owned(),
            format!("If-Modified-Since: {old}"),
        ] {
            assert_whole(&world.get(4, &format!("{condition}\r\n")).await, &body);
        }
    }
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_range_of_a_cold_object_is_direct_and_half_of_it_is_a_fill() {
    let body = pattern(2 * MIB);
    let world = Setup::new().start(&body).await;
    for n in 0..3 {
        let response = world.get(n, "Range: bytes=1000-1099\r\n").await;
        assert_eq!((response.status, &response.body[..]), (206, &body[1000..1100]));
    }
    let response = world.get(4, "Range: bytes=100000-299999\r\n").await;
    assert_eq!((response.status, response.body == body[100_000..300_000]), (206, true));
    assert_eq!((world.full_gets(), world.metric(OBJECTS)), (0, 0));
    assert_eq!(world.bypassed("small_range"), 4);
    let forged = world.ask(&forged(&world.target(5)), RANGE_HALF).await;
    assert_eq!((forged.status, world.full_gets()), (403, 0));
    let response = world.get(6, RANGE_HALF).await;
    assert_eq!((response.status, response.body == body[..MIB]), (206, true));
    assert_eq!(world.full_gets(), 1);
    world.until(COMPLETE, 1).await;
    let small = world.get(7, "Range: bytes=1000-1099\r\n").await;
    assert_eq!((small.status, &small.body[..]), (206, &body[1000..1100]));
    assert_eq!((world.bypassed("small_range"), world.served("hit")), (4, 1));
}

/// A device that fetches block by block, on one connection.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_ranges_end_in_one_fill() {
    let body = pattern(2 * MIB + 100);
    let world = Setup::new().start(&body).await;
    let mut stream = TcpStream::connect(world.dripline.http).await.unwrap();
    let (target, block) = (world.target(1), 32 * KIB);
    for from in (0..body.len()).step_by(block) {
        let to = body.len().min(from + block);
        let range = format!("Range: bytes={from}-{}\r\n", to - 1);
        stream.write_all(&http1::head("GET", target.as_bytes(), &range)).await.unwrap();
        let response = http1::response(&mut stream, false).await.unwrap();
        assert_eq!((response.status, response.body == body[from..to]), (206, true), "{range}");
    }
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE)), (1, 1));
    let direct = usize::try_from(world.bypassed("small_range")).unwrap();
    assert!((body.len() / block).abs_diff(2 * direct) < 5, "{direct} blocks went direct");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_of_a_slow_fill_does_not_wait_for_it() {
    let body = pattern(20 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().let_through(MIB);
    let reader = Slow::get(world.dripline.http, &world.target(1), 1000).await;
    wait_for("some of it", || world.relay().passed() >= MIB as u64).await;
    let far = 19 * MIB;
    let range = format!("Range: bytes={far}-{}\r\n", far + 999);
    let response = world.get(2, &range).await;
    assert_eq!((response.status, response.body == body[far..far + 1000]), (206, true));
    assert_eq!(world.bypassed("range_ahead"), 1);
    // What is there already is served from here.
    let response = world.get(3, "Range: bytes=1000-1999\r\n").await;
    assert_eq!((response.status, response.body == body[1000..2000]), (206, true));
    assert_eq!((world.bypassed("range_ahead"), world.full_gets()), (1, 1));
    drop(reader);
}

/// Devices that fetch block by block begin one fill between them, though nobody reads between two
/// blocks.
#[tokio::test(flavor = "multi_thread")]
async fn several_devices_that_fetch_block_by_block_share_one_fill() {
    let body = pattern(8 * MIB);
    let world = Setup::new().relayed().start(&body).await;
    world.relay().throttle(4 * MIB);
    let device = async |n: u64| {
        let mut stream = TcpStream::connect(world.dripline.http).await.unwrap();
        let (target, block) = (world.target(n), 64 * KIB);
        for from in (0..body.len()).step_by(block) {
            let range = format!("Range: bytes={from}-{}\r\n", from + block - 1);
            stream.write_all(&http1::head("GET", target.as_bytes(), &range)).await.unwrap();
            let response = http1::response(&mut stream, false).await.unwrap();
            assert_eq!((response.status, response.body == body[from..from + block]), (206, true));
            tokio::time::sleep(Duration::from_millis(5 + 3 * n)).await;
        }
    };
    tokio::join!(device(1), device(2), device(3));
    world.until(FILLING, 0).await;
    assert_eq!((world.full_gets(), world.metric(COMPLETE), world.metric(ABANDONED)), (1, 1, 0));
}
