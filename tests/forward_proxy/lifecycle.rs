//! Drains, reloads, upgrades, and the log.

use super::*;
use crate::process::Launch;
use crate::support::logs;
use std::time::Instant;
use tokio::net::TcpListener;

/// Both ends of a tunnel that stands.
async fn tunnel(addr: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(addr).await.unwrap();
    let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client).await.status, 200);
    let hello = hellos::hello(Some(HOST));
    client.write_all(&hello).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut seen = vec![0; hello.len()];
    server.read_exact(&mut seen).await.unwrap();
    (client, server)
}

async fn echo(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"ping").await.unwrap();
    let mut seen = [0; 4];
    timeout(LIMIT, server.read_exact(&mut seen)).await.expect("in time").unwrap();
    server.write_all(b"pong").await.unwrap();
    timeout(LIMIT, client.read_exact(&mut seen)).await.expect("in time").unwrap();
    assert_eq!(&seen, b"pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_tunnels_as_long_as_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let keys = format!("resolve: {{{HOST}: '{addr}'}}");
    let config = config_with(&keys, &[("DRIPLINE__SERVER__DRAIN_TIMEOUT", "2s")]);
    let mut proxy = Proxy::of(&config).await;
    let (mut first, mut far) = tunnel(proxy.addr, &listener).await;
    let (mut second, _far) = tunnel(proxy.addr, &listener).await;
    // One between two of its requests, so to speak: it never asked for anything.
    let mut silent = TcpStream::connect(proxy.addr).await.unwrap();
    let start = Instant::now();
    let drained = proxy.begin_drain();
    end_of(&mut silent).await;
    assert!(start.elapsed() < Duration::from_millis(1800), "it goes before the others");
    assert!(TcpStream::connect(proxy.addr).await.is_err(), "no new ones");
    echo(&mut first, &mut far).await;
    drop((first, far));
    proxy.until_ended("done", 1).await;
    assert_eq!(drained.await.unwrap().unwrap(), 1, "one was cut");
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    end_of(&mut second).await;
    proxy.until_ended("drain", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_rules_for_connections_to_come() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let resolve = format!("resolve: {{{HOST}: '{addr}'}}");
    let proxy = Proxy::start(&resolve).await;
    let (mut client, mut server) = tunnel(proxy.addr, &listener).await;
    for (keys, status) in [
        ("clients: [10.0.0.0/8]", 403),
        ("buckets: [photos]", 403),
        ("users: [{name: a, password: 'b'}]", 407),
        ("connections: 1", 503),
        ("", 200),
    ] {
        let changed = proxy.reloader.apply(config(&format!("{resolve}, {keys}")));
        assert!(changed.is_empty(), "{changed:?}");
        assert_eq!(proxy.connect(TARGET).await.1.status, status, "{keys}");
    }
    echo(&mut client, &mut server).await;
    let mut moved = config(&resolve);
    moved.forward_proxy.as_mut().unwrap().addr = "127.0.0.1:1".parse().unwrap();
    assert_eq!(proxy.reloader.apply(moved), ["forward_proxy.addr"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_another_address_lets_in_nobody_new() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let resolve = format!("resolve: {{{HOST}: '{addr}'}}");
    for (keys, status) in
        [("clients: [10.0.0.0/8]", 403), ("users: [{name: a, password: 'b'}]", 407)]
    {
        let proxy = Proxy::start(&format!("{resolve}, {keys}")).await;
        // On the address that it names nobody needs to be kept out; on the one that stays they do. Twice:
        // the new address has not become the running one.
        for _ in 0..2 {
            let mut moved = config(&resolve);
            moved.forward_proxy.as_mut().unwrap().addr = "127.0.0.1:1".parse().unwrap();
            assert_eq!(proxy.reloader.apply(moved), ["forward_proxy.addr"]);
            assert_eq!(proxy.connect(TARGET).await.1.status, status, "{keys}");
        }
        assert!(proxy.reloader.apply(config(&resolve)).is_empty());
        assert_eq!(proxy.connect(TARGET).await.1.status, 200, "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_has_a_line_at_its_beginning_and_one_at_its_end() {
    logs::capture();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let keys =
        format!("resolve: {{{HOST}: '{addr}'}}, users: [{{name: log-ann, password: 's3cret'}}]");
    let proxy = Proxy::start(&keys).await;
    let pair = openssl::base64::encode_block(b"log-ann:s3cret");
    let request = format!(
        "CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {pair}\r\n\r\n"
    );
    let (mut client, _) = proxy.ask(&request).await;
    let hello = hellos::hello(Some(HOST));
    client.write_all(&hello).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"12345").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    let me = client.local_addr().unwrap();
    drop(client);
    end_of(&mut server).await;
    drop(server);
    proxy.until("dripline_tunnels", 0).await;
    let lines: Vec<String> =
        logs::lines().into_iter().filter(|line| line.contains("user=log-ann")).collect();
    let common = format!("client={me} method=CONNECT host={HOST} port=443 user=log-ann");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(lines[0], format!("INFO access begin {common}"));
    let begin =
        format!("INFO access end {common} bytes_up={} bytes_down=5 duration_ms=", hello.len());
    assert!(lines[1].starts_with(&begin) && lines[1].ends_with(" end=done"), "{}", lines[1]);
    assert!(!logs::lines().iter().any(|line| line.contains(&pair) || line.contains("s3cret")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_hands_the_listener_over_and_keeps_tunnels() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = listener.local_addr().unwrap();
    let run = tempfile::tempdir().unwrap();
    let sock = run.path().join("upgrade.sock");
    let start = |more: &str| {
        let keys = format!("{{addr: '127.0.0.1:0', resolve: {{{HOST}: '{far}'}}}}");
        let launch = Launch::bare()
            .env("DRIPLINE__FORWARD_PROXY", &keys)
            .env("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0")
            .env("DRIPLINE__SERVER__UPGRADE_SOCK", sock.to_str().unwrap());
        if more.is_empty() { launch } else { launch.arg(more) }
    };
    let mut old = start("").start().await;
    let addr = old.address("forward proxy on ").unwrap();
    let (mut client, mut server) = tunnel(addr, &listener).await;
    let new = start("--upgrade").start().await;
    assert_eq!(new.address("forward proxy on "), Some(addr), "the same socket");
    old.logged("this one drains").await;
    echo(&mut client, &mut server).await;
    assert!(old.runs());
    let (mut newer, mut newest) = tunnel(addr, &listener).await;
    echo(&mut newer, &mut newest).await;
    drop((client, server));
    assert_eq!(old.exit(Duration::from_secs(15)).await, 0);
    echo(&mut newer, &mut newest).await;
}
