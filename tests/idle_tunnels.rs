//! What an idle tunnel costs: live heap, counted at the allocator, with clients and servers that have none.
//!
//! 150 tunnels by default, four descriptors each. The whole:
//!
//!     ulimit -n 65536; DRIPLINE_TUNNELS=10000 cargo test --release --test idle_tunnels -- --nocapture

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dripline::config::{Config, Sources};
use dripline::server::{Server, Stop};

/// The most that an idle tunnel may hold, in bytes.
const BOUND: usize = 10_000;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and how much it has given out.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOST: &str = "samples.s3.us-east-1.amazonaws.com";

/// A ClientHello with that name and nothing else of note.
fn hello() -> Vec<u8> {
    let name = HOST.as_bytes();
    let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let sni = [&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat();
    let extension = [&[0, 0][..], &length(sni.len()), &sni].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &length(extension.len()), &extension];
    let body = body.concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

/// A tunnel that has moved `moved` bytes up and is idle now.
fn tunnel(proxy: SocketAddr, server: &TcpListener, moved: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(proxy).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.set_nodelay(true).unwrap();
    let request = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 39];
    client.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n\r\n"));
    let hello = hello();
    client.write_all(&hello).unwrap();
    let (mut far, _) = server.accept().unwrap();
    client.write_all(moved).unwrap();
    let mut seen = vec![0; hello.len() + moved.len()];
    far.read_exact(&mut seen).unwrap();
    (client, far)
}

#[test]
fn an_idle_tunnel_costs_no_more_than_10_kb_of_heap() {
    let count = std::env::var("DRIPLINE_TUNNELS").map_or(150, |count| count.parse().unwrap());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let tunnels = format!(
        "{{addr: '127.0.0.1:0', class: bulk, connections: {}, resolve: {{{HOST}: '{}'}}}}",
        count + 10,
        server.local_addr().unwrap()
    );
    let env = [
        ("DRIPLINE__FORWARD_PROXY", tunnels.as_str()),
        ("DRIPLINE__SHAPING__CLASSES", "[{name: bulk, max_limit: 100Mbit}]"),
        ("DRIPLINE__ADMIN", "off"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let config = Config::load(&Sources { env, ..Sources::default() }).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let (proxy, open) = {
        let _inside = runtime.enter();
        let bound = Server::bind(&config).unwrap();
        let (addr, state) = (bound.forward_proxy_address().unwrap(), bound.state());
        runtime.spawn(bound.run(std::future::pending::<Stop>()));
        (addr, state.metrics.tunnels.open)
    };
    let moved = vec![7; 200_000];
    let mut held = Vec::with_capacity(count + 10);
    // What all tunnels share, the threads' buffers among it, is there after the first ones.
    held.extend((0..10).map(|_| tunnel(proxy, &server, &moved)));
    let before = LIVE.load(Ordering::Relaxed);
    held.extend((0..count).map(|_| tunnel(proxy, &server, &moved[..20_000])));
    // The last bytes have come, but their buffers may go a moment later.
    let begun = Instant::now();
    let mut each = usize::MAX;
    while begun.elapsed() < Duration::from_secs(5) {
        each = each.min(LIVE.load(Ordering::Relaxed).saturating_sub(before) / count);
        std::thread::sleep(Duration::from_millis(50));
        if each <= BOUND && begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    println!("{count} idle tunnels: {each} bytes of heap each");
    assert_eq!(usize::try_from(open.get()).unwrap(), count + 10);
    assert!(each > 500, "{each} bytes: nothing was counted");
    assert!(each <= BOUND, "{each} bytes each");
    runtime.shutdown_background();
}
