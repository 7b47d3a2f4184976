//! Device profiles: which profile applies to a request, which certificate a client is shown, and what
//! happens to a client for which a record was too large.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use dripline::tls::identity::Identity;
use openssl::ssl::SslVersion;
use support::http1::{self, Response, head};
use support::pki::{Authority, Kind};
use support::wire::{Client, Offer, Record};
use support::{Builder, Dripline, logs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const BOTH: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// max_fragment_length 512 (RFC 6066 §4).
const MFL_512: u8 = 1;

/// A body in which no two parts are equal.
fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

async fn origin_with(keys: &[&str], body: &[u8]) -> Origin {
    let origin = Origin::start(OriginOptions { public: true, ..OriginOptions::default() });
    let origin = origin.await.unwrap();
    for key in keys {
        origin.put(key, body.to_vec(), "application/octet-stream").await.unwrap();
    }
    origin
}

fn dripline(origin: &Origin, profiles: &str) -> Builder {
    Dripline::in_front_of(&format!("http://{}", origin.addr()), "samples")
        .set("DRIPLINE__PROFILES", profiles)
}

/// An offer of only that version.
fn only(version: SslVersion) -> Offer<'static> {
    Offer { versions: (version, version), ..Offer::default() }
}

/// A response, and the records that carried its head and its body.
struct Fetched {
    response: Response,
    head: Vec<Record>,
    body: Vec<Record>,
}

impl Fetched {
    /// The size of the body's records, of which the last alone may be shorter.
    #[track_caller]
    fn record(&self) -> usize {
        let sizes: Vec<usize> = self.body.iter().map(|record| record.plaintext).collect();
        let (last, full) = sizes.split_last().unwrap();
        let size = *full.first().unwrap_or(last);
        assert!(full.iter().all(|s| *s == size) && *last <= size, "records of {sizes:?}");
        size
    }
}

/// Fetches `/file/<key>` with further header lines, and checks that the body is `wanted`.
async fn fetch(client: &mut Client, key: &str, headers: &str, wanted: &[u8]) -> Fetched {
    let request = head("GET", format!("/file/{key}").as_bytes(), headers);
    client.stream.write_all(&request).await.unwrap();
    let response = http1::response(&mut client.stream, false).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.complete && response.body == wanted, "the body differs");
    let mut records = client.application(response.head_length + wanted.len());
    let (mut heads, mut length) = (0, 0);
    while length < response.head_length {
        length += records[heads].plaintext;
        heads += 1;
    }
    assert_eq!(length, response.head_length, "head and body share a record");
    let body = records.split_off(heads);
    Fetched { response, head: records, body }
}

fn largest(records: &[Record]) -> usize {
    records.iter().map(|record| record.plaintext).max().unwrap()
}

/// The profile that the access log names for the one request for `key`.
fn logged_profile(key: &str) -> String {
    let key = format!(" key={key} ");
    let lines = logs::lines();
    let line =
        lines.iter().find(|line| line.starts_with("INFO access begin") && line.contains(&key));
    let line = line.unwrap_or_else(|| panic!("no access line for{key}: {lines:#?}"));
    line.split(" profile=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// Certificates as files, each pair replaced by a rename as renewal tools do it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("dripline-profiles-").tempdir().unwrap())
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.0.path().join(format!("{name}.{ending}"))
    }

    fn put(&self, name: &str, identity: &Identity) {
        let chain = identity.chain().iter().map(|cert| cert.to_pem().unwrap());
        self.replace(&self.path(name, "crt"), &chain.collect::<Vec<_>>().concat());
        let key = identity.key().private_key_to_pem_pkcs8().unwrap();
        self.replace(&self.path(name, "key"), &key);
    }

    fn replace(&self, path: &Path, text: &[u8]) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The value of `listen`: one TLS listener with those certificates and that much more of YAML.
    fn listen(&self, names: &[&str], more: &str) -> String {
        let pair = |name: &&str| {
            let path = |ending| self.path(name, ending).display().to_string();
            format!("{{cert: {}, key: {}}}", path("crt"), path("key"))
        };
        let pairs: Vec<String> = names.iter().map(pair).collect();
        let pairs = pairs.join(", ");
        format!("[{{addr: '127.0.0.1:0', tls: {{certificates: [{pairs}]{more}}}}}]")
    }
}

