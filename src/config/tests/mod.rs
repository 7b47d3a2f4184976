//! Whole configurations: every message word for word, all of them together, and which source wins.

mod env;
mod file;
mod forward_proxy;
mod kinds;
mod limits;
mod listen;
mod profiles;
mod reference;
mod reports;
mod s3;
mod secrets;
mod shaping;
mod spool;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;

use super::*;
use crate::shape;
use crate::tls::identity::Identity;
use crate::units::ByteSize;
use crate::{lifecycle, upgrade};

/// A directory of files, and the environment beside it.
struct World {
    dir: tempfile::TempDir,
    sources: Sources,
}

fn world() -> World {
    World { dir: tempfile::tempdir().unwrap(), sources: Sources::default() }
}

/// A world whose environment alone is enough to run.
fn classic() -> World {
    world().var("S3_BUCKET", "firmware").var("AWS_REGION", "ap-southeast-2")
}

impl World {
    fn var(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn yaml(mut self, text: &str) -> Self {
        self.sources.file = Some(self.write("dripline.yaml", text.as_bytes()));
        self
    }

    fn env_file(mut self, text: &str) -> Self {
        self.sources.env_file = Some(self.write(".env", text.as_bytes()));
        self
    }

    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors' lines, with the directory's name as `DIR`.
    fn errors(&self) -> Vec<String> {
        let errors = Config::load(&self.sources).expect_err("it loads").to_string();
        errors
            .replace(&self.dir.path().display().to_string(), "DIR")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// The errors of a file beside the classic names.
fn errors(yaml: &str) -> Vec<String> {
    classic().yaml(yaml).errors()
}

/// The errors of one variable beside the classic names.
fn variable_errors(name: &str, value: &str) -> Vec<String> {
    classic().var(name, value).errors()
}

fn pem() -> (Vec<u8>, Vec<u8>) {
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    (identity.cert_pem().unwrap(), identity.key().private_key_to_pem_pkcs8().unwrap())
}

fn text(pem: &[u8]) -> &str {
    std::str::from_utf8(pem).unwrap()
}

/// The bucket's settings.
fn s3(config: &Config) -> &S3 {
    config.s3.as_ref().expect("a bucket")
}

const SELF_SIGNED: &str = "listen[0].tls: 0.0.0.0:8443 serves a self-signed certificate made at start, which no \
    device trusts; name cert and key, or set DRIPLINE_TLS_CERT_PEM and DRIPLINE_TLS_KEY_PEM";
const PLAIN: &str = "listen[1]: 0.0.0.0:8080 serves plain HTTP, because `listen` is not set; presigned URLs can \
    be read on the way";

#[test]
fn the_classic_names_alone_run_with_the_defaults() {
    let config = classic().load();
    let listeners: Vec<_> =
        config.listen.iter().map(|l| (l.addr.to_string(), l.tls.is_some())).collect();
    assert_eq!(listeners, [("0.0.0.0:8443".to_owned(), true), ("0.0.0.0:8080".to_owned(), false)]);
    assert_eq!(s3(&config).endpoint.host(), "firmware.s3.ap-southeast-2.amazonaws.com");
    assert_eq!((&s3(&config).ca, s3(&config).authorization), (&None, false));
    assert_eq!(config.drip.chunk_size.bytes(), 4096);
    assert_eq!(config.drip.wait, Duration::from_millis(500));
    assert!(config.drip.response_headers.is_empty());
    assert_eq!(config.upstream, crate::s3::upstream::Settings::default());
    assert_eq!(config.admin, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.health, None);
    assert_eq!(config.log, LogFormat::Text);
    assert_eq!((config.threads, config.drain), (0, lifecycle::Settings::default()));
    assert_eq!(config.upgrade, upgrade::Settings::default());
    assert_eq!(config.warnings, [SELF_SIGNED, PLAIN]);
}

#[test]
fn every_key_reaches_the_configuration() {
    let world = world();
    let (cert, key) = pem();
    let cert = world.write("cert.pem", &cert).display().to_string();
    let key = world.write("key.pem", &key).display().to_string();
    let config = world
        .yaml(&format!(
            "listen: [{{addr: '127.0.0.1:0', tls: {{cert: {cert}, key: {key}}}}}, {{addr: '[::1]:80'}}]\n\
             s3: {{bucket: b.c, endpoint: 'http://127.0.0.1:9000', addressing: path, ca: {cert}, authorization: true}}\n\
             drip: {{chunk_size: 1KiB, wait: 0, response_headers: [x-amz-meta-*, X-Amz-Version-Id]}}\n\
             upstream: {{connect_timeout: 1s, response_timeout: 2s, idle_timeout: 3s, recv_buffer: 4KiB}}\n\
             admin: {{addr: '[::1]:9100'}}\nhealth: {{addr: '0.0.0.0:9101'}}\n\
             log: {{format: json}}\nserver: {{threads: 3, drain_timeout: 1h30m, shutdown_delay: 1s, upgrade_drain_timeout: 2s, upgrade_timeout: 3s, \
             upgrade_sock: /a/b}}\n"
        ))
        .load();
    assert_eq!(config.listen.len(), 2);
    assert!(config.listen[0].tls.is_some() && config.listen[1].tls.is_none());
    assert_eq!(s3(&config).endpoint.host(), "127.0.0.1");
    assert_eq!(s3(&config).ca, Some(cert.into()));
    assert!(s3(&config).authorization);
    assert_eq!(config.drip.chunk_size.bytes(), 1024);
    assert_eq!(config.drip.wait, Duration::ZERO);
    let headers: Vec<_> = config.drip.response_headers.iter().map(ToString::to_string).collect();
    assert_eq!(headers, ["x-amz-meta-*", "x-amz-version-id"]);
    let upstream = [
        config.upstream.connect_timeout,
        config.upstream.response_timeout,
        config.upstream.idle_timeout,
    ];
    assert_eq!(upstream.map(|timeout| timeout.as_secs()), [1, 2, 3]);
    assert_eq!(config.upstream.recv_buffer, ByteSize::new(4096));
    assert_eq!(config.admin, Some("[::1]:9100".parse().unwrap()));
    assert_eq!(config.health, Some("0.0.0.0:9101".parse().unwrap()));
    assert_eq!(config.log, LogFormat::Json);
    assert_eq!(config.threads, 3);
    let drain = lifecycle::Settings {
        shutdown_delay: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(5400),
        upgrade_drain_timeout: Duration::from_secs(2),
    };
    assert_eq!(config.drain, drain);
    let (timeout, sock) = (Duration::from_secs(3), Some("/a/b".into()));
    assert_eq!(config.upgrade, upgrade::Settings { timeout, sock });
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn an_empty_file_or_section_is_as_good_as_none() {
    for yaml in ["", "# nothing\n", "s3:\ndrip: {}\nlisten:\nhealth:\nadmin:\n"] {
        assert_eq!(classic().yaml(yaml).load().listen.len(), 2);
    }
}

#[test]
fn all_errors_come_together_each_with_its_path_and_source() {
    let world = world()
        .yaml(
            "lisen: []\nlisten: [{addr: 8443}]\ns3: {bukket: x, region: 7}\ndrip: {chunk_size: 0, wait: 500}\n\
             spool: {max_bytes: 20M}\n",
        )
        .var("DRIPLINE__UPSTREAM__IDLE_TIMEOUT", "0s")
        .var("DRIPLINE__LOG__FROMAT", "json");
    assert_eq!(
        world.errors(),
        [
            "listen[0].addr: `8443` is not an IP address and a port; write one such as 127.0.0.1:8080 or [::1]:8080",
            "s3.bucket: missing; write the bucket's name here or in S3_BUCKET",
            "s3.region: must be text, not a number; write \"7\"",
            "s3.bukket: unknown key; did you mean s3.bucket?",
            "drip.chunk_size: 0 bytes is not a possible record size; write 64 to 16384",
            "drip.wait: `500` has no unit; write 500ms or 500s",
            "spool.max_bytes: `20M` does not say which unit; write 20MiB or 20MB",
            "upstream.idle_timeout: `0s` is out of range; write 1ms to 1day (from DRIPLINE__UPSTREAM__IDLE_TIMEOUT)",
            "log.fromat: unknown key; did you mean log.format? (from DRIPLINE__LOG__FROMAT)",
            "lisen: unknown key; did you mean listen?",
        ]
    );
}

/// The tree that the documentation shows.
const TREE: &str = "shaping:\n  links: [{name: wan}]\n  count: wire\n  classes:\n\
    \x20   - {name: upload, link: wan, max_limit: 20Mbit}\n\
    \x20   - {name: regular, parent: upload, limit_at: 19Mbit, max_limit: 20Mbit, priority: 2}\n\
    \x20   - {name: s3-bulk, parent: upload, limit_at: 1Mbit, max_limit: 20Mbit, priority: 8, burst: 64KiB,\n\
    \x20      pcq: {classifier: src-address, rate: 0}, dscp: le, pacing: true,\n\
    \x20      timetable: '08:00,2Mbit 18:00,10Mbit 23:00,off', timezone: Australia/Sydney}\n";

/// A forward proxy with every key.
const TUNNELS: &str = "forward_proxy: {addr: '192.168.80.2:3128', clients: [192.168.80.0/24, fd00::/8],\n\
    \x20 users: [{name: ann, password: 'a: b'}], endpoints: ['minio.lan:9000', '*.r2.cloudflarestorage.com:443'],\n\
    \x20 unshaped: none, buckets: [photos], resolve: {MinIO.lan: '10.0.0.9:9000'}, class: s3-bulk,\n\
    \x20 download_class: regular, connections: 5, per_client: 2, header_bytes: 1KiB, header_timeout: 1s,\n\
    \x20 hello_bytes: 4KiB, hello_timeout: 2s, connect_timeout: 3s, idle_timeout: 1h}\n";
