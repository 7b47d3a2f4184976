//! `dripline probe` against dripline and against nginx: the report matches dripline's configuration and
//! nginx's defaults.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dripline::demo::origin::{Origin, OriginOptions};
use dripline::probe::offer::{Limit, Offer, Version};
use dripline::probe::report::Honour;
use dripline::probe::seen::{End, Response, Seen};
use dripline::probe::{self, Options, ProbeError, Report};
use dripline::tls::identity::Identity;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Name};
use serde_json::Value;
use support::Dripline;
use tempfile::TempDir;

/// The object's length: more than a probe reads.
const LENGTH: usize = 300_000;

async fn origin() -> Origin {
    let origin = Origin::start(OriginOptions { public: true, ..OriginOptions::default() });
    let origin = origin.await.unwrap();
    origin.put("fw.bin", vec![7; LENGTH], "application/octet-stream").await.unwrap();
    origin
}

fn dripline(origin: &Origin) -> support::Builder {
    Dripline::in_front_of(&format!("http://{}", origin.addr()), "samples")
}

/// Probes a dripline from a thread of its own, since the probe blocks.
async fn probe_dripline(dripline: &Dripline, key: &str) -> Report {
    let (_dir, ca) = pem(&dripline.cert);
    let url = format!("https://{}/file/{key}", dripline.https);
    let options = Options { url, ca: Some(ca) };
    let report = tokio::task::spawn_blocking(move || probe::run(&options)).await.unwrap();
    report.unwrap_or_else(|e| panic!("{e}"))
}

fn pem(text: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ca.pem");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn offers() -> impl Iterator<Item = Offer> {
    Version::ALL.into_iter().flat_map(|v| [Offer::bare(v)].into_iter().chain(Offer::limited(v)))
}

fn seen(report: &Report, offer: Offer) -> (&Seen, &Response) {
    let seen = report.seen(offer).unwrap_or_else(|| panic!("{offer}: no handshake\n{report}"));
    (seen, seen.response.as_ref().unwrap_or_else(|e| panic!("{offer}: {e}")))
}

