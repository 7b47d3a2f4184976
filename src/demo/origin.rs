//! An embedded S3: `dripline demo` serves from it, and the integration tests fetch from it.
//!
//! s3s answers HTTP and verifies every signature, s3s-fs stores the bytes in a private directory that is
//! removed when the [`Origin`] is dropped. What S3 does beyond these two is in `service` (the outer form
//! of requests and responses), `api` (the operations), `conditions`, `objects` and `listing`. This file
//! owns the sockets.
//!
//! Invariant: nothing of an origin outlives it: port, connections and files go when it is dropped.
//!
//! It must not know dripline: it is the other end of the connection.

mod api;
mod body;
mod conditions;
mod counters;
mod listing;
mod objects;
mod options;
pub mod presign;
mod service;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::X509;
use s3s::Body;
use s3s::service::S3Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_openssl::SslStream;

pub use counters::{Counters, Seen};
pub use options::OriginOptions;

use counters::{OpenConnection, Recorder};
use objects::Objects;
use presign::{Presign, Style};

/// How long a client may take over its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses after it failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A running S3. Dropping it closes its port and its connections and removes its files.
pub struct Origin {
    options: OriginOptions,
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<Option<Serving>>,
    // The last field, so that what reads or writes files is dropped before them.
    _files: tempfile::TempDir,
}

impl Origin {
    /// Starts listening, with an empty bucket.
    pub async fn start(options: OriginOptions) -> io::Result<Self> {
        let files = tempfile::Builder::new().prefix("dripline-origin-").tempdir()?;
        let objects = Arc::new(Objects::new(files.path(), &options.bucket)?);
        let acceptor = options.tls.as_ref().map(|(chain, key)| acceptor(chain, key)).transpose()?;
        let shared = Arc::new(Shared {
            service: service::build(&options, Arc::clone(&objects)),
            objects,
            acceptor,
            latency: options.latency,
            recorder: Arc::default(),
        });
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let serving = Mutex::new(Some(Serving::start(listener, Arc::clone(&shared))));
        Ok(Self { options, addr, shared, serving, _files: files })
    }

    /// The address it listens on, or listened on before [`Origin::stop`].
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The options it was started with.
    pub fn options(&self) -> &OriginOptions {
        &self.options
    }

    /// Stores an object without HTTP, in one step as far as readers are concerned; returns its ETag,
    /// quotes included. A response in progress continues with the old bytes.
    pub async fn put(
        &self,
        key: &str,
        body: impl Into<Bytes>,
        content_type: &str,
    ) -> io::Result<String> {
        self.shared.objects.put(key, body.into(), content_type).await
    }

    /// A request for `key` to be signed: GET, path style, at this origin's own address, from now
    /// for one hour. The builder changes any of that.
    #[expect(clippy::disallowed_methods, reason = "a URL is signed for a time")]
    pub fn presign(&self, key: impl AsRef<[u8]>) -> Presign {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let suffix = self.options.virtual_host_suffix.as_deref().unwrap_or("s3.localhost");
        Presign::new(&self.options.bucket, key.as_ref())
            .credentials(&self.options.access_key, &self.options.secret_key)
            .endpoint(scheme, Style::Path, &self.addr.to_string())
            .endpoint(scheme, Style::Virtual, &format!("{suffix}:{}", self.addr.port()))
            .at(SystemTime::now())
    }

    /// What it has received so far.
    pub fn counters(&self) -> Counters {
        self.shared.recorder.counters(self.shared.objects.bytes_sent())
    }

    /// Closes the port and every connection. Objects and counters stay; [`Origin::resume`] goes on.
    pub async fn stop(&self) {
        let serving = self.serving().take();
        if let Some(Serving { stop, task }) = serving {
            drop(stop);
            // The task does not panic; an error would mean that the runtime is shutting down.
            let _ = task.await;
        }
    }

    /// Listens again on the same address after [`Origin::stop`]; does nothing while it runs.
    pub async fn resume(&self) -> io::Result<()> {
        if self.serving().is_none() {
            let listener = TcpListener::bind(self.addr).await?;
            *self.serving() = Some(Serving::start(listener, Arc::clone(&self.shared)));
        }
        Ok(())
    }

    fn serving(&self) -> MutexGuard<'_, Option<Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(serving) = self.serving().take() {
            serving.task.abort();
        }
    }
}

/// The accepting task; it ends, and closes all it accepted, when `stop` is dropped.
struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    fn start(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(accept(listener, shared, stopped)) }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    let open = shared.recorder.open();
                    connections.spawn(serve(tcp, Arc::clone(&shared), open));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>, _open: OpenConnection) {
    let _ = tcp.set_nodelay(true);
    let Some(acceptor) = &shared.acceptor else {
        return speak_http(tcp, &shared).await;
    };
    let Ok(mut tls) = Ssl::new(acceptor.context()).and_then(|ssl| SslStream::new(ssl, tcp)) else {
        return;
    };
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, Pin::new(&mut tls).accept()).await;
    if matches!(shaken, Ok(Ok(()))) {
        speak_http(tls, &shared).await;
    }
}

async fn speak_http(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(shared.answer(request).await) });
    // An error means that the client has gone or speaks no HTTP: there is nobody to report it to.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What every connection needs.
struct Shared {
    service: S3Service,
    objects: Arc<Objects>,
    acceptor: Option<SslAcceptor>,
    latency: Duration,
    recorder: Arc<Recorder>,
}

impl Shared {
    async fn answer(&self, request: http::Request<Incoming>) -> http::Response<Body> {
        self.recorder.record(&request);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        // hyper sends no 100 to a client whose body is empty. aws CLI 2.9 takes the final status that it
        // gets instead as the status of every later response on the connection, so this must be the last.
        let empty = request.headers().get(header::CONTENT_LENGTH).is_some_and(|n| n == "0");
        let last = empty && request.headers().contains_key(header::EXPECT);
        let answer = self.service.call(service::prepare(request.map(Body::from))).await;
        let mut answer = service::finish(answer.unwrap_or_else(|_| {
            let mut broken = http::Response::new(Body::empty());
            *broken.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            broken
        }));
        if last {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

fn acceptor(chain: &[X509], key: &PKey<Private>) -> io::Result<SslAcceptor> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    for (position, certificate) in chain.iter().enumerate() {
        if position == 0 {
            builder.set_certificate(certificate)?;
        } else {
            builder.add_extra_chain_cert(certificate.clone())?;
        }
    }
    builder.set_private_key(key)?;
    builder.check_private_key()?;
    Ok(builder.build())
}

#[cfg(test)]
mod tests;
