//! Real devices and ordinary clients: TLS stacks in the size that small hardware has, built by
//! `tests/devices/build`, and the command line clients of GnuTLS and OpenSSL. Each fetches through
//! dripline, with a relay between them that sees every record; the devices are also shown to fail at
//! the records that other servers send.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

#[path = "devices/clients.rs"]
mod clients;
#[path = "devices/hello.rs"]
mod hello;
#[path = "devices/programs.rs"]
mod programs;
#[path = "devices/relay.rs"]
mod relay;

use clients::{BOTH, Setting, assert_gnutls, assert_resumed};
use dripline::demo::origin::{Origin, OriginOptions};
use dripline::tls::identity::Identity;
use programs::{Ordinary, Outcome, built, file, run};
use relay::{Conversation, Relay};
use support::Dripline;

/// Bytes of the object that devices fetch.
const OBJECT: usize = 300 * 1024;

/// A full record (RFC 8446 §5.1).
const FULL: usize = 16_384;

/// A device: a program, what it is told to offer, the record it has room for, and what it says of
/// one that is larger.
struct Device {
    program: &'static str,
    options: &'static [&'static str],
    record: usize,
    error: &'static str,
}

/// Devices that offer nothing about record sizes: OpenSSL sends them what it sends everyone.
#[rustfmt::skip]
const SILENT: [Device; 9] = [
    Device { program: "mbedtls-2.28-4096", options: &[], record: 4096, error: "-0x7100" },
    Device { program: "mbedtls-2.28-2048", options: &[], record: 2048, error: "-0x7100" },
    Device { program: "mbedtls-3.6", options: &[], record: 4096, error: "-0x7100" },
    Device { program: "mbedtls-3.6", options: &["--tls12"], record: 4096, error: "-0x7100" },
    Device { program: "mbedtls-3.6", options: &["--tls13"], record: 4096, error: "-0x7100" },
    Device { program: "wolfssl", options: &["--tls12"], record: 4096, error: "-125 out of memory error" },
    Device { program: "wolfssl", options: &["--tls13"], record: 4096, error: "-125 out of memory error" },
    Device { program: "embedded-tls", options: &[], record: 4096, error: "InsufficientSpace" },
    // Room for 2048 bytes is room for 512.
    Device { program: "mbedtls-2.28-2048", options: &[], record: 512, error: "-0x7100" },
];

/// Devices that offer max_fragment_length or record_size_limit. A server is free to ignore the
/// one and the other, and then they fail as well. BearSSL always offers what it has room for;
/// mbedTLS 3.6 leaves max_fragment_length out if TLS 1.3 is all it offers.
#[rustfmt::skip]
const OFFERING: [Device; 8] = [
    Device { program: "bearssl-4096", options: &[], record: 4096, error: "BR_ERR_TOO_LARGE" },
    Device { program: "bearssl-512", options: &[], record: 512, error: "BR_ERR_TOO_LARGE" },
    Device { program: "mbedtls-3.6", options: &["--tls12", "--mfl", "2048"], record: 4096, error: "-0x7100" },
    Device { program: "mbedtls-3.6-rsl", options: &["--rsl"], record: 4096, error: "-0x7100" },
    Device { program: "mbedtls-3.6-rsl", options: &["--rsl", "--tls13"], record: 4096, error: "-0x7100" },
    Device { program: "wolfssl", options: &["--mfl", "2048"], record: 4096, error: "-125 out of memory error" },
    Device { program: "embedded-tls", options: &["--mfl", "1024"], record: 4096, error: "InsufficientSpace" },
    Device { program: "embedded-tls", options: &["--mfl", "512"], record: 512, error: "InsufficientSpace" },
];

/// Offers max_fragment_length and both versions, but fails if TLS 1.3 answers the extension. It gets
/// TLS 1.2.
const STEERED: Device =
    Device { program: "mbedtls-3.6", options: &["--mfl", "1024"], record: 4096, error: "-0x7100" };

impl Device {
    async fn get(&self, port: &str, ca: &str, path: &str) -> Outcome {
        let args = [&["localhost", port, ca, path], self.options].concat();
        run(built(self.program), &args, b"").await
    }

    fn name(&self) -> String {
        format!("{} {} at {}", self.program, self.options.join(" "), self.record)
    }

    /// The largest record that it may be sent: what it has room for, or less if it says so.
    fn limit(&self) -> usize {
        let offer = self.options.iter().position(|option| *option == "--mfl");
        let mfl = offer.map(|at| self.options[at + 1].parse().unwrap());
        // In TLS 1.3 record_size_limit counts the content type (RFC 8449 §4).
        let rsl = self.options.contains(&"--rsl").then_some(4096 - 1);
        [Some(self.record), mfl, rsl].into_iter().flatten().min().unwrap()
    }
}

/// A body in which no two parts are equal.
fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

