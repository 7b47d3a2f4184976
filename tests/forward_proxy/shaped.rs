//! Tunnels and their classes: rates either way and together, who shares with whom, what is marked on the
//! sockets, and what changes under way.

use super::*;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A proxy in front of a peer that is no S3, with classes.
struct Lab {
    listener: TcpListener,
    proxy: Proxy,
}

impl Lab {
    async fn new(keys: &str, classes: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let keys = format!("resolve: {{{HOST}: '{addr}', sts.amazonaws.com: '{addr}'}}, {keys}");
        let classes = format!("[{classes}]");
        let config = config_with(&keys, &[("DRIPLINE__SHAPING__CLASSES", &classes)]);
        Self { listener, proxy: Proxy::of(&config).await }
    }

    /// Bytes that a class has moved.
    fn counted(&self, class: &str) -> u64 {
        let report = self.proxy.shaper.as_ref().expect("classes").report();
        report.iter().find(|one| *one.name == *class).expect("that class").bytes
    }

    /// Both ends of a tunnel.
    async fn tunnel(&self, host: &str) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.addr).await.unwrap();
        self.tunnel_of(client, host).await
    }

    /// The same, for a client who has connected.
    async fn tunnel_of(&self, mut client: TcpStream, host: &str) -> (TcpStream, TcpStream) {
        client.write_all(connect_to(host).as_bytes()).await.unwrap();
        let answer = answer(&mut client).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let hello = hellos::hello(Some(host));
        client.write_all(&hello).await.unwrap();
        let (mut server, _) = self.listener.accept().await.unwrap();
        let mut seen = vec![0; hello.len()];
        server.read_exact(&mut seen).await.unwrap();
        (client, server)
    }
}

fn connect_to(host: &str) -> String {
    format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n")
}

/// Sends for as long as it is let.
async fn flood(mut client: TcpStream) {
    let body = pattern(1 << 16);
    while client.write_all(&body).await.is_ok() {}
}

