//! Faults: what a client receives when S3 or the client itself misbehaves, and that no resources leak.
//! Every request carries a marker in its query that no log line may show.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::TcpListener;
use std::pin::Pin;
use std::time::{Duration, Instant};

use dripline::demo::origin::presign::Style;
use dripline::demo::origin::{Origin, OriginOptions};
use openssl::ssl::SslVersion;
use socket2::SockRef;
use support::fault::{End, FaultOrigin, Plan, pattern};
use support::http1::{self, Response, head};
use support::wire::Client;
use support::{Builder, Dripline, eventually, logs};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::task::JoinSet;

/// Stands for a signature.
const SECRET: &str = "f00dfacef00dface";

const TARGET: &str = "/file/fw.bin?X-Amz-Signature=f00dfacef00dface";

/// Without a wait, upstream connections are pooled. With a wait, each is slowed by its reader.
const WAITS: [&str; 2] = ["0", "5ms"];

/// Every test takes the read lock. The test that counts the process's resources takes the write lock.
static ALONE: RwLock<()> = RwLock::const_new(());

/// An S3 that follows a plan, and dripline before it.
struct Rig {
    s3: FaultOrigin,
    dripline: Dripline,
    _shared: RwLockReadGuard<'static, ()>,
}

fn builder(addr: std::net::SocketAddr) -> Builder {
    logs::capture();
    Dripline::in_front_of(&format!("http://{addr}"), "samples")
        .set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "300ms")
}

impl Rig {
    async fn new(plan: Plan, wait: &str) -> Self {
        Self::each(vec![plan], wait).await
    }

    async fn each(plans: Vec<Plan>, wait: &str) -> Self {
        Self::with(FaultOrigin::start_each(plans).await.unwrap(), |builder| builder.wait(wait))
            .await
    }

    async fn with(s3: FaultOrigin, set: impl FnOnce(Builder) -> Builder) -> Self {
        let shared = ALONE.read().await;
        let dripline = set(builder(s3.addr())).start().await;
        Self { s3, dripline, _shared: shared }
    }

    async fn get(&self) -> Response {
        http1::get(self.dripline.http, TARGET, "").await
    }

    /// Waits until no response is under way, and returns how many ended in a given way.
    async fn ended(&self, how: &str) -> u64 {
        self.dripline.until("dripline_drips", 0).await;
        self.dripline.metric(&format!("dripline_drips_ended_total{{end=\"{how}\"}}"))
    }

