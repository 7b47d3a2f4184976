//! The binary from outside: arguments, environment, exit codes, signals, log lines.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

#[path = "support/process.rs"]
mod process;
#[path = "process/rest.rs"]
mod rest;
mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode, SslVersion};
use process::{Daemon, Launch, Outcome, dripline, private_cache, private_network, within};
use support::http1::{self, Response, head};
use support::wire::Client;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// What "at once" may take on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A body in which no two parts are equal.
fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

async fn origin_with(key: &str, body: &[u8]) -> Origin {
    let options = OriginOptions { public: true, ..OriginOptions::default() };
    let origin = Origin::start(options).await.unwrap();
    origin.put(key, body.to_vec(), "application/octet-stream").await.unwrap();
    origin
}

fn files() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("dripline-process-").tempdir().unwrap()
}

fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The certificate that a TLS listener shows, PEM, whoever signed it.
async fn shown_certificate(addr: SocketAddr) -> Vec<u8> {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    let ssl = Ssl::new(&context.build()).unwrap();
    let tcp = TcpStream::connect(addr).await.unwrap();
    let mut stream = SslStream::new(ssl, tcp).unwrap();
    std::pin::Pin::new(&mut stream).connect().await.unwrap();
    let certificate = stream.ssl().peer_certificate().unwrap();
    let key = certificate.public_key().unwrap();
    assert!(certificate.verify(&key).unwrap(), "it is not self-signed");
    certificate.to_pem().unwrap()
}

/// Connects over TLS and trusts the certificate that the listener shows.
async fn tls_client(addr: SocketAddr) -> Client {
    let cert = shown_certificate(addr).await;
    Client::connect(addr, SslVersion::TLS1_3, &cert).await
}

/// Fetches `/file/<key>` over TLS.
async fn fetch(client: &mut Client, key: &str) -> Response {
    let request = head("GET", format!("/file/{key}").as_bytes(), "");
    client.stream.write_all(&request).await.unwrap();
    http1::response(&mut client.stream, false).await.expect("a response")
}

fn assert_body(response: &Response, wanted: &[u8]) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.complete, "{} of {} bytes", response.body.len(), wanted.len());
    assert!(response.body == wanted, "the body differs");
}

// --- configuration

