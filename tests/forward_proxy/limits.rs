//! What tunnels may take: heads, times, connections.

use super::*;
use std::time::Instant;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long() {
    let proxy = Proxy::start("header_bytes: 1KiB").await;
    let padding = "a".repeat(2000);
    let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\nX: {padding}\r\n\r\n");
    let (_, answer) = proxy.ask(&request).await;
    assert_eq!((answer.status, answer.body.as_str()), (431, "the request's head is too long\n"));
    // One without an end is not read on for ever.
    let mut endless = TcpStream::connect(proxy.addr).await.unwrap();
    endless.write_all(padding.as_bytes()).await.unwrap();
    assert_eq!(super::answer(&mut endless).await.status, 431);
    proxy.until_refused("header_bytes", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles() {
    let proxy = Proxy::start("header_timeout: 500ms").await;
    let start = Instant::now();
    let mut slow = TcpStream::connect(proxy.addr).await.unwrap();
    let (mut read, mut write) = slow.split();
    let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n");
    let trickle = async {
        for byte in request.bytes() {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = vec![0; 12];
    tokio::select! {
        read = read.read_exact(&mut answer) => { read.unwrap(); }
        () = trickle => panic!("it was all taken"),
    }
    assert_eq!(answer, b"HTTP/1.1 408");
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
    // A client that sends nothing gets no response.
    let mut silent = TcpStream::connect(proxy.addr).await.unwrap();
    assert_eq!(end_of(&mut silent).await, b"");
    proxy.until_refused("header_timeout", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_all_and_of_one_client() {
    for (keys, reason, line) in [
        ("connections: 2", "connections", "too many connections; try again later\n"),
        ("per_client: 2", "per_client", "too many connections from this address\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{addr}'}}, {keys}")).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let (mut client, answer) = proxy.connect(TARGET).await;
            assert_eq!(answer.status, 200);
            client.write_all(&hellos::hello(Some(HOST))).await.unwrap();
            open.push(client);
        }
        let (_, answer) = proxy.connect(TARGET).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, line));
        assert!(answer.head.contains("\r\nRetry-After: 10\r\n"), "{}", answer.head);
        proxy.until_refused(reason, 1).await;
        // A place is free again when a tunnel ends.
        drop(open);
        for _ in 0..2 {
            end_of(&mut listener.accept().await.unwrap().0).await;
        }
        proxy.until("dripline_tunnels", 0).await;
        assert_eq!(proxy.connect(TARGET).await.1.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_where_nothing_moves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let keys = format!("resolve: {{{HOST}: '{addr}'}}, idle_timeout: 600ms");
    let proxy = Proxy::start(&keys).await;
    let (mut client, _) = proxy.connect(TARGET).await;
    client.write_all(&hellos::hello(Some(HOST))).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    // A byte now and then, either way, keeps it.
    for turn in 0..6 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if turn % 2 == 0 { &mut client } else { &mut server }.write_all(b"x").await.unwrap();
    }
    assert_eq!(proxy.metric("dripline_tunnels"), 1);
    let start = Instant::now();
    let mut rest = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut rest)).await.expect("its end").unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    proxy.until_ended("idle", 1).await;
}
