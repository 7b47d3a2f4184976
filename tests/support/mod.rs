//! What every integration test needs: dripline in front of an origin, and clients that see the
//! wire. Everything is on loopback and on free ports.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod fault;
pub mod hand;
pub mod http1;
pub mod logs;
pub mod pki;
pub mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use dripline::config::{Config, Sources};
use dripline::proxy::ProcessState;
use dripline::server::{Server, Stop};
use dripline::tls::identity::Identity;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// dripline in this process, on one TLS and one plain port.
pub struct Dripline {
    /// The TLS listener.
    pub https: SocketAddr,
    /// The plain listener.
    pub http: SocketAddr,
    /// Every listener, in the configuration's order; the two above are its first and its last.
    pub listeners: Vec<SocketAddr>,
    /// /healthz, /readyz, /metrics.
    pub admin: SocketAddr,
    /// Metrics and running drips.
    pub state: ProcessState,
    /// What the TLS listener shows, PEM, unless the configuration names files.
    pub cert: Vec<u8>,
    /// Signals the server to read the certificates again.
    pub reload: watch::Sender<u64>,
    stop: Option<oneshot::Sender<Stop>>,
    served: Option<JoinHandle<std::io::Result<usize>>>,
}

/// Collects the configuration of a dripline and starts it.
pub struct Builder {
    identity: Option<Identity>,
    env: Vec<(String, String)>,
    classes: Vec<String>,
}

impl Dripline {
    /// A dripline for `bucket` at an endpoint such as `http://127.0.0.1:9000`.
    pub fn in_front_of(endpoint: &str, bucket: &str) -> Builder {
        let builder = Builder { identity: None, env: Vec::new(), classes: Vec::new() };
        builder
            .set("DRIPLINE__LISTEN", "[{addr: '127.0.0.1:0', tls: {}}, {addr: '127.0.0.1:0'}]")
            .set("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0")
            .set("DRIPLINE__S3__ENDPOINT", endpoint)
            .set("DRIPLINE__S3__BUCKET", bucket)
            .set("DRIPLINE__SPOOL__MAX_BYTES", "0")
            .wait("0")
    }

    /// Drains, and returns how many drips were cut.
    pub async fn drain(mut self) -> usize {
        let _ = self.stop.take().unwrap().send(Stop::Drain);
        self.served.take().unwrap().await.unwrap().unwrap()
    }

    /// Begins to drain.
    pub fn begin_drain(&mut self) -> JoinHandle<std::io::Result<usize>> {
        let _ = self.stop.take().unwrap().send(Stop::Drain);
        self.served.take().unwrap()
    }

    /// The value of a metric, named with its labels.
    pub fn metric(&self, name: &str) -> u64 {
        metric(&String::from_utf8(self.state.metrics.text()).unwrap(), name)
    }

    /// Waits until `metric` has `value`; fails after 10 s.
    pub async fn until(&self, name: &str, value: u64) {
        eventually(Duration::from_secs(10), || self.metric(name) == value)
            .await
            .unwrap_or_else(|| panic!("{name} is {}, not {value}", self.metric(name)));
    }
}

impl Drop for Dripline {
    fn drop(&mut self) {
        if let Some(served) = self.served.take() {
            served.abort();
        }
    }
}

impl Builder {
    /// Sets a variable of the environment.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// Enables a spool of 1 GiB in that directory. Without a spool every request goes direct.
    pub fn spool(self, dir: &std::path::Path) -> Self {
        self.set("DRIPLINE__SPOOL__MAX_BYTES", "1GiB")
            .set("DRIPLINE__SPOOL__DIR", dir.to_str().unwrap())
    }

    /// The record size in bytes.
    pub fn chunk(self, bytes: usize) -> Self {
        self.set("DRIPLINE__DRIP__CHUNK_SIZE", &bytes.to_string())
    }

    /// The time between two records, such as `50ms`.
    pub fn wait(self, wait: &str) -> Self {
        self.set("DRIPLINE__DRIP__WAIT", wait)
    }

    /// The TLS listener's identity. The default is a new P-256 certificate.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// With a class of that name and these settings, such as `max_limit: 8Mbit`.
    pub fn class(mut self, name: &str, settings: &str) -> Self {
        self.classes.push(format!("{{name: {name}, {settings}}}"));
        let all = format!("[{}]", self.classes.join(", "));
        self.set("DRIPLINE__SHAPING__CLASSES", &all)
    }

    /// The configuration.
    pub fn config(&self) -> Config {
        let sources = Sources { env: self.env.clone(), ..Sources::default() };
        Config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Starts it.
    pub async fn start(mut self) -> Dripline {
        let identity = self.identity.take();
        let identity =
            identity.unwrap_or_else(|| Identity::self_signed(&["localhost", "127.0.0.1"]).unwrap());
        let mut cert = Vec::new();
        for certificate in identity.chain() {
            cert.extend(certificate.to_pem().unwrap());
        }
        let key = identity.key().private_key_to_pem_pkcs8().unwrap();
        self = self
            .set("DRIPLINE_TLS_CERT_PEM", std::str::from_utf8(&cert).unwrap())
            .set("DRIPLINE_TLS_KEY_PEM", std::str::from_utf8(&key).unwrap());
        let server = Server::bind(&self.config()).unwrap();
        let listeners = server.addresses();
        let (admin, state) = (server.admin_address().unwrap(), server.state());
        let reload = server.reload();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run(async move { stopped.await.unwrap_or(Stop::Now) }));
        eventually(Duration::from_secs(5), || state.lifecycle.is_ready()).await.expect("ready");
        Dripline {
            https: listeners[0],
            http: listeners[listeners.len() - 1],
            listeners,
            admin,
            state,
            cert,
            reload,
            stop: Some(stop),
            served: Some(served),
        }
    }
}

/// The value of a metric in the text of /metrics, named with its labels. An event
/// that has not happened is not listed and counts as 0. A name that dripline does not register is an
/// error: otherwise a test that expects 0 could not fail.
pub fn metric(text: &str, name: &str) -> u64 {
    if let Some(value) = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')) {
        return value.parse().unwrap();
    }
    let (family, labels) = name.split_once('{').unwrap_or_else(|| panic!("no metric {name}"));
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics");
    let registers = |path: std::path::PathBuf| {
        let source = std::fs::read_to_string(path).unwrap();
        let Some((_, registration)) = source.split_once(&format!("\"{family}\"")) else {
            return false;
        };
        let registration = registration.split_once(";").map_or(registration, |(all, _)| all);
        let mut keys = labels.split(',').filter_map(|label| label.split_once('='));
        keys.all(|(key, _)| registration.contains(&format!("\"{key}\"")))
    };
    let mut files = std::fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path());
    assert!(files.any(registers), "no metric {family} with labels like {labels}");
    0
}

/// Waits until `condition` holds, at most `limit`.
pub async fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> Option<()> {
    let start = std::time::Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Some(())
}
