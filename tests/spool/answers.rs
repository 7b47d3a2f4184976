//! S3's answers of every kind: what is stored, what is relayed, what goes direct.

use super::*;
use crate::support::fault::End;

/// A dripline that spools before an origin which answers by these plans, the last one for good.
async fn facing(plans: Vec<Plan>) -> (FaultOrigin, Dripline, tempfile::TempDir) {
    let origin = FaultOrigin::start_each(plans).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dripline = spooling(&origin.addr().to_string(), "b", dir.path());
    let dripline = dripline.set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "2s").start().await;
    (origin, dripline, dir)
}

/// The answer to a check of an object of `length` bytes.
fn checked(length: usize) -> Plan {
    let range = format!("bytes 0-0/{length}");
    Plan::ok(1).status("206 Partial Content").header("Content-Range", &range)
}

fn bypassed(dripline: &Dripline, reason: &str) -> u64 {
    dripline.metric(&format!("dripline_spool_bypassed_total{{reason=\"{reason}\"}}"))
}

async fn get(dripline: &Dripline) -> Response {
    http1::get(dripline.http, "/file/k", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_tiny_objects() {
    let world = Setup::new().start(&[]).await;
    world.origin.put("one", &b"1"[..], "text/plain").await.unwrap();
    for n in 0..2 {
        let empty = world.get(n, "").await;
        assert_whole(&empty, b"");
        assert_eq!(empty.header("content-length"), Some("0"));
        assert_eq!(world.head(&world.target(n), "").await.status, 200);
        assert_eq!(world.get(n, "Range: bytes=0-0\r\n").await.status, 416);
        assert_whole(&world.ask(&world.target_of("one", n), "").await, b"1");
        let part = world.ask(&world.target_of("one", n), "Range: bytes=-5\r\n").await;
        assert_eq!((part.status, &part.body[..]), (206, &b"1"[..]));
    }
    assert_eq!(world.ask(&forged(&world.target(1)), "").await.status, 403);
    assert_eq!((world.metric(OBJECTS), world.metric("dripline_spool_bytes")), (1, 1));
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_relayed_as_it_is() {
    let (_origin, dripline, _dir) = facing(vec![Plan::slow_down()]).await;
    let response = get(&dripline).await;
    assert_eq!(response.status, 503);
    assert!(response.text().contains("<Code>SlowDown</Code>"), "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/xml"));
    let head = http1::request(dripline.http, &http1::head("HEAD", b"/file/k", "")).await;
    assert_eq!(head.status, 503);
    assert_eq!(dripline.metric("dripline_spool_checks_total{result=\"refused\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_relayed_and_the_region_is_named() {
    for status in [301, 307] {
        let (_origin, dripline, _dir) = facing(vec![Plan::redirect(status, "eu-west-3")]).await;
        for method in ["GET", "HEAD"] {
            let request = http1::head(method, b"/file/k", "");
            let response = http1::request(dripline.http, &request).await;
            assert_eq!((response.status, response.header("location")), (502, None), "{method}");
            assert!(method == "HEAD" || response.text().contains("eu-west-3"), "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_ignores_ranges_is_spooled_all_the_same() {
    let length = 2 * MIB;
    let (origin, dripline, _dir) = facing(vec![Plan::ok(length)]).await;
    for _ in 0..2 {
        assert_whole(&get(&dripline).await, &pattern(length));
    }
    dripline.until(FILLING, 0).await;
    assert_eq!(dripline.metric(COMPLETE), 1);
    assert_eq!(dripline.metric("dripline_spool_s3_bytes_total"), length as u64);
    assert_eq!(origin.requests().len(), 3, "two checks and a fill");
}

/// Each response goes direct, arrives complete, and nothing is stored.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_goes_direct() {
    const LENGTH: usize = 50_000;
    let plain = || Plan::ok(LENGTH);
    let without_etag = |length: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        Plan::raw([head.into_bytes(), pattern(length)].concat())
    };
    let encrypted = "x-amz-server-side-encryption-customer-algorithm";
    for (name, reason, plans) in [
        ("no ETag", "unstorable", vec![without_etag(LENGTH)]),
        ("chunked check", "unstorable", vec![plain().chunked(5000)]),
        ("chunked fill", "unstorable", vec![checked(LENGTH), plain().chunked(5000)]),
        (
            "no ETag in the fill",
            "changing",
            vec![
                checked(LENGTH),
                without_etag(LENGTH),
                checked(LENGTH),
                without_etag(LENGTH),
                checked(LENGTH),
                without_etag(LENGTH),
                plain(),
            ],
        ),
        ("another length", "unstorable", vec![checked(LENGTH + 1), plain()]),
        ("SSE-C at the check", "sse_c", vec![plain().header(encrypted, "AES256")]),
        (
            "SSE-C at the fill",
            "unstorable",
            vec![checked(LENGTH), plain().header(encrypted, "AES256")],
        ),
        ("204", "unstorable", vec![checked(LENGTH), Plan::ok(0).status("204 No Content"), plain()]),
        (
            "a 206 without a range",
            "unstorable",
            vec![Plan::ok(1).status("206 Partial Content"), plain()],
        ),
    ] {
        let (_origin, dripline, _dir) = facing(plans).await;
        let response = get(&dripline).await;
        assert_eq!(response.status, 200, "{name}");
        assert!(response.complete && response.body == pattern(LENGTH), "{name}");
        assert_eq!(bypassed(&dripline, reason), 1, "{name}: {}", text(&dripline));
        assert_eq!(dripline.metric(OBJECTS), 0, "{name}");
        assert_eq!(dripline.metric("dripline_spool_bytes"), 0, "{name}");
    }
}

fn text(dripline: &Dripline) -> String {
    let text = String::from_utf8(dripline.state.metrics.text()).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("dripline_spool_bypassed"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Length and ETag are right, and still too little comes: that is what resuming is for. The rest
/// has to be the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_resumed_only_with_what_fits() {
    const LENGTH: usize = 50_000;
    let body = pattern(LENGTH);
    let broken = || Plan::ok(LENGTH).send_only(20_000).then(End::Close);
    let rest = |from: usize, to: usize| {
        Plan::ok(0)
            .status("206 Partial Content")
            .header("Content-Range", &format!("bytes {from}-{}/{LENGTH}", to - 1))
            .body(body[from..to].to_vec())
    };
    let (origin, dripline, _dir) =
        facing(vec![checked(LENGTH), broken(), Plan::slow_down(), rest(20_000, LENGTH)]).await;
    assert_whole(&get(&dripline).await, &body);
    dripline.until(FILLING, 0).await;
    assert_eq!((dripline.metric(RESUMES), dripline.metric(COMPLETE)), (1, 1));
    let last = String::from_utf8_lossy(&origin.requests()[3]).to_ascii_lowercase();
    assert!(last.contains("range: bytes=20000-\r\n"), "{last}");
    assert!(last.contains("if-match: \"fault\"\r\n"), "{last}");

    // The whole object instead of the rest, another part, another ETag.
    let other = {
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nETag: \"other\"\r\nContent-Range: bytes \
             20000-49999/{LENGTH}\r\nContent-Length: 30000\r\n\r\n"
        );
        Plan::raw([head.into_bytes(), body[20_000..].to_vec()].concat())
    };
    for (plan, end) in [
        (Plan::ok(LENGTH), "unstorable"),
        (rest(19_999, LENGTH), "unstorable"),
        (rest(20_000, LENGTH - 1), "unstorable"),
        (other, "changed"),
        (Plan::error("412 Precondition Failed", "PreconditionFailed"), "changed"),
        (Plan::error("404 Not Found", "NoSuchKey"), "changed"),
    ] {
        let (_origin, dripline, _dir) = facing(vec![checked(LENGTH), broken(), plan]).await;
        let response = get(&dripline).await;
        assert!(!response.complete && body.starts_with(&response.body), "{end}");
        assert!(!response.body.is_empty(), "{end}: what came before the break");
        dripline.until(&format!("dripline_spool_fills_total{{end=\"{end}\"}}"), 1).await;
        assert_eq!(dripline.metric(OBJECTS), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_says_nothing_is_a_gateway_timeout() {
    let (origin, dripline, _dir) = facing(vec![Plan::silent()]).await;
    let response = get(&dripline).await;
    assert_eq!(response.status, 504, "{}", response.text());
    assert!(origin.all_closed_within(Duration::from_secs(1)).await);
    origin.set(Plan::ok(1000));
    assert_whole(&get(&dripline).await, &pattern(1000));
}