/// Runs `test` on a thread with its own network namespace, if this user may create one, so that fixed
/// ports are free.
fn with_fixed_ports<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        private_network();
        private_cache();
        for port in [8443, 8080, 9100] {
            let taken = TcpListener::bind(("0.0.0.0", port)).err();
            assert!(taken.is_none(), "this test needs port {port}: {}", taken.unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

#[test]
fn the_classic_variables_suffice_to_run() {
    with_fixed_ports(|| async {
        let wanted = body(5 * 1024 + 10);
        let origin = origin_with("fw.bin", &wanted).await;
        let daemon = Launch::bare()
            .env("S3_BUCKET", "samples")
            .env("AWS_REGION", "ap-southeast-2")
            .env("CHUNK_SIZE", "1024")
            .env("TLS_WAIT_TIME", "100")
            .env("DRIPLINE__S3__ENDPOINT", &format!("http://{}", origin.addr()))
            .start()
            .await;
        let addresses = [daemon.https(), daemon.http(), daemon.admin()].map(|a| a.to_string());
        assert_eq!(addresses, ["0.0.0.0:8443", "0.0.0.0:8080", "127.0.0.1:9100"]);
        for part in [
            "listen[0].tls: 0.0.0.0:8443 serves a self-signed certificate",
            "listen[1]: 0.0.0.0:8080 serves plain HTTP",
        ] {
            assert!(daemon.logged(part).await.contains(" WARN "), "{part}");
        }
        // Only root can create the default directory. Otherwise a warning is logged, and nothing else
        // changes.
        if std::fs::metadata("/var/cache/dripline").is_err() {
            assert!(daemon.logged("spool.dir: ").await.contains("/var/cache/dripline"));
        }

        // Any of the machine's addresses will do, but for the admin listener.
        let https = "127.0.0.2:8443".parse().unwrap();
        let http = "127.0.0.2:8080".parse().unwrap();
        assert!(TcpStream::connect("127.0.0.2:9100").await.is_err());

        let mut client = tls_client(https).await;
        let response = fetch(&mut client, "fw.bin").await;
        assert_body(&response, &wanted);
        let records = client.application(response.head_length + wanted.len());
        let sizes: Vec<_> = records[1..].iter().map(|record| record.plaintext).collect();
        assert_eq!(sizes, [1024, 1024, 1024, 1024, 1024, 10]);
        assert_pace(records[6].at - records[1].at);

        let start = Instant::now();
        assert_body(&http1::get(http, "/file/fw.bin", "").await, &wanted);
        assert_pace(start.elapsed());
    });

    /// Six records, one every 100 ms; a wait that was not read would be 500 ms.
    fn assert_pace(spent: Duration) {
        assert!(spent >= Duration::from_millis(490), "{spent:?}");
        assert!(spent < Duration::from_millis(2400), "{spent:?}");
    }
}

#[tokio::test]
async fn an_env_file_configures_and_the_environment_goes_before_it() {
    let dir = files();
    let wanted = body(6 * 512);
    let origin = origin_with("fw.bin", &wanted).await;
    let file = write(
        &dir,
        ".env",
        "# the classic names\nS3_BUCKET=samples\nAWS_REGION=eu-west-1\n\
         AWS_DEFAULT_REGION=eu-west-2\nCHUNK_SIZE=512\nTLS_WAIT_TIME=100\n",
    );
    // What was in the way of the file's values goes.
    let launch = || {
        let launch = Launch::in_front_of(&origin).arg("--env-file").arg(&file);
        launch.without("S3_BUCKET").without("TLS_WAIT_TIME")
    };
    let duration_and_records = async |daemon: Daemon| {
        assert_body(&daemon.fetch("fw.bin").await, &wanted);
        let end = fields(&daemon.logged(" access end ").await);
        (end["duration_ms"].parse::<u64>().unwrap(), end["records"].clone())
    };
    let (duration, records) = duration_and_records(launch().start().await).await;
    assert_eq!(records, "6");
    assert!((490..2400).contains(&duration), "{duration} ms");
    // At the file's wait these would take 4.7 s.
    let overruled = launch().env("CHUNK_SIZE", "64").env("TLS_WAIT_TIME", "0").start().await;
    let (duration, records) = duration_and_records(overruled).await;
    assert_eq!(records, "48");
    assert!(duration < 2400, "{duration} ms");

    // The region shows in Amazon's host, which `dripline url` compares.
    let without_region = write(
        &dir,
        "default-region.env",
        "S3_BUCKET=samples\nAWS_REGION=\nAWS_DEFAULT_REGION=eu-west-2\n",
    );
    for (file, env, region) in [
        (&file, vec![], "eu-west-1"),
        (&without_region, vec![], "eu-west-2"),
        (&file, vec![("AWS_REGION", "eu-west-3")], "eu-west-3"),
        (&without_region, vec![("AWS_DEFAULT_REGION", "eu-north-1")], "eu-north-1"),
    ] {
        let url = format!("https://samples.s3.{region}.amazonaws.com/a");
        let outcome = dripline(&["url", &url, "--env-file", file], &env).await;
        assert_eq!(outcome.code, 0, "{region}: {outcome:?}");
    }
}

#[tokio::test]
async fn check_prints_warnings_and_every_error() {
    let dir = files();
    let good = write(
        &dir,
        "good.yaml",
        "listen: [{addr: '127.0.0.1:0', tls: {}}]\ns3: {bucket: b-1, region: eu-west-1}\n",
    );
    let Outcome { code, stdout, stderr } = dripline(&["check", "-c", &good], &[]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}");
    assert!(lines[0].starts_with("warning: listen[0].tls: 127.0.0.1:0 serves a self-signed"));
    assert_eq!(lines[1], "objects come from https://b-1.s3.eu-west-1.amazonaws.com");
    assert_eq!(lines[2], "ok");

    let bad = write(
        &dir,
        "bad.yaml",
        "listen: [{addr: nowhere, tls: {cert: /nonexistent/c.pem, key: /nonexistent/k.pem}}]\n\
         s3: {bucket: b-1, regoin: eu-west-1}\ndrip: {chunk_size: 20M, wait: 500}\n\
         admin: {addr: '0.0.0.0:9100'}\nspool: {dir: cache}\n",
    );
    for command in ["check", "run"] {
        let Outcome { code, stdout, stderr } =
            dripline(&[command, "-c", &bad], &[("CHUNK_SIZE", ""), ("TLS_WAIT_TIME", "x")]).await;
        assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
        for path in [
            "listen[0].addr: ",
            "listen[0].tls.cert: ",
            "listen[0].tls.key: ",
            "s3.region: missing",
            "s3.regoin: unknown key; did you mean s3.region?",
            "drip.chunk_size: ",
            "drip.wait: ",
            "admin.addr: ",
            "spool.dir: cache is not",
        ] {
            let named = stderr.lines().filter(|line| line.starts_with(path)).count();
            assert!(named >= 1, "{command} does not name {path:?}:\n{stderr}");
        }
        assert!(stderr.contains("(from TLS_WAIT_TIME)"), "{stderr}");
    }

    let nothing = dripline(&["check"], &[]).await;
    assert_eq!(nothing.code, 78);
    assert!(
        nothing.stderr.contains("s3.bucket: ") && nothing.stderr.contains("s3.region: "),
        "{nothing:?}"
    );
    let nowhere = dripline(&["run", "-c", "/nonexistent/dripline.yaml"], &[]).await;
    assert_eq!(nowhere.code, 78);
    assert!(nowhere.stderr.starts_with("/nonexistent/dripline.yaml: "), "{nowhere:?}");
}

#[tokio::test]
async fn what_is_shipped_passes_check() {
    let conf = shipped("conf/dripline.yaml");
    let outcome = dripline(&["check", "-c", conf.to_str().unwrap()], &[]).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert!(outcome.stdout.ends_with("\nok\n"), "{outcome:?}");
    let env = shipped(".env.example");
    let outcome = dripline(&["check", "--env-file", env.to_str().unwrap()], &[]).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let listen = format!("[{{addr: '127.0.0.1:0'}}, {{addr: '{addr}'}}]");
    for (name, value, key) in [
        ("DRIPLINE__LISTEN", listen.as_str(), "listen[1].addr"),
        ("DRIPLINE__ADMIN__ADDR", &addr, "admin.addr"),
        ("DRIPLINE__HEALTH__ADDR", &addr, "health.addr"),
    ] {
        let mut env = BTreeMap::from([
            ("DRIPLINE__LISTEN", "[{addr: '127.0.0.1:0'}]"),
            ("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0"),
            ("S3_BUCKET", "samples"),
            ("AWS_REGION", "eu-west-1"),
        ]);
        env.insert(name, value);
        let env: Vec<_> = env.into_iter().collect();
        let outcome = dripline(&["run"], &env).await;
        assert_eq!(outcome.code, 69, "{outcome:?}");
        let message = format!("{key}: cannot listen on {addr}: ");
        assert!(outcome.stderr.contains(&message), "{message}\n{outcome:?}");
    }
}

// --- the other commands

#[tokio::test]
async fn usage_errors_help_and_version() {
    for args in
        [&["serve"][..], &[], &["run", "--nonsense"], &["run", "extra"], &["url"], &["check", "-c"]]
    {
        let outcome = dripline(args, &[]).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (64, ""), "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("--help"), "{args:?}: {outcome:?}");
    }
    for args in [&["--help"][..], &["-h"], &["help"], &["run", "--help"], &["help", "url"]] {
        let outcome = dripline(args, &[]).await;
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{args:?}: {outcome:?}");
        assert!(outcome.stdout.contains("Usage: dripline"), "{args:?}: {outcome:?}");
    }
    let outcome = dripline(&["--version"], &[]).await;
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.stdout, format!("dripline {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn url_prints_the_url_to_hand_out_or_the_setting() {
    let env = [("S3_BUCKET", "fw-store"), ("AWS_REGION", "eu-west-1")];
    let signed = "a%20b/c?X-Amz-Signature=c0ffee&X-Amz-SignedHeaders=host";
    let regional = format!("https://fw-store.s3.eu-west-1.amazonaws.com/{signed}");
    let global = format!("https://fw-store.s3.amazonaws.com/{signed}");

    let outcome = dripline(&["url", &regional], &env).await;
    let wanted = format!("https://localhost:8443/file/{signed}\n");
    assert_eq!((outcome.code, outcome.stdout), (0, wanted));
    assert_eq!(outcome.stderr, "");
    let base = ["url", &regional, "--base", "https://fw.example/"];
    let outcome = dripline(&base, &env).await;
    let wanted = format!("https://fw.example/file/{signed}\n");
    assert_eq!((outcome.code, outcome.stdout), (0, wanted));
    let outcome = dripline(&["url", &regional.replace("=host", "=host%3Brange")], &env).await;
    assert_eq!(outcome.code, 0);
    assert!(outcome.stderr.contains("range"), "{outcome:?}");
    let expired = format!("{regional}&X-Amz-Date=20250101T000000Z&X-Amz-Expires=900");
    let outcome = dripline(&["url", &expired], &env).await;
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.ends_with("X-Amz-Expires=900\n"), "{outcome:?}");
    assert_eq!(
        outcome.stderr,
        "warning: this URL expired at 2025-01-01T00:15:00Z; S3 answers it with 403\n"
    );

    let outcome = dripline(&["url", &global], &env).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (65, ""), "{outcome:?}");
    assert!(outcome.stderr.contains("s3.host: global"), "{outcome:?}");
    assert!(!outcome.stderr.contains("c0ffee"), "the signature is printed: {outcome:?}");
    let with_host = [env[0], env[1], ("DRIPLINE__S3__HOST", "global")];
    assert_eq!(dripline(&["url", &global], &with_host).await.code, 0, "the setting helps");

    let outcome = dripline(&["url", &regional], &[]).await;
    assert_eq!(outcome.code, 78);
    for line in ["  s3.bucket: fw-store", "  s3.region: eu-west-1"] {
        assert!(outcome.stdout.lines().any(|l| l == line), "{outcome:?}");
    }
    assert!(!outcome.stdout.contains("c0ffee"), "the signature is printed: {outcome:?}");

    for garbage in ["garbage", "", "https://", "s3://fw-store/a", "https://example.com"] {
        let outcome = dripline(&["url", garbage], &env).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (65, ""), "{garbage}: {outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{garbage}");
    }
}

