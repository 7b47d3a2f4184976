//! Upgrades, drains, reloads and sd_notify of real processes: no device is cut off or turned away.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use process::{Daemon, Launch, dripline, within};
use support::http1::{self, Response, head};
use support::wire::{Client, Offer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(40);

fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

/// An origin, and a private directory for sockets and files.
struct World {
    origin: Origin,
    dir: tempfile::TempDir,
}

impl World {
    async fn with(key: &str, body: &[u8]) -> Self {
        let options = OriginOptions { public: true, ..OriginOptions::default() };
        let origin = Origin::start(options).await.unwrap();
        origin.put(key, body.to_vec(), "application/octet-stream").await.unwrap();
        let dir = tempfile::Builder::new().prefix("dripline-upgrade-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Self { origin, dir }
    }

    fn sock(&self) -> PathBuf {
        self.dir.path().join("upgrade.sock")
    }

    /// `dripline run` whose successors ask in the directory.
    fn launch(&self) -> Launch {
        Launch::in_front_of(&self.origin)
            .env("DRIPLINE__SERVER__UPGRADE_SOCK", self.sock().to_str().unwrap())
            .env("DRIPLINE__HEALTH__ADDR", "127.0.0.1:0")
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// One record of `chunk` bytes each `wait`.
fn paced(launch: Launch, chunk: usize, wait: Duration) -> Launch {
    launch.env("CHUNK_SIZE", &chunk.to_string()).env("TLS_WAIT_TIME", &wait.as_millis().to_string())
}

/// Fetches over TLS and accepts any certificate. None if there is no response.
fn fetch_tls(addr: SocketAddr, key: &str) -> JoinHandle<(Option<Response>, Client)> {
    let request = head("GET", format!("/file/{key}").as_bytes(), "");
    tokio::spawn(async move {
        let mut client = Client::offering(addr, &Offer::default()).await;
        client.stream.write_all(&request).await.unwrap();
        let response = within(LIMIT, "a drip", http1::response(&mut client.stream, false)).await;
        (response, client)
    })
}

/// Connects every 10 ms and asks for something, until told to stop.
struct Prober {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Prober {
    fn start(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
            let running = Arc::new(AtomicUsize::new(0));
            let mut probes = 0;
            while !stopped.load(Ordering::Relaxed) {
                probes += 1;
                running.fetch_add(1, Ordering::Relaxed);
                let (failures, running) = (Arc::clone(&failures), Arc::clone(&running));
                tokio::spawn(async move {
                    if let Err(e) = probe(addr).await {
                        failures.lock().unwrap().push(format!("probe {probes}: {e}"));
                    }
                    running.fetch_sub(1, Ordering::Relaxed);
                });
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while running.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let failures = failures.lock().unwrap().clone();
            (probes, failures)
        });
        Self { stop, task }
    }

    /// How many connections were made; all of them must have been answered.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let (probes, failures) = within(LIMIT, "the probes' end", self.task).await.unwrap();
        assert!(probes > 0, "nothing was probed");
        assert!(failures.is_empty(), "{} of {probes}: {failures:?}", failures.len());
        probes
    }
}

/// A connection with a request that is answered without S3, sent in two pieces: a head may be under
/// way when the processes change.
async fn probe(addr: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = head("GET", b"/elsewhere", "Connection: close\r\n");
    let (first, second) = request.split_at(10);
    stream.write_all(first).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    stream.write_all(second).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 404") { Ok(()) } else { Err(std::io::Error::other("cut")) }
}

async fn refused(addr: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(addr).await.is_ok() {
        assert!(start.elapsed() < LIMIT, "{addr} still accepts");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn assert_body(response: &Response, wanted: &[u8]) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.complete, "{} of {} bytes", response.body.len(), wanted.len());
    assert!(response.body == wanted, "the body differs");
}

// --- upgrades

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_cuts_no_drip_and_refuses_no_client() {
    let wanted = body(50 * 512);
    let world = World::with("fw.bin", &wanted).await;
    let launch = || paced(world.launch(), 512, Duration::from_millis(200));
    let mut old = launch().start().await;
    let (http, https) = (old.http(), old.https());
    let drips: Vec<_> = (0..25)
        .flat_map(|_| {
            let plain = old.begin_fetch("fw.bin");
            let tls = fetch_tls(https, "fw.bin");
            [plain, tokio::spawn(async move { tls.await.unwrap().0.expect("a response") })]
        })
        .collect();
    old.logged_times(" access begin ", 50).await;
    let prober = Prober::start(http);
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut new = launch().arg("--upgrade").start().await;
    new.logged("upgrade: this process has taken over").await;
    assert_eq!((new.http(), new.https(), new.admin()), (http, https, old.admin()));
    old.logged(&format!("upgrade: process {} accepts; this one drains", new.pid())).await;
    old.logged("at most 86400s").await;
    // What is asked at the shared addresses is answered by the successor.
    for _ in 0..20 {
        assert_eq!(new.ask("/readyz").await.status, 200);
    }
    assert!(drips.iter().all(|drip| !drip.is_finished()) && old.runs());

    // And the successor has a successor, while the first still drains.
    let mut third = launch().arg("--upgrade").start().await;
    third.logged("upgrade: this process has taken over").await;
    assert_eq!(new.ended(LIMIT).await, 0);
    assert!(old.runs());

    for drip in drips {
        assert_body(&drip.await.unwrap(), &wanted);
    }
    let last = Instant::now();
    assert_eq!(old.ended(LIMIT).await, 0);
    assert!(last.elapsed() < Duration::from_secs(2), "{:?}", last.elapsed());
    assert!(prober.end().await > 200);
    assert_eq!(old.matching(" end=done").iter().filter(|l| l.contains("fw.bin")).count(), 50);
    // The place is the third's now, and goes with it.
    assert!(world.sock().exists());
    third.signal(libc::SIGTERM);
    assert_eq!(third.exit(LIMIT).await, 0);
    assert!(!world.sock().exists());
}

#[tokio::test]
async fn sigusr2_starts_the_successor_which_is_nobodys_child() {
    let wanted = body(40 * 64);
    let world = World::with("fw.bin", &wanted).await;
    let config = world.write("dripline.yaml", "drip: {chunk_size: 64, wait: 50ms}\n");
    let launch = world.launch().without("TLS_WAIT_TIME").arg("-c").arg(&config);
    let mut old = launch.start().await;
    let drip = old.begin_fetch("fw.bin");
    old.logged(" access begin ").await;
    let prober = Prober::start(old.http());
    old.signal(libc::SIGUSR2);
    let successor = Successor::of(&old).await;
    old.logged("upgrade: this process has taken over").await;
    assert_body(&drip.await.unwrap(), &wanted);
    assert_eq!(old.ended(Duration::from_secs(2)).await, 0);
    assert_eq!(old.ask("/readyz").await.status, 200, "the successor answers");
    // Not even of the process that started it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", successor.pid)).unwrap();
    assert!(!status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");

    // It knows how it was started, and can do the same.
    successor.signal(libc::SIGUSR2);
    old.logged_times("is started as the successor", 2).await;
    let next = Successor::of(&old).await;
    assert_ne!(successor.pid, next.pid);
    old.logged_times("upgrade: this process has taken over", 2).await;
    successor.gone(LIMIT).await;
    assert!(prober.end().await > 100);
    next.signal(libc::SIGTERM);
    next.gone(Duration::from_secs(2)).await;
    refused(old.http()).await;
}

#[tokio::test]
async fn a_successor_that_fails_changes_nothing() {
    let wanted = body(40 * 64);
    let world = World::with("fw.bin", &wanted).await;
    let config = world.write("dripline.yaml", "drip: {chunk_size: 64, wait: 50ms}\n");
    let launch = world.launch().without("TLS_WAIT_TIME").arg("-c").arg(&config);
    let old = launch.start().await;
    let prober = Prober::start(old.http());
    let drip = old.begin_fetch("fw.bin");

    // One that does not get as far as to ask.
    world.write("dripline.yaml", "drip: {chunk_size: 64, wait: 50}\n");
    old.signal(libc::SIGUSR2);
    old.logged("drip.wait: `50` has no unit").await;
    old.logged("upgrade: the successor has ended; its reason is above; this process goes on").await;

    // One that asks, and cannot bind what is new.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    world.write(
        "dripline.yaml",
        &format!("drip: {{chunk_size: 64, wait: 50ms}}\nadmin: {{addr: '{addr}'}}\n"),
    );
    let outcome = {
        let sock = world.sock();
        let env = [
            ("DRIPLINE__LISTEN", "[{addr: '127.0.0.1:0'}]"),
            ("DRIPLINE__SERVER__UPGRADE_SOCK", sock.to_str().unwrap()),
            ("DRIPLINE__SPOOL__MAX_BYTES", "0"),
            ("S3_BUCKET", "samples"),
            ("AWS_REGION", "eu-west-1"),
        ];
        dripline(&["run", "--upgrade", "-c", &config], &env).await
    };
    assert_eq!(outcome.code, 69, "{outcome:?}");
    assert!(
        outcome.stderr.contains(&format!("admin.addr: cannot listen on {addr}")),
        "{outcome:?}"
    );
    old.logged("it ended before it was ready; this process goes on").await;
    assert_body(&drip.await.unwrap(), &wanted);
    assert_body(&old.fetch("fw.bin").await, &wanted);
    prober.end().await;
    assert_eq!(old.ask("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_successor_that_says_nothing_or_nonsense_changes_nothing() {
    let wanted = body(40 * 64);
    let world = World::with("fw.bin", &wanted).await;
    let launch = paced(world.launch(), 64, Duration::from_millis(50));
    let old = launch.env("DRIPLINE__SERVER__UPGRADE_TIMEOUT", "2s").start().await;
    let prober = Prober::start(old.http());
    let drip = old.begin_fetch("fw.bin");
    for (what, said) in [
        ("", "it said nothing in 5s"),
        ("dripline-upgrade 2\n", "it does not speak version 1"),
        ("dripline-upgrade 1\n", "it was not ready in 2s"),
        ("dripline-upgrade 1\nnonsense\n", "it does not speak version 1"),
    ] {
        let before = old.matching(said).len();
        let mut stream = UnixStream::connect(world.sock()).await.unwrap();
        stream.write_all(what.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(LIMIT, "an answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.lines().last().unwrap().starts_with("refused "), "{answer}");
        assert_eq!(old.logged_times(said, before + 1).await.len(), before + 1);
    }
    assert_body(&drip.await.unwrap(), &wanted);
    assert_body(&old.fetch("fw.bin").await, &wanted);
    prober.end().await;
    assert_eq!(old.ask("/readyz").await.status, 200);
}

/// A program that starts, and dies of a signal before it says anything.
#[tokio::test]
async fn a_successor_that_crashes_changes_nothing() {
    let wanted = body(40 * 64);
    let world = World::with("fw.bin", &wanted).await;
    let program = world.dir.path().join("dripline");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dripline"), &program).unwrap();
    let launch = paced(world.launch(), 64, Duration::from_millis(50));
    let old = launch.program(&program).start().await;
    let drip = old.begin_fetch("fw.bin");
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
    old.signal(libc::SIGUSR2);
    old.logged("upgrade: the successor has ended; its reason is above; this process goes on").await;
    // Nor does one that is no program at all.
    std::fs::write(&program, "").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o600)).unwrap();
    old.signal(libc::SIGUSR2);
    old.logged("SIGUSR2: cannot start a successor: ").await;
    assert_body(&drip.await.unwrap(), &wanted);
    assert_body(&old.fetch("fw.bin").await, &wanted);
    assert_eq!(old.ask("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_successor_that_hangs_before_it_asks_is_killed() {
    let world = World::with("fw.bin", b"x").await;
    // A configuration that never comes: opening a pipe without a writer blocks.
    let config = world.write("dripline.yaml", "drip: {wait: 0s}\n");
    let launch = world.launch().arg("-c").arg(&config);
    let old = launch.env("DRIPLINE__SERVER__UPGRADE_TIMEOUT", "4s").start().await;
    std::fs::remove_file(&config).unwrap();
    let path = std::ffi::CString::new(config).unwrap();
    // SAFETY: the path ends in zero and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    old.signal(libc::SIGUSR2);
    let successor = Successor::of(&old).await;
    old.signal(libc::SIGUSR2);
    old.logged("a successor is being started already").await;
    old.logged("was not ready in time, and was killed; this process goes on").await;
    successor.gone(LIMIT).await;
    assert_eq!(old.fetch("fw.bin").await.body, b"x");
}

#[tokio::test]
async fn an_upgrade_without_a_running_daemon_is_refused() {
    let world = World::with("fw.bin", b"x").await;
    let run = async |sock: &str| {
        let env = [
            ("DRIPLINE__LISTEN", "[{addr: '127.0.0.1:0'}]"),
            ("DRIPLINE__SERVER__UPGRADE_SOCK", sock),
            ("S3_BUCKET", "samples"),
            ("AWS_REGION", "eu-west-1"),
        ];
        dripline(&["run", "--upgrade"], &env).await
    };
    for sock in [world.sock().to_str().unwrap(), "off"] {
        let outcome = run(sock).await;
        assert_eq!(outcome.code, 69, "{outcome:?}");
        assert!(outcome.stderr.contains("server.upgrade_sock"), "{outcome:?}");
    }
}

#[tokio::test]
async fn the_upgrade_socket_is_private() {
    let world = World::with("fw.bin", b"x").await;
    let mut first = world.launch().start().await;
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.sock()), 0o600);
    // A second daemon of its own leaves the first one's socket alone.
    let second = world.launch().start().await;
    second.logged("another process listens at").await;
    drop(second);
    assert!(world.sock().exists());
    first.signal(libc::SIGTERM);
    assert_eq!(first.exit(LIMIT).await, 0);
    assert!(!world.sock().exists());

    // A socket that is left from a crash is replaced.
    drop(std::os::unix::net::UnixListener::bind(world.sock()).unwrap());
    let third = world.launch().start().await;
    assert!(third.matching("no upgrade without a gap").is_empty());
    drop(third);

    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let open = world.launch().start().await;
    assert!(open.logged("is not private").await.contains(" WARN "));
    open.signal(libc::SIGUSR2);
    open.logged("there is no upgrade socket").await;
    let nowhere = world.dir.path().join("nowhere/upgrade.sock");
    let without = world.launch();
    let without =
        without.env("DRIPLINE__SERVER__UPGRADE_SOCK", nowhere.to_str().unwrap()).start().await;
    assert!(without.logged("no upgrade without a gap").await.contains(" WARN "));
    assert_eq!(without.fetch("fw.bin").await.status, 200);
}

/// A successor that a daemon has started. It is killed with this.
struct Successor {
    pid: i32,
}

impl Successor {
    /// The latest one that the log names.
    async fn of(daemon: &Daemon) -> Self {
        daemon.logged("is started as the successor").await;
        let line = daemon.matching("is started as the successor").pop().unwrap();
        let pid = line.split("process ").nth(1).unwrap().split(' ').next().unwrap();
        Self { pid: pid.parse().unwrap() }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill takes two numbers.
        unsafe { libc::kill(self.pid, signal) };
    }

    async fn gone(&self, limit: Duration) {
        let ended = || {
            // As somebody else's child it may remain a zombie for a while.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
            stat.map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with('Z'))
        };
        support::eventually(limit, ended).await.expect("the successor's end");
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", self.pid));
        if comm.is_ok_and(|comm| comm.trim() == "dripline") {
            self.signal(libc::SIGKILL);
        }
    }
}

// --- drains

#[tokio::test]
async fn a_drain_cuts_at_a_record_boundary() {
    let (short, long) = (body(15 * 100), body(75 * 100));
    let world = World::with("short", &short).await;
    world.origin.put("long", long.clone(), "application/octet-stream").await.unwrap();
    let launch = paced(world.launch(), 100, Duration::from_millis(200));
    let mut daemon = launch.env("DRIPLINE__SERVER__DRAIN_TIMEOUT", "5s").start().await;
    let done = fetch_tls(daemon.https(), "short");
    let cut = fetch_tls(daemon.https(), "long");
    daemon.logged_times(" access begin ", 2).await;
    let idle = TcpStream::connect(daemon.http()).await.unwrap();
    daemon.signal(libc::SIGTERM);
    let start = Instant::now();
    assert_body(&done.await.unwrap().0.unwrap(), &short);
    assert!(daemon.runs());
    assert_eq!(daemon.exit(LIMIT).await, 0);
    assert!((4900..6500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let (response, client) = cut.await.unwrap();
    let response = response.unwrap();
    assert!(!response.complete && response.body.len() >= 20 * 100, "{}", response.body.len());
    assert_eq!(response.body.len() % 100, 0, "part of a record");
    assert_eq!(response.body, long[..response.body.len()]);
    // Whole records on the wire, the last one the body's: no alert vouches for the end.
    let (records, bytes) = (client.records(), client.received().len());
    assert_eq!(records.last().unwrap().plaintext, 100);
    let sealed: usize = records.iter().map(|r| r.plaintext + 5).sum();
    let overhead = records.iter().filter(|r| r.content_type == 23).count() * 17;
    assert_eq!(bytes, sealed + overhead, "part of a record");
    // What is missing can be had later.
    let end = daemon.matching(" access end ").pop().unwrap();
    assert!(end.ends_with(" end=drain"), "{end}");
    drop(idle);
}

#[tokio::test]
async fn new_connections_are_taken_while_a_load_balancer_looks() {
    let world = World::with("fw.bin", &body(640)).await;
    let mut daemon = world.launch().env("DRIPLINE__SERVER__SHUTDOWN_DELAY", "2s").start().await;
    daemon.signal(libc::SIGTERM);
    let start = Instant::now();
    daemon.until_readyz(503).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    while start.elapsed() < Duration::from_millis(1500) {
        assert_body(&daemon.fetch("fw.bin").await, &body(640));
    }
    assert_eq!(daemon.exit(LIMIT).await, 0);
    assert!((1900..3500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silent_client_does_not_delay_a_drain() {
    let world = World::with("fw.bin", &body(64)).await;
    let mut daemon = world.launch().start().await;
    let _silent = TcpStream::connect(daemon.https()).await.unwrap();
    let mut idle = TcpStream::connect(daemon.http()).await.unwrap();
    idle.write_all(&head("GET", b"/file/fw.bin", "")).await.unwrap();
    assert_body(&http1::response(&mut idle, false).await.unwrap(), &body(64));
    let mut half = TcpStream::connect(daemon.http()).await.unwrap();
    half.write_all(b"GET /file/fw.bin HTTP/1.1\r\n").await.unwrap();
    daemon.logged(" access end ").await;
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(Duration::from_secs(1)).await, 0);
}

// --- reload

#[tokio::test]
async fn sighup_puts_profiles_and_limits_in_place() {
    let wanted = body(4 * 1000);
    let world = World::with("fw.bin", &wanted).await;
    let listen = "listen: [{addr: '127.0.0.1:0', tls: {}}, {addr: '127.0.0.1:0'}]\n";
    let chunk = |bytes: usize| {
        format!(
            "{listen}drip: {{chunk_size: {bytes}, wait: 0s}}\n\
             profiles: [{{name: small, match: {{key_prefix: fw}}, chunk_size: {}}}]\n",
            bytes / 2
        )
    };
    let config = world.write("dripline.yaml", &chunk(1000));
    let launch = world.launch().without("TLS_WAIT_TIME").without("DRIPLINE__LISTEN");
    let daemon = launch.arg("-c").arg(&config).start().await;
    let connection = async || {
        let response = daemon.fetch("fw.bin").await;
        response.header("connection").map(str::to_owned)
    };
    assert_eq!(connection().await.as_deref(), Some("keep-alive"));
    let records = async || {
        let (response, client) = fetch_tls(daemon.https(), "fw.bin").await.unwrap();
        let response = response.unwrap();
        assert_body(&response, &wanted);
        client.application(wanted.len()).len()
    };
    assert_eq!(records().await, 8);

    world.write("dripline.yaml", &chunk(500));
    daemon.signal(libc::SIGHUP);
    daemon.logged("reloaded: ").await;
    assert_eq!(records().await, 16);

    world.write("dripline.yaml", "drip: {chunk_size: 20M, wait: 5}\nserver: {thread: 1}\n");
    daemon.signal(libc::SIGHUP);
    daemon.logged("not reloaded: nothing has changed").await;
    for error in ["drip.chunk_size: ", "drip.wait: ", "server.thread: unknown key"] {
        assert!(daemon.logged(error).await.contains(" ERROR "));
    }
    assert_eq!(records().await, 16);

    let more = "server: {threads: 3, drain_timeout: 1s}\nupstream: {idle_timeout: 1s}\n\
                limits: {requests_per_connection: 1}\n";
    let proxied = "{addr: '127.0.0.1:0', proxy_protocol: {from: [10.0.0.0/8]}}]";
    let file = format!("{}{more}", chunk(2000)).replace("{addr: '127.0.0.1:0'}]", proxied);
    assert!(file.contains("proxy_protocol"));
    world.write("dripline.yaml", &file);
    daemon.signal(libc::SIGHUP);
    daemon.logged_times("reloaded: certificates", 2).await;
    for key in ["listen", "server.threads", "upstream"] {
        let warning = daemon.logged(&format!("{key}: the new value needs an upgrade")).await;
        assert!(warning.contains(" WARN "), "{warning}");
    }
    assert_eq!(daemon.matching("needs an upgrade").len(), 3);
    assert_eq!(records().await, 4);
    assert_eq!(connection().await.as_deref(), Some("close"));
}

// --- the service manager

/// Stands in for systemd's notification socket.
struct Manager {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, said: Vec::new() }
    }

    /// Takes the messages that have come.
    fn receive(&mut self) {
        let mut message = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut message) {
            self.said.push(String::from_utf8(message[..n].to_vec()).unwrap());
        }
    }

    /// Waits for a message with this line; returns it.
    async fn hears(&mut self, line: &str) -> String {
        let start = Instant::now();
        loop {
            self.receive();
            let with = |said: &String| said.lines().any(|l| l.starts_with(line));
            if let Some(at) = self.said.iter().position(with) {
                return self.said.remove(at);
            }
            assert!(start.elapsed() < LIMIT, "no {line:?}, but {:?}", self.said);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let world = World::with("fw.bin", &body(400 * 64)).await;
    let path = world.dir.path().join("notify");
    let mut manager = Manager::at(&path);
    let launch = paced(world.launch(), 64, Duration::from_millis(50));
    let mut old = launch
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "1000000")
        .start()
        .await;
    let ready = manager.hears("READY=1").await;
    assert!(ready.contains("STATUS=serving: 0 drip(s) running"), "{ready}");
    let drip = old.begin_fetch("fw.bin");
    manager.hears("STATUS=serving: 1 drip(s) running").await;
    manager.said.clear();
    let start = Instant::now();
    for _ in 0..4 {
        manager.hears("WATCHDOG=1").await;
    }
    assert!((1400..4000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

    old.signal(libc::SIGHUP);
    let reloading = manager.hears("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1").await;

    old.signal(libc::SIGUSR2);
    let successor = Successor::of(&old).await;
    manager.hears(&format!("MAINPID={}", successor.pid)).await;
    manager.hears("READY=1").await;
    manager.said.clear();
    manager.hears("WATCHDOG=1").await;
    old.signal(libc::SIGINT);
    old.signal(libc::SIGINT);
    assert_eq!(old.ended(LIMIT).await, 0);
    drip.abort();
    manager.receive();
    let stopping = |said: &String| said.contains("STOPPING");
    assert!(!manager.said.iter().any(stopping), "the old one is not the service any more");

    let drip = old.begin_fetch("fw.bin");
    old.logged_times(" access begin ", 2).await;
    successor.signal(libc::SIGTERM);
    let stopping = manager.hears("STOPPING=1").await;
    assert!(stopping.contains("STATUS="), "{stopping}");
    manager.hears("STATUS=draining: 1 drip(s) running").await;
    manager.hears("EXTEND_TIMEOUT_USEC=30000000").await;
    successor.signal(libc::SIGTERM);
    successor.gone(LIMIT).await;
    drip.abort();
}
