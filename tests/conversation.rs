//! Connections whose bodies continue to drip after Pingora has finished the request: spooled objects,
//! paced.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use support::fault::pattern;
use support::{Dripline, eventually, http1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHUNK: usize = 1024;
const WAIT: Duration = Duration::from_millis(50);
/// Ten records.
const LENGTH: usize = 10_000;

struct World {
    _origin: Origin,
    dripline: Dripline,
    _dir: tempfile::TempDir,
    body: Vec<u8>,
}

async fn world() -> World {
    let origin = Origin::start(OriginOptions { public: true, ..OriginOptions::default() });
    let origin = origin.await.unwrap();
    let body = pattern(LENGTH);
    origin.put("fw.bin", body.clone(), "application/octet-stream").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", origin.addr());
    let builder = Dripline::in_front_of(&endpoint, &origin.options().bucket).spool(dir.path());
    let dripline = builder.chunk(CHUNK).wait("50ms").start().await;
    World { _origin: origin, dripline, _dir: dir, body }
}

impl World {
    /// Asks on a connection of its own, and reads the head and something of the body.
    async fn begin(&self, headers: &str) -> (TcpStream, Vec<u8>) {
        let mut stream = TcpStream::connect(self.dripline.http).await.unwrap();
        stream.write_all(&http1::head("GET", b"/file/fw.bin", headers)).await.unwrap();
        let mut bytes = Vec::new();
        let end = |bytes: &[u8]| bytes.windows(4).position(|w| w == b"\r\n\r\n");
        while end(&bytes).is_none_or(|end| bytes.len() < end + 4 + CHUNK) {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        }
        (stream, bytes)
    }

    async fn ended(&self, how: &str, times: u64) {
        self.dripline.until(&format!("dripline_drips_ended_total{{end=\"{how}\"}}"), times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_connection_are_answered_in_turn_and_paced() {
    let world = world().await;
    let mut stream = TcpStream::connect(world.dripline.http).await.unwrap();
    let request = http1::head("GET", b"/file/fw.bin", "");
    // Two in one piece, and one that comes while the first drips.
    stream.write_all(&request.repeat(2)).await.unwrap();
    let start = Instant::now();
    let first = http1::response(&mut stream, false).await.unwrap();
    stream.write_all(&request).await.unwrap();
    for response in [
        first,
        http1::response(&mut stream, false).await.unwrap(),
        http1::response(&mut stream, false).await.unwrap(),
    ] {
        assert_eq!(response.status, 200);
        assert!(response.body == world.body);
    }
    // 30 records, the first at once
    let (spent, due) = (start.elapsed(), WAIT * 29);
    assert!(spent >= due.mul_f64(0.95) && spent < due * 3, "{spent:?} instead of {due:?}");
    tokio::time::sleep(WAIT * 2).await;
    stream
        .write_all(&http1::head("GET", b"/file/fw.bin", "Range: bytes=5000-6999\r\n"))
        .await
        .unwrap();
    let range = http1::response(&mut stream, false).await.unwrap();
    assert_eq!(range.status, 206);
    assert!(range.body == world.body[5000..7000]);
    world.ended("done", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drip_is_listed_until_its_last_record() {
    let world = world().await;
    let (mut stream, _) = world.begin("").await;
    let reader = tokio::spawn(async move {
        let mut rest = vec![0; LENGTH];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    });
    let running = world.dripline.state.transfers.running();
    assert_eq!(running.len(), 1);
    let records = || running[0].records().unwrap();
    // A record is counted once it is written, which its client may see first.
    eventually(Duration::from_secs(5), || records() > 0).await.expect("a first record");
    assert!(records() < 10, "{running:?}");
    let start = Instant::now();
    loop {
        // Read before the listing: a drip whose last record leaves in between is no longer listed.
        let listed = world.dripline.state.transfers.running().len();
        if records() == 10 {
            break;
        }
        assert_eq!(listed, 1, "{running:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{running:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = || world.dripline.state.transfers.running().is_empty();
    eventually(Duration::from_secs(5), gone).await.unwrap();
    world.ended("done", 1).await;
    reader.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_to_close_does_so_after_the_last_record() {
    let world = world().await;
    let http10 = b"GET /file/fw.bin HTTP/1.0\r\nHost: device.example\r\n\r\n".to_vec();
    let close = http1::head("GET", b"/file/fw.bin", "Connection: close\r\n");
    for request in [close, http10] {
        let mut stream = TcpStream::connect(world.dripline.http).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes));
        read.await.expect("an end").unwrap();
        assert!(bytes.ends_with(&world.body));
    }
    world.ended("done", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_drip() {
    let world = world().await;
    let (stream, _) = world.begin("").await;
    drop(stream);
    world.ended("client", 1).await;
    assert!(world.dripline.state.transfers.running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_last_record_and_closes() {
    let mut world = world().await;
    let (mut stream, mut bytes) = world.begin("").await;
    let draining = world.dripline.begin_drain();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.ends_with(&world.body));
    assert_eq!(draining.await.unwrap().unwrap(), 0, "none is cut");
    world.ended("done", 1).await;
}
