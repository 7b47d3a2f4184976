//! The PROXY protocol before TLS and before plain HTTP: from which peers dripline accepts a header, and
//! what it does with the client address.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::time::Duration;

use openssl::ssl::{Ssl, SslContext, SslMethod};
use support::fault::{FaultOrigin, Plan};
use support::http1::{self, Response, head};
use support::{Dripline, logs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

const LOCALHOST: &str = "{from: [127.0.0.1]}";

struct Rig {
    s3: FaultOrigin,
    dripline: Dripline,
    health: SocketAddr,
}

impl Rig {
    async fn new(proxy_protocol: &str) -> Self {
        logs::capture();
        let s3 = FaultOrigin::start(Plan::ok(100)).await.unwrap();
        let health = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listen = format!(
            "[{{addr: '127.0.0.1:0', tls: {{}}, proxy_protocol: {proxy_protocol}}}, \
              {{addr: '127.0.0.1:0', proxy_protocol: {proxy_protocol}}}]"
        );
        let profiles = "[{name: told, match: {client: 192.0.2.0/24}, response_headers: [x-told]}]";
        let dripline = Dripline::in_front_of(&format!("http://{}", s3.addr()), "samples")
            .set("DRIPLINE__LISTEN", &listen)
            .set("DRIPLINE__PROFILES", profiles)
            .set("DRIPLINE__LIMITS", "{header_timeout: 500ms, per_client: 1}")
            .set("DRIPLINE__HEALTH__ADDR", &health.to_string())
            .start()
            .await;
        s3.set(Plan::ok(100).header("x-told", "yes"));
        Self { s3, dripline, health }
    }

    fn count(&self, result: &str) -> u64 {
        self.dripline.metric(&format!("dripline_proxy_protocol_total{{result=\"{result}\"}}"))
    }

    /// Sends a header, in writes of so many bytes, and then gets an object, over TLS or not.
    async fn get(&self, header: &[u8], piece: usize, tls: bool) -> Option<Response> {
        let to = if tls { self.dripline.https } else { self.dripline.http };
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut first = header.to_vec();
        if !tls {
            first.extend(head("GET", b"/file/fw.bin", ""));
        }
        for piece in first.chunks(piece) {
            stream.write_all(piece).await.unwrap();
            if piece.len() < first.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if !tls {
            return http1::response(&mut stream, false).await;
        }
        let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
        let mut stream = SslStream::new(Ssl::new(&context).unwrap(), stream).unwrap();
        Pin::new(&mut stream).connect().await.ok()?;
        stream.write_all(&head("GET", b"/file/fw.bin", "")).await.ok()?;
        http1::response(&mut stream, false).await
    }
}

/// A version 2 header for 192.0.2.`last`, with so many bytes of TLVs.
fn v2(command: u8, last: u8, tlvs: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11]);
    header.extend((12 + tlvs).to_be_bytes());
    header.extend([192, 0, 2, last, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb]);
    if tlvs > 0 {
        header.push(0xea);
        header.extend((tlvs - 3).to_be_bytes());
        header.extend(vec![b'\n'; usize::from(tlvs) - 3]);
    }
    header
}

