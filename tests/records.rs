//! The wire: every record that a client gets, its size and its time, read off the socket.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::Duration;

use dripline::demo::origin::{Origin, OriginOptions};
use dripline::tls::identity::Identity;
use openssl::ssl::SslVersion;
use support::Dripline;
use support::http1::{self, head};
use support::pki::{Authority, Kind};
use support::wire::{Client, Record};
use tokio::io::AsyncWriteExt;

const BOTH: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// A body in which no two parts are equal.
fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

async fn origin_with(key: &str, body: &[u8]) -> Origin {
    let origin = Origin::start(OriginOptions { public: true, ..OriginOptions::default() });
    let origin = origin.await.unwrap();
    origin.put(key, body.to_vec(), "application/octet-stream").await.unwrap();
    origin
}

fn dripline(origin: &Origin) -> support::Builder {
    Dripline::in_front_of(&format!("http://{}", origin.addr()), "samples")
}

/// Fetches `/file/<key>`, checks the body, and returns the handshake's records, the head's and the
/// body's.
async fn fetch(
    dripline: &Dripline,
    version: SslVersion,
    key: &str,
    expected: &[u8],
) -> (Vec<Record>, Record, Vec<Record>) {
    let mut client = Client::connect(dripline.https, version, &dripline.cert).await;
    client.stream.write_all(&head("GET", format!("/file/{key}").as_bytes(), "")).await.unwrap();
    let response = http1::response(&mut client.stream, false).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.complete && response.body == expected, "the body differs");
    let total = response.head_length + expected.len();
    let application = client.application(total);
    let all = client.records();
    let handshake = all[..all.len() - application.len()].to_vec();
    assert!(handshake.len() > 1, "records of the handshake: {handshake:?}");
    // The head shares no record with the body, and has one of its own where it fits.
    let largest = application.iter().map(|record| record.plaintext).max().unwrap();
    let heads =
        if response.head_length > largest { response.head_length.div_ceil(largest) } else { 1 };
    let (head, body) = application.split_at(heads);
    assert_eq!(head.iter().map(|record| record.plaintext).sum::<usize>(), response.head_length);
    (handshake, head[0], body.to_vec())
}

/// Every record except the last is full.
fn assert_sizes(records: &[Record], chunk: usize, total: usize) {
    assert_eq!(records.len(), total.div_ceil(chunk));
    let (last, full) = records.split_last().unwrap();
    for (at, record) in full.iter().enumerate() {
        assert_eq!(record.plaintext, chunk, "record {at}");
    }
    assert_eq!(last.plaintext, total - chunk * full.len());
}

/// Records do not come in bursts, and all gaps together are what the schedule says.
fn assert_pace(records: &[Record], wait: Duration) {
    let off = pace(records, wait);
    assert!(off <= 0.02, "{:.1} % slower than the schedule", off * 100.0);
}

/// By how much all gaps together exceed the schedule. One in 20 at most may be below 0.4 waits, as
/// behind a record that a busy machine read late; nor may they all together be less than the schedule
/// says.
fn pace(records: &[Record], wait: Duration) -> f64 {
    let gaps: Vec<Duration> = records.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    let short: Vec<_> = gaps.iter().filter(|gap| **gap < wait.mul_f64(0.4)).collect();
    assert!(short.len() * 20 <= gaps.len(), "gaps of {short:?}");
    let steps = u32::try_from(records.len() - 1).unwrap();
    let (spent, due) = (records[records.len() - 1].at - records[0].at, wait * steps);
    let off = spent.as_secs_f64() / due.as_secs_f64() - 1.0;
    assert!(off >= -0.02, "{spent:?} instead of {due:?}");
    off
}

