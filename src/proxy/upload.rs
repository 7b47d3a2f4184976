//! PUT: a client's body goes to S3 as it arrives, delayed only by its class. S3's answer is relayed as
//! soon as it comes, even before the body's end.
//!
//! Why not Pingora's upstream path: see [`crate::s3::put`].
//!
//! Invariants: one piece of a body is in memory at a time, so a client is read no faster than its class
//! and S3 allow; the client gets S3's status and body; a connection whose body was not read to its end
//! is not read for another request.

mod forwarding;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{StatusCode, header};
use log::warn;
use pingora::prelude::*;
use pingora_http::ResponseHeader;

use super::delivery::http_stream;
use super::download::write_whole;
use super::own_response::{self, OwnResponse, failure_kind};
use super::response::trim;
use super::{Context, DripProxy};
use crate::header_pattern::HeaderPattern;
use crate::http1::stream::HttpStream;
use crate::s3::put::{Put, Putter};
use crate::transfers::{self, ByteCount, End, Kind, LiveTransfer, Transfer};
use forwarding::{Forwarding, Outcome};

/// Headers that S3 adds about an object that it has stored. The client cannot ask for them again: its URL
/// is signed for the upload alone.
static OF_AN_UPLOAD: LazyLock<HeaderPattern> =
    LazyLock::new(|| "x-amz-*".parse().expect("a pattern"));

/// Uploads to one bucket, under a class of the proxy's tree.
pub struct Uploads {
    putter: Putter,
    class: Option<Arc<str>>,
}

impl Uploads {
    /// Uploads over connections of `putter`; their bytes wait for that class, if there is one.
    #[must_use]
    pub fn new(putter: Putter, class: Option<Arc<str>>) -> Self {
        Self { putter, class }
    }

    fn class(&self) -> &str {
        self.class.as_deref().unwrap_or_default()
    }
}

impl DripProxy {
    /// Serves a PUT: forwards its body and writes the answer.
    pub(super) async fn upload(
        &self,
        uploads: &Uploads,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<()> {
        let sent = Arc::new(ByteCount::new(self.state.metrics.uploads.bytes.clone()));
        let upload = transfers::Upload {
            key: ctx.request.key.clone(),
            profile: ctx.delivery.profile.clone(),
            sent: Arc::clone(&sent),
        };
        let transfer = Transfer::new(ctx.request.client, Kind::Upload(upload))
            .class(uploads.class.clone())
            .total(length(session));
        let mut transfer = self.state.transfers.begin(transfer);
        // A 100 is written before the body's end. Pingora would close the connection for that.
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(false);
        let mut put = None;
        let end = self.forward(uploads, session, ctx, &mut put, &sent).await;
        if !session.as_downstream_mut().is_body_done() {
            session.set_keepalive(None);
        }
        let timeout = uploads.putter.upstream().settings.response_timeout;
        let end = match (end, &mut put) {
            (Outcome::Answered(head), Some(put)) => match put.body(timeout).await {
                Ok(body) => {
                    return self.relay_answer(session, ctx, *head, body, &mut transfer).await;
                }
                Err(e) => Outcome::Upstream(e),
            },
            (end, _) => end,
        };
        drop(put);
        self.give_up(session, ctx, end, &mut transfer).await
    }

    /// Forwards the body until S3 answers, or either side fails.
    async fn forward(
        &self,
        uploads: &Uploads,
        session: &mut Session,
        ctx: &mut Context,
        connected: &mut Option<Put>,
        sent: &ByteCount,
    ) -> Outcome {
        let head = match self.s3_request(session, ctx) {
            Ok(head) => head,
            Err(e) => return Outcome::Upstream(e.into_in()),
        };
        let options =
            self.shaper.as_ref().and_then(|shaper| shaper.socket_options(uploads.class()));
        let put = match uploads.putter.connect(options.unwrap_or_default()).await {
            Ok(put) => connected.insert(put),
            Err(e) => return Outcome::Upstream(e),
        };
        let expects = head.headers.contains_key(header::EXPECT);
        let Some(limits) = http_stream(session).map(|stream| {
            stream.allow_body();
            stream.limits()
        }) else {
            return Outcome::Upstream(Error::explain(
                InternalError,
                "the client's stream is no HttpStream",
            ));
        };
        if let Err(e) = put.begin(Box::new(head)).await {
            return forwarding::answer_or(put, e).await;
        }
        let mut forwarding = Forwarding {
            put,
            sent,
            flow: uploads.class.as_deref().and_then(|class| self.flow(session, class)),
            piece: Bytes::new(),
            complete: false,
            expects,
            response_timeout: uploads.putter.upstream().settings.response_timeout,
            limits,
        };
        forwarding.run(session).await
    }

    /// Relays S3's answer.
    async fn relay_answer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut head: ResponseHeader,
        body: Bytes,
        transfer: &mut LiveTransfer,
    ) -> Result<()> {
        if let Err(e) = self.accept_whole(&mut head, &body, ctx) {
            return self.give_up(session, ctx, Outcome::Upstream(e), transfer).await;
        }
        let mut kept = ctx.delivery.settings.response_headers.clone();
        kept.push(OF_AN_UPLOAD.clone());
        trim(&mut head, &kept);
        transfer.answered(head.status);
        transfer.set_end(End::Done);
        self.respond(session, ctx, head, body, transfer).await;
        Ok(())
    }

