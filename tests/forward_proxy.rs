//! The forward proxy with an S3 under its real name: a local one, with a certificate for that name from an
//! authority of the test's own, where `resolve` leads to it. What passes, what is refused, and why.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

#[path = "support/process.rs"]
mod process;

#[path = "forward_proxy/clients.rs"]
mod clients;
#[path = "forward_proxy/hellos.rs"]
mod hellos;
#[path = "forward_proxy/lifecycle.rs"]
mod lifecycle;
#[path = "forward_proxy/limits.rs"]
mod limits;
#[path = "forward_proxy/refusals.rs"]
mod refusals;
#[path = "forward_proxy/resolvers.rs"]
mod resolvers;
#[path = "forward_proxy/shaped.rs"]
mod shaped;
#[path = "forward_proxy/tunnels.rs"]
mod tunnels;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dripline::config::{Config, Sources};
use dripline::demo::origin::presign::{Presign, Style};
use dripline::demo::origin::{Origin, OriginOptions};
use dripline::proxy::ProcessState;
use dripline::server::{Reloader, Server, Stop};
use dripline::shape::Shaper;
use openssl::ssl::{SslConnector, SslMethod};
use support::eventually;
use support::pki::{Authority, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_openssl::SslStream;

/// The service's host, as Amazon has it.
const SERVICE: &str = "s3.ap-southeast-2.amazonaws.com";
/// The bucket's.
const HOST: &str = "samples.s3.ap-southeast-2.amazonaws.com";
/// What a client asks for.
const TARGET: &str = "samples.s3.ap-southeast-2.amazonaws.com:443";

/// No answer takes longer on any machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A forward proxy in this process.
struct Proxy {
    addr: SocketAddr,
    state: ProcessState,
    reloader: Arc<Reloader>,
    shaper: Option<Arc<Shaper>>,
    stop: Option<oneshot::Sender<Stop>>,
    served: Option<JoinHandle<std::io::Result<usize>>>,
}

/// The configuration of a forward proxy on a free port of loopback; `keys` are those of forward_proxy.
fn config(keys: &str) -> Config {
    config_with(keys, &[])
}

/// The same, with further variables.
fn config_with(keys: &str, env: &[(&str, &str)]) -> Config {
    let mut all = vec![
        ("DRIPLINE__FORWARD_PROXY".to_owned(), format!("{{addr: '127.0.0.1:0', {keys}}}")),
        ("DRIPLINE__ADMIN__ADDR".to_owned(), "127.0.0.1:0".to_owned()),
    ];
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let sources = Sources { env: all, ..Sources::default() };
    Config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

impl Proxy {
    async fn start(keys: &str) -> Self {
        Self::of(&config(keys)).await
    }

    async fn of(config: &Config) -> Self {
        let server = Server::bind(config).unwrap();
        assert!(server.addresses().is_empty(), "nothing listens for devices");
        let addr = server.forward_proxy_address().unwrap();
        let (state, reloader, shaper) = (server.state(), server.reloader(), server.shaper());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run(async move { stopped.await.unwrap_or(Stop::Now) }));
        eventually(Duration::from_secs(5), || state.lifecycle.is_ready()).await.expect("ready");
        Self { addr, state, reloader, shaper, stop: Some(stop), served: Some(served) }
    }

    /// Sends a request; returns the connection, and the answer's status and head, and for anything but
    /// 200 its body.
    async fn ask(&self, request: &str) -> (TcpStream, Answer) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        (stream, answer)
    }

    /// CONNECT to `target`, as HTTP/1.1 has it.
    async fn connect(&self, target: &str) -> (TcpStream, Answer) {
        self.ask(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await
    }

    /// The value of a metric, named with its labels.
    fn metric(&self, name: &str) -> u64 {
        support::metric(&String::from_utf8(self.state.metrics.text()).unwrap(), name)
    }

    async fn until(&self, name: &str, value: u64) {
        eventually(Duration::from_secs(10), || self.metric(name) == value)
            .await
            .unwrap_or_else(|| panic!("{name} is {}, not {value}", self.metric(name)));
    }

    async fn until_refused(&self, reason: &str, count: u64) {
        self.until(&format!("dripline_tunnels_refused_total{{reason=\"{reason}\"}}"), count).await;
    }

    async fn until_ended(&self, end: &str, count: u64) {
        self.until(&format!("dripline_tunnels_ended_total{{end=\"{end}\"}}"), count).await;
    }

    fn begin_drain(&mut self) -> JoinHandle<std::io::Result<usize>> {
        let _ = self.stop.take().unwrap().send(Stop::Drain);
        self.served.take().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(served) = self.served.take() {
            served.abort();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Reads an answer; what follows a 200 is the tunnel's.
async fn answer(stream: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = String::new();
        if status != 200 {
            stream.read_to_string(&mut body).await.unwrap();
        }
        Answer { status, head, body }
    };
    timeout(LIMIT, read).await.expect("an answer")
}

/// An S3 under its real name.
struct World {
    origin: Origin,
    /// Its authority, PEM, and a file of it.
    ca: Vec<u8>,
    ca_file: PathBuf,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new(Kind::Ecdsa);
        let wildcard = format!("*.{SERVICE}");
        let identity = authority.issue(&[SERVICE, &wildcard]);
        let tls = Some((identity.chain().to_vec(), identity.key().clone()));
        let virtual_host_suffix = Some(SERVICE.to_owned());
        let options = OriginOptions { tls, virtual_host_suffix, ..OriginOptions::default() };
        let origin = Origin::start(options).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_file) = (authority.pem(), dir.path().join("ca.pem"));
        std::fs::write(&ca_file, &ca).unwrap();
        Self { origin, ca, ca_file, dir }
    }

    /// A proxy where both of S3's names lead here.
    async fn proxy(&self, keys: &str) -> Proxy {
        Proxy::start(&self.keys(keys)).await
    }

    fn keys(&self, keys: &str) -> String {
        let addr = self.origin.addr();
        format!("resolve: {{{HOST}: '{addr}', {SERVICE}: '{addr}'}}, {keys}")
    }

    fn presign(&self, key: &str) -> Presign {
        let signed = self.origin.presign(key).region("ap-southeast-2");
        signed.style(Style::Virtual).endpoint("https", Style::Virtual, SERVICE)
    }

    /// TLS in a tunnel, with that server name.
    async fn tls(&self, stream: TcpStream, name: &str) -> SslStream<TcpStream> {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        let ca = openssl::x509::X509::from_pem(&self.ca).unwrap();
        connector.cert_store_mut().add_cert(ca).unwrap();
        let ssl = connector.build().configure().unwrap().into_ssl(name).unwrap();
        let mut tls = SslStream::new(ssl, stream).unwrap();
        timeout(LIMIT, Pin::new(&mut tls).connect()).await.expect("in time").expect("a handshake");
        tls
    }

    /// Fetches an object through a tunnel; returns the whole response.
    async fn get(&self, tls: &mut SslStream<TcpStream>, key: &str) -> Vec<u8> {
        let signed = self.presign(key);
        let (target, host) = (signed.target(), signed.host());
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        timeout(LIMIT, tls.read_to_end(&mut response)).await.expect("in time").unwrap();
        response
    }
}

/// Bytes that tell one place from another.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Reads until the end, which may be a reset.
async fn end_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection's end");
    bytes
}
