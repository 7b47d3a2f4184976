//! A device's connection from the accept to its end: its PROXY header, the limits on connections, the TLS
//! handshake, then HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use log::info;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::SslStream;
use pingora_proxy::HttpProxy;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::accept::{Serve, prepare, to_pingora};
use super::{SharedProfiles, StartError, proxy_header};
use crate::config::ListenerTls;
use crate::drip::stream::PacedStream;
use crate::drip::threads::DripThreads;
use crate::http1::connection;
use crate::lifecycle::Lifecycle;
use crate::limits::connections::ConnectionLimiter;
use crate::metrics::Metrics;
use crate::profile::Facts;
use crate::proxy::DripProxy;
use crate::proxy_protocol::Trusted;
use crate::tls::combined::Combined;
use crate::tls::failure::handshake_failure;
use crate::tls::listener;
use crate::tls::reload::Reloading;

/// A listener for devices: TLS or not, and paced.
pub(super) struct Devices {
    /// As it is configured.
    pub(super) addr: SocketAddr,
    pub(super) proxy: Arc<HttpProxy<DripProxy>>,
    pub(super) drip_threads: Arc<DripThreads>,
    pub(super) tls: Option<Arc<Reloading>>,
    pub(super) proxy_protocol: Option<Trusted>,
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) metrics: Metrics,
}

impl Devices {
    /// Reads the PROXY header, if this listener takes one. False if the connection is to be closed.
    async fn read_proxy_header(&self, socket: &mut L4Stream) -> bool {
        let Some(trusted) = &self.proxy_protocol else { return true };
        let limit = self.limiter.settings().header_timeout;
        proxy_header::read(socket, trusted, limit, &self.metrics.connections.proxy_headers).await
    }

    /// The connection after its TLS handshake; None if that failed.
    async fn secure(&self, socket: L4Stream) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Box::new(socket)) };
        let client = proxy_header::peer(&socket).map(|peer| peer.ip());
        let limit = self.limiter.settings().handshake_timeout;
        match tokio::time::timeout(limit, handshake(tls, socket)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(e)) => {
                // A device that cannot take a handshake record sends no alert, so this line is all that
                // an operator sees of it.
                let client = client.map(|ip| ip.to_string()).unwrap_or_default();
                info!(client = client.as_str(); "TLS handshake failed: {e}");
                self.metrics.connections.handshake_failures.with_label_values(&["error"]).inc();
            }
            Err(_) => {
                self.metrics.connections.handshake_failures.with_label_values(&["timeout"]).inc();
                self.limiter.count_hit("handshake_timeout");
            }
        }
        None
    }

    /// Refuses a connection above a limit. A TLS client gets no reason: a handshake to send it would cost
    /// more than the limit saves.
    async fn reject(&self, socket: L4Stream, status: StatusCode, reason: &str) {
        if self.tls.is_some() {
            return;
        }
        let Some(_permit) = self.limiter.refusal_permit() else { return };
        connection::reject_connection(
            PacedStream::new(Box::new(socket)),
            &self.limiter,
            status,
            reason,
        )
        .await;
    }
}

/// Returns the connection after its handshake, or why there is none, for the log.
async fn handshake(tls: &Reloading, socket: L4Stream) -> Result<SslStream<Combined>, String> {
    let client = proxy_header::peer(&socket).map(|peer| peer.ip());
    let ssl = listener::connection(&tls.current(), client);
    let ssl = ssl.map_err(|e| format!("cannot make a TLS connection: {e}"))?;
    let mut stream = SslStream::new(ssl, Combined::new(socket)).map_err(|e| e.to_string())?;
    if let Err(e) = stream.accept().await {
        let reason = handshake_failure(&e);
        return Err(match listener::negotiated(stream.ssl()) {
            Some(known) => format!(
                "{reason}; records of up to {} bytes, client offered {}",
                known.limit(),
                known.offer
            ),
            None => format!("{reason}; before its ClientHello was read"),
        });
    }
    Ok(stream)
}

impl Serve for Devices {
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        prepare(stream)?;
        // TCP_USER_TIMEOUT: the kernel closes the connection of a client that acknowledges nothing
        // (tcp(7)), so that a drip needs no timer for that.
        SockRef::from(stream).set_tcp_user_timeout(Some(self.limiter.settings().send_timeout))
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = to_pingora(socket, peer);
        let _open = self.metrics.connections.opened();
        let connection = Arc::new(lifecycle.connection());
        let Some(mut permit) = self.limiter.admit() else {
            let full = "too many connections; try again later";
            // Boxed, here and below: a drip's task must not have the room that a refusal needs.
            return Box::pin(self.reject(socket, StatusCode::SERVICE_UNAVAILABLE, full)).await;
        };
        if !self.read_proxy_header(&mut socket).await {
            return;
        }
        if proxy_header::peer(&socket).is_some_and(|client| !permit.assign_client(client.ip())) {
            let many = "too many connections from this address";
            return Box::pin(self.reject(socket, StatusCode::TOO_MANY_REQUESTS, many)).await;
        }
        let served = async {
            // Boxed, so that a drip of hours does not hold the memory that a handshake needs.
            if let Some(stream) = Box::pin(self.secure(socket)).await {
                let stream = PacedStream::new(stream).accepted_by(self.addr);
                let (proxy, threads, limiter) = (&self.proxy, &self.drip_threads, &self.limiter);
                let draining = lifecycle.draining();
                connection::serve_connection(
                    proxy,
                    threads,
                    stream,
                    limiter,
                    &connection,
                    &draining,
                )
                .await;
            }
        };
        tokio::select! {
            biased;
            () = served => {}
            // A record is written at once, so only whole records have left. No close_notify follows in
            // the middle of a body (RFC 8446 §6.1): it would say that the body is complete.
            () = connection.dismissed() => {}
        }
    }
}

/// The TLS of one listener. Its profiles limit the records of its handshakes.
pub(super) fn reloading(
    key: &str,
    addr: SocketAddr,
    tls: &ListenerTls,
    profiles: &SharedProfiles,
) -> Result<Arc<Reloading>, StartError> {
    let profiles = Arc::clone(profiles);
    let settings = listener::Settings {
        cap: Arc::new(move |client: listener::Client<'_>| {
            profiles.load().handshake_cap(&Facts {
                listener: Some(addr),
                client: client.address,
                server_name: client.server_name,
                request: None,
            })
        }),
        tickets: tls.tickets,
        mfl_prefers_tls12: tls.mfl_prefers_tls12,
    };
    let key = format!("{key}.tls");
    Reloading::new(key.clone(), &tls.identities, tls.files.clone(), settings)
        .map(Arc::new)
        .map_err(|source| StartError::Tls { key, source })
}
