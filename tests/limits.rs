//! Limits: the response and the metric of each, and that no limit affects a running drip.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;
use support::fault::{FaultOrigin, Plan};
use support::http1::{self, Response, head};
use support::wire::{Client, Offer};
use support::{Builder, Dripline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// An S3 that answers everything with so many bytes, and dripline before it.
struct Rig {
    s3: FaultOrigin,
    dripline: Dripline,
}

impl Rig {
    async fn new(len: usize, set: impl FnOnce(Builder) -> Builder) -> Self {
        let s3 = FaultOrigin::start(Plan::ok(len)).await.unwrap();
        let builder = Dripline::in_front_of(&format!("http://{}", s3.addr()), "samples");
        Self { dripline: set(builder).start().await, s3 }
    }

    async fn limited(limits: &str) -> Self {
        Self::new(100, |builder| builder.set("DRIPLINE__LIMITS", limits)).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.dripline.http).await.unwrap()
    }

    /// How often a limit was met.
    fn hits(&self, limit: &str) -> u64 {
        self.dripline.metric(&format!("dripline_limited_total{{limit=\"{limit}\"}}"))
    }
}

async fn from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

async fn get(stream: &mut TcpStream) -> Response {
    stream.write_all(&head("GET", b"/file/fw.bin", "")).await.unwrap();
    http1::response(stream, false).await.expect("a response")
}

/// A refusal that ends the connection.
async fn refused(mut stream: TcpStream, status: u16) -> Response {
    let response = http1::response(&mut stream, false).await.expect("an answer");
    assert_eq!((response.status, response.complete), (status, true), "{}", response.text());
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(response.text().lines().count(), 1);
    closed(stream).await;
    response
}

