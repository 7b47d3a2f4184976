//! The spool against an S3 that checks signatures and counts requests: which client gets which bytes,
//! how often S3 is read, and what happens to readers when a fill or a connection fails.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

#[path = "support/process.rs"]
mod process;
#[path = "support/relay.rs"]
mod relay;

#[path = "spool/answers.rs"]
mod answers;
#[path = "spool/budget.rs"]
mod budget;
#[path = "spool/disk.rs"]
mod disk;
#[path = "spool/faults.rs"]
mod faults;
#[path = "spool/outsiders.rs"]
mod outsiders;
#[path = "spool/ranges.rs"]
mod ranges;
#[path = "spool/readers.rs"]
mod readers;
#[path = "spool/sharing.rs"]
mod sharing;
#[path = "spool/trust.rs"]
mod trust;
#[path = "spool/versions.rs"]
mod versions;

use std::net::SocketAddr;
use std::time::Duration;

use dripline::demo::origin::presign::{Presign, Style};
use dripline::demo::origin::{Origin, OriginOptions};
use openssl::ssl::SslVersion;
use relay::Relay;
use support::fault::{FaultOrigin, Plan, pattern};
use support::http1::{self, Response};
use support::wire::Client;
use support::{Builder, Dripline, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// An upper bound for every step that works.
const LIMIT: Duration = Duration::from_secs(20);

const FILLING: &str = "dripline_spool_fills_running";
const COMPLETE: &str = "dripline_spool_fills_total{end=\"complete\"}";
const ABANDONED: &str = "dripline_spool_fills_total{end=\"abandoned\"}";
const CHANGED: &str = "dripline_spool_fills_total{end=\"changed\"}";
const RESUMES: &str = "dripline_spool_fill_resumes_total";
const OBJECTS: &str = "dripline_spool_objects";
const EVICTIONS: &str = "dripline_spool_evictions_total";

/// An origin with one object `fw.bin`, and a dripline that spools.
struct World {
    origin: Origin,
    dripline: Dripline,
    relay: Option<Relay>,
    /// What URLs are signed for.
    host: String,
    _dir: tempfile::TempDir,
}

/// Collects the settings of a test's origin and dripline, and starts them.
struct Setup {
    options: OriginOptions,
    relayed: bool,
    set: Vec<(&'static str, String)>,
}

impl Setup {
    fn new() -> Self {
        Self { options: OriginOptions::default(), relayed: false, set: Vec::new() }
    }

    /// Every answer of the origin takes so long.
    fn latency(mut self, latency: Duration) -> Self {
        self.options.latency = latency;
        self
    }

    /// With a relay between dripline and the origin.
    fn relayed(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Sets a variable of dripline's environment.
    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.set.push((name, value.to_owned()));
        self
    }

    /// Records of so many bytes, so far apart.
    fn drip(self, chunk: usize, wait: &str) -> Self {
        self.set("DRIPLINE__DRIP__CHUNK_SIZE", &chunk.to_string()).set("DRIPLINE__DRIP__WAIT", wait)
    }

    /// `fw.bin` is `body`.
    async fn start(self, body: &[u8]) -> World {
        let origin = Origin::start(self.options).await.unwrap();
        origin.put("fw.bin", body.to_vec(), "application/octet-stream").await.unwrap();
        let relay = if self.relayed { Some(Relay::to(origin.addr()).await) } else { None };
        let host = relay.as_ref().map_or(origin.addr(), |relay| relay.addr).to_string();
        let dir = tempfile::tempdir().unwrap();
        let builder = spooling(&host, &origin.options().bucket, dir.path());
        let set = |builder: Builder, (name, value): (&str, String)| builder.set(name, &value);
        let dripline = self.set.into_iter().fold(builder, set).start().await;
        World { origin, dripline, relay, host, _dir: dir }
    }
}

/// A dripline with a spool, in front of what listens at `host`.
fn spooling(host: &str, bucket: &str, dir: &std::path::Path) -> Builder {
    Dripline::in_front_of(&format!("http://{host}"), bucket).spool(dir)
}

impl World {
    fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("a world with a relay")
    }

    /// A URL about to be signed for the host that dripline sends.
    fn presign(&self, key: &str) -> Presign {
        self.origin.presign(key).endpoint("http", Style::Path, &self.host)
    }

    /// A target for `fw.bin` whose signature is unlike any other.
    fn target(&self, n: u64) -> String {
        self.target_of("fw.bin", n)
    }

    fn target_of(&self, key: &str, n: u64) -> String {
        file(&self.presign(key).expires(Duration::from_secs(600 + n)))
    }

    async fn get(&self, n: u64, headers: &str) -> Response {
        self.ask(&self.target(n), headers).await
    }

    async fn ask(&self, target: &str, headers: &str) -> Response {
        http1::get(self.dripline.http, target, headers).await
    }

    async fn head(&self, target: &str, headers: &str) -> Response {
        let head = http1::head("HEAD", target.as_bytes(), headers);
        http1::request(self.dripline.http, &head).await
    }

    /// Begins to get a target.
    fn begin(&self, target: String) -> JoinHandle<Response> {
        let addr = self.dripline.http;
        tokio::spawn(async move { http1::get(addr, target, "").await })
    }

    /// Begins to get `fw.bin` as so many clients.
    fn readers(&self, numbers: std::ops::Range<u64>) -> Vec<JoinHandle<Response>> {
        numbers.map(|n| self.begin(self.target(n))).collect()
    }

    /// Gets a target over TLS, and checks that the body came as records of `chunk` bytes.
    async fn get_tls(&self, target: &str, headers: &str, chunk: usize) -> Response {
        let cert = &self.dripline.cert;
        let mut client = Client::connect(self.dripline.https, SslVersion::TLS1_3, cert).await;
        let request = http1::head("GET", target.as_bytes(), headers);
        client.stream.write_all(&request).await.unwrap();
        let response = http1::response(&mut client.stream, false).await.unwrap();
        if response.complete {
            let (length, mut left) = (response.body.len(), response.body.len());
            for record in client.application(response.head_length + length).iter().skip(1) {
                assert_eq!(record.plaintext, chunk.min(left), "{left} of {length} bytes left");
                left -= record.plaintext;
            }
            assert_eq!(left, 0);
        }
        response
    }

    fn metric(&self, name: &str) -> u64 {
        self.dripline.metric(name)
    }

    async fn until(&self, metric: &str, value: u64) {
        self.dripline.until(metric, value).await;
    }

    fn full_gets(&self) -> usize {
        self.origin.counters().full_gets
    }

    fn ranged_gets(&self) -> usize {
        self.origin.counters().ranged_gets
    }

    /// Requests that went direct for that reason.
    fn bypassed(&self, reason: &str) -> u64 {
        self.metric(&format!("dripline_spool_bypassed_total{{reason=\"{reason}\"}}"))
    }

    /// Requests served that way.
    fn served(&self, result: &str) -> u64 {
        self.metric(&format!("dripline_spool_requests_total{{result=\"{result}\"}}"))
    }

    /// Checks with that answer.
    fn checks(&self, result: &str) -> u64 {
        self.metric(&format!("dripline_spool_checks_total{{result=\"{result}\"}}"))
    }
}

/// The target at dripline of what was signed.
fn file(signed: &Presign) -> String {
    format!("/file/{}?{}", signed.escaped_key(), signed.signed_query())
}

/// The target with another signature.
fn forged(target: &str) -> String {
    let (rest, last) = target.split_at(target.len() - 1);
    format!("{rest}{}", if last == "0" { '1' } else { '0' })
}

fn assert_whole(response: &Response, body: &[u8]) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.complete, "{} of {} bytes", response.body.len(), body.len());
    assert!(response.body == body, "a body of {} bytes differs", response.body.len());
}

/// Every client got the whole body.
async fn all_whole(readers: Vec<JoinHandle<Response>>, body: &[u8]) {
    for reader in readers {
        assert_whole(&reader.await.unwrap(), body);
    }
}

async fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    eventually(LIMIT, condition).await.unwrap_or_else(|| panic!("{what}: not in time"));
}

/// A client that reads a part of a response. Dropping it closes its connection.
struct Slow {
    _stream: TcpStream,
}

impl Slow {
    /// Sends a GET and reads the response's first `bytes` bytes.
    async fn get(addr: SocketAddr, target: &str, bytes: usize) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // A small receive buffer, so that the kernel cannot take the whole body.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        stream.write_all(&http1::head("GET", target.as_bytes(), "")).await.unwrap();
        let mut buf = vec![0; bytes];
        let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut buf)).await;
        read.expect("some of a response in time").unwrap();
        assert!(buf.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buf));
        Self { _stream: stream }
    }
}