/// Moves bytes one way; returns how long it took to arrive.
async fn move_bytes(mut from: TcpStream, mut to: TcpStream, bytes: usize) -> Duration {
    let start = Instant::now();
    let body = pattern(bytes);
    let send = async {
        from.write_all(&body).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let receive = to.read_to_end(&mut got);
    let (received, ()) =
        timeout(LIMIT, async { tokio::join!(receive, send) }).await.expect("in time");
    received.unwrap();
    assert!(got == body, "byte for byte");
    start.elapsed()
}

/// Whether `bytes` took as long as `mbit` has it: not less, and no more than a busy machine adds.
fn is_rate(took: Duration, bytes: usize, mbit: f64) -> bool {
    let due = bytes as f64 * 8.0 / (mbit * 1e6);
    let took = took.as_secs_f64();
    took > due * 0.95 && took < due * 1.05 + 0.8
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_keeps_to_the_class_and_both_together_too() {
    let lab = Lab::new("class: bulk", "{name: bulk, max_limit: 8Mbit}").await;
    let (client, server) = lab.tunnel(HOST).await;
    let up = move_bytes(client, server, 2_000_000).await;
    assert!(is_rate(up, 2_000_000, 8.0), "up: {up:?}");
    let (client, server) = lab.tunnel(HOST).await;
    let down = move_bytes(server, client, 2_000_000).await;
    assert!(is_rate(down, 2_000_000, 8.0), "down: {down:?}");
    let (one, two) = (lab.tunnel(HOST).await, lab.tunnel(HOST).await);
    let start = Instant::now();
    tokio::join!(move_bytes(one.0, one.1, 1_000_000), move_bytes(two.1, two.0, 1_000_000));
    assert!(is_rate(start.elapsed(), 2_000_000, 8.0), "together: {:?}", start.elapsed());
    // The four ClientHellos are counted too.
    let counted = lab.counted("bulk");
    assert!((6_000_000..6_020_000).contains(&counted), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_receive_may_have_a_class_of_its_own() {
    let classes = "{name: up, max_limit: 4Mbit}, {name: down, max_limit: 16Mbit}";
    let lab = Lab::new("class: up, download_class: down", classes).await;
    let (one, two) = (lab.tunnel(HOST).await, lab.tunnel(HOST).await);
    let (up, down) =
        tokio::join!(move_bytes(one.0, one.1, 1_000_000), move_bytes(two.1, two.0, 4_000_000));
    assert!(is_rate(up, 1_000_000, 4.0), "up: {up:?}");
    assert!(is_rate(down, 4_000_000, 16.0), "down: {down:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_shaped() {
    let lab = Lab::new("class: bulk", "{name: bulk, max_limit: 64kbit}").await;
    let (client, server) = lab.tunnel("sts.amazonaws.com").await;
    let took = move_bytes(client, server, 1_000_000).await;
    assert!(took < Duration::from_secs(10), "two minutes in the class: {took:?}");
    assert_eq!(lab.counted("bulk"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_share_a_class_however_many_connections_each_has() {
    let classes = "{name: bulk, max_limit: 8Mbit, pcq: {classifier: user}}";
    let keys = "class: bulk, users: [{name: ann, password: 'a'}, {name: bob, password: 'b'}]";
    let lab = Lab::new(keys, classes).await;
    let tunnel = async |pair: &str| {
        let pair = openssl::base64::encode_block(pair.as_bytes());
        let auth = format!("Proxy-Authorization: Basic {pair}");
        let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n");
        let (mut client, answer) = lab.proxy.ask(&request).await;
        assert_eq!(answer.status, 200);
        client.write_all(&hellos::hello(Some(HOST))).await.unwrap();
        (client, lab.listener.accept().await.unwrap().0)
    };
    /// Counts what arrives.
    async fn count(mut server: TcpStream, seen: &std::sync::atomic::AtomicUsize) {
        let mut space = vec![0; 1 << 16];
        while let Ok(read @ 1..) = server.read(&mut space).await {
            seen.fetch_add(read, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (ann, bob) = (Default::default(), Default::default());
    let mut work = Vec::new();
    for (pair, seen, connections) in [("ann:a", &ann, 1), ("bob:b", &bob, 6)] {
        for _ in 0..connections {
            let (client, server) = tunnel(pair).await;
            work.push(futures::future::join(flood(client), count(server, seen)));
        }
    }
    let _ = timeout(Duration::from_secs(4), futures::future::join_all(work)).await;
    let (ann, bob) = (ann.into_inner() as f64, bob.into_inner() as f64);
    assert!((0.85..1.15).contains(&(ann / bob)), "ann {ann}, bob {bob}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_to_s3_bear_the_classs_marks() {
    let classes = "{name: bulk, max_limit: 8Mbit, dscp: le, pacing: true}";
    let lab = Lab::new("class: bulk", classes).await;
    let (_client, server) = lab.tunnel(HOST).await;
    let (near, far) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
    let marks = socket_of(near, far);
    assert!(marks.contains("tos:0x4"), "{marks}");
    // At most a fifth more than the class has; what is before the slash is the kernel's own.
    assert!(marks.contains("/9600000bps"), "{marks}");
    let (_client, server) = lab.tunnel("sts.amazonaws.com").await;
    let marks = socket_of(server.peer_addr().unwrap(), server.local_addr().unwrap());
    assert!(!marks.contains("tos:0x4") && !marks.contains("/9600000bps"), "{marks}");
}

/// What ss(8) says of the socket at `near`.
fn socket_of(near: SocketAddr, far: SocketAddr) -> String {
    let mut ss = std::process::Command::new("ss");
    ss.args(["-tnH", "--tos", "-i", "src", &near.to_string(), "dst", &far.to_string()]);
    String::from_utf8(ss.output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_cut_in_flight_is_cut_at_once_and_one_that_needs_an_upgrade_changes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!("resolve: {{{HOST}: '{}'}}, class: ", listener.local_addr().unwrap());
    let with = |class: &str, rate: &str| {
        let classes = format!("[{{name: {class}, max_limit: {rate}}}]");
        config_with(&format!("{keys}{class}"), &[("DRIPLINE__SHAPING__CLASSES", &classes)])
    };
    let lab = Lab { proxy: Proxy::of(&with("bulk", "20Mbit")).await, listener };
    let (client, mut server) = lab.tunnel(HOST).await;
    let flood = tokio::spawn(flood(client));
    let mut space = vec![0; 1 << 16];
    let mut over = async |time: Duration| {
        let (mut bytes, end) = (0, tokio::time::Instant::now() + time);
        while let Ok(read) = tokio::time::timeout_at(end, server.read(&mut space)).await {
            bytes += read.unwrap();
        }
        bytes as f64 * 8.0 / time.as_secs_f64() / 1e6
    };
    over(Duration::from_millis(300)).await;
    let before = over(Duration::from_secs(1)).await;
    assert!((12.0..22.0).contains(&before), "{before} Mbit/s");
    assert!(lab.proxy.reloader.apply(with("bulk", "1Mbit")).is_empty());
    over(Duration::from_millis(500)).await;
    let after = over(Duration::from_secs(2)).await;
    assert!((0.5..1.3).contains(&after), "{after} Mbit/s");
    flood.abort();
    // Another tree needs an upgrade; until then the class of the old one holds.
    assert_eq!(lab.proxy.reloader.apply(with("other", "100Mbit")), ["shaping.classes"]);
    let (client, server) = lab.tunnel(HOST).await;
    let took = move_bytes(client, server, 250_000).await;
    assert!(took > Duration::from_millis(1800), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_names_a_parent_of_the_running_tree_leaves_nothing_unshaped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!("resolve: {{{HOST}: '{}'}}, class: ", listener.local_addr().unwrap());
    let with = |class: &str, classes: &str| {
        let classes = format!("[{classes}]");
        config_with(
            &format!("{keys}{class}"),
            &[("DRIPLINE__SHAPING__CLASSES", &classes), ("DRIPLINE__DRIP__CLASS", class)],
        )
    };
    let upload = "{name: upload, max_limit: 1Mbit}";
    let tree = with("bulk", &format!("{upload}, {{name: bulk, parent: upload}}"));
    let lab = Lab { proxy: Proxy::of(&tree).await, listener };
    // A leaf there, a parent here.
    let changed = lab.proxy.reloader.apply(with("upload", upload));
    assert_eq!(changed, ["shaping.classes", "profiles"]);
    let before = lab.counted("bulk");
    let (client, server) = lab.tunnel(HOST).await;
    move_bytes(client, server, 100_000).await;
    assert!(lab.counted("bulk") - before >= 100_000);
    assert!(lab.proxy.reloader.apply(tree).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_turn_is_not_idle_and_a_slow_class_stays_in_touch() {
    // 2 KB a second: a tunnel whose pieces take longer than the idle time is not given up.
    let classes = "{name: bulk, max_limit: 16kbit}";
    let lab = Lab::new("class: bulk, idle_timeout: 300ms", classes).await;
    let (client, server) = lab.tunnel(HOST).await;
    let took = move_bytes(client, server, 8_000).await;
    assert!(took > Duration::from_secs(2), "{took:?}");
    lab.proxy.until_ended("done", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_gets_no_turn_is_never_silent_for_15_s() {
    // S3 gives up on an upload after some 20 s without a byte. Here all that there is belongs to others.
    let classes = "{name: all, max_limit: 8Mbit}, {name: bulk, parent: all, priority: 8}, \
                   {name: regular, parent: all, limit_at: 8Mbit, priority: 1}";
    let keys = "class: regular, classes: [{clients: [127.0.0.2/32], class: bulk}]";
    let lab = Lab::new(keys, classes).await;
    let mut others = JoinSet::new();
    for _ in 0..3 {
        let (client, mut server) = lab.tunnel(HOST).await;
        others.spawn(flood(client));
        others.spawn(async move {
            tokio::io::copy(&mut server, &mut tokio::io::sink()).await.unwrap();
        });
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let client = socket.connect(lab.proxy.addr).await.unwrap();
    let (client, mut server) = lab.tunnel_of(client, HOST).await;
    others.spawn(flood(client));
    let (start, mut space) = (Instant::now(), vec![0; 1 << 16]);
    let (mut last, mut longest, mut bytes) = (start, Duration::ZERO, 0);
    while start.elapsed() < Duration::from_secs(36) {
        let read = timeout(Duration::from_secs(15), server.read(&mut space)).await;
        bytes += read.expect("no 15 s of silence").unwrap();
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    assert!(longest > Duration::from_secs(8), "it had turns of its own: {longest:?}");
    assert!(bytes > 0 && bytes < 36_000_000 / 20, "a trickle: {bytes}");
    assert!(lab.counted("regular") > 30_000_000, "{}", lab.counted("regular"));
}
