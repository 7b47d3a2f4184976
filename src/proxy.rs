//! One request's life, phase by phase, as Pingora calls it; each phase in a few lines. [`mod@plan`] decides
//! what becomes of a request, `download` and [`upload`] carry it out, `response` makes S3's response the
//! client's, `delivery` says how the client is served.
//!
//! The filters arm the client's [`PacedStream`], which slices and waits: a filter cannot pace on the
//! uncached path (see [`crate::drip::stream`]).
//!
//! Invariants: S3's status and body are relayed as they are; nothing that S3's signature covers is
//! changed on the way; a query string, which holds signatures, is never logged.
//!
//! This room must not know the configuration file.

mod context;
mod delivery;
mod download;
mod error_code;
mod own_response;
pub mod plan;
mod response;
mod state;
pub mod upload;

use std::any::Any;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use log::warn;
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::upstreams::peer::Peer;
use pingora_cache::CacheKey;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::FailToProxy;

use crate::drip::stream::PacedStream;
use crate::lifecycle::Connection;
use crate::profile::Profiles;
use crate::s3::outgoing::Outgoing;
use crate::s3::quiet::is_quiet;
use crate::s3::resolve::Resolver;
use crate::s3::upstream::Upstream;
use crate::shape::Shaper;
use crate::spool::Spool;
use crate::spool::storage::STORAGE;
pub use context::Context;
use context::{ClientRequest, Delivery};
use delivery::{client, paced};
use own_response::{OwnResponse, failure_kind};
use plan::{Plan, Request, ServerFacts, is_small_range, plan};
use response::trim;
pub use state::ProcessState;
use upload::Uploads;

/// How many of S3's addresses are tried for a request before it fails.
const CONNECT_TRIES: u32 = 3;

/// The device side of dripline as Pingora drives it: serves one bucket, each kind of device at its pace.
pub struct DripProxy {
    /// How connections to S3 are made.
    pub upstream: Upstream,
    /// Finds S3's addresses.
    pub resolver: Arc<Resolver>,
    /// How each kind of device is served.
    pub profiles: Arc<ArcSwap<Profiles>>,
    /// The spool, if there is one.
    pub spool: Option<Arc<Spool>>,
    /// The class tree, if there is one.
    pub shaper: Option<Arc<Shaper>>,
    /// How PUT is served, if it is.
    pub uploads: Option<Uploads>,
    /// What is counted and listed, and whether a drain has begun.
    pub state: ProcessState,
}

impl DripProxy {
    /// The client's request as S3 gets it.
    fn s3_request(&self, session: &Session, ctx: &Context) -> Result<RequestHeader> {
        let client = session.req_header();
        let Upstream { endpoint, .. } = &self.upstream;
        let authority = self.upstream.authority();
        let mut request =
            Outgoing::new(endpoint, client.method.clone(), &ctx.s3.target, authority)?;
        if ctx.s3.valve.is_some() {
            request.close_after()?;
        }
        request.pass_on(&client.headers)?;
        if client.method == Method::PUT {
            request.announce_body(client)?;
        }
        Ok(request.finish())
    }

    /// Whether S3 is to be read no faster than the client: the body is sent slowly and may be long.
    fn wants_valve(request: &RequestHeader, delivery: &Delivery) -> bool {
        request.method == Method::GET && delivery.is_slow() && !is_small_range(&request.headers)
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

    /// Called for the first request of a connection too. A drain waits for the request from here on, also
    /// while S3 has not answered.
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
        let has_body = !session.as_downstream_mut().is_body_empty();
        let request = session.req_header();
        let (key, plan) = plan(
            &Request {
                method: &request.method,
                target: request.raw_path(),
                headers: &request.headers,
                has_body,
            },
            &ServerFacts {
                endpoint: &self.upstream.endpoint,
                uploads: self.uploads.is_some(),
                spool: self.spool.is_some(),
            },
        );
        ctx.request = ClientRequest {
            client: client(session),
            method: request.method.clone(),
            key: key.map(|key| key.to_string()).unwrap_or_default(),
        };
        ctx.delivery = self.delivery(session, key.map_or(b"", |key| key.as_bytes()));
        match (plan, &self.uploads, &self.spool) {
            (Plan::Refuse(refusal), ..) => {
                self.send_own(session, ctx, OwnResponse::refusal(refusal)).await?;
                Ok(true)
            }
            (Plan::Upload { target }, Some(uploads), _) => {
                ctx.s3.target = target;
                self.upload(uploads, session, ctx).await?;
                Ok(true)
            }
            (Plan::Spool { target, name, expires }, _, Some(spool)) => {
                ctx.s3.target = target;
                self.authorise(spool, name, expires, session, ctx).await
            }
            (Plan::Direct { target, bypass }, _, spool) => {
                ctx.s3.target = target;
                if let (Some(spool), Some(bypass)) = (spool, bypass) {
                    spool.bypassed(&bypass);
                }
                Ok(false)
            }
            (Plan::Upload { .. } | Plan::Spool { .. }, ..) => Error::e_explain(
                InternalError,
                "the plan needs uploads or a spool, and there is none",
            ),
        }
    }