/// The end of a connection, without another byte.
async fn closed(mut stream: TcpStream) {
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
    assert!(end.expect("an end in time").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_503_and_a_place_is_free_again_later() {
    let rig = Rig::limited("{connections: 2}").await;
    let (mut one, two) = (rig.connect().await, rig.connect().await);
    assert_eq!(get(&mut one).await.status, 200);
    rig.dripline.until("dripline_connections", 2).await;
    let response = refused(rig.connect().await, 503).await;
    assert_eq!(response.header("retry-after"), Some("10"));
    closed(TcpStream::connect(rig.dripline.https).await.unwrap()).await;
    assert_eq!(rig.hits("connections"), 2);
    drop(two);
    rig.dripline.until("dripline_connections", 1).await;
    assert_eq!(get(&mut rig.connect().await).await.status, 200);
    assert_eq!(get(&mut one).await.status, 200, "connections that were admitted are not affected");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_may_not_take_all() {
    let rig = Rig::limited("{per_client: 2}").await;
    let http = rig.dripline.http;
    let mut greedy = (from([127, 0, 0, 1], http).await, from([127, 0, 0, 1], http).await);
    assert_eq!(get(&mut greedy.0).await.status, 200);
    assert_eq!(get(&mut greedy.1).await.status, 200);
    let response = refused(from([127, 0, 0, 1], http).await, 429).await;
    assert_eq!(response.header("retry-after"), Some("10"));
    closed(from([127, 0, 0, 1], rig.dripline.https).await).await;
    assert_eq!(rig.hits("per_client"), 2);
    assert_eq!(get(&mut from([127, 0, 0, 2], http).await).await.status, 200);
    drop(greedy.0);
    rig.dripline.until("dripline_connections", 1).await;
    assert_eq!(get(&mut from([127, 0, 0, 1], http).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_have_so_many_bytes_and_no_more() {
    let rig = Rig::limited("{header_bytes: 2KiB}").await;
    let of = |bytes: usize| {
        let bare = head("GET", b"/file/fw.bin", "X: \r\n").len();
        head("GET", b"/file/fw.bin", &format!("X: {}\r\n", "x".repeat(bytes - bare)))
    };
    assert_eq!(of(2048).len(), 2048);
    let mut stream = rig.connect().await;
    for _ in 0..2 {
        stream.write_all(&of(2048)).await.unwrap();
        assert_eq!(http1::response(&mut stream, false).await.unwrap().status, 200);
    }
    stream.write_all(&of(2049)).await.unwrap();
    refused(stream, 431).await;
    // One that never ends is not read for long.
    let mut stream = rig.connect().await;
    stream.write_all(&of(1 << 20)[..1 << 19]).await.unwrap();
    refused(stream, 431).await;
    assert_eq!(rig.hits("header_bytes"), 2);
    assert_eq!(rig.s3.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_to_a_plain_listener_is_named_in_the_response() {
    let rig = Rig::new(100, |builder| builder).await;
    let mut stream = rig.connect().await;
    // The beginning of a ClientHello, without a byte that could end a line.
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    let response = refused(stream, 400).await;
    assert!(response.text().contains("TLS"), "{}", response.text());
    let counted = rig.dripline.metric("dripline_malformed_requests_total{reason=\"tls\"}");
    assert_eq!(counted, 1);
    assert!(rig.s3.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_in_is_408() {
    let rig = Rig::limited("{header_timeout: 300ms}").await;
    let start = Instant::now();
    let (mut read, mut write) = rig.connect().await.into_split();
    let trickle = tokio::spawn(async move {
        for byte in head("GET", b"/file/fw.bin", "").into_iter().cycle() {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = vec![0; 12];
    read.read_exact(&mut answer).await.unwrap();
    let spent = start.elapsed();
    trickle.abort();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert!(spent >= Duration::from_millis(290) && spent < Duration::from_secs(5), "{spent:?}");
    assert_eq!(rig.hits("header_timeout"), 1);
    // A client that sends nothing is closed without a response.
    closed(rig.connect().await).await;
    assert_eq!(rig.hits("header_timeout"), 2);
    // The second head of a connection has no more time than the first.
    let mut stream = rig.connect().await;
    assert_eq!(get(&mut stream).await.status, 200);
    stream.write_all(b"GET /file/").await.unwrap();
    refused(stream, 408).await;
    assert_eq!(rig.s3.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_come_in_pieces() {
    let rig = Rig::limited("{header_timeout: 20s}").await;
    let mut stream = rig.connect().await;
    for byte in head("GET", b"/file/fw.bin", "") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let response = http1::response(&mut stream, false).await.unwrap();
    assert_eq!((response.status, response.body.len()), (200, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_takes_no_longer_than_it_may() {
    let rig = Rig::limited("{handshake_timeout: 200ms}").await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(rig.dripline.https).await.unwrap();
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    closed(stream).await;
    assert!(start.elapsed() >= Duration::from_millis(190));
    rig.dripline.until("dripline_limited_total{limit=\"handshake_timeout\"}", 1).await;
    assert_eq!(rig.dripline.metric("dripline_handshake_failures_total{reason=\"timeout\"}"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_cut() {
    for tls in [false, true] {
        let rig = Rig::new(32 << 20, |builder| {
            builder.set("DRIPLINE__LIMITS", "{send_timeout: 700ms}").chunk(16_384)
        });
        let rig = rig.await;
        let get = head("GET", b"/file/fw.bin", "");
        let start = Instant::now();
        let _held: (Option<TcpStream>, Option<Client>) = if tls {
            let (to, cert) = (rig.dripline.https, &rig.dripline.cert);
            let mut client = Client::connect(to, SslVersion::TLS1_3, cert).await;
            client.stream.write_all(&get).await.unwrap();
            (None, Some(client))
        } else {
            let mut stream = rig.connect().await;
            stream.write_all(&get).await.unwrap();
            (Some(stream), None)
        };
        rig.dripline.until("dripline_drips", 1).await;
        rig.dripline.until("dripline_drips", 0).await;
        assert!(start.elapsed() >= Duration::from_millis(690));
        assert_eq!(rig.hits("send_timeout"), 1, "tls: {tls}");
        assert_eq!(rig.dripline.metric("dripline_drips_ended_total{end=\"client\"}"), 1);
        rig.dripline.until("dripline_connections", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_requests() {
    let rig = Rig::limited("{requests_per_connection: 3}").await;
    let mut stream = rig.connect().await;
    for connection in ["keep-alive", "keep-alive", "close"] {
        assert_eq!(get(&mut stream).await.header("connection"), Some(connection));
    }
    closed(stream).await;
    assert_eq!(rig.hits("requests_per_connection"), 1);
    // Pipelined requests beyond the limit are not answered either.
    let mut stream = rig.connect().await;
    stream.write_all(&head("GET", b"/file/fw.bin", "").repeat(5)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(http1::response(&mut stream, false).await.unwrap().status, 200);
    }
    assert!(http1::response(&mut stream, false).await.is_none());
    assert_eq!(rig.s3.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_response_drips_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(640, |builder| {
        let limits = "{requests_per_connection: 2}";
        builder.set("DRIPLINE__LIMITS", limits).chunk(64).wait("50ms").spool(dir.path())
    });
    let rig = rig.await;
    let mut stream = rig.connect().await;
    for connection in ["keep-alive", "close"] {
        let response = get(&mut stream).await;
        assert_eq!((response.body.len(), response.header("connection")), (640, Some(connection)));
    }
    closed(stream).await;
    rig.dripline.until("dripline_drips_ended_total{end=\"done\"}", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_without_a_response() {
    let rig = Rig::limited("{idle_timeout: 300ms}").await;
    let mut stream = rig.connect().await;
    for _ in 0..3 {
        assert_eq!(get(&mut stream).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    closed(stream).await;
    assert_eq!(rig.hits("idle_timeout"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drip_longer_than_every_timeout_is_not_touched() {
    let limits = "{header_timeout: 200ms, handshake_timeout: 2s, send_timeout: 200ms, idle_timeout: 200ms, per_client: 2}";
    let dir = tempfile::tempdir().unwrap();
    for spooled in [false, true] {
        let rig = Rig::new(1280, |builder| {
            let builder = builder.set("DRIPLINE__LIMITS", limits).chunk(64).wait("100ms");
            if spooled { builder.spool(dir.path()) } else { builder }
        });
        unharmed(rig.await, spooled).await;
    }
}

async fn unharmed(rig: Rig, spooled: bool) {
    let start = Instant::now();
    let plain = async {
        let mut stream = rig.connect().await;
        for _ in 0..2 {
            let response = get(&mut stream).await;
            assert_eq!((response.status, response.body.len()), (200, 1280));
        }
    };
    let tls = async {
        let offer = Offer { trust: Some(&rig.dripline.cert), ..Offer::default() };
        let mut client = Client::offering(rig.dripline.https, &offer).await;
        for _ in 0..2 {
            client.stream.write_all(&head("GET", b"/file/fw.bin", "")).await.unwrap();
            let response = http1::response(&mut client.stream, false).await.unwrap();
            assert_eq!((response.status, response.body.len()), (200, 1280));
        }
    };
    tokio::join!(plain, tls);
    assert!(start.elapsed() >= Duration::from_millis(3800), "{:?}", start.elapsed());
    for limit in ["header_timeout", "idle_timeout", "send_timeout", "handshake_timeout"] {
        assert_eq!(rig.hits(limit), 0, "{limit}, spooled: {spooled}");
    }
    // A response is counted once its last byte has left, which its client may see first.
    let expected = if spooled { 4 * 1280 } else { 0 };
    let from_spool = || rig.dripline.metric("dripline_spool_client_bytes_total");
    let deadline = Instant::now() + Duration::from_secs(10);
    while from_spool() != expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(from_spool(), expected);
}
