//! Two machines in the house, each with an address and a number of uploads of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dripline::demo::origin::presign::Style;
use openssl::ssl::{SslConnector, SslMethod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_openssl::SslStream;

use crate::house::{House, SERVICE};
use crate::tools::BUCKET;

/// How long all machines upload before bytes are counted: at first the sockets' buffers take more than
/// the class lets through.
const WARM_UP: Duration = Duration::from_secs(2);

/// How many bytes the machines get through in `window`, with so many uploads each.
pub async fn share(house: &House, uploads: [usize; 2], window: Duration) -> [u64; 2] {
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let mut all = JoinSet::new();
    for (machine, uploads) in uploads.into_iter().enumerate() {
        for upload in 0..uploads {
            let from = Ipv4Addr::new(127, 0, 0, 2 + machine as u8);
            let head = head(house, &format!("{machine}/{upload}"));
            let ca = house.ca.clone();
            let (proxy, count) = (house.proxy, Arc::clone(&counts[machine]));
            all.spawn(async move {
                let mut stream = tunnel(from, proxy, &ca).await;
                stream.write_all(head.as_bytes()).await.unwrap();
                let piece = [b'x'; 8192];
                // Until the test is over, which drops it.
                while stream.write_all(&piece).await.is_ok() {
                    count.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
            });
        }
    }
    let read = || [0, 1].map(|at: usize| counts[at].load(Ordering::Relaxed));
    tokio::time::sleep(WARM_UP).await;
    let before = read();
    tokio::time::sleep(window).await;
    let after = read();
    all.shutdown().await;
    [after[0] - before[0], after[1] - before[1]]
}

/// A PUT of more than will ever be sent.
fn head(house: &House, key: &str) -> String {
    let signed = house.origin.presign(key).method(http::Method::PUT);
    let signed = signed.style(Style::Virtual).endpoint("https", Style::Virtual, SERVICE);
    let (target, host) = (signed.target(), signed.host());
    format!("PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000\r\n\r\n")
}

async fn tunnel(
    from: Ipv4Addr,
    proxy: SocketAddr,
    ca: &std::path::Path,
) -> SslStream<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    // Bytes that wait in the kernel are already counted, so the buffer is small.
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut tcp = socket.connect(proxy).await.unwrap();
    let host = format!("{BUCKET}.{SERVICE}");
    let request = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tcp.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_ca_file(ca).unwrap();
    let ssl = connector.build().configure().unwrap().into_ssl(&host).unwrap();
    let mut tls = SslStream::new(ssl, tcp).unwrap();
    Pin::new(&mut tls).connect().await.unwrap();
    tls
}