/// Runs `dripline health` with this admin address.
async fn health_at(admin: &str) -> Outcome {
    let env =
        [("S3_BUCKET", "samples"), ("AWS_REGION", "eu-west-1"), ("DRIPLINE__ADMIN__ADDR", admin)];
    dripline(&["health"], &env).await
}

#[tokio::test]
async fn health_asks_the_daemon() {
    let origin = origin_with("fw.bin", &body(4096)).await;
    let mut daemon = Launch::in_front_of(&origin)
        .env("DRIPLINE__ADMIN", "off")
        .without("DRIPLINE__ADMIN__ADDR")
        .env("DRIPLINE__HEALTH__ADDR", "0.0.0.0:0")
        .start()
        .await;
    let addr = daemon.address(" health on http://").expect("a health listener").to_string();
    let admin = addr.replace("0.0.0.0", "127.0.0.1");
    let outcome = health_at(&admin).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "ready\n"), "{outcome:?}");
    // The address to listen on is not one to connect to.
    let env = [
        ("S3_BUCKET", "samples"),
        ("AWS_REGION", "eu-west-1"),
        ("DRIPLINE__ADMIN", "off"),
        ("DRIPLINE__HEALTH__ADDR", addr.as_str()),
    ];
    let outcome = dripline(&["health"], &env).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "ready\n"), "{outcome:?}");
    let outcome = dripline(&["health"], &env[..3]).await;
    assert_eq!(outcome.code, 78, "{outcome:?}");
    // The process that asks may lack settings that the daemon has.
    let outcome = dripline(&["health"], &env[2..]).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "ready\n"), "{outcome:?}");
    // A health listener tells no more than that.
    let port = addr.parse::<SocketAddr>().unwrap().port();
    let metrics = http1::get(([127, 0, 0, 1], port).into(), "/metrics", "").await;
    assert_eq!(metrics.status, 404);

    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(2 * AT_ONCE).await, 0);
    let outcome = dripline(&["health"], &env).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (69, ""), "{outcome:?}");
    assert!(outcome.stderr.contains("no answer from "), "{outcome:?}");
    // A listener that accepts but never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = mute.local_addr().unwrap().to_string();
    let outcome = health_at(&addr).await;
    assert_eq!(outcome.code, 69, "{outcome:?}");
}

