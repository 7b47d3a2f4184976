//! The spool against an S3 that checks signatures and counts what it is asked: who gets what, and
//! how often S3 is read.

mod support;

use std::time::Duration;

use dripline::demo::origin::{Origin, OriginOptions};
use support::fault::pattern;
use support::http1::{self, Response};
use support::{Builder, Dripline};

const MIB: usize = 1 << 20;

/// An origin with one object `fw.bin` and a dripline that spools.
struct World {
    origin: Origin,
    dripline: Dripline,
    _dir: tempfile::TempDir,
}

async fn origin(latency: Duration) -> Origin {
    Origin::start(OriginOptions { latency, ..OriginOptions::default() }).await.unwrap()
}

async fn world(latency: Duration, body: &[u8], set: impl FnOnce(Builder) -> Builder) -> World {
    let origin = origin(latency).await;
    origin.put("fw.bin", body.to_vec(), "application/octet-stream").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", origin.addr());
    let builder = Dripline::in_front_of(&endpoint, &origin.options().bucket).spool(dir.path());
    let dripline = set(builder).start().await;
    World { origin, dripline, _dir: dir }
}

impl World {
    /// A target for `fw.bin` whose signature is unlike any other.
    fn target(&self, n: u64) -> String {
        let expires = Duration::from_secs(600 + n);
        let presigned = self.origin.presign("fw.bin").expires(expires);
        format!("/file/{}?{}", presigned.escaped_key(), presigned.signed_query())
    }

    async fn get(&self, n: u64, headers: &str) -> Response {
        http1::get(self.dripline.http, self.target(n), headers).await
    }

    async fn head(&self, target: &str, headers: &str) -> Response {
        let head = http1::head("HEAD", target.as_bytes(), headers);
        http1::request(self.dripline.http, &head).await
    }

    fn metric(&self, name: &str) -> u64 {
        self.dripline.metric(name)
    }
}

/// The target with another signature.
fn forged(target: &str) -> String {
    let (rest, last) = target.split_at(target.len() - 1);
    format!("{rest}{}", if last == "0" { '1' } else { '0' })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_key_is_read_once_however_many_ask_and_nobody_unauthorised_gets_a_byte() {
    let body = pattern(3 * MIB + 17);
    let world = world(Duration::from_millis(50), &body, |b| b).await;
    let mut valid = Vec::new();
    let mut invalid = Vec::new();
    for n in 0..200 {
        let (addr, target) = (world.dripline.http, world.target(n));
        if n % 4 == 0 {
            let forged = forged(&target);
            invalid.push(tokio::spawn(async move { http1::get(addr, forged, "").await }));
        }
        valid.push(tokio::spawn(async move { http1::get(addr, target, "").await }));
    }
    for client in valid {
        let response = client.await.unwrap();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "a body of {} bytes", response.body.len());
    }
    for client in invalid {
        let response = client.await.unwrap();
        assert_eq!(response.status, 403);
        assert!(response.text().contains("SignatureDoesNotMatch"), "{}", response.text());
    }
    let cold = world.origin.counters();
    assert_eq!(cold.full_gets, 1);
    assert_eq!(cold.ranged_gets, 250, "a check each");
    for n in 300..310 {
        assert!(world.get(n, "").await.body == body);
    }
    let warm = world.origin.counters();
    assert_eq!(warm.full_gets, 1);
    assert_eq!(warm.ranged_gets, 260);
    assert_eq!(world.metric("dripline_spool_fills_total{end=\"complete\"}"), 1);
    assert_eq!(world.metric("dripline_spool_s3_bytes_total"), body.len() as u64);
    assert_eq!(world.metric("dripline_spool_client_bytes_total"), 210 * body.len() as u64);
}
