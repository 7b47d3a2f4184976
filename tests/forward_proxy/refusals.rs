//! What is refused before there is a tunnel: each with a status, a line that says why, and a counter.

use super::*;

/// Asks, and checks the answer's every part.
async fn refused(proxy: &Proxy, request: &str, status: u16, line: &str, reason: &str) -> String {
    let before = proxy.metric(&format!("dripline_tunnels_refused_total{{reason=\"{reason}\"}}"));
    let (_, answer) = proxy.ask(request).await;
    assert_eq!(answer.status, status, "{request}{answer:?}");
    assert_eq!(answer.body.trim_end(), line, "{request}");
    assert_eq!(answer.body.lines().count(), 1, "one line");
    let first = answer.head.lines().next().unwrap();
    assert!(
        first.ends_with(line),
        "the status line says it too, for tools that show no body: {first}"
    );
    proxy.until_refused(reason, before + 1).await;
    answer.head
}

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_not_s3() {
    let proxy = Proxy::start("").await;
    for target in [
        "example.com:443",
        "ec2-192-0-2-1.compute-1.amazonaws.com:443",
        "sqs.us-east-1.amazonaws.com:443",
        "s3.us-east-1.amazonaws.com.example.com:443",
        "localhost:443",
        "metadata.google.internal:443",
    ] {
        let line = format!("{target} is refused: it is not an S3 endpoint");
        refused(&proxy, &connect(target), 403, &line, "host").await;
    }
    for target in
        ["127.0.0.1:443", "[::1]:443", "169.254.169.254:443", "2130706433:443", "0x7f.1:443"]
    {
        let line = "IP addresses are not served; name the S3 endpoint";
        refused(&proxy, &connect(target), 403, line, "ip_literal").await;
    }
    for port in [80, 22, 8443] {
        let target = format!("{HOST}:{port}");
        let line = format!("{target} is refused: only port 443 of it is served");
        refused(&proxy, &connect(&target), 403, &line, "port").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_that_are_not_listed_and_credentials_that_are_switched_off() {
    let proxy = Proxy::start("buckets: [photos], unshaped: none").await;
    let line =
        format!("{TARGET} is refused: its bucket is not among those that may be reached here");
    refused(&proxy, &connect(TARGET), 403, &line, "bucket").await;
    let line = format!(
        "{SERVICE}:443 is refused: only virtual-hosted names (bucket.s3.region.amazonaws.com) can be told by \
         their bucket"
    );
    refused(&proxy, &connect(&format!("{SERVICE}:443")), 403, &line, "bucket").await;
    let target = "sts.us-east-1.amazonaws.com:443";
    let line = format!("{target} is refused: it is not an S3 endpoint");
    refused(&proxy, &connect(target), 403, &line, "host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_anything_but_a_tunnel() {
    let proxy = Proxy::start("").await;
    let get =
        "GET http://samples.s3.amazonaws.com/a HTTP/1.1\r\nHost: samples.s3.amazonaws.com\r\n\r\n";
    let line = "only CONNECT is served here, for https:// URLs of S3; http:// URLs are not fetched";
    let head = refused(&proxy, get, 405, line, "method").await;
    assert!(head.contains("\r\nAllow: CONNECT\r\n"), "{head}");
    let line = "only CONNECT is served here: this is a forward proxy for S3";
    for method in ["GET", "POST", "OPTIONS", "TRACE"] {
        refused(&proxy, &format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"), 405, line, "method")
            .await;
    }
    for framing in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"] {
        let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\n{framing}\r\nabc");
        refused(&proxy, &request, 400, "CONNECT has no body", "body").await;
    }
    for (request, line) in [
        (format!("CONNECT {TARGET} HTTP/1.1\r\n\r\n"), "there must be one valid Host header"),
        (
            format!("CONNECT {TARGET} HTTP/1.1\nHost: a\n\n"),
            "a line of the request does not end in CRLF",
        ),
        (format!("CONNECT  {TARGET} HTTP/1.1\r\n\r\n"), "the request line is not one of HTTP/1.1"),
        (
            "\x16\x03\x01\x00\x10".to_owned(),
            "a TLS handshake instead of a request: this listener speaks plain HTTP, so use http://",
        ),
    ] {
        refused(&proxy, &request, 400, line, "malformed").await;
    }
    let line =
        "CONNECT asks for a host name and a port, such as bucket.s3.us-east-1.amazonaws.com:443";
    for target in ["/", HOST, "https://samples.s3.amazonaws.com/"] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        refused(&proxy, &request, 400, line, "target").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_outside_the_networks() {
    let proxy = Proxy::start("clients: [192.168.80.0/24]").await;
    let line = "this proxy does not serve your network";
    refused(&proxy, &connect(TARGET), 403, line, "network").await;
    // Not one byte of theirs is needed for that.
    let mut silent = TcpStream::connect(proxy.addr).await.unwrap();
    assert_eq!(answer(&mut silent).await.status, 403);
    // A network that holds them is let in, and meets the next rule.
    let proxy = Proxy::start("clients: [192.168.80.0/24, 127.0.0.0/8]").await;
    assert!(proxy.connect("example.com:443").await.1.head.contains("not an S3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_without_the_password() {
    let world = World::new().await;
    world.origin.put("a", "body", "x/y").await.unwrap();
    let proxy = world.proxy("users: [{name: ann, password: 'correct horse'}]").await;
    let basic = |pair: &str| openssl::base64::encode_block(pair.as_bytes());
    let with = |value: &str| {
        format!("CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {value}\r\n\r\n")
    };
    let line = "a name and a password are needed";
    for request in [
        connect(TARGET),
        with(&format!("Basic {}", basic("ann:wrong"))),
        with(&format!("Basic {}", basic("bob:correct horse"))),
        with(&format!("Bearer {}", basic("ann:correct horse"))),
        // A client without a valid password learns nothing about the rules.
        connect("example.com:443"),
    ] {
        let head = refused(&proxy, &request, 407, line, "auth").await;
        assert!(head.contains("\r\nProxy-Authenticate: Basic realm=\"dripline\""), "{head}");
    }
    let (stream, answer) = proxy.ask(&with(&format!("basic {}", basic("ann:correct horse")))).await;
    assert_eq!(answer.status, 200);
    let mut tls = world.tls(stream, HOST).await;
    assert!(world.get(&mut tls, "a").await.ends_with(b"\r\n\r\nbody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_where_nobody_answers() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{closed}'}}")).await;
    let line = format!("cannot connect to {closed}: Connection refused (os error 111)");
    refused(&proxy, &connect(TARGET), 502, &line, "connect").await;
    // A listener whose queue is full answers no handshake.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _queued: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr.into());
            socket
        })
        .collect();
    let keys = format!("resolve: {{{HOST}: '{addr}'}}, connect_timeout: 300ms");
    let proxy = Proxy::start(&keys).await;
    refused(&proxy, &connect(TARGET), 504, "no connection within 300ms", "connect_timeout").await;
}
