//! Uploads: a body reaches S3 as it was signed, S3's response reaches the client even if it comes before
//! the end of the body, and neither side waits for a peer that has disconnected.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::{Duration, Instant};

use dripline::demo::origin::presign::Presign;
use dripline::demo::origin::{Origin, OriginOptions};
use http::Method;
use openssl::ssl::SslVersion;
use support::fault::pattern;
use support::hand::Hand;
use support::http1::{self, Response, head};
use support::wire::Client;
use support::{Builder, Dripline, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";

async fn origin() -> Origin {
    Origin::start(OriginOptions::default()).await.unwrap()
}

fn before(origin: &Origin) -> Builder {
    let endpoint = format!("http://{}", origin.addr());
    Dripline::in_front_of(&endpoint, &origin.options().bucket)
        .set("DRIPLINE__UPLOADS__ENABLED", "true")
}

async fn before_hand(s3: &Hand) -> Builder {
    Dripline::in_front_of(&format!("http://{}", s3.addr), "samples")
        .set("DRIPLINE__UPLOADS__ENABLED", "true")
}

fn signed(origin: &Origin, key: &str) -> Presign {
    origin.presign(key).method(Method::PUT)
}

/// The target at dripline for a presigned URL.
fn file(signed: &Presign) -> String {
    format!("/file/{}?{}", signed.escaped_key(), signed.signed_query())
}

fn put(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = head("PUT", target.as_bytes(), headers);
    request.extend_from_slice(body);
    request
}

fn sized(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    put(target, &format!("{headers}Content-Length: {}\r\n", body.len()), body)
}

async fn get(dripline: &Dripline, origin: &Origin, key: &str) -> Response {
    http1::get(dripline.http, file(&origin.presign(key)), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_off_by_default() {
    let origin = origin().await;
    let endpoint = format!("http://{}", origin.addr());
    let dripline = Dripline::in_front_of(&endpoint, "samples").start().await;
    let request = sized(&file(&signed(&origin, "a")), "", b"body");
    let response = http1::request(dripline.http, &request).await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
    assert!(origin.counters().last.is_empty(), "S3 was asked");
    let dripline = before(&origin).start().await;
    let response = http1::request(dripline.http, &head("POST", b"/file/a", "")).await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, PUT")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_are_stored() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let mut sent = 0;
    for size in [0, 1, 4096, 65_537, (1 << 20) + 1] {
        let (key, body) = (format!("size/{size}"), pattern(size));
        let target = file(&signed(&origin, &key));
        let response = http1::request(dripline.http, &sized(&target, "", &body)).await;
        assert_eq!(response.status, 200, "{size}: {}", response.text());
        let stored = get(&dripline, &origin, &key).await;
        assert!(stored.body == body, "{size}: the body differs");
        assert_eq!(response.header("etag"), stored.header("etag"));
        assert_eq!(response.header("x-amz-request-id"), Some("DR1P0000000000L1"));

        let mut tls = Client::connect(dripline.https, SslVersion::TLS1_3, &dripline.cert).await;
        tls.stream.write_all(&sized(&target, "", &body)).await.unwrap();
        let response = http1::response(&mut tls.stream, false).await.unwrap();
        assert_eq!((response.status, response.header("etag")), (200, stored.header("etag")));
        sent += 2 * size as u64;
    }
    dripline.until("dripline_uploads_ended_total{end=\"done\"}", 10).await;
    assert_eq!(dripline.metric("dripline_upload_bytes_total"), sent);
    assert_eq!(dripline.metric("dripline_uploads"), 0);
}

/// Whatever the spool held of the old object, S3 is asked for every request.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_is_what_the_next_get_sees() {
    let origin = origin().await;
    let dir = tempfile::tempdir().unwrap();
    let dripline = before(&origin).spool(dir.path()).start().await;
    let target = file(&signed(&origin, "fw.bin"));
    for version in 1..=3 {
        let body = pattern(30_000 + version);
        let response = http1::request(dripline.http, &sized(&target, "", &body)).await;
        assert_eq!(response.status, 200);
        for _ in 0..2 {
            assert!(get(&dripline, &origin, "fw.bin").await.body == body, "version {version}");
        }
    }
    let served =
        |how| dripline.metric(&format!("dripline_spool_requests_total{{result=\"{how}\"}}"));
    // A fill may still be running when the second one asks.
    assert_eq!(served("hit") + served("fill"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_make_an_object() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let parts = [pattern(5 << 20), b"the end".to_vec()];
    // Created and completed directly at S3, as the service that issues the URLs does.
    let begin = origin.presign("big").method(Method::POST).query("uploads", "");
    let begun = ask_s3(&origin, "POST", &begin, b"").await.text();
    let id = between(&begun, "<UploadId>", "</UploadId>");
    let mut list = String::new();
    for (number, part) in (1..).zip(&parts) {
        let url =
            signed(&origin, "big").query("partNumber", &number.to_string()).query("uploadId", &id);
        let response = http1::request(dripline.http, &sized(&file(&url), "", part)).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let etag = response.header("etag").unwrap();
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let complete = origin.presign("big").method(Method::POST).query("uploadId", &id);
    let completed = ask_s3(&origin, "POST", &complete, list.as_bytes()).await;
    assert_eq!(completed.status, 200, "{}", completed.text());
    assert!(get(&dripline, &origin, "big").await.body == parts.concat());
    let seen = origin.counters().last.iter().filter(|seen| seen.method == Method::PUT).count();
    assert_eq!(seen, 2);
}

async fn ask_s3(origin: &Origin, method: &str, signed: &Presign, body: &[u8]) -> Response {
    let (host, target, length) = (signed.host(), signed.target(), body.len());
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    http1::request(origin.addr(), &[head.as_bytes(), body].concat()).await
}

fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1;
    rest.split_once(end).unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_arrive_as_s3_sent_them() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let good = signed(&origin, "a");
    for (what, url, headers, status, code) in [
        ("signed for GET", origin.presign("a"), "", 403, "SignatureDoesNotMatch"),
        (
            "another secret",
            good.clone().credentials("AKIDEXAMPLE", "no"),
            "",
            403,
            "SignatureDoesNotMatch",
        ),
        ("expired", good.clone().at(std::time::UNIX_EPOCH), "", 403, "AccessDenied"),
        ("an unsigned header", good.clone(), "x-amz-acl: public-read\r\n", 403, "AccessDenied"),
        (
            "a wrong digest",
            good.clone(),
            "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n",
            400,
            "BadDigest",
        ),
    ] {
        let response = http1::request(dripline.http, &sized(&file(&url), headers, b"body")).await;
        let told = between(&response.text(), "<Code>", "</Code>");
        assert_eq!((response.status, told.as_str()), (status, code), "{what}");
    }
    let there = signed(&origin, "tagged").header("x-amz-meta-kind", "nrf91");
    let sent = sized(&file(&there), "x-amz-meta-kind: nrf91\r\nContent-Type: a/b\r\n", b"body");
    assert_eq!(http1::request(dripline.http, &sent).await.status, 200);
    assert_eq!(get(&dripline, &origin, "tagged").await.header("content-type"), Some("a/b"));
}

/// Byte for byte, but for how chunks are cut.
#[tokio::test(flavor = "multi_thread")]
async fn s3_gets_what_was_signed() {
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        line.until(b"\r\n0\r\n\r\n").await;
        line.say(OK).await;
    })
    .await;
    let dripline = before_hand(&s3).await.start().await;
    // As aws CLI v1 sends a stream: chunks of HTTP around chunks of AWS.
    let inner =
        "4;chunk-signature=00\r\nbody\r\n0;chunk-signature=11\r\nx-amz-checksum-crc32:abc=\r\n\r\n";
    let body = format!("{:x};ext=1\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let query =
        "X-Amz-SignedHeaders=host%3Bx-amz-meta-a%3Buser-agent&partNumber=1&uploadId=%2Fa+b&x=%7e";
    let headers = "Content-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 4\r\n\
        x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nx-amz-trailer: x-amz-checksum-crc32\r\n\
        x-amz-meta-a:  two  words \r\nUser-Agent: aws\r\nContent-MD5: abc==\r\nCookie: c\r\nAccept: */*\r\n\
        If-None-Match: *\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n";
    let request = put(&format!("/file/a%20b?{query}"), headers, body.as_bytes());
    let response = http1::request(dripline.http, &request).await;
    assert_eq!((response.status, response.header("etag")), (200, Some("\"e\"")));
    let text = s3.text();
    let (head, sent) = text.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(lines[0], format!("PUT /samples/a%20b?{query} HTTP/1.1"));
    lines.sort_by_key(|line| line.to_ascii_lowercase());
    let host = format!("Host: {}", s3.addr);
    let expected = [
        "Content-Encoding: aws-chunked",
        "Content-MD5: abc==",
        &host,
        "If-None-Match: *",
        lines[4],
        "Transfer-Encoding: chunked",
        "User-Agent: aws",
        "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "x-amz-decoded-content-length: 4",
        "x-amz-meta-a: two  words",
        "x-amz-trailer: x-amz-checksum-crc32",
    ];
    assert!(lines[4].starts_with("PUT "), "{head}");
    let lower = |lines: &[&str]| lines.iter().map(|l| l.to_ascii_lowercase()).collect::<Vec<_>>();
    assert_eq!(lower(&lines), lower(&expected));
    assert_eq!(sent, format!("{:X}\r\n{inner}\r\n0\r\n\r\n", inner.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_says_when_the_body_may_come() {
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        line.idle(Duration::from_millis(300)).await;
        line.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        line.take(4).await;
        line.say(OK).await;
        line.rest().await;
    })
    .await;
    let dripline = before_hand(&s3).await.start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    let expecting = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    let began = Instant::now();
    client.write_all(&put("/file/a", expecting, b"")).await.unwrap();
    let first = http1::response(&mut client, true).await.unwrap();
    assert_eq!(first.status, 100);
    assert!(began.elapsed() >= Duration::from_millis(300), "it was not S3 that said so");
    client.write_all(b"body").await.unwrap();
    let second = http1::response(&mut client, false).await.unwrap();
    assert_eq!((second.status, second.header("connection")), (200, Some("keep-alive")));
    assert!(s3.text().to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n"));
    assert_eq!(s3.body(), b"body");
    // The connection is of further use.
    client.write_all(&head("GET", b"/", "")).await.unwrap();
    assert_eq!(http1::response(&mut client, false).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_saves_the_body() {
    const NO: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n<Error/>\n";
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        line.say(NO).await;
        line.rest().await;
    })
    .await;
    let dripline = before_hand(&s3).await.start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    let expecting = "Expect: 100-continue\r\nContent-Length: 1000000\r\n";
    client.write_all(&put("/file/a", expecting, b"")).await.unwrap();
    let response = http1::response(&mut client, false).await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (403, "<Error/>\n"));
    assert_eq!(response.header("connection"), Some("close"), "what follows could be body");
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(s3.body(), b"");
}

/// The client is in the middle of a long body and gets the response nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_stops_the_body() {
    const SIZE: usize = 64 << 20;
    for (pause, close) in [(0, true), (300, false)] {
        let s3 = Hand::start(move |mut line| async move {
            line.head().await;
            line.take(100_000).await;
            line.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 8\r\n\r\n<Error/>").await;
            line.idle(Duration::from_millis(pause)).await;
            if !close {
                line.rest().await;
            }
        })
        .await;
        let dripline = before_hand(&s3).await.start().await;
        let stream = TcpStream::connect(dripline.http).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            let announced = format!("Content-Length: {SIZE}\r\n");
            write.write_all(&put("/file/a", &announced, b"")).await.unwrap();
            let piece = pattern(1 << 20);
            let mut sent = 0;
            while sent < SIZE && write.write_all(&piece).await.is_ok() {
                sent += piece.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut told = Vec::new();
        let mut byte = [0; 1];
        while !told.ends_with(b"<Error/>") {
            assert_eq!(
                read.read(&mut byte).await.unwrap(),
                1,
                "{}",
                String::from_utf8_lossy(&told)
            );
            told.push(byte[0]);
        }
        assert!(told.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&told));
        drop(read);
        dripline.until("dripline_uploads_ended_total{end=\"done\"}", 1).await;
        // What the client still sends is read, so that it gets its answer, and goes nowhere.
        let sent = s3.body().len();
        assert!(sent < SIZE / 2, "{sent} bytes were sent on to S3");
        sending.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_an_upload_on_one_connection() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let target = file(&signed(&origin, "a"));
    let body = pattern(100_000);
    let mut chunked = Vec::new();
    for piece in body.chunks(7_777) {
        chunked.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let fetch = head("GET", file(&origin.presign("a")).as_bytes(), "");
    for step in [usize::MAX, 10_000, 997] {
        let mut wire = sized(&target, "", &body);
        wire.extend(&fetch);
        wire.extend(put(&target, "Transfer-Encoding: chunked\r\n", &chunked));
        wire.extend(&fetch);
        let stream = TcpStream::connect(dripline.http).await.unwrap();
        let (read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            for piece in wire.chunks(step) {
                write.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            write
        });
        let mut both = tokio::io::join(read, tokio::io::sink());
        for expected in ["put", "get", "put", "get"] {
            let response = http1::response(&mut both, false).await.unwrap();
            assert_eq!(response.status, 200, "{expected}: {}", response.text());
            assert!(expected == "put" || response.body == body, "the body differs");
        }
        sending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_sending_is_told_and_cut() {
    let s3 = Hand::start(|mut line| async move { line.rest().await }).await;
    let dripline =
        before_hand(&s3).await.set("DRIPLINE__LIMITS", "{receive_timeout: 300ms}").start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    client.write_all(&put("/file/a", "Content-Length: 10\r\n", b"half")).await.unwrap();
    let response = http1::response(&mut client, false).await.unwrap();
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    assert_eq!(dripline.metric("dripline_limited_total{limit=\"receive_timeout\"}"), 1);
    dripline.until("dripline_uploads_ended_total{end=\"client\"}", 1).await;
    eventually(Duration::from_secs(10), || s3.body() == b"half").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_leaves_no_transfer_behind() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    let request =
        put(&file(&signed(&origin, "half")), "Content-Length: 100000\r\n", &pattern(50_000));
    client.write_all(&request).await.unwrap();
    eventually(Duration::from_secs(10), || {
        dripline.metric("dripline_upload_bytes_total") == 50_000
    })
    .await
    .unwrap();
    assert_eq!(dripline.state.transfers.running().len(), 1);
    drop(client);
    dripline.until("dripline_uploads_ended_total{end=\"client\"}", 1).await;
    eventually(Duration::from_secs(10), || origin.counters().connections_open == 0).await.unwrap();
    assert_eq!(get(&dripline, &origin, "half").await.status, 404);
    assert!(dripline.state.transfers.running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_fails_is_told_apart() {
    let silent = Hand::start(|mut line| async move { line.rest().await }).await;
    let broken = Hand::start(|mut line| async move {
        line.head().await;
        line.take(4).await;
    })
    .await;
    let garbage = Hand::start(|mut line| async move {
        line.head().await;
        line.take(4).await;
        line.say("SMTP\r\n\r\n").await;
        line.idle(Duration::from_millis(50)).await;
    })
    .await;
    let closed = Hand::start(|_| async {}).await;
    for (s3, expects, status) in [
        (&silent, false, 504),
        (&silent, true, 504),
        (&broken, false, 502),
        (&garbage, false, 502),
        (&closed, false, 502),
    ] {
        let dripline = before_hand(s3)
            .await
            .set("DRIPLINE__UPSTREAM", "{response_timeout: 400ms}")
            .start()
            .await;
        let request = match expects {
            true => put("/file/a", "Expect: 100-continue\r\nContent-Length: 4\r\n", b""),
            false => sized("/file/a", "", b"body"),
        };
        let response = http1::request(dripline.http, &request).await;
        assert_eq!(response.status, status, "{}", response.text());
        dripline.until("dripline_uploads_ended_total{end=\"upstream\"}", 1).await;
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dripline = Dripline::in_front_of(&format!("http://{nobody}"), "samples")
        .set("DRIPLINE__UPLOADS__ENABLED", "true")
        .start()
        .await;
    let response = http1::request(dripline.http, &sized("/file/a", "", b"body")).await;
    assert_eq!((response.status, response.text().as_str()), (502, "cannot connect to S3\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_passed_on() {
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        let moved = "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://elsewhere/\r\n\
                     x-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n";
        line.say(moved).await;
        line.rest().await;
    })
    .await;
    let dripline = before_hand(&s3).await.start().await;
    let response = http1::request(dripline.http, &sized("/file/a", "", b"body")).await;
    assert_eq!(response.status, 502);
    assert!(response.text().contains("eu-west-1"), "{}", response.text());
}

/// S3 reads nothing, so dripline stops reading and the client cannot send more.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_with_the_client() {
    const MOST: usize = 48 << 20;
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        line.idle(Duration::from_secs(60)).await;
    })
    .await;
    let dripline = before_hand(&s3).await.start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    let announced = "Content-Length: 1000000000\r\n";
    client.write_all(&put("/file/a", announced, b"")).await.unwrap();
    let (piece, mut sent) = (pattern(1 << 20), 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.write(&piece)).await
    {
        sent += written.unwrap();
        assert!(sent < MOST, "{sent} bytes are somewhere between the client and S3");
    }
    assert!(sent > 0, "nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_has_its_own_rules() {
    let origin = origin().await;
    let dripline = before(&origin).start().await;
    let target = file(&signed(&origin, "old"));
    let request =
        format!("PUT {target} HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody");
    let response = http1::request(dripline.http, request.as_bytes()).await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert_eq!(get(&dripline, &origin, "old").await.text(), "body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_uploads() {
    let origin = origin().await;
    let mut dripline = before(&origin).start().await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    let target = file(&signed(&origin, "a"));
    client.write_all(&put(&target, "Content-Length: 8\r\n", b"half")).await.unwrap();
    eventually(Duration::from_secs(10), || dripline.metric("dripline_uploads") == 1).await.unwrap();
    let drained = dripline.begin_drain();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!drained.is_finished());
    client.write_all(b"half").await.unwrap();
    assert_eq!(http1::response(&mut client, false).await.unwrap().status, 200);
    let cut = tokio::time::timeout(Duration::from_secs(20), drained).await.unwrap();
    assert_eq!(cut.unwrap().unwrap(), 0);
}

/// A body that two readers could end in two places is refused, with the connection, and never looks
/// complete to S3.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_end_in_one_place() {
    let s3 = Hand::start(|mut line| async move { line.rest().await }).await;
    let dripline = before_hand(&s3).await.start().await;
    let cases = [
        "10000000000000000\r\n\r\n",
        "100000000000000000000000000000000\r\n\r\n",
        "-1\r\n\r\n",
        "+0\r\n\r\n",
        "0x0\r\n\r\n",
        "0_0\r\n\r\n",
        " 0\r\n\r\n",
        "0 \r\n\r\n",
        "\r\n\r\n",
        "zero\r\n\r\n",
        "0;a\n\r\n\r\n",
        "0;a\rb\r\n\r\n",
        "0\n\n",
        "0\r\r",
        "1\r\naX\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "4\r\nbody\r\n0\r\nX: y\r\n\r\n",
        "4\r\nbody\r\n0\r\nContent-Length: 36\r\n\r\n",
        "4\r\nbody\r\n0\r\n\n",
        "4\r\nbody0\r\n\r\n",
    ];
    for body in cases {
        for step in [usize::MAX, 1] {
            let mut wire = put("/file/first", "Transfer-Encoding: chunked\r\n", body.as_bytes());
            wire.extend_from_slice(b"GET /file/next HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut client = TcpStream::connect(dripline.http).await.unwrap();
            client.set_nodelay(true).unwrap();
            for piece in wire.chunks(step) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let response = http1::response(&mut client, false).await.unwrap();
            let closes = response.header("connection");
            assert_eq!((response.status, closes), (400, Some("close")), "{body:?}");
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest).await;
            assert_eq!(rest, b"", "{body:?}");
        }
    }
    let all = 2 * cases.len() as u64;
    dripline.until("dripline_uploads_ended_total{end=\"client\"}", all).await;
    let reason = |reason| format!("dripline_malformed_requests_total{{reason=\"{reason}\"}}");
    assert_eq!(dripline.metric(&reason("trailer")), 4);
    assert_eq!(dripline.metric(&reason("chunk")), all - 4);
    let asked = s3.text();
    assert!(!asked.contains("/next"), "{asked}");
    assert!(!asked.contains("0\r\n\r\n"), "a body that was refused looks complete: {asked}");
}