    /// Serves what was authorised from the spool; without that there is no cache.
    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        if ctx.spooled.is_some() {
            session.cache.enable(&STORAGE, None, None, None, None);
        }
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, ctx: &mut Context) -> Result<CacheKey> {
        Self::cache_key(ctx)
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
            ctx.s3.failure = Some(reason.clone());
            Error::explain(HTTPStatus(StatusCode::BAD_GATEWAY.as_u16()), reason).into_up()
        })?;
        ctx.s3.valve = Self::wants_valve(session.req_header(), &ctx.delivery).then(Arc::default);
        Ok(Box::new(self.upstream.peer(address, ctx.s3.valve.as_ref())))
    }

    /// Drops a pooled connection on which S3 has sent something unasked; the next one is tried.
    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        fd: RawFd,
        _: Option<&Digest>,
        _: &mut Context,
    ) -> Result<()> {
        // A new connection may have no descriptor to show: -1.
        if !reused {
            return Ok(());
        }
        // SAFETY: it is not -1, and Pingora calls this while it holds the connection, so the descriptor is
        // open meanwhile.
        #[expect(unsafe_code, reason = "Pingora shows a connection's socket as a number alone")]
        let socket = (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) });
        if socket.is_some_and(is_quiet) {
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
        *upstream = self.s3_request(session, ctx)?;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.accept(response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if let Some(body) = body {
            self.look_through(body, ctx);
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
        trim(response, &ctx.delivery.settings.response_headers);
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
        ctx.s3.tries += 1;
        if let Some(address) = peer.address().as_inet() {
            self.resolver.failed(*address);
        }
        e.set_retry(ctx.s3.tries < CONNECT_TRIES);
        e
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let reason = ctx.s3.failure.take();
        let tls = self.upstream.endpoint.tls();
        let cause = reason.clone().unwrap_or_else(|| own_response::cause(e, tls));
        if *e.esource() == ErrorSource::Upstream && reason.is_none() {
            self.count_failure(failure_kind(e));
        }
        let response = OwnResponse::failure(e, reason);
        let begun = session.response_written().is_some();
        match response {
            Some(response) if !begun => {
                let error_code = response.status().as_u16();
                warn!(key = ctx.request.key.as_str(), status = error_code; "{cause}");
                // The request's body may not have been read to its end.
                session.set_keepalive(None);
                if self.send_own(session, ctx, response).await.is_ok() {
                    session.as_downstream_mut().shutdown().await;
                }
                FailToProxy { error_code, can_reuse_downstream: false }
            }
            _ => {
                if *e.esource() == ErrorSource::Upstream {
                    warn!(key = ctx.request.key.as_str(); "response cut short, closing the client's connection: {cause}");
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
            // This header would make Pingora close the connection whatever is set here.
            session.req_header_mut().remove_header(&header::CONNECTION);
            session.set_keepalive(Some(0));
            session.set_keepalive_reuses_remaining(None);
        }
    }

    /// Hands the body that goes on to `http1::connection`, not to the next request.
    fn persist_connection_context(
        &self,
        _: &Session,
        ctx: &Context,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        ctx.take_detached().map(|rest| rest as _)
    }

    // `fail_to_proxy` logs failures; Pingora's own lines would repeat them.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    // Pingora's default has the query in it, and with it the signature.
    fn request_summary(&self, _: &Session, ctx: &Context) -> String {
        format!("{} {}", ctx.request.method, ctx.request.key)
    }
}
