//! What passes: objects byte for byte, both ways, ends included.

use super::*;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_comes_through_byte_for_byte_and_is_counted() {
    let world = World::new().await;
    let body = pattern(3_000_000);
    world.origin.put("big", body.clone(), "x/y").await.unwrap();
    let proxy = world.proxy("").await;
    for request in [
        format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n"),
        // Python up to 3.11.
        format!("CONNECT {TARGET} HTTP/1.0\r\n\r\n"),
        format!("CONNECT {} HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n", TARGET.to_uppercase()),
        format!("CONNECT {HOST}.:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let (stream, answer) = proxy.ask(&request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut tls = world.tls(stream, HOST).await;
        let response = world.get(&mut tls, "big").await;
        assert!(response.starts_with(b"HTTP/1.1 200") && response.ends_with(&body));
    }
    proxy.until_ended("done", 4).await;
    proxy.until("dripline_tunnels", 0).await;
    let down = proxy.metric("dripline_tunnel_bytes_total{direction=\"down\"}");
    assert!((12_000_000..12_200_000).contains(&down), "{down}");
    let up = proxy.metric("dripline_tunnel_bytes_total{direction=\"up\"}");
    assert!((1_000..20_000).contains(&up), "{up}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_are_moved_at_once_and_each_ends_by_itself() {
    // A peer that speaks no TLS of its own: what counts here are bytes and ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{addr}'}}")).await;
    let (mut client, answer) = proxy.connect(TARGET).await;
    assert_eq!(answer.status, 200);
    let hello = hellos::hello(Some(HOST));
    client.write_all(&hello).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut seen = vec![0; hello.len()];
    server.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, hello, "as it came");
    let (up, down) = (pattern(5_000_000), pattern(4_000_001));
    let (up_too, down_too) = (up.clone(), down.clone());
    let server = tokio::spawn(async move {
        let (mut read, mut write) = server.split();
        let mut got = Vec::new();
        // It sends all it has before its own end, and reads on after that.
        let send = async {
            write.write_all(&down_too).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read.read_to_end(&mut got), send);
        read.unwrap();
        got
    });
    let (mut read, mut write) = client.split();
    let mut got = Vec::new();
    timeout(LIMIT, read.read_to_end(&mut got)).await.expect("the server's end").unwrap();
    assert!(got == down, "{} bytes down", got.len());
    // The client goes on after the server's end.
    write.write_all(&up_too).await.unwrap();
    write.shutdown().await.unwrap();
    let got = timeout(LIMIT, server).await.expect("the client's end").unwrap();
    assert!(got == up, "{} bytes up", got.len());
    proxy.until_ended("done", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_ends_the_tunnel_at_the_other_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{addr}'}}")).await;
    let tunnel = async || {
        let (mut client, _) = proxy.connect(TARGET).await;
        client.write_all(&hellos::hello(Some(HOST))).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.read_u8().await.unwrap();
        (client, server)
    };
    let reset = |stream: TcpStream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let (client, mut server) = tunnel().await;
    reset(client);
    end_of(&mut server).await;
    proxy.until_ended("client", 1).await;
    let (mut client, server) = tunnel().await;
    reset(server);
    end_of(&mut client).await;
    proxy.until_ended("upstream", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_holds_the_sender_back_and_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{addr}'}}")).await;
    let (mut client, _) = proxy.connect(TARGET).await;
    let hello = hellos::hello(Some(HOST));
    client.write_all(&hello).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let body = pattern(64 << 20);
    let sent = body.clone();
    let sender = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!sender.is_finished(), "64 MB are more than the sockets between take");
    let moved = proxy.metric("dripline_tunnel_bytes_total{direction=\"up\"}");
    let mut got = Vec::new();
    timeout(LIMIT, server.read_to_end(&mut got)).await.expect("in time").unwrap();
    assert!(got[hello.len()..] == body[..], "{} bytes; {moved} before the stall ended", got.len());
    drop(sender.await.unwrap());
}
