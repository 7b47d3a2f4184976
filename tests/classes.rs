//! Uploads and drips under classes: together they keep to the rate of their class, and traffic of other
//! classes is not delayed.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use http::Method;
use openssl::ssl::SslVersion;
use support::fault::pattern;
use support::hand::Hand;
use support::http1::{self, Response, head};
use support::wire::{Client, Record};
use support::{Builder, Dripline};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// 8 Mbit/s.
const BYTES_PER_SECOND: f64 = 1e6;

async fn origin() -> Origin {
    Origin::start(OriginOptions { public: true, ..OriginOptions::default() }).await.unwrap()
}

fn before(origin: &Origin) -> Builder {
    Dripline::in_front_of(&format!("http://{}", origin.addr()), "samples")
}

/// The rate never exceeds that of the class. It can be lower on a busy machine, where timers fire later
/// than the class's burst of 10 ms covers; on a quiet machine it is at least 0.98.
fn assert_rate(bytes: usize, took: Duration, what: &str) {
    let rate = bytes as f64 / took.as_secs_f64() / BYTES_PER_SECOND;
    println!("{what}: {rate:.3} of the class's rate");
    assert!((0.3..=1.03).contains(&rate), "{what}: {rate:.3} of the class's rate");
}

/// Gets `key` over TLS; returns when its records came.
async fn fetch(dripline: &Dripline, key: &str, expected: &[u8]) -> Vec<Record> {
    let mut client = Client::connect(dripline.https, SslVersion::TLS1_3, &dripline.cert).await;
    client.stream.write_all(&head("GET", format!("/file/{key}").as_bytes(), "")).await.unwrap();
    let response = http1::response(&mut client.stream, false).await.unwrap();
    assert!(response.complete && response.body == expected, "the body differs");
    client.application(response.head_length + expected.len())[1..].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_drips_keep_to_the_rate_of_their_class_in_whole_records() {
    const EACH: usize = 300_000;
    let origin = origin().await;
    let wanted = pattern(EACH);
    origin.put("fw.bin", wanted.clone(), "a/b").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (how, dripline) in
        [("direct", before(&origin)), ("spooled", before(&origin).spool(dir.path()))]
    {
        let dripline = dripline
            .class("devices", "max_limit: 8Mbit")
            .set("DRIPLINE__DRIP__CLASS", "devices")
            .chunk(4096)
            .wait("0")
            .start()
            .await;
        let all = (0..10).map(|_| fetch(&dripline, "fw.bin", &wanted));
        let all = futures::future::join_all(all).await;
        for records in &all {
            assert_eq!(records.len(), EACH.div_ceil(4096));
            let (last, full) = records.split_last().unwrap();
            assert!(full.iter().all(|record| record.plaintext == 4096), "{how}: a record is cut");
            assert_eq!(last.plaintext, EACH % 4096);
        }
        let times = || all.iter().flatten().map(|record| record.at);
        let took = times().max().unwrap() - times().min().unwrap();
        assert_rate(10 * EACH, took, how);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drips_without_the_class_do_not_wait_for_it() {
    let origin = origin().await;
    let wanted = pattern(1 << 20);
    origin.put("fw.bin", wanted.clone(), "a/b").await.unwrap();
    let dripline = before(&origin)
        .class("devices", "max_limit: 64kbit")
        .set("DRIPLINE__PROFILES", "[{name: slow, match: {key_prefix: slow/}, class: devices}]")
        .start()
        .await;
    let began = Instant::now();
    fetch(&dripline, "fw.bin", &wanted).await;
    assert!(began.elapsed() < Duration::from_secs(30), "128 s at the class's rate");
}

async fn put(dripline: &Dripline, origin: &Origin, key: &str, body: &[u8]) -> Response {
    let signed = origin.presign(key).method(Method::PUT);
    let target = format!("/file/{}?{}", signed.escaped_key(), signed.signed_query());
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut request = head("PUT", target.as_bytes(), &length);
    request.extend_from_slice(body);
    http1::request(dripline.http, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_keep_to_the_rate_of_their_class() {
    const EACH: usize = 600_000;
    let origin = origin().await;
    let dripline = before(&origin)
        .class("bulk", "max_limit: 8Mbit")
        .set("DRIPLINE__UPLOADS", "{enabled: true, class: bulk}")
        .start()
        .await;
    let body = pattern(EACH);
    let began = Instant::now();
    let keys: Vec<String> = (0..4).map(|n| format!("up/{n}")).collect();
    let all = keys.iter().map(|key| put(&dripline, &origin, key, &body));
    for response in futures::future::join_all(all).await {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_rate(4 * EACH, began.elapsed(), "uploads");
    for key in keys {
        let target = format!("/file/{key}");
        assert!(http1::get(dripline.http, &target, "").await.body == body, "{key} differs");
    }
}

/// Timeouts do not run while an upload waits for its class.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_waits_for_its_class_does_not_time_out() {
    let origin = origin().await;
    let dripline = before(&origin)
        .class("trickle", "max_limit: 64kbit")
        .set("DRIPLINE__UPLOADS", "{enabled: true, class: trickle}")
        .set("DRIPLINE__LIMITS", "{receive_timeout: 200ms}")
        .set("DRIPLINE__UPSTREAM", "{response_timeout: 1s}")
        .start()
        .await;
    let began = Instant::now();
    let response = put(&dripline, &origin, "slow", &pattern(24_000)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(began.elapsed() > Duration::from_secs(2), "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_class() {
    let s3 = Hand::start(|mut line| async move {
        line.head().await;
        line.take(1).await;
        line.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\n<Error/>").await;
        line.rest().await;
    })
    .await;
    let dripline = Dripline::in_front_of(&format!("http://{}", s3.addr), "samples")
        .class("trickle", "max_limit: 16kbit")
        .set("DRIPLINE__UPLOADS", "{enabled: true, class: trickle}")
        .start()
        .await;
    let began = Instant::now();
    let mut request = head("PUT", b"/file/a", "Content-Length: 200000\r\n");
    request.extend(pattern(200_000));
    let response = http1::request(dripline.http, &request).await;
    assert_eq!((response.status, response.text().as_str()), (403, "<Error/>"));
    assert!(began.elapsed() < Duration::from_secs(20), "100 s at the class's rate");
}

/// The packet marks of the class are set on the connection to S3.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_marked_as_its_class_says() {
    let s3 = Hand::start(|mut line| async move { line.rest().await }).await;
    let dripline = Dripline::in_front_of(&format!("http://{}", s3.addr), "samples")
        .class("bulk", "max_limit: 8Mbit, dscp: le")
        .set("DRIPLINE__UPLOADS", "{enabled: true, class: bulk}")
        .start()
        .await;
    let mut client = TcpStream::connect(dripline.http).await.unwrap();
    client.write_all(&head("PUT", b"/file/a", "Content-Length: 9\r\n")).await.unwrap();
    dripline.until("dripline_uploads", 1).await;
    let port = format!(":{}", s3.addr.port());
    let found = support::eventually(Duration::from_secs(10), || {
        let ss = std::process::Command::new("ss").args(["-tnH", "--tos", "dport", &port]).output();
        let text = String::from_utf8(ss.expect("ss of iproute2").stdout).unwrap();
        text.contains("tos:0x4")
    });
    found.await.expect("a connection to S3 with LE in its TOS byte");
}