fn v1(ip: &str) -> Vec<u8> {
    format!("PROXY TCP4 {ip} 10.0.0.1 12345 443\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_is_named_counts() {
    let rig = Rig::new(LOCALHOST).await;
    let headers = [v1("192.0.2.101"), v2(0x21, 102, 0), v2(0x21, 103, 84), v2(0x21, 104, 4084)];
    let mut told = 0;
    for (at, header) in headers.iter().enumerate() {
        for tls in [false, true] {
            for piece in [usize::MAX, 100, 1] {
                if piece == 1 && header.len() > 1000 {
                    continue; // thousands of writes of a byte take longer than the header may
                }
                let response = rig.get(header, piece, tls).await;
                let response = response.unwrap_or_else(|| panic!("{at} {tls} {piece}"));
                assert_eq!(response.status, 200);
                assert_eq!(response.header("x-told"), Some("yes"), "the profile {at} {tls}");
                told += 1;
                // The next one is the same client's, who may have one connection.
                rig.dripline.until("dripline_connections", 0).await;
            }
        }
    }
    assert_eq!(rig.count("client"), told);
    for last in [101, 102, 103, 104] {
        let client = format!("client=192.0.2.{last}:12345");
        assert!(logs::lines().iter().any(|line| line.contains(&client)), "{client}");
    }
    // Limits are the client's too: 127.0.0.1 may hold more than one connection.
    let mut held = Vec::new();
    for ip in ["192.0.2.1", "192.0.2.2"] {
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        let request = [v1(ip), head("GET", b"/file/fw.bin", "")].concat();
        stream.write_all(&request).await.unwrap();
        assert_eq!(http1::response(&mut stream, false).await.unwrap().status, 200);
        held.push(stream);
    }
    assert_eq!(rig.get(&v1("192.0.2.1"), usize::MAX, false).await.unwrap().status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_the_balancers_own_keeps_its_address() {
    let rig = Rig::new(LOCALHOST).await;
    for header in [v2(0x20, 200, 0), b"PROXY UNKNOWN\r\n".to_vec()] {
        for tls in [false, true] {
            let response = rig.get(&header, usize::MAX, tls).await.unwrap();
            assert_eq!((response.status, response.header("x-told")), (200, None));
            rig.dripline.until("dripline_connections", 0).await;
        }
    }
    assert_eq!(rig.count("own"), 4);
    assert!(!logs::lines().iter().any(|line| line.contains("192.0.2.200")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_ends_the_connection() {
    let rig = Rig::new(LOCALHOST).await;
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let wrong = [b"".to_vec(), v1("192.0.2.256"), v2(0x2f, 1, 0), v2(0x21, 1, 4085), long];
    for header in &wrong {
        for tls in [false, true] {
            assert!(rig.get(header, usize::MAX, tls).await.is_none(), "{header:?}");
        }
    }
    assert_eq!(rig.count("invalid"), 2 * wrong.len() as u64);
    // Cut off: by an end, or by silence.
    for header in [v1("192.0.2.1"), v2(0x21, 1, 30)] {
        let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
        stream.write_all(&header[..header.len() - 1]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.read_u8().await.is_err());
        let mut stream = TcpStream::connect(rig.dripline.https).await.unwrap();
        stream.write_all(&header[..header.len() - 1]).await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
    assert_eq!(rig.count("invalid"), 2 * wrong.len() as u64 + 2);
    assert_eq!(rig.count("timeout"), 2);
    assert_eq!(rig.s3.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_other_peers_are_refused() {
    let rig = Rig::new("{from: [192.0.2.0/24]}").await;
    for header in [v1("192.0.2.1"), v2(0x21, 1, 0), Vec::new()] {
        for tls in [false, true] {
            assert!(rig.get(&header, usize::MAX, tls).await.is_none());
        }
    }
    assert_eq!((rig.count("untrusted"), rig.count("client")), (6, 0));
    assert_eq!(rig.s3.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_it_understands_no_header() {
    let rig = Rig::new("off").await;
    for header in [v1("192.0.2.1"), v2(0x21, 1, 0)] {
        assert_eq!(rig.get(&header, usize::MAX, false).await.unwrap().status, 400);
        assert!(rig.get(&header, usize::MAX, true).await.is_none());
    }
    assert_eq!(rig.s3.requests().len(), 0);
    assert_eq!(rig.get(b"", usize::MAX, true).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_come_with_a_header_or_without() {
    let rig = Rig::new(LOCALHOST).await;
    let ask = |header: Vec<u8>, request: Vec<u8>| async move {
        let mut stream = TcpStream::connect(rig.health).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in [header, request].concat() {
            // Refused early, the rest may find nobody.
            if stream.write_all(&[byte]).await.is_err() {
                return None;
            }
        }
        http1::response(&mut stream, false).await.map(|response| response.status)
    };
    for header in [Vec::new(), v1("192.0.2.9"), v2(0x20, 1, 0), v2(0x21, 1, 84)] {
        assert_eq!(ask(header, head("GET", b"/readyz", "")).await, Some(200));
    }
    assert_eq!(ask(Vec::new(), head("PROPFIND", b"/readyz", "")).await, Some(405));
    assert_eq!(ask(b"PROXY x\r\n".to_vec(), head("GET", b"/readyz", "")).await, None);
}