    /// Ends an upload that S3 has not answered.
    async fn give_up(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        end: Outcome,
        transfer: &mut LiveTransfer,
    ) -> Result<()> {
        let (answer, fault) = match end {
            Outcome::Answered(_) | Outcome::Gone => (None, End::Client),
            Outcome::Slow => {
                self.on_stream(session, |stream| stream.count_hit("receive_timeout"));
                let status = StatusCode::REQUEST_TIMEOUT;
                (Some(OwnResponse::new(status, "the body did not come in time")), End::Client)
            }
            Outcome::Malformed(defect) => {
                self.on_stream(session, |stream| stream.malformed(defect.label()));
                let reason = defect.to_string();
                (Some(OwnResponse::new(StatusCode::BAD_REQUEST, reason)), End::Client)
            }
            Outcome::Upstream(e) => {
                let reason = ctx.s3.failure.take();
                let tls = self.upstream.endpoint.tls();
                let cause = reason.clone().unwrap_or_else(|| own_response::cause(&e, tls));
                warn!(key = ctx.request.key.as_str(); "upload failed: {cause}");
                if reason.is_none() {
                    self.count_failure(failure_kind(&e));
                }
                (OwnResponse::failure(&e, reason), End::Upstream)
            }
        };
        session.set_keepalive(None);
        transfer.set_end(fault);
        if let Some(answer) = answer {
            transfer.answered(answer.status());
            let (head, body) = answer.build()?;
            self.respond(session, ctx, head, body, transfer).await;
        }
        Ok(())
    }

    /// Writes a response that is in memory whole.
    async fn respond(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        head: ResponseHeader,
        body: Bytes,
        transfer: &mut LiveTransfer,
    ) {
        self.state.metrics.responses.begun.with_label_values(&[head.status.as_str()]).inc();
        self.arm(session, ctx, &head);
        let body = (!body.is_empty()).then_some(body);
        if write_whole(session, head, body).await.is_err() {
            session.set_keepalive(None);
            transfer.set_end(End::Client);
        }
    }

    fn on_stream(&self, session: &Session, act: impl FnOnce(&HttpStream)) {
        if let Some(stream) = http_stream(session) {
            act(stream);
        }
    }
}

/// How many bytes the client has announced; None for a body in chunks.
fn length(session: &Session) -> Option<u64> {
    let headers = &session.req_header().headers;
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.trim().parse().ok(),
        None => (!headers.contains_key(header::TRANSFER_ENCODING)).then_some(0),
    }
}