fn der(identity: &Identity) -> Vec<Vec<u8>> {
    identity.chain().iter().map(|cert| cert.to_der().unwrap()).collect()
}

/// An RSA chain whose Certificate message is about 2,000 bytes, and who issued it.
fn rsa_chain(name: &str) -> (Authority, Identity) {
    let authority = Authority::new(Kind::Rsa);
    let more: Vec<String> =
        (0..10).map(|at| format!("device-gateway-{at}.firmware.devices.example.com")).collect();
    let names: Vec<&str> = [name].into_iter().chain(more.iter().map(String::as_str)).collect();
    let identity = authority.issue(&names);
    let length = identity.certificate_message();
    assert!((1900..2200).contains(&length), "the message has {length} bytes");
    (authority, identity)
}

// --- which profile

#[tokio::test(flavor = "multi_thread")]
async fn a_server_name_chooses_and_caps_the_handshake_too() {
    logs::capture();
    let wanted = body(10_000);
    let origin = origin_with(&["fw.bin"], &wanted).await;
    let (_, identity) = rsa_chain("small.example");
    let message = identity.certificate_message();
    let profiles = "[{name: small, match: {sni: small.example}, chunk_size: 1024}]";
    let dripline = dripline(&origin, profiles).chunk(4096).identity(identity).start().await;
    for version in BOTH {
        for (name, cap, certificate) in [
            (Some("Small.Example"), 1024, 1024),
            (Some("x.example"), 4096, message),
            (None, 4096, message),
        ] {
            let offer = Offer { server_name: name, ..only(version) };
            let mut client = Client::offering(dripline.https, &offer).await;
            // TLS 1.2 counts 3 bytes less, and 2 less for each of two certificates.
            let cut = largest(&client.records());
            assert!(cut <= certificate && cut + 5 >= certificate, "{cut}, not {certificate}");
            let fetched = fetch(&mut client, "fw.bin", "", &wanted).await;
            assert_eq!(fetched.record(), cap, "{name:?}");
            assert!(largest(&client.records()) <= cap);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_keeps_the_profile_of_its_server_name() {
    let wanted = body(5000);
    let origin = origin_with(&["fw.bin"], &wanted).await;
    let profiles = "[{name: small, match: {sni: small.example}, chunk_size: 1024}]";
    let dripline = dripline(&origin, profiles).start().await;
    for version in BOTH {
        let offer = Offer { server_name: Some("small.example"), ..only(version) };
        let mut first = Client::offering(dripline.https, &offer).await;
        assert_eq!(fetch(&mut first, "fw.bin", "", &wanted).await.record(), 1024);
        let again = Offer { resume: Some(&first), ..offer };
        let mut second = Client::offering(dripline.https, &again).await;
        assert!(second.stream.ssl().session_reused());
        assert_eq!(fetch(&mut second, "fw.bin", "", &wanted).await.record(), 1024, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_chooses_larger_and_smaller_records_than_the_handshakes() {
    let wanted = body(40_000);
    let keys = ["tiny/a", "big/a", "a"];
    let origin = origin_with(&keys, &wanted).await;
    let profiles = "[{name: big, match: {key_prefix: big/}, chunk_size: 16384}, \
                     {name: tiny, match: {key_prefix: tiny/}, chunk_size: 128}]";
    let dripline = dripline(&origin, profiles).chunk(2048).start().await;
    for version in BOTH {
        let mut client = Client::offering(dripline.https, &only(version)).await;
        assert!(largest(&client.records()) <= 2048);
        for (key, chunk) in
            [("tiny/a", 128), ("big/a", 16_384), ("a", 2048), ("tiny/a", 128), ("big/a", 16_384)]
        {
            let fetched = fetch(&mut client, key, "", &wanted).await;
            assert_eq!(fetched.record(), chunk, "{key}");
            assert!(largest(&fetched.head) <= chunk, "the head of {key}: {:?}", fetched.head);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_network_and_header_choose_and_the_first_that_fits_wins() {
    logs::capture();
    let wanted = body(5000);
    let keys = ["l", "n", "h", "both", "d"];
    let origin = origin_with(&keys, &wanted).await;
    let profiles = "[{name: agent, match: {header: {User-Agent: modem/*}, client: 127.0.0.0/8}, chunk_size: 512}, \
                     {name: modems, match: {client: [192.0.2.0/24, 127.0.0.3]}, chunk_size: 1024}, \
                     {name: port, match: {listener: '127.0.0.2:0'}, chunk_size: 2048}, \
                     {name: never, match: {listener: '127.0.0.2:0'}, chunk_size: 64}]";
    let listen = "[{addr: '127.0.0.1:0', tls: {}}, {addr: '127.0.0.2:0', tls: {}}]";
    let dripline = dripline(&origin, profiles).set("DRIPLINE__LISTEN", listen).start().await;
    let agent = "User-Agent: modem/1.0\r\n";
    let third: IpAddr = "127.0.0.3".parse().unwrap();
    for (key, listener, from, headers, profile, chunk) in [
        ("l", 1, None, "", "port", 2048),
        ("n", 1, Some(third), "", "modems", 1024),
        ("h", 0, None, agent, "agent", 512),
        ("both", 1, Some(third), agent, "agent", 512),
        ("d", 0, None, "User-Agent: a modem/1.0\r\n", "default", 4096),
    ] {
        let offer = Offer { from, ..Offer::default() };
        let mut client = Client::offering(dripline.listeners[listener], &offer).await;
        let fetched = fetch(&mut client, key, headers, &wanted).await;
        assert_eq!((fetched.record(), logged_profile(key).as_str()), (chunk, profile), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_client_of_an_ipv6_listener_is_in_its_ipv4_network() {
    let wanted = body(3000);
    let origin = origin_with(&["a"], &wanted).await;
    let profiles = "[{name: four, match: {client: 127.0.0.0/8}, chunk_size: 512}]";
    let listen = "[{addr: '[::]:0', tls: {}}]";
    let dripline = dripline(&origin, profiles).set("DRIPLINE__LISTEN", listen);
    let dripline = dripline.identity(rsa_chain("localhost").1).start().await;
    let addr = ([127, 0, 0, 1], dripline.https.port()).into();
    let mut client = Client::offering(addr, &Offer::default()).await;
    assert!(largest(&client.records()) <= 512);
    assert_eq!(fetch(&mut client, "a", "", &wanted).await.record(), 512);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_header_moves_the_schedule_within_the_bounds() {
    let wanted = body(20_000);
    let origin = origin_with(&["a"], &wanted).await;
    let profiles = "[{name: a, match: {client: 127.0.0.0/8}, chunk_size: 4096, wait: 0, \
                      bounds: {chunk_size: [512, 8192], wait: [0, 300ms]}}]";
    let trusted = "{name: X-Drip, from: [127.0.0.1/32]}";
    let dripline = dripline(&origin, profiles).set("DRIPLINE__DRIP__TRUSTED_HEADER", trusted);
    let dripline = dripline.start().await;
    let second: IpAddr = "127.0.0.2".parse().unwrap();
    for (wish, from, chunk, wait) in [
        ("chunk_size=1024", None, 1024, 0),
        ("chunk_size=64", None, 512, 0),
        ("chunk_size=16384", None, 8192, 0),
        ("chunk_size=8192, wait=150ms", None, 8192, 150),
        ("wait=1h,chunk_size=8192", None, 8192, 300),
        ("chunk_size=1024", Some(second), 4096, 0),
        ("chunk_size=1", None, 4096, 0),
        ("chunk_size=1024; wait=1h", None, 4096, 0),
        ("chunk_size=\u{e9}", None, 4096, 0),
        ("", None, 4096, 0),
    ] {
        let mut client =
            Client::offering(dripline.https, &Offer { from, ..Offer::default() }).await;
        let header = format!("X-Drip: {wish}\r\n");
        let fetched = fetch(&mut client, "a", &header, &wanted).await;
        assert_eq!(fetched.record(), chunk, "{wish}");
        let (body, wait) = (&fetched.body, Duration::from_millis(wait));
        assert_total(&body[0], &body[body.len() - 1], body.len() - 1, wait);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_profile_has_its_own_head() {
    let wanted = body(100);
    let origin = origin_with(&["a", "one/a", "none/a"], &wanted).await;
    let profiles = "[{name: one, match: {key_prefix: one/}, response_headers: [x-amz-id-2]}, \
                     {name: none, match: {key_prefix: none/}, response_headers: []}]";
    let dripline = dripline(&origin, profiles)
        .set("DRIPLINE__DRIP__RESPONSE_HEADERS", "[x-amz-*]")
        .start()
        .await;
    let mut client = Client::offering(dripline.https, &Offer::default()).await;
    let all = ["x-amz-server-side-encryption", "x-amz-id-2", "x-amz-request-id"];
    for (key, wanted_names) in [("a", &all[..]), ("one/a", &["x-amz-id-2"]), ("none/a", &[])] {
        let response = fetch(&mut client, key, "", &wanted).await.response;
        let names = response.headers.iter().map(|(name, _)| name.as_str());
        let amazon: Vec<_> = names.filter(|name| name.starts_with("x-amz-")).collect();
        assert_eq!(amazon, wanted_names, "{key}");
    }
}

// --- a client with a limit of its own

/// The body's records for a client with max_fragment_length 512 where 4,096 bytes are configured.
async fn limited_to_512(version: SslVersion, fill: bool, wait: &str, length: usize) -> Vec<Record> {
    let wanted = body(length);
    let origin = origin_with(&["a"], &wanted).await;
    let profiles =
        format!("[{{name: a, match: {{client: 127.0.0.0/8}}, wait: {wait}, fill: {fill}}}]");
    let dripline = dripline(&origin, &profiles).chunk(4096).start().await;
    let offer = Offer { max_fragment_length: Some(MFL_512), ..only(version) };
    let mut client = Client::offering(dripline.https, &offer).await;
    assert_eq!(client.version(), version);
    let fetched = fetch(&mut client, "a", "", &wanted).await;
    assert_eq!(fetched.record(), 512);
    assert!(largest(&client.records()) <= 512);
    fetched.body
}

/// From tick to tick at least 0.4 waits.
#[track_caller]
fn assert_ticks(ticks: &[&Record], wait: Duration) {
    for pair in ticks.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= wait.mul_f64(0.4), "a gap of {gap:?}");
    }
    assert_total(ticks[0], ticks[ticks.len() - 1], ticks.len() - 1, wait);
}

/// So many waits together take as long as the schedule says, and not much more. On a busy machine
/// the first record may be read late and the last in time, never the other way round for long.
#[track_caller]
fn assert_total(first: &Record, last: &Record, steps: usize, wait: Duration) {
    let (spent, due) = (last.at - first.at, wait * u32::try_from(steps).unwrap());
    assert!(spent >= due.saturating_sub(wait.mul_f64(0.4)), "{spent:?} instead of {due:?}");
    assert!(spent < due * 3 + Duration::from_secs(5), "{spent:?} instead of {due:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_of_the_clients_own_limit_leaves_per_wait() {
    let check = async |version| {
        let records = limited_to_512(version, false, "400ms", 6 * 512).await;
        assert_ticks(&records.iter().collect::<Vec<_>>(), Duration::from_millis(400));
    };
    tokio::join!(check(SslVersion::TLS1_2), check(SslVersion::TLS1_3));
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_sends_as_many_of_them_as_make_up_the_chunk() {
    let check = async |version| {
        let records = limited_to_512(version, true, "500ms", 4 * 4096).await;
        let firsts: Vec<&Record> = records.iter().step_by(8).collect();
        assert_ticks(&firsts, Duration::from_millis(500));
        for (last, next) in records[7..].iter().step_by(8).zip(&firsts[1..]) {
            assert!(next.at - last.at >= Duration::from_millis(200), "a tick is not one of eight");
        }
    };
    tokio::join!(check(SslVersion::TLS1_2), check(SslVersion::TLS1_3));
}

#[tokio::test(flavor = "multi_thread")]
async fn max_fragment_length_prefers_tls_1_2_if_it_may() {
    let origin = origin_with(&[], b"").await;
    for (prefers, both) in [(true, SslVersion::TLS1_2), (false, SslVersion::TLS1_3)] {
        let listen = format!(
            "[{{addr: '127.0.0.1:0', tls: {{max_fragment_length_prefers_tls12: {prefers}}}}}]"
        );
        let dripline = dripline(&origin, "[]").set("DRIPLINE__LISTEN", &listen).start().await;
        let version =
            async |offer: Offer<'_>| Client::offering(dripline.https, &offer).await.version();
        let asks = Offer { max_fragment_length: Some(MFL_512), ..Offer::default() };
        assert_eq!(version(asks).await, both);
        assert_eq!(version(Offer::default()).await, SslVersion::TLS1_3);
        let asks_in_13 = Offer { max_fragment_length: Some(MFL_512), ..only(SslVersion::TLS1_3) };
        assert_eq!(version(asks_in_13).await, SslVersion::TLS1_3);
    }
}

// --- certificates

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_the_chain_that_it_can_verify() {
    let origin = origin_with(&[], b"").await;
    let (ecdsa, rsa) = (Authority::new(Kind::Ecdsa), Authority::new(Kind::Rsa));
    let name = "both.example";
    let (ecdsa_chain, rsa_chain) = (ecdsa.issue(&[name]), rsa.issue(&[name]));
    let (ecdsa_pem, rsa_pem) = (ecdsa.pem(), rsa.pem());
    let files = Files::new();
    files.put("ecdsa", &ecdsa_chain);
    files.put("rsa", &rsa_chain);
    for order in [["ecdsa", "rsa"], ["rsa", "ecdsa"]] {
        let listen = files.listen(&order, "");
        let dripline = dripline(&origin, "[]").set("DRIPLINE__LISTEN", &listen).start().await;
        for version in BOTH {
            let modern = only(version);
            let takes_rsa = Offer {
                sigalgs: Some("rsa_pss_rsae_sha256:RSA+SHA256"),
                ciphers: "ECDHE-RSA-AES128-GCM-SHA256",
                ..modern
            };
            let takes_ecdsa = Offer {
                sigalgs: Some("ecdsa_secp256r1_sha256"),
                ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256",
                ..modern
            };
            let rather_rsa = Offer {
                sigalgs: Some("rsa_pss_rsae_sha256:RSA+SHA256:ecdsa_secp256r1_sha256"),
                ciphers: "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256",
                ..modern
            };
            for (offer, trust, wanted) in [
                (modern, &ecdsa_pem, &ecdsa_chain),
                (rather_rsa, &ecdsa_pem, &ecdsa_chain),
                (takes_ecdsa, &ecdsa_pem, &ecdsa_chain),
                (takes_rsa, &rsa_pem, &rsa_chain),
            ] {
                for server_name in [Some(name), None] {
                    let offer = Offer { server_name, trust: Some(trust), ..offer };
                    let client = Client::offering(dripline.https, &offer).await;
                    assert!(client.chain() == der(wanted), "{order:?} {server_name:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_gets_its_certificate_and_all_others_the_first() {
    let origin = origin_with(&[], b"").await;
    let authority = Authority::new(Kind::Ecdsa);
    let (files, names) = (Files::new(), ["a.example", "b.example", "*.c.example"]);
    let [a, b, c] = names.map(|name| authority.issue(&[name]));
    for (file, identity) in [("a", &a), ("b", &b), ("c", &c)] {
        files.put(file, identity);
    }
    let listen = files.listen(&["a", "b", "c"], "");
    let profiles = "[{name: b, match: {sni: b.example}, chunk_size: 256}]";
    let dripline = dripline(&origin, profiles).set("DRIPLINE__LISTEN", &listen).start().await;
    for version in BOTH {
        for (server_name, wanted) in [
            (Some("a.example"), &a),
            (Some("b.example"), &b),
            (Some("B.Example"), &b),
            (Some("x.c.example"), &c),
            (Some("c.example"), &a),
            (Some("x.y.c.example"), &a),
            (Some("unknown.example"), &a),
            (None, &a),
        ] {
            let offer = Offer { server_name, ..only(version) };
            let client = Client::offering(dripline.https, &offer).await;
            assert!(client.chain() == der(wanted), "{server_name:?}");
            // The name's own certificate does not undo the name's own cap.
            assert_eq!(largest(&client.records()) <= 256, std::ptr::eq(wanted, &b));
        }
    }
}

/// Waits until new handshakes are shown that certificate; returns after how long.
async fn until_shown(dripline: &Dripline, wanted: &Identity) -> Duration {
    let start = Instant::now();
    while Client::offering(dripline.https, &Offer::default()).await.chain() != der(wanted) {
        assert!(start.elapsed() < Duration::from_secs(15), "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_200_drips() {
    const DRIPS: usize = 200;
    const ALL: u64 = DRIPS as u64;
    logs::capture();
    let _ = rlimit::increase_nofile_limit(4096);
    let wanted = body(20 * 1024 + 10);
    let origin = origin_with(&["a"], &wanted).await;
    let files = Files::new();
    let [first, second, third] = [(); 3].map(|()| Identity::self_signed(&["localhost"]).unwrap());
    files.put("a", &first);
    let listen = files.listen(&["a"], "");
    let dripline = dripline(&origin, "[]").set("DRIPLINE__LISTEN", &listen);
    let dripline = dripline.chunk(1024).wait("400ms").start().await;

    let trust = first.cert_pem().unwrap();
    let connected = Arc::new(Barrier::new(DRIPS));
    let mut drips = JoinSet::new();
    for at in 0..DRIPS {
        let (addr, trust, wanted) = (dripline.https, trust.clone(), wanted.clone());
        let connected = Arc::clone(&connected);
        drips.spawn(async move {
            let mut client = Client::connect(addr, BOTH[at % 2], &trust).await;
            connected.wait().await;
            assert_eq!(fetch(&mut client, "a", "", &wanted).await.record(), 1024);
        });
    }
    dripline.until("dripline_drips", ALL).await;

    files.put("a", &second);
    dripline.reload.send_modify(|count| *count += 1);
    until_shown(&dripline, &second).await;
    assert_eq!(dripline.metric("dripline_drips"), ALL, "it changed while they ran");

    let broken = files.path("a", "crt");
    files.replace(&broken, b"no certificate");
    dripline.reload.send_modify(|count| *count += 1);
    let warning = format!(
        "WARN dripline::tls::reload listen[0].tls: the old certificates stay: {}: not a PEM",
        broken.display()
    );
    let warned = || logs::lines().iter().any(|line| line.starts_with(&warning));
    support::eventually(Duration::from_secs(10), warned).await.expect("a warning");
    until_shown(&dripline, &second).await;
    assert_eq!(dripline.metric("dripline_drips"), ALL, "it broke while they ran");

    // Nobody says that these are new.
    files.put("a", &third);
    until_shown(&dripline, &third).await;
    while let Some(drip) = drips.join_next().await {
        drip.unwrap();
    }
    dripline.until("dripline_drips_ended_total{end=\"done\"}", ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_tickets_are_sent_as_configured_and_each_within_the_cap() {
    let wanted = body(1000);
    let origin = origin_with(&["a"], &wanted).await;
    for tickets in 0..=2 {
        for cap in [128, 4096] {
            let listen = format!("[{{addr: '127.0.0.1:0', tls: {{tickets: {tickets}}}}}]");
            let dripline = dripline(&origin, "[]").set("DRIPLINE__LISTEN", &listen);
            let dripline = dripline.chunk(cap).start().await;
            let mut client = Client::offering(dripline.https, &only(SslVersion::TLS1_3)).await;
            fetch(&mut client, "a", "", &wanted).await;
            assert_eq!(client.sessions().len(), tickets);
            assert!(largest(&client.records()) <= cap);
            let mut client = Client::offering(dripline.https, &only(SslVersion::TLS1_2)).await;
            fetch(&mut client, "a", "", &wanted).await;
            assert_eq!(client.sessions().len(), tickets.min(1));
            assert!(largest(&client.records()) <= cap);
        }
    }
}

/// The plaintext of the handshake records that came before change_cipher_spec: one item each.
fn plaintext_handshake(received: &[u8]) -> Vec<&[u8]> {
    let (mut records, mut rest) = (Vec::new(), received);
    while let [22, _, _, high, low, after @ ..] = rest {
        let (record, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        records.push(record);
        rest = after;
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_2000_bytes_is_one_message_in_one_record() {
    let origin = origin_with(&[], b"").await;
    let (_, identity) = rsa_chain("localhost");
    let message = identity.certificate_message();
    let dripline = dripline(&origin, "[]").chunk(4096).identity(identity).start().await;

    let client = Client::offering(dripline.https, &only(SslVersion::TLS1_3)).await;
    let alike = client.records().iter().filter(|record| record.plaintext == message).count();
    assert_eq!(alike, 1, "{:?}", client.records());

    let client = Client::offering(dripline.https, &only(SslVersion::TLS1_2)).await;
    let received = client.received();
    let mut types = Vec::new();
    for record in plaintext_handshake(&received) {
        let length = u32::from_be_bytes([0, record[1], record[2], record[3]]) as usize;
        assert_eq!(record.len(), 4 + length, "one message in one record");
        types.push(record[0]);
        if record[0] == 11 {
            // No context, and no extensions of two certificates.
            assert_eq!(record.len(), message - 1 - 2 * 2);
        }
    }
    // server_hello, certificate, server_key_exchange, server_hello_done, new_session_ticket
    assert_eq!(types, [2, 11, 12, 14, 4]);
}

#[tokio::test]
async fn a_chain_that_does_not_fit_a_cap_is_warned_of_with_both_figures() {
    let (_, identity) = rsa_chain("localhost");
    let files = Files::new();
    files.put("a", &identity);
    let warnings = |chunk| {
        let builder = Dripline::in_front_of("http://127.0.0.1:9", "samples")
            .set("DRIPLINE__LISTEN", &files.listen(&["a"], ""))
            .chunk(chunk);
        builder.config().warnings
    };
    assert_eq!(warnings(4096), [""; 0]);
    let message = identity.certificate_message().to_string();
    let warned = warnings(1024);
    assert!(
        warned.iter().any(|warning| warning.contains(&message) && warning.contains("1024")),
        "{warned:?}"
    );
}

// --- a client that goes

/// Fetches until the first body record has come, waits, and resets the connection.
async fn go_after_a_record(
    dripline: &Dripline,
    version: SslVersion,
    mfl: Option<u8>,
    after: Duration,
) {
    let offer = Offer { max_fragment_length: mfl, ..only(version) };
    let mut client = Client::offering(dripline.https, &offer).await;
    client.stream.write_all(&head("GET", b"/file/a", "")).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(client.stream.read_u8().await.unwrap());
    }
    client.stream.read_u8().await.unwrap();
    tokio::time::sleep(after).await;
    client.stream.get_ref().reset_on_close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_right_after_a_record_is_logged_and_counted() {
    logs::capture();
    let origin = origin_with(&["a"], &body(50_000)).await;
    let profiles = "[{name: overrun, match: {client: 127.0.0.0/8}}]";
    for (profiles, profile) in [(profiles, "overrun"), ("[]", "default")] {
        let dripline = dripline(&origin, profiles).wait("10s").start().await;
        let gone = |record| {
            format!(
                "dripline_clients_gone_after_record_total{{profile=\"{profile}\",record=\"{record}\"}}"
            )
        };
        for (at, (version, mfl, size, offer)) in [
            (SslVersion::TLS1_2, None, 4096, "none"),
            (SslVersion::TLS1_3, None, 4096, "none"),
            (SslVersion::TLS1_2, Some(MFL_512), 512, "max_fragment_length:512"),
        ]
        .into_iter()
        .enumerate()
        {
            go_after_a_record(&dripline, version, mfl, Duration::ZERO).await;
            dripline.until(&gone("first"), at as u64 + 1).await;
            let start = format!("client gone after record 1 of {size} bytes client=127.0.0.1:");
            let end = format!(" profile={profile} offer={offer}");
            let logged = |line: &String| line.contains(&start) && line.ends_with(&end);
            let logged = || logs::lines().iter().any(logged);
            let logged = support::eventually(Duration::from_secs(5), logged).await;
            logged.unwrap_or_else(|| panic!("{start}…{end} in {:#?}", logs::lines()));
        }
        go_after_a_record(&dripline, SslVersion::TLS1_3, None, Duration::from_millis(1500)).await;
        dripline.until("dripline_drips_ended_total{end=\"client\"}", 4).await;
        assert_eq!((dripline.metric(&gone("first")), dripline.metric(&gone("later"))), (3, 0));
    }
}
