//! A device's connection, from the accept to its end: who it is, whether there is room for it, its
//! handshake, and the conversation.

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

use super::accept::{Serve, pingoras, prepare};
use super::{Profiling, StartError, introduction};
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
    /// Whether the connection goes on: it is known whose it is, if a load balancer has to say so.
    async fn introduced(&self, socket: &mut L4Stream) -> bool {
        let Some(trusted) = &self.proxy_protocol else { return true };
        let patience = self.limiter.settings().header_timeout;
        introduction::introduce(socket, trusted, patience, &self.metrics.connections.proxy_headers)
            .await
    }

    async fn secure(&self, socket: L4Stream) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Box::new(socket)) };
        let client = introduction::peer(&socket).map(|peer| peer.ip());
        let limit = self.limiter.settings().handshake_timeout;
        match tokio::time::timeout(limit, handshake(tls, socket)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(e)) => {
                // A device that cannot take a handshake record goes without a word, so this is all
                // that an operator sees of it.
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

    /// Ends a connection that is one too many. A TLS client is told by the end alone: a handshake
    /// for it would cost more than what the limit protects.
    async fn turn_away(&self, socket: L4Stream, status: StatusCode, reason: &str) {
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
    let client = introduction::peer(&socket).map(|peer| peer.ip());
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
        // TCP_USER_TIMEOUT: the kernel watches whether the client takes what it is sent (tcp(7)), so
        // that a drip needs no timer for that.
        SockRef::from(stream).set_tcp_user_timeout(Some(self.limiter.settings().send_timeout))
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = pingoras(socket, peer);
        let _open = self.metrics.connections.opened();
        let connection = Arc::new(lifecycle.connection());
        let Some(mut permit) = self.limiter.admit() else {
            let full = "too many connections; try again later";
            return self.turn_away(socket, StatusCode::SERVICE_UNAVAILABLE, full).await;
        };
        if !self.introduced(&mut socket).await {
            return;
        }
        if introduction::peer(&socket).is_some_and(|client| !permit.assign_client(client.ip())) {
            let many = "too many connections from this address";
            return self.turn_away(socket, StatusCode::TOO_MANY_REQUESTS, many).await;
        }
        let served = async {
            // Boxed, so that a drip of hours does not keep the room that a handshake needs.
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
            // A record is written in one go, so what has left is whole records. No close_notify
            // follows in the middle of a body (RFC 8446 §6.1): the end is not one of ours to vouch for.
            () = connection.dismissed() => {}
        }
    }
}

/// The TLS of one listener, whose handshakes are capped as its profiles say.
pub(super) fn reloading(
    key: &str,
    addr: SocketAddr,
    tls: &ListenerTls,
    profiles: &Profiling,
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