/// A self-signed RSA certificate with that many names, of some 36 bytes each.
fn rsa(names: usize) -> Identity {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost").unwrap();
    let name = name.build();
    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_subject_name(&name).unwrap();
    cert.set_issuer_name(&name).unwrap();
    cert.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    cert.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    cert.set_pubkey(&key).unwrap();
    let mut san = SubjectAlternativeName::new();
    san.ip("127.0.0.1");
    for at in 0..names {
        san.dns(&format!("device-gateway-{at}.firmware.example"));
    }
    let san = san.build(&cert.x509v3_context(None, None)).unwrap();
    cert.append_extension(san).unwrap();
    cert.sign(&key, MessageDigest::sha256()).unwrap();
    let cert = cert.build().to_pem().unwrap();
    Identity::from_pem(&cert, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dripline_shows_its_records_and_its_pace() {
    let origin = origin().await;
    let dripline = dripline(&origin).chunk(4096).wait("50ms").start().await;
    let report = probe_dripline(&dripline, "fw.bin").await;
    for offer in offers() {
        let (seen, response) = seen(&report, offer);
        assert_eq!((seen.handshake.chain.certificates, response.status), (1, 200));
        assert_eq!(seen.handshake.chain.key, "EC P-256");
        assert_eq!(response.content_length, Some(LENGTH as u64));
        assert!(seen.handshake.cut().is_none() || offer.limit.is_some(), "{offer}\n{report}");
        assert!(seen.handshake.largest_record <= 4096);
        assert_eq!((response.head_records, response.head_shared), (1, false), "{offer}");
        assert_eq!(response.largest_head_record, response.head);
        assert!(response.largest_record <= 4096, "{offer}\n{report}");
    }
    for offer in Version::ALL.map(Offer::bare) {
        let (_, response) = seen(&report, offer);
        assert_eq!((response.largest_record, response.typical_record), (4096, 4096));
        assert_eq!(response.body_records, 64, "256 KiB of them");
        let off = response.gap.unwrap().abs_diff(Duration::from_millis(50));
        assert!(response.paced && off < Duration::from_millis(10), "{offer}\n{report}");
        assert_eq!(response.end, End::Bounded);
    }
    let limit =
        |bytes| Offer { version: Version::Tls12, limit: Some(Limit::MaxFragmentLength(bytes)) };
    for bytes in [512, 1024, 2048, 4096] {
        assert_eq!(report.honour(limit(bytes)), Some(Honour::Honoured), "{bytes}\n{report}");
    }
    assert_eq!(report.smallest_buffer().unwrap().bytes, 4096);
    assert!(report.smallest_with_a_limit().unwrap().bytes <= 1024);
    assert_eq!(report.fits(4096), Ok(()));
    let misfit = report.fits(4095).unwrap_err().to_string();
    assert_eq!(misfit, "TLS 1.2, nothing offered: body records of 4,096 bytes");
    println!("{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_2048_bytes_a_device_with_2048_is_served() {
    let origin = origin().await;
    let dripline = dripline(&origin).chunk(2048).start().await;
    let report = probe_dripline(&dripline, "fw.bin").await;
    assert_eq!(report.fits(2048), Ok(()), "{report}");
    assert_eq!(report.smallest_buffer().unwrap().bytes, 2048);
    let (_, response) = seen(&report, Offer::bare(Version::Tls12));
    assert!(!response.paced, "without a wait: {:?}", response.gap);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_chain_is_named_and_so_is_its_cut() {
    let origin = origin().await;
    let dripline = dripline(&origin).chunk(1024).identity(rsa(110)).start().await;
    let report = probe_dripline(&dripline, "fw.bin").await;
    for offer in Version::ALL.map(Offer::bare) {
        let (seen, response) = seen(&report, offer);
        let certificate = seen.handshake.certificate().unwrap();
        assert!(certificate.length > seen.handshake.chain.bytes && certificate.length > 4096);
        // The TLS 1.2 message begins behind ServerHello or in a record of its own.
        let least = certificate.length.div_ceil(1024);
        assert!((least..=least + 1).contains(&certificate.records), "{certificate:?}");
        assert_eq!(seen.handshake.chain.key, "RSA 2048");
        assert_eq!(seen.handshake.largest_record, 1024);
        assert_eq!(response.largest_record, 1024);
    }
    let misfit = |bytes| report.fits(bytes).unwrap_err().to_string();
    assert!(misfit(2048).starts_with("TLS 1.2, nothing offered: the Certificate message is 4,"));
    assert!(misfit(16_384).contains("is cut into"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_fits_a_record_comes_in_one() {
    let origin = origin().await;
    let dripline = dripline(&origin).chunk(4096).identity(rsa(36)).start().await;
    let report = probe_dripline(&dripline, "fw.bin").await;
    for offer in Version::ALL.map(Offer::bare) {
        let (seen, _) = seen(&report, offer);
        let certificate = seen.handshake.certificate().unwrap();
        assert!((1800..2300).contains(&certificate.length), "{certificate:?}");
        assert_eq!(seen.handshake.cut(), None, "{report}");
    }
    assert_eq!(report.fits(4096), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_answer_is_read_to_its_end() {
    let origin = origin().await;
    origin.put("short.bin", vec![1; 3000], "application/octet-stream").await.unwrap();
    let dripline = dripline(&origin).chunk(1024).start().await;
    let report = probe_dripline(&dripline, "short.bin").await;
    let (_, response) = seen(&report, Offer::bare(Version::Tls13));
    assert_eq!((response.body, response.body_records), (3000, 3));
    assert_eq!(response.end, End::Complete { close_notify: Some(true) });

    let missing = probe_dripline(&dripline, "missing.bin").await;
    let misfit = missing.fits(16_384).unwrap_err().to_string();
    let status = seen(&missing, Offer::bare(Version::Tls12)).1.status;
    assert!(matches!(status, 403 | 404));
    assert!(misfit.contains(&format!("HTTP status {status}")), "{misfit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_trusted() {
    let origin = origin().await;
    let dripline = dripline(&origin).start().await;
    let url = format!("https://{}/file/fw.bin", dripline.https);
    let options = Options { url, ca: None };
    let outcome = tokio::task::spawn_blocking(move || probe::run(&options)).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(matches!(error, ProbeError::NotTrusted { .. }), "{error}");
    assert!(!error.is_usage() && error.to_string().contains("127.0.0.1 is not trusted"));
}

#[test]
fn nginx_sends_16_kb_records_to_a_device_that_offers_nothing() {
    let nginx = Nginx::start();
    let report = probe::run(&nginx.options()).unwrap_or_else(|e| panic!("{e}"));
    for offer in offers() {
        let (seen, response) = seen(&report, offer);
        assert_eq!(response.status, 200);
        assert!(seen.handshake.largest_record < 1024);
        assert!(response.head_shared, "{offer}: nginx sends head and body in one write");
        let (largest, honour) = match offer.limit {
            None => (16_384, None),
            Some(Limit::MaxFragmentLength(length)) => (usize::from(length), Some(Honour::Honoured)),
            Some(Limit::RecordSizeLimit(_)) => (16_384, Some(Honour::Ignored)),
        };
        assert_eq!((response.largest_record, response.typical_record), (largest, largest));
        assert_eq!(report.honour(offer), honour, "{offer}\n{report}");
        assert!(!response.paced);
    }
    let misfit = report.fits(2048).unwrap_err().to_string();
    assert_eq!(misfit, "TLS 1.2, nothing offered: body records of 16,384 bytes");
    assert_eq!(report.smallest_with_a_limit().unwrap().bytes, 512);
    println!("{report}");
}

#[test]
fn the_command_reports_by_exit_code_table_and_json() {
    let nginx = Nginx::start();
    let ca = nginx.ca();
    let (url, ca) = (nginx.url.as_str(), ca.to_str().unwrap());

    let (code, table, _) = command(&[url, "--ca", ca, "--fits", "2048"]);
    assert_eq!(code, 1, "{table}");
    assert!(table.contains("smallest device buffer that works: 16,384 bytes"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let last = table.lines().last().unwrap();
    assert_eq!(last, "2KiB does not fit: TLS 1.2, nothing offered: body records of 16,384 bytes");

    let (code, json, _) = command(&[url, "--ca", ca, "--fits", "16KiB", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, 0);
    assert_eq!(json["smallest_buffer"]["bytes"], 16_384);
    assert_eq!(json["fits"]["bytes"], 16_384);
    assert!(json["fits"]["misfit"].is_null());
    assert_eq!(json["connections"].as_array().unwrap().len(), offers().count());

    let (code, _, said) = command(&[url]);
    assert!(code == 69 && said.contains("is not trusted: self-signed certificate"), "{said}");
    let (code, _, said) = command(&["http://127.0.0.1/"]);
    assert!(code == 64 && said.contains("not https"), "{said}");
    let (code, ..) = command(&[url, "--fits", "2k"]);
    assert_eq!(code, 64);
}

fn command(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dripline"));
    let output = command.env_clear().arg("probe").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A real nginx with its default settings for TLS but the versions, which are what Debian's
/// nginx.conf has. It ends with its value.
struct Nginx {
    child: Child,
    dir: TempDir,
    url: String,
}

impl Nginx {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let identity = Identity::self_signed(&["localhost", "127.0.0.1"]).unwrap();
        let key = identity.key().private_key_to_pem_pkcs8().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        write("cert.pem", &identity.cert_pem().unwrap());
        write("key.pem", &key);
        fs::create_dir(dir.path().join("www")).unwrap();
        write("www/fw.bin", &vec![7; LENGTH]);
        let address = free_address();
        write("nginx.conf", configuration(dir.path(), address).as_bytes());
        let mut child = nginx(dir.path());
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "nginx ended: {}", log(dir.path()));
            assert!(started.elapsed() < Duration::from_secs(10), "{}", log(dir.path()));
            std::thread::sleep(Duration::from_millis(10));
        }
        let url = format!("https://localhost:{}/fw.bin", address.port());
        Self { child, dir, url }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn options(&self) -> Options {
        Options { url: self.url.clone(), ca: Some(self.ca()) }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx as a single process, so that killing it leaves no workers.
fn nginx(dir: &Path) -> Child {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("nginx");
    command.env("PATH", path).arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
    command.arg("-e").arg(dir.join("error.log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("nginx: {e} (apt-get install nginx-light)"))
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("error.log")).unwrap_or_default()
}

fn configuration(dir: &Path, address: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; events {{}}
         http {{
           access_log off;
           client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
           uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
           server {{
             listen {address} ssl;
             ssl_protocols TLSv1.2 TLSv1.3;
             ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
             root {dir}/www;
           }}
         }}"
    )
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