/// An RSA identity whose chain is more than 5 KB: the leaf has many names.
fn large_rsa_chain() -> Identity {
    let more = (1..120).map(|at| format!("device-gateway-{at}.firmware.example"));
    let names: Vec<String> = ["localhost".to_owned()].into_iter().chain(more).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let identity = Authority::new(Kind::Rsa).issue(&names);
    let length: usize = identity.chain().iter().map(|c| c.to_der().unwrap().len()).sum();
    assert!(length > 5000, "the chain has {length} bytes");
    identity
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_drips_as_4096_byte_records_every_50_ms() {
    let wanted = body((1 << 20) + 10);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).chunk(4096).wait("50ms").start().await;
    let check = async |version| {
        let (handshake, head, records) = fetch(&dripline, version, "fw.bin", &wanted).await;
        assert!(handshake.iter().all(|record| record.plaintext <= 4096));
        assert!(head.plaintext <= 400, "the head has {} bytes", head.plaintext);
        assert_sizes(&records, 4096, wanted.len());
        assert_pace(&records, Duration::from_millis(50));
        // the first record follows the head within the 2 ms that common wake-ups cost at this wait
        assert!(records[0].at - head.at < Duration::from_millis(500));
    };
    tokio::join!(check(SslVersion::TLS1_2), check(SslVersion::TLS1_3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_rsa_chain_is_cut_to_the_cap() {
    let identity = large_rsa_chain();
    let wanted = body(10_000);
    let origin = origin_with("fw.bin", &wanted).await;
    for chunk in [4096, 1024, 512, 64] {
        let dripline = dripline(&origin).chunk(chunk).identity(identity.clone()).start().await;
        for version in BOTH {
            let (handshake, _, records) = fetch(&dripline, version, "fw.bin", &wanted).await;
            let largest = handshake.iter().map(|record| record.plaintext).max().unwrap();
            assert!(largest <= chunk, "a handshake record of {largest} bytes at {chunk}");
            let total: usize = handshake.iter().map(|record| record.plaintext).sum();
            assert!(total > 5000, "the chain was sent: {total}");
            assert_sizes(&records, chunk, wanted.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_size_come_full() {
    let wanted = body(50_001);
    let origin = origin_with("fw.bin", &wanted).await;
    for chunk in [64, 65, 511, 512, 513, 1000, 1024, 4095, 4097, 9999, 16_383, 16_384] {
        let dripline = dripline(&origin).chunk(chunk).start().await;
        for version in BOTH {
            let (handshake, _, records) = fetch(&dripline, version, "fw.bin", &wanted).await;
            assert!(handshake.iter().all(|record| record.plaintext <= chunk), "{handshake:?}");
            assert_sizes(&records, chunk, wanted.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_wait_a_body_comes_at_full_speed() {
    let wanted = body(8 << 20);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).start().await;
    let (_, head, records) = fetch(&dripline, SslVersion::TLS1_3, "fw.bin", &wanted).await;
    assert_sizes(&records, 4096, wanted.len());
    // at the default pace it would be 17 minutes
    assert!(records[records.len() - 1].at - head.at < Duration::from_secs(60));
}

/// The times of the body records of several responses on one connection, one record each.
async fn body_times(client: &Client, heads: &[usize], chunk: usize) -> Vec<Record> {
    let total = heads.iter().sum::<usize>() + heads.len() * chunk;
    let records = client.application(total);
    assert_eq!(records.len(), 2 * heads.len(), "a head and a body record each");
    records.chunks(2).map(|pair| pair[1]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_one_after_the_other_keep_the_pace_of_the_connection() {
    let wanted = body(64 << 10);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).wait("100ms").start().await;
    let mut client = Client::connect(dripline.https, SslVersion::TLS1_2, &dripline.cert).await;
    let mut heads = Vec::new();
    for block in 0..16 {
        let range = format!("Range: bytes={}-{}\r\n", block * 4096, block * 4096 + 4095);
        client.stream.write_all(&head("GET", b"/file/fw.bin", &range)).await.unwrap();
        let response = http1::response(&mut client.stream, false).await.unwrap();
        assert_eq!(response.status, 206);
        assert_eq!(response.body, wanted[block * 4096..(block + 1) * 4096]);
        heads.push(response.head_length);
    }
    let times = body_times(&client, &heads, 4096).await;
    // The client asks after each response: on a busy machine some requests come after their time.
    assert!(pace(&times, Duration::from_millis(100)) < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_keep_the_pace_of_the_connection() {
    let wanted = body(5 * 4096);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).wait("200ms").start().await;
    for version in BOTH {
        let mut client = Client::connect(dripline.https, version, &dripline.cert).await;
        let mut requests = Vec::new();
        for block in 0..5 {
            let range = format!("Range: bytes={}-{}\r\n", block * 4096, block * 4096 + 4095);
            requests.extend(head("GET", b"/file/fw.bin", &range));
        }
        client.stream.write_all(&requests).await.unwrap();
        let mut heads = Vec::new();
        for block in 0..5 {
            let response = http1::response(&mut client.stream, false).await.unwrap();
            assert_eq!(response.body, wanted[block * 4096..(block + 1) * 4096]);
            heads.push(response.head_length);
        }
        let times = body_times(&client, &heads, 4096).await;
        assert_pace(&times, Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_objects_one_after_the_other_keep_the_pace_too() {
    // Above 64 KiB, so that S3 is read no faster than the client, on a connection for each.
    let wanted = body(80_000);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).wait("20ms").start().await;
    for version in BOTH {
        let mut client = Client::connect(dripline.https, version, &dripline.cert).await;
        client.stream.write_all(&head("GET", b"/file/fw.bin", "").repeat(3)).await.unwrap();
        let mut total = 0;
        for _ in 0..3 {
            let response = http1::response(&mut client.stream, false).await.unwrap();
            assert!(response.complete && response.body == wanted);
            total += response.head_length + wanted.len();
        }
        let records = client.application(total);
        let body: Vec<Record> = records.into_iter().filter(|r| r.plaintext > 400).collect();
        assert_eq!(body.len(), 3 * 20);
        assert!(pace(&body, Duration::from_millis(20)) < 0.5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_listener_drips_too() {
    let wanted = body(5 * 4096);
    let origin = origin_with("fw.bin", &wanted).await;
    let dripline = dripline(&origin).wait("200ms").start().await;
    let start = std::time::Instant::now();
    let response = http1::get(dripline.http, "/file/fw.bin", "").await;
    assert_eq!(response.body, wanted);
    assert!(start.elapsed() >= Duration::from_millis(4 * 200));
}

/// The first body record of a response on a connection leaves one wait after the last one's, whoever
/// made the response.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_driplines_own_are_paced_and_whole() {
    const CHUNK: usize = 64;
    let origin = origin_with("fw.bin", b"x").await;
    let dripline = dripline(&origin).chunk(CHUNK).wait("100ms").start().await;
    let mut client = Client::connect(dripline.https, SslVersion::TLS1_3, &dripline.cert).await;
    client.stream.write_all(&head("GET", b"/elsewhere", "").repeat(5)).await.unwrap();
    let full = |length: usize| {
        let mut sizes = vec![CHUNK; length / CHUNK];
        let rest = length % CHUNK;
        if rest > 0 {
            sizes.push(rest);
        }
        sizes
    };
    let (mut expected, mut bodies, mut total) = (Vec::new(), Vec::new(), 0);
    for _ in 0..5 {
        let response = http1::response(&mut client.stream, false).await.unwrap();
        assert_eq!((response.status, response.complete), (404, true));
        assert!((1..=CHUNK).contains(&response.body.len()), "{}", response.text());
        expected.extend(full(response.head_length));
        bodies.push(expected.len());
        expected.push(response.body.len());
        total += response.head_length + response.body.len();
    }
    let records = client.application(total);
    let sizes: Vec<_> = records.iter().map(|record| record.plaintext).collect();
    assert_eq!(sizes, expected);
    let bodies: Vec<_> = bodies.into_iter().map(|at| records[at]).collect();
    assert!(pace(&bodies, Duration::from_millis(100)) < 0.5);
}