#[tokio::test]
async fn the_admin_listener_shows_health_and_metrics() {
    let origin = origin_with("fw.bin", &body(10_000)).await;
    let daemon = Launch::in_front_of(&origin).start().await;
    assert_eq!(daemon.ask("/healthz").await.status, 200);
    assert_body(&daemon.fetch("fw.bin").await, &body(10_000));
    fetch(&mut tls_client(daemon.https()).await, "missing").await;
    daemon.logged_times(" access end ", 2).await;
    let metrics = daemon.ask("/metrics").await;
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    for line in [
        "dripline_drips 0",
        "dripline_drips_ended_total{end=\"done\"} 2",
        "dripline_responses_total{status=\"200\"} 1",
        "dripline_responses_total{status=\"404\"} 1",
        "# TYPE dripline_connections gauge",
        "# TYPE dripline_body_bytes_total counter",
        "# TYPE dripline_body_records_total counter",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    // Two for the TLS client, which looked at the certificate first.
    assert!(text.contains("dripline_connections_accepted_total 3\n"), "{text}");
    assert_eq!(daemon.ask("/").await.status, 404);
}

// --- signals

/// A daemon whose object of 100 records takes 20 s.
async fn slow_daemon(origin: &Origin) -> Daemon {
    Launch::in_front_of(origin)
        .env("CHUNK_SIZE", "64")
        .env("TLS_WAIT_TIME", "200")
        .env("DRIPLINE__SERVER__DRAIN_TIMEOUT", "1s")
        .start()
        .await
}

#[tokio::test]
async fn sigterm_with_nothing_running_ends_it_at_once() {
    let origin = origin_with("fw.bin", &body(64)).await;
    for signal in [libc::SIGTERM, libc::SIGQUIT, libc::SIGINT] {
        let mut daemon = Launch::in_front_of(&origin).start().await;
        // An idle connection does not delay the exit.
        let mut idle = tls_client(daemon.https()).await;
        assert_body(&fetch(&mut idle, "fw.bin").await, &body(64));
        daemon.logged(" access end ").await;
        daemon.signal(signal);
        assert_eq!(daemon.exit(AT_ONCE).await, 0, "signal {signal}");
    }
}

#[tokio::test]
async fn sigterm_lets_running_drips_finish() {
    let wanted = body(30 * 64);
    let origin = origin_with("fw.bin", &wanted).await;
    let mut daemon = Launch::in_front_of(&origin)
        .env("CHUNK_SIZE", "64")
        .env("TLS_WAIT_TIME", "100")
        .start()
        .await;
    let plain = daemon.begin_fetch("fw.bin");
    let https = daemon.https();
    let tls = tokio::spawn(async move {
        let mut client = tls_client(https).await;
        within(Duration::from_secs(20), "a drip", fetch(&mut client, "fw.bin")).await
    });
    daemon.logged_times(" access begin ", 2).await;
    daemon.signal(libc::SIGTERM);
    let start = Instant::now();
    assert_eq!(daemon.until_readyz(503).await, "draining\n");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    for addr in [daemon.http(), daemon.https()] {
        while let Ok(accepted) = TcpStream::connect(addr).await {
            drop(accepted);
            assert!(start.elapsed() < AT_ONCE, "{addr} still accepts");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(daemon.ask("/healthz").await.status, 200);
    let outcome = health_at(&daemon.admin().to_string()).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (69, "not ready: draining\n"));
    assert!(daemon.runs() && !plain.is_finished() && !tls.is_finished());

    assert_body(&plain.await.unwrap(), &wanted);
    assert_body(&tls.await.unwrap(), &wanted);
    assert_eq!(daemon.exit(AT_ONCE).await, 0);
    daemon.logged("draining: 2 drip(s) running").await;
    assert_eq!(daemon.matching(" end=done").len(), 2);
}

#[tokio::test]
async fn a_drain_waits_for_a_request_that_s3_has_not_answered_yet() {
    let options = OriginOptions {
        public: true,
        latency: Duration::from_millis(1500),
        ..OriginOptions::default()
    };
    let origin = Origin::start(options).await.unwrap();
    origin.put("fw.bin", body(64), "application/octet-stream").await.unwrap();
    let mut daemon = Launch::in_front_of(&origin).start().await;
    let fetched = daemon.begin_fetch("fw.bin");
    let asked = support::eventually(Duration::from_secs(10), || origin.counters().gets == 1);
    asked.await.expect("S3 is asked");
    daemon.signal(libc::SIGTERM);
    assert_body(&fetched.await.unwrap(), &body(64));
    assert_eq!(daemon.exit(AT_ONCE).await, 0);
    daemon.logged("draining: 1 drip(s) running").await;
}

#[tokio::test]
async fn a_drain_ends_with_its_timeout() {
    let origin = origin_with("fw.bin", &body(100 * 64)).await;
    let mut daemon = slow_daemon(&origin).await;
    let drip = daemon.begin_fetch("fw.bin");
    daemon.logged(" access begin ").await;
    daemon.signal(libc::SIGTERM);
    let start = Instant::now();
    assert_eq!(daemon.exit(Duration::from_millis(2500)).await, 0);
    assert!(start.elapsed() >= Duration::from_millis(950), "{:?}", start.elapsed());
    assert!(!drip.await.unwrap().complete);
    let end = fields(&daemon.logged(" access end ").await);
    assert_eq!(end["end"], "drain");
    let sent: usize = end["bytes"].parse().unwrap();
    assert!((4 * 64..=20 * 64).contains(&sent), "{sent} bytes");
    daemon.logged("drain timeout: 1 drip(s) cut").await;
}

#[tokio::test]
async fn sigint_and_a_second_signal_cut_running_drips() {
    let origin = origin_with("fw.bin", &body(100 * 64)).await;
    let cut = async |signals: &[i32]| {
        // Its drain would last beyond the test.
        let mut daemon = Launch::in_front_of(&origin)
            .env("CHUNK_SIZE", "64")
            .env("TLS_WAIT_TIME", "200")
            .start()
            .await;
        let drip = daemon.begin_fetch("fw.bin");
        daemon.logged(" access begin ").await;
        let (last, first) = signals.split_last().unwrap();
        for signal in first {
            daemon.signal(*signal);
            daemon.until_readyz(503).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(daemon.runs() && !drip.is_finished(), "{signals:?}");
        }
        daemon.signal(*last);
        assert_eq!(daemon.exit(AT_ONCE).await, 0, "{signals:?}");
        assert!(!drip.await.unwrap().complete);
        assert!(daemon.logged(" access end ").await.ends_with(" end=drain"), "{signals:?}");
    };
    tokio::join!(
        cut(&[libc::SIGINT]),
        cut(&[libc::SIGTERM, libc::SIGTERM]),
        cut(&[libc::SIGTERM, libc::SIGINT]),
    );
}

#[tokio::test]
async fn sighup_changes_nothing() {
    let wanted = body(10 * 64);
    let origin = origin_with("fw.bin", &wanted).await;
    let mut daemon = Launch::in_front_of(&origin)
        .env("CHUNK_SIZE", "64")
        .env("TLS_WAIT_TIME", "50")
        .start()
        .await;
    let drip = daemon.begin_fetch("fw.bin");
    daemon.logged(" access begin ").await;
    for times in 1..=2 {
        daemon.signal(libc::SIGHUP);
        daemon.logged_times("SIGHUP", times).await;
    }
    assert_eq!(daemon.ask("/readyz").await.status, 200);
    assert_body(&drip.await.unwrap(), &wanted);
    assert_body(&daemon.fetch("fw.bin").await, &wanted);
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(AT_ONCE).await, 0);
}

// --- the log

/// What stands before the closing quote, in Rust's way of escaping, and the length of it with its
/// quotes.
fn unescaped(quoted: &str) -> Option<(String, usize)> {
    let (mut text, mut chars) = (String::new(), quoted.char_indices());
    loop {
        let c = match chars.next()? {
            (at, '"') => return Some((text, at + 2)),
            (_, '\\') => match chars.next()?.1 {
                'u' => {
                    let code = chars.as_str().strip_prefix('{')?.split_once('}')?.0;
                    chars.nth(code.len() + 1)?;
                    char::from_u32(u32::from_str_radix(code, 16).ok()?)?
                }
                'n' => '\n',
                c => c,
            },
            (_, c) => c,
        };
        text.push(c);
    }
}

/// The fields of an access line, which is text or JSON.
fn fields(line: &str) -> BTreeMap<String, String> {
    if line.starts_with('{') {
        let object: serde_json::Map<_, _> = serde_json::from_str(line).expect(line);
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            number => number.to_string(),
        };
        return object.into_iter().map(|(name, value)| (name, text(value))).collect();
    }
    let (mut fields, mut rest) = (BTreeMap::new(), line);
    for name in ["time", "level", "target", "message"] {
        // A level of four letters is padded to five.
        let (word, behind) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
        fields.insert(name.to_owned(), word.to_owned());
        rest = behind;
    }
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').expect(line);
        let (value, length) = match value.strip_prefix('"') {
            Some(quoted) => unescaped(quoted).expect(line),
            None => {
                let bare = value.split(' ').next().unwrap();
                (bare.to_owned(), bare.len())
            }
        };
        assert!(fields.insert(name.to_owned(), value).is_none(), "{line}");
        rest = rest[name.len() + 1 + length..].trim_start();
    }
    fields
}

