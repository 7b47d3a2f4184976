//! One request's life, phase by phase: Pingora calls, this file answers, each phase in a few lines.
//!
//! The filters decide what is to happen and arm the client's [`PacedStream`], which slices and
//! waits: a filter cannot pace on the uncached path (see [`crate::drip::stream`]).
//!
//! Invariants: S3's status and body are relayed as they are; nothing that S3's signature covers is
//! changed on the way; a query string, which holds signatures, is never logged.

mod answer;
mod context;
pub mod upload;

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use log::{info, warn};
use pingora::prelude::*;
use pingora::protocols::{Digest, Ssl};
use pingora::upstreams::peer::Peer;
use pingora_cache::CacheKey;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::FailToProxy;

use crate::drip::stream::PacedStream;
use crate::drip::{Pace, Progress};
use crate::header_pattern::HeaderPattern;
use crate::http1::stream::HttpStream;
use crate::lifecycle::Connection;
use crate::profile::{Facts, Profiles};
use crate::route::{Route, route};
use crate::s3::headers::{self, SignedHeaders};
use crate::s3::quiet::is_quiet;
use crate::s3::resolve::Resolver;
use crate::s3::upstream::Upstream;
use crate::shape::{Flow, Owner, Shaper};
use crate::spool::admission::{self, admit};
use crate::spool::storage::{Hit, STORAGE};
use crate::spool::{Ask, Spool, Verdict};
use crate::tls::listener;
use answer::Answer;
use context::Served;
pub use context::{Context, ProcessState};
use upload::Uploads;

/// How often a request is tried at another of S3's addresses before it fails.
const CONNECT_TRIES: u32 = 3;

/// Ranges up to this many bytes are fetched over pooled connections and held in memory whole.
const SMALL_RANGE: u64 = 64 << 10;

/// The device side of dripline as Pingora drives it.
pub struct DripProxy {
    upstream: Upstream,
    resolver: Arc<Resolver>,
    profiles: Arc<ArcSwap<Profiles>>,
    spool: Option<Arc<Spool>>,
    shaper: Option<Arc<Shaper>>,
    uploads: Option<Uploads>,
    state: ProcessState,
}

impl DripProxy {
    /// A proxy that serves one bucket, each kind of device at its pace; from a spool, if there is one;
    /// under the classes of a tree, if there is one; and takes uploads, if it is told how.
    #[must_use]
    pub fn new(
        upstream: Upstream,
        resolver: Arc<Resolver>,
        profiles: Arc<ArcSwap<Profiles>>,
        spool: Option<Arc<Spool>>,
        shaper: Option<Arc<Shaper>>,
        uploads: Option<Uploads>,
        state: ProcessState,
    ) -> Self {
        Self { upstream, resolver, profiles, spool, shaper, uploads, state }
    }

    /// This client in that class.
    fn flow(&self, session: &Session, class: &str) -> Option<Flow> {
        let client = session.client_addr().and_then(|a| a.as_inet()).map(SocketAddr::ip);
        let client = client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        self.shaper.as_ref()?.register_flow(class, &Owner { client, user: None })
    }