    fn failures(&self, reason: &str) -> u64 {
        self.dripline.metric(&format!("dripline_upstream_failures_total{{reason=\"{reason}\"}}"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_secrets_kept();
        }
    }
}

fn assert_secrets_kept() {
    let lines = logs::lines();
    assert!(!lines.is_empty(), "the log is captured");
    let told = lines.iter().find(|line| line.contains(SECRET));
    assert_eq!(told, None, "a query was logged");
}

/// A refusal of dripline's own: this status, and one plain line, which is returned.
fn one_line(response: &Response, status: u16) -> String {
    let text = response.text();
    assert_eq!((response.status, response.complete), (status, true), "{text}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(text.ends_with('\n'), "{text:?}");
    assert_eq!(response.header("content-length"), Some(text.len().to_string().as_str()));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_502() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for wait in WAITS {
        let dripline = builder(closed).wait(wait).start().await;
        let response = http1::get(dripline.http, TARGET, "").await;
        assert_eq!(one_line(&response, 502), "cannot connect to S3\n");
        let asked = http1::request(dripline.http, &head("HEAD", TARGET.as_bytes(), "")).await;
        assert_eq!(asked.status, 502);
        dripline.until("dripline_drips", 0).await;
        assert_eq!(dripline.metric("dripline_upstream_failures_total{reason=\"connect\"}"), 2);
    }
    assert_secrets_kept();
}

/// An http:// endpoint at a port that speaks TLS: some servers answer with an alert.
#[tokio::test(flavor = "multi_thread")]
async fn tls_at_a_plain_endpoint_is_named() {
    for wait in WAITS {
        let alert = "\x15\x03\x01\x00\x02\x02\x46";
        let rig = Rig::new(Plan::raw(alert).then(End::Close), wait).await;
        let wanted = "S3's port speaks TLS: s3.endpoint has to begin with https://\n";
        assert_eq!(one_line(&rig.get().await, 502), wanted);
        assert_eq!(rig.failures("response"), 1);
    }
    assert_secrets_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_never_accepted_is_504() {
    for wait in WAITS {
        let s3 = FaultOrigin::start(Plan::never_accept()).await.unwrap();
        let rig = Rig::with(s3, |builder| {
            builder.wait(wait).set("DRIPLINE__UPSTREAM__CONNECT_TIMEOUT", "200ms")
        });
        let rig = rig.await;
        let start = Instant::now();
        let line = one_line(&rig.get().await, 504);
        assert!(line.contains("S3 did not answer in time"), "{line}");
        let spent = start.elapsed();
        assert!(spent >= Duration::from_millis(200), "{spent:?}");
        assert!(spent < Duration::from_secs(3), "{spent:?}");
        assert_eq!(rig.failures("timeout"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_504() {
    for wait in WAITS {
        for plan in [Plan::silent(), Plan::raw("HTTP/1.1 200 OK\r\nContent-Le").then(End::Stall)] {
            let rig = Rig::new(plan, wait).await;
            let start = Instant::now();
            let line = one_line(&rig.get().await, 504);
            assert!(line.contains("S3 did not answer in time"), "{line}");
            let spent = start.elapsed();
            assert!(spent >= Duration::from_millis(290), "{spent:?}");
            assert!(spent < Duration::from_secs(3), "{spent:?}");
            assert_eq!(rig.failures("timeout"), 1);
            assert!(rig.s3.all_closed_within(Duration::from_secs(1)).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_malformed_response_is_502() {
    for wait in WAITS {
        for (what, plan) in [
            ("nothing", Plan::raw("")),
            ("a reset", Plan::raw("").then(End::Reset)),
            ("half a head", Plan::raw("HTTP/1.1 200 OK\r\nContent-Le")),
            ("another protocol", Plan::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
            ("no status", Plan::raw("HTTP/1.1 two hundred\r\n\r\n")),
            ("no header", Plan::raw("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")),
            ("two lengths", Plan::ok(10).content_length(&["10", "11"])),
            ("a list of lengths", Plan::ok(10).content_length(&["10, 11"])),
            ("a word", Plan::ok(10).content_length(&["ten"])),
            ("a sign", Plan::ok(10).content_length(&["+10"])),
            ("less than nothing", Plan::ok(10).content_length(&["-1"])),
            ("hexadecimal", Plan::ok(10).content_length(&["0x10"])),
            ("too long", Plan::ok(10).content_length(&["99999999999999999999999"])),
            ("an empty length", Plan::ok(10).content_length(&[""])),
        ] {
            let rig = Rig::new(plan, wait).await;
            let response = rig.get().await;
            assert_eq!(response.status, 502, "{what}");
            one_line(&response, 502);
            assert_eq!(rig.failures("response"), 1, "{what}");
            assert!(rig.s3.all_closed_within(Duration::from_secs(1)).await, "{what}");
        }
    }
}

/// Every way in which a body of 20,000 bytes can break off, and how many of its bytes S3 has sent.
fn broken_bodies() -> [(&'static str, Plan, usize); 13] {
    let body = || Plan::ok(20_000);
    let chunked = || body().chunked(3000);
    let garbage = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n";
    [
        ("closed", body().send_only(10_000).then(End::Close), 10_000),
        ("reset", body().send_only(10_000).then(End::Reset), 10_000),
        ("stalled", body().send_only(10_000).then(End::Stall), 10_000),
        ("closed at once", body().send_only(0).then(End::Close), 0),
        ("stalled at once", body().send_only(0).then(End::Stall), 0),
        ("a lie", body().content_length(&["30000"]).then(End::Close), 20_000),
        ("a lie, stalled", body().content_length(&["30000"]).then(End::Stall), 20_000),
        ("a lot", body().content_length(&["18446744073709551615"]).then(End::Close), 20_000),
        ("chunks, closed", chunked().send_only(10_000).then(End::Close), 10_000),
        ("whole chunks, closed", chunked().send_only(9000).then(End::Close), 9000),
        ("chunks, reset", chunked().send_only(10_000).then(End::Reset), 10_000),
        ("chunks, stalled", chunked().send_only(10_000).then(End::Stall), 10_000),
        ("chunks without a size", Plan::raw(garbage).then(End::Stall), 0),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_closes_the_clients_connection_short() {
    let mut tasks = JoinSet::new();
    for wait in WAITS {
        for (what, plan, sent) in broken_bodies() {
            tasks.spawn(breaks_off(wait, what, plan, sent));
        }
    }
    tasks.join_all().await;
    let short = "response cut short, closing the client's connection";
    assert!(logs::lines().iter().any(|line| line.contains(short)));
}

async fn breaks_off(wait: &'static str, what: &'static str, plan: Plan, sent: usize) {
    let reset = what.contains("reset");
    let what = format!("{what}, wait {wait}");
    let rig = Rig::new(plan, wait).await;
    let check = |response: Response| {
        assert_eq!((response.status, response.complete), (200, false), "{what}");
        assert!(response.body.len() <= sent, "{what}");
        // Every whole record of what came: a reset may overtake bytes that were sent before it.
        let least = if reset { 0 } else { sent / 4096 * 4096 };
        assert!(response.body.len() >= least, "{what}: {} of {sent}", response.body.len());
        assert!(pattern(20_000).starts_with(&response.body), "{what}");
    };
    let start = Instant::now();
    check(rig.get().await);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut client = Client::connect(rig.dripline.https, version, &rig.dripline.cert).await;
        client.stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
        check(http1::response(&mut client.stream, false).await.expect("a head"));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", start.elapsed());
    assert_eq!(rig.ended("upstream").await, 3, "{what}");
    assert!(rig.s3.all_closed_within(Duration::from_secs(1)).await, "{what}");
    rig.dripline.until("dripline_connections", 0).await;
}

/// Bytes after the announced end of a body are discarded.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_announced_is_cut_off() {
    for wait in WAITS {
        for (what, plan, announced) in [
            ("extra", Plan::ok(5000).then(End::Extra(100)), 5000),
            ("a lie", Plan::ok(5000).content_length(&["4000"]), 4000),
            ("nothing announced", Plan::ok(10).content_length(&["0"]), 0),
            ("after chunks", Plan::ok(5000).chunked(1000).then(End::Extra(100)), 5000),
            ("not modified", Plan::ok(5000).status("304 Not Modified"), 0),
        ] {
            let what = format!("{what}, wait {wait}");
            let rig = Rig::new(plan, wait).await;
            let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
            for turn in 1..=3 {
                stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
                let response = http1::response(&mut stream, false).await.expect("an answer");
                assert!(response.complete && response.body == pattern(announced), "{what}");
                // What is still under way when the next request leaves could not be told from its
                // answer by anybody.
                let over = || rig.s3.answers() == turn;
                eventually(Duration::from_secs(10), over).await.expect("all of S3's answer");
                assert_eq!(rig.s3.connections(), turn, "{what}: an upstream was used again");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_pieces_of_any_size_become_full_records() {
    const LENGTH: usize = 50_001;
    let wanted = pattern(LENGTH);
    for wait in ["0", "1ms"] {
        for sizes in [&[1, 7, 4095, 4097, 1500][..], &[4096], &[333], &[16_384, 1]] {
            for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
                let rig = Rig::new(Plan::ok(LENGTH).pieces(sizes), wait).await;
                let mut client =
                    Client::connect(rig.dripline.https, version, &rig.dripline.cert).await;
                client.stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
                let response = http1::response(&mut client.stream, false).await.unwrap();
                assert!(response.complete && response.body == wanted, "{sizes:?}");
                let records = client.application(response.head_length + LENGTH);
                let sizes: Vec<_> = records.iter().map(|record| record.plaintext).collect();
                let mut full = vec![response.head_length];
                full.extend(wanted.chunks(4096).map(<[u8]>::len));
                assert_eq!(sizes, full);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_relayed() {
    let wanted = pattern(20_000);
    for wait in WAITS {
        let body = || Plan::ok(20_000);
        for (what, plan) in [
            ("small chunks", body().chunked(500)),
            ("odd pieces", body().chunked(999).pieces(&[1, 500, 3000])),
            ("one chunk", body().chunked(20_000)),
            // Chunks win over a length (RFC 9112 §6.3).
            ("and a length too short", body().chunked(3000).content_length(&["10"])),
            ("and a length too long", body().chunked(3000).content_length(&["30000"])),
        ] {
            let what = format!("{what}, wait {wait}");
            let rig = Rig::new(plan, wait).await;
            let mut client =
                Client::connect(rig.dripline.https, SslVersion::TLS1_3, &rig.dripline.cert).await;
            for _ in 0..2 {
                client.stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
                let response = http1::response(&mut client.stream, false).await.unwrap();
                assert!(response.complete && response.body == wanted, "{what}");
                assert_eq!(response.header("content-length"), None, "{what}");
            }
            assert!(client.records().iter().all(|record| record.plaintext <= 4096), "{what}");
            assert_eq!(rig.ended("done").await, 2, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_do_not_disturb() {
    for wait in WAITS {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n";
        let answer = format!("{interim}{interim}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
        let rig = Rig::new(Plan::raw(answer), wait).await;
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        for _ in 0..2 {
            stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
            let mut response = http1::response(&mut stream, true).await.unwrap();
            while response.status == 103 {
                response = http1::response(&mut stream, true).await.unwrap();
            }
            assert_eq!((response.status, response.header("content-length")), (200, Some("4")));
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"body");
        }
        assert_eq!(rig.ended("done").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_502_that_names_the_region() {
    for wait in WAITS {
        for status in [301, 307] {
            let rig = Rig::new(Plan::redirect(status, "eu-west-3"), wait).await;
            let response = rig.get().await;
            let line = one_line(&response, 502);
            for part in ["samples", "eu-west-3", "AWS_REGION", &status.to_string()] {
                assert!(line.contains(part), "{line}");
            }
            assert_eq!(response.header("location"), None);
            assert_eq!(response.header("x-amz-bucket-region"), None);
            assert_eq!(rig.failures("redirect"), 1);
            assert_eq!(rig.failures("response"), 0);
            let asked = head("HEAD", TARGET.as_bytes(), "");
            assert_eq!(http1::request(rig.dripline.http, &asked).await.status, 502);
        }
        for status in ["300 x", "301 x", "302 x", "303 x", "305 x", "307 x", "308 x"] {
            let plan = Plan::error(status, "x").header("Location", "https://elsewhere.example/");
            let rig = Rig::new(plan, wait).await;
            let response = rig.get().await;
            let line = one_line(&response, 502);
            assert!(line.contains("samples") && line.contains("s3.region"), "{line}");
            assert!(!line.contains("elsewhere") && response.header("location").is_none(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_own_errors_are_relayed() {
    for wait in WAITS {
        for (status, code) in [
            ("503 Slow Down", "SlowDown"),
            ("500 Internal Server Error", "InternalError"),
            ("400 Bad Request", "ExpiredToken"),
            ("403 Forbidden", "AccessDenied"),
        ] {
            for chunked in [false, true] {
                let plan = Plan::error(status, code).header("Retry-After", "7");
                let plan = if chunked { plan.chunked(10) } else { plan };
                let rig = Rig::new(plan, wait).await;
                let response = rig.get().await;
                assert!(status.starts_with(&response.status.to_string()), "{}", response.status);
                let xml = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code></Error>"
                );
                assert!(response.complete && response.text() == xml, "{}", response.text());
                assert_eq!(response.header("content-type"), Some("application/xml"));
                assert_eq!(response.header("retry-after"), Some("7"));
                assert_eq!(rig.ended("done").await, 1);
            }
        }
    }
}

/// S3 closes idle connections after a few seconds and busy ones after 100 requests: no client is to
/// notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_s3_has_closed_is_no_fault() {
    // Closed after the answer.
    let rig = Rig::new(Plan::ok(10).then(End::Close), "0").await;
    for _ in 0..20 {
        assert_eq!(rig.get().await.status, 200);
    }
    // Closed, or reset, as the next request arrives.
    for end in [End::Close, End::Reset] {
        let plans = [Plan::ok(10), Plan::raw("").then(end)];
        let rig = Rig::each([plans.to_vec(), vec![Plan::ok(10)]].concat(), "0").await;
        for _ in 0..2 {
            assert_eq!(rig.get().await.status, 200, "{end:?}");
        }
        assert_eq!((rig.s3.connections(), rig.s3.requests().len()), (2, 3));
    }
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leave {
    Fin,
    Reset,
    CloseNotify,
}

async fn leave(mut client: Client, how: Leave) {
    match how {
        Leave::Fin => {}
        Leave::Reset => client.stream.get_ref().reset_on_close(),
        Leave::CloseNotify => Pin::new(&mut client.stream).shutdown().await.unwrap(),
    }
}

/// Asks, and reads what comes at once.
async fn begin<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, body: &mut [u8]) {
    stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
    assert_eq!(http1::response(stream, true).await.unwrap().status, 200);
    stream.read_exact(body).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_mid_drip_releases_s3_at_once() {
    let s3 = FaultOrigin::start(Plan::ok(1 << 20)).await.unwrap();
    let rig = Rig::with(s3, |builder| {
        builder.wait("60s").set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "60s")
    });
    let rig = rig.await;
    let mut left = 0;
    let mut gone = async |how: &str| {
        let start = Instant::now();
        left += 1;
        assert!(rig.s3.all_closed_within(Duration::from_secs(1)).await, "{how}");
        assert!(start.elapsed() < Duration::from_secs(1), "{how}: {:?}", start.elapsed());
        assert_eq!(rig.ended("client").await, left, "{how}");
        rig.dripline.until("dripline_connections", 0).await;
    };
    let mut body = [0; 4096];
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for how in [Leave::Fin, Leave::Reset, Leave::CloseNotify] {
            let mut client = Client::connect(rig.dripline.https, version, &rig.dripline.cert).await;
            begin(&mut client.stream, &mut body).await;
            assert_eq!(rig.s3.open_connections(), 1);
            leave(client, how).await;
            gone(&format!("{version:?} {how:?}")).await;
        }
    }
    for linger in [None, Some(Duration::ZERO)] {
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        begin(&mut stream, &mut body).await;
        assert_eq!(rig.dripline.metric("dripline_drips"), 1);
        SockRef::from(&stream).set_linger(linger).unwrap();
        drop(stream);
        gone(&format!("plain {linger:?}")).await;
    }
    // A request that was sent ahead does not hide that the client is gone.
    let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
    begin(&mut stream, &mut body).await;
    stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
    drop(stream);
    gone("pipelined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_s3_is_silent_releases_it_at_once() {
    for wait in ["0", "60s"] {
        for plan in [Plan::silent(), Plan::ok(20_000).send_only(5000).then(End::Stall)] {
            let s3 = FaultOrigin::start(plan).await.unwrap();
            let rig = Rig::with(s3, |builder| {
                builder.wait(wait).set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "60s")
            });
            let rig = rig.await;
            for linger in [None, Some(Duration::ZERO)] {
                let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
                let before = rig.s3.requests().len();
                stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
                let asked = || rig.s3.requests().len() > before;
                support::eventually(Duration::from_secs(5), asked).await.expect("a request");
                SockRef::from(&stream).set_linger(linger).unwrap();
                drop(stream);
                assert!(
                    rig.s3.all_closed_within(Duration::from_secs(1)).await,
                    "wait {wait}, {linger:?}"
                );
                rig.dripline.until("dripline_connections", 0).await;
            }
            assert_eq!(rig.dripline.metric("dripline_drips"), 0);
        }
    }
}

/// What the process holds: open files, and resident bytes.
fn held() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    (files, resident * 4096)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_thousand_broken_answers() {
    const TURNS: usize = 1000;
    const AT_ONCE: usize = 50;
    let _alone = ALONE.write().await;
    for wait in WAITS {
        let plans = [
            Plan::ok(10_000).send_only(5000).then(End::Reset),
            Plan::ok(10_000).send_only(5000).then(End::Stall),
            Plan::ok(10_000).content_length(&["20000"]).then(End::Close),
            Plan::ok(10_000).chunked(3000).send_only(5000).then(End::Close),
            Plan::ok(10_000).then(End::Extra(100)),
            Plan::ok(10_000).content_length(&["1", "2"]),
            Plan::silent(),
            Plan::raw("").then(End::Reset),
        ];
        let plans = plans.iter().cycle().take(2 * TURNS).cloned().collect();
        let s3 = FaultOrigin::start_each(plans).await.unwrap();
        let dripline = builder(s3.addr())
            .wait(wait)
            .set("DRIPLINE__UPSTREAM__RESPONSE_TIMEOUT", "100ms")
            .set("DRIPLINE__UPSTREAM__IDLE_TIMEOUT", "100ms")
            .start()
            .await;
        let addr = dripline.http;
        let (before, _) = held();
        let (mut warm, mut all_whole) = (0, 0);
        for round in 0..TURNS / AT_ONCE {
            let mut clients = JoinSet::new();
            for _ in 0..AT_ONCE {
                clients.spawn(async move {
                    let response = http1::get(addr, TARGET, "").await;
                    response.status == 200 && response.complete
                });
            }
            let whole = clients.join_all().await.into_iter().filter(|whole| *whole).count();
            // One plan in eight is a whole answer.
            assert!(whole <= AT_ONCE / 2, "{whole} of {AT_ONCE} answers look whole");
            all_whole += whole;
            // From here on buffers and tables do not grow.
            if round == 5 {
                warm = held().1;
            }
        }
        assert!(all_whole > 0, "no complete response of S3 arrived complete");
        dripline.until("dripline_connections", 0).await;
        dripline.until("dripline_drips", 0).await;
        assert!(dripline.state.transfers.running().is_empty());
        assert_eq!(dripline.state.lifecycle.active(), 0);
        let all = TURNS as u64;
        assert_eq!(dripline.metric("dripline_connections_accepted_total"), all);
        assert!(s3.all_closed_within(Duration::from_secs(5)).await, "{}", s3.open_connections());
        // Other tests may wait for their turn with a runtime of a few files each.
        let files = || held().0 <= before + 20;
        support::eventually(Duration::from_secs(10), files).await.unwrap_or_else(|| {
            panic!("{} files are open, {before} were", held().0);
        });
        let grown = held().1.saturating_sub(warm);
        assert!(grown < 16 << 20, "{grown} bytes more are in use");
    }
    assert_secrets_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_does_not_match_is_logged_with_the_host_that_was_sent() {
    let _shared = ALONE.read().await;
    logs::capture();
    let virtual_host_suffix = Some("s3.localhost".into());
    let options = OriginOptions { virtual_host_suffix, ..OriginOptions::default() };
    let origin = Origin::start(options).await.unwrap();
    origin.put("a b", "body", "text/plain").await.unwrap();
    let port = origin.addr().port();
    for (style, addressing, host, sent) in [
        (Style::Path, "path", "127.0.0.1", format!("127.0.0.1:{port}")),
        (Style::Virtual, "virtual", "s3.localhost", format!("samples.s3.localhost:{port}")),
    ] {
        let dripline = Dripline::in_front_of(&format!("http://{host}:{port}"), "samples")
            .set("DRIPLINE__S3__ADDRESSING", addressing);
        let dripline = dripline.start().await;
        let ask = async |host: &str| {
            let signed = origin.presign("a b").style(style).endpoint("http", style, host);
            let query = signed.query("secret", SECRET).signed_query();
            http1::get(dripline.http, format!("/file/a%20b?{query}"), "").await
        };
        let told = || {
            let lines = logs::lines();
            let told = |line: &&String| {
                line.starts_with("WARN")
                    && line.contains("SignatureDoesNotMatch")
                    && line.contains(&format!("host={sent}"))
            };
            lines.iter().filter(told).cloned().collect::<Vec<_>>()
        };
        let response = ask("elsewhere.example").await;
        assert_eq!(response.status, 403);
        assert!(response.text().contains("<Code>SignatureDoesNotMatch</Code>"));
        let lines = told();
        assert_eq!(lines.len(), 1, "{:?}", logs::lines());
        assert!(lines[0].contains("key=a%20b") && lines[0].contains("dripline url"), "{lines:?}");
        // Other refusals are not logged this way.
        let right = if style == Style::Path { &sent } else { &format!("s3.localhost:{port}") };
        assert_eq!(ask(right).await.status, 200);
        assert_eq!(http1::get(dripline.http, "/file/a%20b", "").await.status, 403);
        assert_eq!(told().len(), 1);
    }
    assert_secrets_kept();
}

/// Malformed requests are refused without asking S3, and none of their content is logged.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_and_not_logged() {
    let rig = Rig::new(Plan::ok(10), "0").await;
    for rest in [
        " HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        " HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        " HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        " HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
        " HTTP/7.3\r\nHost: a\r\n\r\n",
        "<>\" x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        stream.write_all(format!("GET {TARGET}{rest}").as_bytes()).await.unwrap();
        let answer = http1::response(&mut stream, false).await;
        assert_eq!(answer.map(|answer| answer.status), Some(400), "{rest}");
        // And no second answer.
        let mut more = Vec::new();
        let _ = stream.read_to_end(&mut more).await;
        assert!(more.is_empty(), "{rest}: {}", more.escape_ascii());
    }
    for rest in ["", " HTTP/1.1\r\nHost: a\r\n"] {
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        stream.write_all(format!("GET {TARGET}{rest}").as_bytes()).await.unwrap();
        drop(stream);
    }
    // TLS to the plain port, and the other way round.
    let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    drop(stream);
    let mut stream = TcpStream::connect(rig.dripline.https).await.unwrap();
    stream.write_all(&head("GET", TARGET.as_bytes(), "")).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    rig.dripline.until("dripline_connections", 0).await;
    assert_eq!(rig.dripline.metric("dripline_handshake_failures_total{reason=\"error\"}"), 1);
    assert_eq!(rig.s3.connections(), 0);
}
