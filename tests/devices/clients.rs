//! The command line clients of GnuTLS and OpenSSL, with every limit that they can ask for, in both
//! versions, resuming or not: no record is larger than the limit from the server's first flight on.

use std::path::Path;

use dripline::demo::origin::OriginOptions;

use super::programs::{Outcome, file, run};
use super::relay::{Conversation, Relay};
use super::{body, dripline, origin};

/// Bytes of the object.
const OBJECT: usize = 50 * 1024;

const REQUEST: &[u8] = b"GET /file/fw.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

pub const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

impl Version {
    fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

/// gnutls-cli, which offers both record_size_limit and, where RFC 6066 has a code for it,
/// max_fragment_length.
async fn gnutls(version: Version, limit: usize, more: &[&str], ca: &Path, port: &str) -> Outcome {
    let versions = match version {
        Version::Tls12 => "NORMAL:-VERS-ALL:+VERS-TLS1.2",
        Version::Tls13 => "NORMAL:-VERS-ALL:+VERS-TLS1.3",
    };
    let limit = format!("--recordsize={limit}");
    let log = file(b"");
    let (ca, logfile) =
        (format!("--x509cafile={}", ca.display()), format!("--logfile={}", log.path().display()));
    let priority = format!("--priority={versions}");
    let args = [&[&*priority, &limit, &ca, &logfile, "--port", port], more, &["127.0.0.1"]];
    let mut outcome = run("gnutls-cli", &args.concat(), REQUEST).await;
    outcome.stderr += &std::fs::read_to_string(log.path()).unwrap();
    outcome
}

/// openssl s_client, which offers max_fragment_length, or nothing with a limit of 0.
pub async fn s_client(
    version: Version,
    limit: usize,
    more: &[&str],
    ca: &Path,
    port: &str,
) -> Outcome {
    let (server, ca) = (format!("127.0.0.1:{port}"), ca.to_str().unwrap());
    let version = match version {
        Version::Tls12 => "-tls1_2",
        Version::Tls13 => "-tls1_3",
    };
    let bytes = limit.to_string();
    let offer: &[&str] = if limit == 0 { &[] } else { &["-maxfraglen", &bytes] };
    let args: [&[&str]; 3] = [
        &[
            "s_client",
            "-connect",
            &server,
            "-CAfile",
            ca,
            "-verify_return_error",
            "-quiet",
            version,
        ],
        offer,
        more,
    ];
    run("openssl", &args.concat(), REQUEST).await
}

/// A whole body, and of this connection no record larger than the limit.
pub fn assert_limited(
    what: &str,
    outcome: &Outcome,
    conversation: &Conversation,
    version: Version,
    limit: usize,
) {
    assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
    let got = outcome.body().unwrap_or_else(|| panic!("{what}: {}", outcome.stderr));
    assert!(got == body(OBJECT), "{what}: the body differs, {} bytes", got.len());
    assert_eq!(conversation.version, version.number(), "{what}");
    let largest = conversation.largest();
    assert!(largest <= limit, "{what}: a record of {largest} bytes");
}

/// dripline with records of 4096 bytes, and what a client needs to reach it.
pub struct Setting {
    pub relay: Relay,
    pub ca: tempfile::NamedTempFile,
    _origin: dripline::demo::origin::Origin,
    _dripline: super::Dripline,
}

impl Setting {
    pub async fn new() -> Self {
        let origin = origin(OriginOptions::default(), &body(OBJECT)).await;
        let dripline = dripline(&origin, 4096).start().await;
        let (relay, ca) = (Relay::to(dripline.https).await, file(&dripline.cert));
        Self { relay, ca, _origin: origin, _dripline: dripline }
    }

    fn last(&self) -> Conversation {
        self.relay.conversations().pop().unwrap()
    }
}

/// Every limit with gnutls-cli; the limits are those of the records, without a content type.
pub async fn assert_gnutls(limits: &[usize]) {
    let setting = Setting::new().await;
    let (ca, port) = (setting.ca.path(), setting.relay.port());
    for version in BOTH {
        for &limit in limits {
            let what = format!("gnutls-cli --recordsize {limit}, {version:?}");
            let outcome = gnutls(version, limit, &[], ca, &port).await;
            assert_limited(&what, &outcome, &setting.last(), version, limit);

            let what = format!("{what}, resuming");
            let resuming = ["--resume", "--waitresumption"];
            let outcome = gnutls(version, limit, &resuming, ca, &port).await;
            assert_limited(&what, &outcome, &setting.last(), version, limit);
            assert!(setting.last().resumed, "{what}: a full handshake");
            let conversations = setting.relay.conversations();
            let first = &conversations[conversations.len() - 2];
            assert!(first.largest() <= limit, "{what}: {} bytes at first", first.largest());
        }
    }
}

/// After a session under the first offer, a connection that brings the session and the second offer;
/// 0 is none. RFC 6066 §4 has the first apply to resumptions too, but whether the server resumes is
/// its own affair: what the client says now is what it has room for.
pub async fn assert_resumed(setting: &Setting, version: Version, first: usize, second: usize) {
    let (ca, port) = (setting.ca.path(), setting.relay.port());
    let session = file(b"");
    let session = session.path().to_str().unwrap();
    let limit = |offer| if offer == 0 { 4096 } else { offer };

    let what = format!("openssl s_client -maxfraglen {first}, {version:?}");
    let outcome = s_client(version, first, &["-sess_out", session], ca, &port).await;
    assert_limited(&what, &outcome, &setting.last(), version, limit(first));

    let what = format!("{what}, then {second}, resuming");
    let outcome = s_client(version, second, &["-sess_in", session], ca, &port).await;
    assert_limited(&what, &outcome, &setting.last(), version, limit(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn gnutls_is_sent_no_larger_record_than_it_asks_for() {
    assert_gnutls(&[512, 1024, 2048, 4096]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_sent_no_larger_record_than_it_asks_for() {
    let setting = Setting::new().await;
    for version in BOTH {
        for limit in [0, 512, 1024, 2048, 4096] {
            assert_resumed(&setting, version, limit, limit).await;
            assert!(setting.last().resumed, "{limit}, {version:?}: a full handshake");
        }
    }
}