fn identity() -> Identity {
    Identity::self_signed(&["localhost", "127.0.0.1"]).unwrap()
}

async fn origin(options: OriginOptions, body: &[u8]) -> Origin {
    let origin = Origin::start(OriginOptions { public: true, ..options }).await.unwrap();
    origin.put("fw.bin", body.to_vec(), "application/octet-stream").await.unwrap();
    origin
}

fn dripline(origin: &Origin, chunk: usize) -> support::Builder {
    Dripline::in_front_of(&format!("http://{}", origin.addr()), "samples").chunk(chunk)
}

/// The device gets the object through dripline, whole, in records that it has room for.
async fn assert_served(device: &Device, origin: &Origin, wanted: &[u8]) -> Conversation {
    let name = device.name();
    let dripline = dripline(origin, device.record).start().await;
    let relay = Relay::to(dripline.https).await;
    let ca = file(&dripline.cert);
    let got = device.get(&relay.port(), ca.path().to_str().unwrap(), "/file/fw.bin").await;
    assert_eq!(got.code, 0, "{name}: {}", got.stderr);
    assert!(got.stdout == wanted, "{name}: the body differs");
    let conversation = relay.conversations().remove(0);
    let largest = conversation.largest();
    assert!(largest <= device.limit(), "{name}: a record of {largest} bytes");
    conversation
}

/// The device fails at a server that sends full records, and says why.
async fn assert_fails(device: &Device, server: std::net::SocketAddr, ca: &str, path: &str) {
    let name = device.name();
    let relay = Relay::to(server).await;
    let got = device.get(&relay.port(), ca, path).await;
    assert_eq!(got.code, 1, "{name} survives records of {FULL} bytes: {}", got.stderr);
    let error = device.error;
    assert!(got.stderr.contains(error), "{name} fails with {:?}, not {error}", got.stderr);
    let largest = relay.conversations().remove(0).largest();
    assert_eq!(largest, FULL, "{name}: {}", got.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_offer_nothing_are_served() {
    let wanted = body(OBJECT);
    let origin = origin(OriginOptions::default(), &wanted).await;
    for device in &SILENT {
        assert_served(device, &origin, &wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_devices_fail_at_an_ordinary_server() {
    let wanted = body(OBJECT);
    let identity = identity();
    let tls = Some((identity.chain().to_vec(), identity.key().clone()));
    let origin = origin(OriginOptions { tls, ..OriginOptions::default() }, &wanted).await;
    let ca = file(&identity.cert_pem().unwrap());
    for device in &SILENT {
        let ca = ca.path().to_str().unwrap();
        assert_fails(device, origin.addr(), ca, "/samples/fw.bin").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_make_an_offer_are_served() {
    let wanted = body(OBJECT);
    let origin = origin(OriginOptions::default(), &wanted).await;
    for device in &OFFERING {
        if !device.options.contains(&"--rsl") {
            assert_served(device, &origin, &wanted).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_devices_fail_at_a_server_that_ignores_the_offer() {
    let (cert, _key, ordinary) = ordinary().await;
    for device in OFFERING.iter().chain([&STEERED]) {
        assert_fails(device, ordinary.addr, cert.path().to_str().unwrap(), "/fw.bin").await;
    }
}

/// A server that ignores offers, its certificate and its key.
async fn ordinary() -> (tempfile::NamedTempFile, tempfile::NamedTempFile, Ordinary) {
    let identity = identity();
    let cert = file(&identity.cert_pem().unwrap());
    let key = file(&identity.key().private_key_to_pem_pkcs8().unwrap());
    let object = file(&body(OBJECT));
    let ordinary = Ordinary::start(cert.path(), key.path(), object.path()).await;
    (cert, key, ordinary)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_rejects_the_answer_in_tls_1_3_gets_tls_1_2() {
    let wanted = body(OBJECT);
    let origin = origin(OriginOptions::default(), &wanted).await;
    let conversation = assert_served(&STEERED, &origin, &wanted).await;
    assert_eq!(conversation.version, 0x0303);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_with_record_size_limit_are_served() {
    let wanted = body(OBJECT);
    let origin = origin(OriginOptions::default(), &wanted).await;
    for device in &OFFERING {
        if device.options.contains(&"--rsl") {
            let conversation = assert_served(device, &origin, &wanted).await;
            assert_eq!(conversation.version, 0x0304);
        }
    }
}

/// Limits for which max_fragment_length has no code.
#[tokio::test(flavor = "multi_thread")]
async fn gnutls_may_ask_for_any_limit() {
    assert_gnutls(&[513, 1000, 3000, 4095]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resuming_client_may_change_its_offer() {
    let setting = Setting::new().await;
    for version in BOTH {
        for (first, second) in [(512, 4096), (4096, 512), (512, 0), (0, 512)] {
            assert_resumed(&setting, version, first, second).await;
        }
    }
}
