//! A small client for GETs of dripline's own: conditional ones, ranges and whole objects, over
//! Pingora's connectors and their pool.
//!
//! Invariant: every request is built by [`super::outgoing`]. This file must not know what the answer
//! is for.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::prelude::HttpPeer;
use pingora_core::protocols::UniqueID;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::outgoing::{Authority, Outgoing};
use super::quiet::is_quiet;
use super::resolve::Resolver;
use super::upstream::Upstream;

/// How often a request is tried: at other addresses, and anew if a pooled connection turned out to
/// be closed.
const TRIES: u32 = 4;

/// Interim responses (RFC 9110 §15.2) that are skipped before an answer.
const MAX_INTERIM: u32 = 8;

/// Sends GETs to one bucket.
pub struct Client {
    upstream: Upstream,
    resolver: Arc<Resolver>,
    connector: Connector,
}

impl Client {
    /// A client with a pool of its own. `conf` says where the system's certificates are.
    #[must_use]
    pub fn new(upstream: Upstream, resolver: Arc<Resolver>, conf: &ServerConf) -> Self {
        let connector = Connector::new(Some(ConnectorOptions::from_server_conf(conf)));
        Self { upstream, resolver, connector }
    }

    /// Where requests go.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Sends a GET for `target` (path and query), for which `authority` vouches, and reads the answer's
    /// head.
    ///
    /// # Errors
    ///
    /// If no connection can be made, or if no valid answer comes in time. The error's source is the
    /// upstream.
    pub async fn get(
        &self,
        target: &[u8],
        authority: Authority,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<S3Response> {
        let mut last = None;
        for _ in 0..TRIES {
            let (address, peer) = self.upstream.next_peer(&self.resolver).await?;
            let (session, reused) = match self.connect(&peer).await {
                Ok(connected) => connected,
                Err(e) => {
                    self.resolver.failed(address);
                    last = Some(e.into_up());
                    continue;
                }
            };
            let mut answer = S3Response { session, peer };
            match answer.ask(self.request(target, authority, headers)?).await {
                Ok(()) => return Ok(answer),
                // S3 may close an idle connection at any time; nothing was answered, so ask again.
                Err(e) if reused => last = Some(e.into_up()),
                Err(e) => return Err(e.into_up()),
            }
        }
        Err(last.unwrap_or_else(|| Error::new_up(ErrorType::ConnectError)))
    }

    /// A connection, and whether it comes from the pool.
    async fn connect(&self, peer: &HttpPeer) -> Result<(HttpSession, bool)> {
        loop {
            let (session, reused) = self.connector.get_http_session(peer).await?;
            if !reused || is_quiet_session(&session) {
                return Ok((session, reused));
            }
        }
    }

    /// Keeps the connection for the next request, if the answer was read to its end.
    pub async fn release(&self, answer: S3Response) {
        let S3Response { session, peer } = answer;
        let idle = Some(self.upstream.settings.idle_timeout);
        self.connector.release_http_session(session, &peer, idle).await;
    }

    fn request(
        &self,
        target: &[u8],
        authority: Authority,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Box<RequestHeader>> {
        let endpoint = &self.upstream.endpoint;
        let mut request = Outgoing::new(endpoint, Method::GET, target, authority)?;
        for (name, value) in headers {
            request.insert(name.clone(), value.clone())?;
        }
        Ok(Box::new(request.finish()))
    }
}

/// Whether nothing has come on a pooled connection. False if it shows no descriptor (-1).
#[expect(unsafe_code, reason = "Pingora shows a session's socket as a number alone")]
fn is_quiet_session(session: &HttpSession) -> bool {
    let fd = session.id();
    // SAFETY: it is not -1, and the session owns its connection, so the descriptor stays open while it
    // is borrowed here.
    let socket = (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) });
    socket.is_some_and(is_quiet)
}

/// S3's response: its head, and a body to be read. Dropping it closes the connection.
pub struct S3Response {
    session: HttpSession,
    peer: HttpPeer,
}

impl S3Response {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.session.get_status().unwrap_or_default()
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> Option<&ResponseHeader> {
        self.session.resp_header()
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: HeaderName) -> Option<&HeaderValue> {
        self.session.get_header(name)
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// If the connection ends before the body does, or nothing comes within
    /// `upstream.response_timeout`.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        self.session.read_body_bytes().await.map_err(Error::into_up)
    }

    /// The body, if it has no more than `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::piece`]; and if the body is longer.
    pub async fn body(&mut self, limit: usize) -> Result<Bytes> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                let context = format!("S3's answer has more than {limit} bytes");
                return Err(Error::explain(ErrorType::ReadError, context).into_up());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    }

    async fn ask(&mut self, request: Box<RequestHeader>) -> Result<()> {
        let timeout = self.peer.options.read_timeout;
        self.session.read_timeout = timeout;
        self.session.write_timeout = self.peer.options.write_timeout;
        self.session.write_request_header(request).await?;
        for _ in 0..MAX_INTERIM {
            self.session.read_response().await?;
            if !self.status().is_informational() {
                return Ok(());
            }
        }
        Error::e_explain(ErrorType::InvalidHTTPHeader, "S3 sends interim responses without end")
    }
}