    /// Has S3 authorise a request that may touch the spool. True if it was answered with that; else
    /// it is served from the spool, if the context has something to serve, or goes direct.
    async fn spooled(
        &self,
        spool: &Arc<Spool>,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<bool> {
        let request = session.req_header();
        let route = route(&request.method, request.raw_path(), false);
        let Ok(Route { key, query }) = route else { return Ok(false) };
        let name = match admit(&request.method, &key, query, &request.headers) {
            Ok(name) => name,
            Err(bypass) => {
                spool.bypassed(&bypass);
                return Ok(false);
            }
        };
        let expires = admission::expires(query);
        let ask = Ask { name, request, target: &ctx.target, expires };
        match spool.authorise(&ask).await {
            Verdict::Serve(served) => {
                ctx.spooled = Some(served);
                // For hours it would hold a signature that nobody needs any more.
                ctx.target = Vec::new();
            }
            Verdict::Direct(_) => {}
            Verdict::Failed(e) => return Err(e),
            Verdict::Relay(head, body) => {
                self.relay(session, ctx, *head, body).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Relays an answer of S3's that was read whole.
    async fn relay(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut head: ResponseHeader,
        body: Bytes,
    ) -> Result<()> {
        self.upstream_response_filter(session, &mut head, ctx).await?;
        let mut body = Some(body);
        self.upstream_response_body_filter(session, &mut body, true, ctx)?;
        let body = body.unwrap_or_default();
        let bodiless = ctx.method == Method::HEAD;
        head.remove_header(&header::TRANSFER_ENCODING);
        if !bodiless {
            head.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        self.response_filter(session, &mut head, ctx).await?;
        session.write_response_header(Box::new(head), bodiless).await?;
        if bodiless { Ok(()) } else { session.write_response_body(Some(body), true).await }
    }

    /// Whether S3 is to be read no faster than the client: a body that takes its time.
    fn wants_valve(request: &RequestHeader, served: &Served) -> bool {
        let range = request.headers.get(header::RANGE).map(http::HeaderValue::as_bytes);
        let small = range.and_then(headers::range_length).is_some_and(|n| n <= SMALL_RANGE);
        // With If-Range the answer may be the whole object all the same.
        let small = small && !request.headers.contains_key(header::IF_RANGE);
        let slow = !served.settings.wait.is_zero() || served.settings.class.is_some();
        request.method == Method::GET && slow && !small
    }

    /// Announces the response to the client's stream, which paces it from then on, and notes it.
    fn begin(&self, session: &Session, ctx: &mut Context, head: &ResponseHeader) {
        let (progress, length) = self.arm(session, ctx, head);
        ctx.begin(head.status, length, progress, &self.state.transfers);
    }

    /// Announces the response to the client's stream. Returns what counts it, and its body's length.
    fn arm(
        &self,
        session: &Session,
        ctx: &Context,
        head: &ResponseHeader,
    ) -> (Arc<Progress>, Option<u64>) {
        let metrics = &self.state.metrics;
        let progress =
            Progress::new(metrics.drips.body_bytes.clone(), metrics.drips.body_records.clone());
        let progress = Arc::new(progress);
        let length = body_length(session, head);
        if let Some(stream) = paced(session) {
            let Served { settings, fill, .. } = &ctx.served;
            let chunk = settings.chunk_size.bytes();
            let limit = stream.get_ssl().map_or(chunk, |ssl| {
                let known = || listener::negotiated(ssl).map_or(chunk, |n| n.limit());
                listener::allow(ssl, chunk).unwrap_or_else(|_| known())
            });
            let pace = Pace::new(settings, limit, *fill);
            stream.arm(pace, length, progress.clone(), ctx.feed());
            if let Some(flow) =
                settings.class.as_deref().and_then(|class| self.flow(session, class))
            {
                stream.wait_for_class(flow);
            }
        }
        (progress, length)
    }

    /// How this client is served, as far as its request tells.
    fn serve(&self, session: &Session, key: &[u8]) -> Served {
        let stream = paced(session);
        let ssl = stream.and_then(Ssl::get_ssl);
        let facts = Facts {
            listener: stream.and_then(PacedStream::listener),
            client: session.client_addr().and_then(|a| a.as_inet()).map(SocketAddr::ip),
            server_name: ssl.and_then(listener::server_name),
            request: Some((key, &session.req_header().headers)),
        };
        let profiles = self.profiles.load();
        let profile = profiles.choose(&facts);
        Served {
            profile: profile.name.clone(),
            settings: profiles.schedule(profile, &facts),
            fill: profile.fill,
            offer: ssl.and_then(listener::negotiated).map(|n| n.offer).unwrap_or_default(),
        }
    }

    /// Answers a request without S3.
    async fn answer(&self, session: &mut Session, ctx: &mut Context, answer: Answer) -> Result<()> {
        let (head, body) = answer.build()?;
        self.begin(session, ctx, &head);
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(body), true).await
    }

    /// The request's head as S3 gets it: what S3 reads and what is signed, as `forwards` says.
    fn s3_request(
        &self,
        session: &Session,
        ctx: &Context,
        forwards: fn(&str, &SignedHeaders, bool) -> bool,
    ) -> Result<RequestHeader> {
        let client = session.req_header();
        let query = ctx.target.iter().position(|b| *b == b'?').map(|at| &ctx.target[at + 1..]);
        let authorization = client.headers.get(header::AUTHORIZATION);
        let authorization = authorization.filter(|_| self.upstream.authorization);
        let signed = SignedHeaders::of(query, authorization.map(http::HeaderValue::as_bytes));
        let mut request = RequestHeader::build(client.method.clone(), &ctx.target, Some(8))?;
        request.set_version(Version::HTTP_11);
        request.insert_header(header::HOST, self.upstream.endpoint.host_header())?;
        if ctx.valve.is_some() {
            request.insert_header(header::CONNECTION, "close")?;
        }
        let connection = client.headers.get_all(header::CONNECTION);
        let connection: Vec<_> = connection.iter().map(http::HeaderValue::as_bytes).collect();
        for (name, value) in &client.headers {
            let nominated = headers::hop_by_hop(name.as_str(), &connection);
            if !nominated && forwards(name.as_str(), &signed, self.upstream.authorization) {
                request.append_header(name.clone(), value.clone())?;
            }
        }
        Ok(request)
    }

    /// Whether an answer of S3's may be passed on: a redirect would send the device to S3 itself,
    /// whose records it cannot take.
    fn redirects_or_passes(&self, response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        if !matches!(response.status.as_u16(), 300..=303 | 305..=308) {
            ctx.watch_for_signature_error(response.status);
            if response.status == StatusCode::FORBIDDEN && ctx.method == Method::HEAD {
                // No body, so no word of why.
                info!(key = ctx.key.as_str(); "S3 answered 403 to a HEAD: a URL that was signed for GET does");
            }
            return Ok(());
        }
        self.count_failure("redirect");
        let bucket = self.upstream.endpoint.bucket();
        let reason = match response.headers.get("x-amz-bucket-region") {
            Some(region) => format!(
                "S3 answered {}: bucket {bucket} is in region {}; set s3.region (AWS_REGION) to it",
                response.status.as_u16(),
                String::from_utf8_lossy(region.as_bytes()),
            ),
            None => format!(
                "S3 answered {} (a redirect) for bucket {bucket}; check s3.region, s3.host and s3.endpoint",
                response.status.as_u16(),
            ),
        };
        ctx.reason = Some(reason.clone());
        Err(Error::explain(HTTPStatus(StatusCode::BAD_GATEWAY.as_u16()), reason).into_up())
    }

    /// Says in the log what a signature error of S3's comes of, if this piece of an answer tells of one.
    fn explain_signature(&self, ctx: &mut Context, body: &[u8]) {
        if ctx.finds_signature_error(body) {
            warn!(
                key = ctx.key.as_str(), host = self.upstream.endpoint.host_header();
                "S3 answered SignatureDoesNotMatch: the URL was signed for another host, path, query \
                 or method than was sent; `dripline url` tells which setting the URL needs"
            );
        }
    }

    fn count_failure(&self, kind: &str) {
        self.state.metrics.responses.upstream_failures.with_label_values(&[kind]).inc();
    }
}

#[async_trait]
impl ProxyHttp for DripProxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    /// Called for the first request as well. From here on a drain waits for this request, while S3
    /// has not answered yet too.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Context,
        connection: Box<dyn Any + Send + Sync>,
    ) {
        ctx.active = Some(self.state.lifecycle.enter());
        if let Some(connection) = connection.downcast_ref::<Arc<Connection>>() {
            connection.busy();
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        ctx.client = session.client_addr().and_then(|client| client.as_inet()).copied();
        let request = session.req_header();
        ctx.method = request.method.clone();
        let mut key = &b""[..];
        let uploads = self.uploads.is_some();
        let target = route(&request.method, request.raw_path(), uploads).and_then(|route| {
            key = route.key.as_bytes();
            ctx.key = route.key.to_string();
            self.upstream.endpoint.target(&route.key, route.query)
        });
        ctx.served = self.serve(session, key);
        let has_body = !session.as_downstream_mut().is_body_empty();
        let refusal = match (target, &self.uploads) {
            (Err(refusal), _) => Answer::refusal(refusal),
            (Ok(target), Some(uploads)) if ctx.method == Method::PUT => {
                ctx.target = target;
                self.upload(uploads, session, ctx).await?;
                return Ok(true);
            }
            (Ok(_), _) if has_body => {
                Answer::new(StatusCode::BAD_REQUEST, "a GET or HEAD takes no body here")
            }
            (Ok(target), _) => {
                ctx.target = target;
                let Some(spool) = &self.spool else { return Ok(false) };
                return self.spooled(spool, session, ctx).await;
            }
        };
        self.answer(session, ctx, refusal).await?;
        Ok(true)
    }

    /// Serves what was authorised from the spool; without that there is no cache.
    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        if ctx.spooled.is_some() {
            session.cache.enable(&STORAGE, None, None, None, None);
        }
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut Context) -> Result<CacheKey> {
        let served = ctx.spooled.as_ref();
        let head = served.and_then(|served| served.reading.head());
        let (Some(served), Some((head, since))) = (served, head) else {
            return Error::e_explain(InternalError, "nothing was authorised");
        };
        let mut head = head.clone();
        trim(&mut head, &ctx.served.settings.response_headers);
        let reading = Arc::clone(&served.reading);
        Ok(Hit::new(reading, head, since, served.multipart).into_key())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let endpoint = &self.upstream.endpoint;
        let address = self.resolver.address().await.map_err(|e| {
            self.count_failure("connect");
            let reason = format!("cannot resolve {}: {e}", endpoint.host());
            ctx.reason = Some(reason.clone());
            Error::explain(HTTPStatus(StatusCode::BAD_GATEWAY.as_u16()), reason).into_up()
        })?;
        ctx.valve = Self::wants_valve(session.req_header(), &ctx.served).then(Arc::default);
        Ok(Box::new(self.upstream.peer(address, ctx.valve.as_ref())))
    }

    /// Lets go of a pooled connection on which S3 has said something unasked: the next one is tried.
    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        fd: RawFd,
        _: Option<&Digest>,
        _: &mut Context,
    ) -> Result<()> {
        if !reused || is_quiet(fd) {
            return Ok(());
        }
        let mut e = Error::explain(ReadError, "S3 sent something unasked for").into_up();
        e.set_retry(true);
        Err(e)
    }

    /// Replaces the client's request by one that holds only what S3 reads.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        *upstream = self.s3_request(session, ctx, headers::forwards)?;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.redirects_or_passes(response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if let Some(body) = body {
            self.explain_signature(ctx, body);
        }
        Ok(None)
    }

    /// Trims the head to what a device needs, and begins the drip.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        trim(response, &ctx.served.settings.response_headers);
        response.set_version(Version::HTTP_11);
        // HTTP/1.0 has no chunks: without a length, the end of the connection ends the body.
        if session.req_header().version == Version::HTTP_10 {
            response.remove_header(&header::TRANSFER_ENCODING);
            if !response.headers.contains_key(header::CONTENT_LENGTH) {
                session.set_keepalive(None);
            }
        }
        self.begin(session, ctx, response);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        ctx.tries += 1;
        if let Some(address) = peer.address().as_inet() {
            self.resolver.failed(*address);
        }
        e.set_retry(ctx.tries < CONNECT_TRIES);
        e
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let reason = ctx.reason.take();
        let cause = reason.clone().unwrap_or_else(|| e.to_string());
        if *e.esource() == ErrorSource::Upstream && reason.is_none() {
            self.count_failure(answer::failure_kind(e));
        }
        let answer = Answer::failure(e, reason);
        let begun = session.response_written().is_some();
        match answer {
            Some(answer) if !begun => {
                let error_code = answer.status().as_u16();
                warn!(key = ctx.key.as_str(), status = error_code; "{cause}");
                // The request may not have been read to its end.
                session.set_keepalive(None);
                if self.answer(session, ctx, answer).await.is_ok() {
                    session.as_downstream_mut().shutdown().await;
                }
                FailToProxy { error_code, can_reuse_downstream: false }
            }
            _ => {
                if *e.esource() == ErrorSource::Upstream {
                    warn!(key = ctx.key.as_str(); "closing the client's connection short: {cause}");
                }
                FailToProxy { error_code: 0, can_reuse_downstream: false }
            }
        }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Context) {
        if e.is_some() || !paced(session).is_some_and(PacedStream::is_dripping) {
            return ctx.end(e);
        }
        // The stream has the body's promise and drips on alone: see `http1::connection`. A connection
        // that is to end with this response must not be closed before.
        let reuses = session.get_keepalive_reuses_remaining();
        let closes = session.get_keepalive().is_none() || reuses == Some(0);
        ctx.detach(closes);
        if closes {
            // With it Pingora would close whatever is set here.
            session.req_header_mut().remove_header(&header::CONNECTION);
            session.set_keepalive(Some(0));
            session.set_keepalive_reuses_remaining(None);
        }
    }

    /// Hands what is left to do to `http1::connection`, not to the next request.
    fn persist_connection_context(
        &self,
        _: &Session,
        ctx: &Context,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        ctx.take_detached().map(|rest| rest as _)
    }

    // What failed is logged by `fail_to_proxy`; Pingora's own lines would repeat it.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    // Pingora's default holds the query, and with it the signature.
    fn request_summary(&self, _: &Session, ctx: &Context) -> String {
        format!("{} {}", ctx.method, ctx.key)
    }
}

/// Takes out what a device does not need.
fn trim(head: &mut ResponseHeader, extra: &[HeaderPattern]) {
    let dropped: Vec<_> =
        head.headers.keys().filter(|name| !headers::keeps(name.as_str(), extra)).cloned().collect();
    for name in &dropped {
        head.remove_header(name);
    }
}

/// The client's stream under Pingora's session.
fn paced(session: &Session) -> Option<&PacedStream> {
    http_stream(session).map(HttpStream::paced)
}

/// What stands between the client and Pingora's session.
fn http_stream(session: &Session) -> Option<&HttpStream> {
    (**session.as_downstream().stream()?).as_any().downcast_ref::<HttpStream>()
}

/// How many body bytes follow this head; `None` if only their end will tell (RFC 9112 §6.3).
fn body_length(session: &Session, response: &ResponseHeader) -> Option<u64> {
    let bodiless = session.req_header().method == Method::HEAD
        || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Some(0);
    }
    let length = response.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}