const BEGIN: [&str; 10] = [
    "client", "key", "level", "message", "method", "profile", "source", "status", "target", "time",
];
const END: [&str; 14] = [
    "bytes",
    "client",
    "duration_ms",
    "end",
    "key",
    "level",
    "message",
    "method",
    "profile",
    "records",
    "source",
    "status",
    "target",
    "time",
];

/// The begin and end lines of the requests so far, oldest first, with their fields checked.
async fn access_log(daemon: &Daemon, requests: usize) -> Vec<[BTreeMap<String, String>; 2]> {
    let start = Instant::now();
    let is_access = |line: &&String| line.contains(" access ") || line.contains("\"access\"");
    let lines: Vec<BTreeMap<_, _>> = loop {
        let lines: Vec<_> = daemon.lines().iter().filter(is_access).cloned().collect();
        if lines.len() == 2 * requests {
            break lines.iter().map(|line| fields(line)).collect();
        }
        let log = daemon.lines().join("\n");
        assert!(start.elapsed() < Duration::from_secs(10), "{requests} requests:\n{log}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let pair = |begin: &BTreeMap<String, String>| {
        // A client may begin its next request before the end of the last was logged, but every
        // request here has a connection of its own.
        let same = |line: &&BTreeMap<_, _>| line["client"] == begin["client"];
        let end = lines.iter().rfind(same).unwrap();
        assert!(begin.keys().eq(BEGIN), "{begin:?}");
        assert!(end.keys().eq(END), "{end:?}");
        assert_eq!([&begin["message"], &end["message"]], ["begin", "end"]);
        for line in [begin, end] {
            assert_eq!(line["level"], "INFO");
            assert!(humantime::parse_rfc3339(&line["time"]).is_ok(), "{line:?}");
            let client: SocketAddr = line["client"].parse().unwrap();
            assert!(client.ip().is_loopback() && client.port() != 0);
            assert_eq!(line["profile"], "default");
        }
        for name in ["method", "key", "status", "source"] {
            assert_eq!(begin[name], end[name], "{name}");
        }
        [begin.clone(), end.clone()]
    };
    lines.iter().filter(|line| line["message"] == "begin").map(pair).collect()
}

#[tokio::test]
async fn the_access_log_has_a_line_for_the_begin_and_the_end() {
    let origin = origin_with("fw.bin", &body(3 * 64 + 1)).await;
    let check = async |format| {
        let daemon = Launch::in_front_of(&origin)
            .env("CHUNK_SIZE", "64")
            .env("TLS_WAIT_TIME", "50")
            .env("DRIPLINE__LOG__FORMAT", format)
            .start()
            .await;
        assert_eq!(daemon.fetch("fw.bin").await.status, 200);
        let log = access_log(&daemon, 1).await;
        let [_, end] = &log[0];
        let shown = |names: &[&str]| names.iter().map(|n| end[*n].as_str()).collect::<Vec<_>>();
        let what = ["method", "key", "status", "bytes", "records", "source", "end"];
        assert_eq!(shown(&what), ["GET", "fw.bin", "200", "193", "4", "spool", "done"]);
        let duration: u64 = end["duration_ms"].parse().unwrap();
        assert!((140..5000).contains(&duration), "{duration} ms");

        http1::request(daemon.http(), &head("HEAD", b"/file/fw.bin", "")).await;
        let log = access_log(&daemon, 2).await;
        let [_, end] = &log[1];
        let shown = |names: &[&str]| names.iter().map(|n| end[*n].as_str()).collect::<Vec<_>>();
        assert_eq!(shown(&what), ["HEAD", "fw.bin", "200", "0", "0", "spool", "done"]);
    };
    tokio::join!(check("text"), check("json"));
}

#[tokio::test]
async fn numbers_are_numbers_in_json() {
    let origin = origin_with("fw.bin", &body(100)).await;
    let daemon = Launch::in_front_of(&origin).env("DRIPLINE__LOG__FORMAT", "json").start().await;
    assert_eq!(daemon.fetch("fw.bin").await.status, 200);
    access_log(&daemon, 1).await;
    for line in daemon.lines().iter() {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        for name in ["status", "bytes", "records", "duration_ms"] {
            assert!(object.get(name).is_none_or(serde_json::Value::is_u64), "{line}");
        }
    }
}

#[tokio::test]
async fn every_key_stays_one_field_of_one_line() {
    let origin = origin_with("fw.bin", b"x").await;
    let keys = [
        "fw.bin",
        "a%20b",
        "a%0Ab%0D%22c",
        "a\"b",
        "\"",
        "a=b status=200",
        "back\\slash",
        "\\\"",
        "end=done",
        "ünï/日本",
        "a\u{2028}b",
        "{\"a\":1}",
    ];
    // A blank would end the request target.
    let keys = keys.map(|key| key.replace(' ', "\u{a0}"));
    let check = async |format| {
        let daemon = Launch::in_front_of(&origin).env("DRIPLINE__LOG__FORMAT", format).start();
        let daemon = daemon.await;
        let mut statuses = Vec::new();
        for key in &keys {
            statuses.push(daemon.fetch(key).await.status.to_string());
        }
        let log = access_log(&daemon, keys.len()).await;
        for ((key, status), [begin, _]) in keys.iter().zip(statuses).zip(log) {
            assert_eq!((&begin["key"], &begin["status"]), (key, &status), "{format}");
        }
    };
    tokio::join!(check("text"), check("json"));
}

#[tokio::test]
async fn the_query_is_never_logged() {
    let origin = origin_with("fw.bin", &body(100)).await;
    // At the level at which Pingora would show whole request targets.
    let daemon = Launch::in_front_of(&origin)
        .env("RUST_LOG", "trace,pingora_proxy::proxy_h1=trace")
        // No process listens there. This is logged below the levels meant for operators.
        .env("NOTIFY_SOCKET", "/nonexistent/notify")
        .start()
        .await;
    daemon.logged(" DEBUG ").await;
    let signed = origin.presign("fw.bin").credentials("AKIDEXAMPLE", "wrong");
    let target = signed.query("versionId", "c0ffee").target();
    let query = target.split_once('?').unwrap().1;
    let get = async |path: &str, headers: &str| {
        http1::get(daemon.http(), format!("{path}?{query}"), headers).await.status
    };
    assert_eq!(get("/file/fw.bin", "").await, 403);
    daemon.logged("SignatureDoesNotMatch").await;
    assert_eq!(get("/elsewhere", "").await, 404);
    assert_eq!(get("/file/", "").await, 404);
    assert_eq!(get("/file/fw.bin", "Content-Length: 1\r\n").await, 400);
    let target = format!("/file/fw.bin?{query}");
    let put = http1::request(daemon.http(), &head("PUT", target.as_bytes(), "")).await;
    assert_eq!(put.status, 405);
    // This is not HTTP. It needs no response, but it must not be logged either.
    let mut broken = TcpStream::connect(daemon.http()).await.unwrap();
    broken.write_all(format!("GET {target} HTTP/1.1\r\n: :\r\n\r\n").as_bytes()).await.unwrap();
    let _ = within(Duration::from_secs(10), "an end", http1::response(&mut broken, false)).await;
    origin.stop().await;
    assert_eq!(get("/file/fw.bin", "").await, 502);

    let log = access_log(&daemon, 6).await;
    let ends = log.iter().map(|[_, end]| [&end["status"][..], &end["end"][..]]);
    let ends: Vec<_> = ends.collect();
    let done = |status| [status, "done"];
    let own = [done("404"), done("404"), done("400"), done("405")];
    assert_eq!((ends[0], &ends[1..5], ends[5]), (done("403"), &own[..], ["502", "upstream"]));
    for (at, source) in
        [(0, "direct"), (1, "none"), (2, "none"), (3, "none"), (4, "none"), (5, "direct")]
    {
        assert_eq!(log[at][1]["source"], source, "{:?}", log[at]);
    }
    for line in daemon.lines().iter() {
        assert!(!line.contains("c0ffee") && !line.contains("X-Amz-"), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_as_such() {
    let origin = origin_with("fw.bin", &body(100 * 64)).await;
    let daemon = slow_daemon(&origin).await;
    let drip = daemon.begin_fetch("fw.bin");
    daemon.logged(" access begin ").await;
    drip.abort();
    let start = Instant::now();
    let log = access_log(&daemon, 1).await;
    assert_eq!(log[0][1]["end"], "client");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
