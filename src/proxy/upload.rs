//! PUT: what a client sends goes on to S3 as it comes, held back for its class alone, and S3's answer
//! comes back, however early it is.
//!
//! Why not Pingora's upstream path: see [`crate::s3::put`].
//!
//! Invariants: no more of a body is in memory than one piece, so a client is read no faster than its
//! class and S3 allow; what S3 answers is what the client is told; a connection whose body was not read
//! to its end is not read for another request.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{StatusCode, header};
use log::warn;
use pingora::prelude::*;
use pingora_http::ResponseHeader;
use tokio::time::Instant;

use super::delivery::http_stream;
use super::download::write_whole;
use super::own_response::{OwnResponse, failure_kind};
use super::response::trim;
use super::{Context, DripProxy};
use crate::header_pattern::HeaderPattern;
use crate::http1::framing::Defect;
use crate::http1::stream::HttpStream;
use crate::limits;
use crate::s3::put::{Put, Putter};
use crate::shape::Flow;
use crate::transfers::{self, ByteCount, End, Kind, LiveTransfer, Transfer};

/// What S3 says of an object that it has stored, and nobody can ask for again with an upload's URL.
static OF_AN_UPLOAD: LazyLock<HeaderPattern> =
    LazyLock::new(|| "x-amz-*".parse().expect("a pattern"));

/// Uploads to one bucket, under a class of the proxy's tree.
pub struct Uploads {
    putter: Putter,
    class: Option<Arc<str>>,
}

impl Uploads {
    /// Uploads by way of `putter`, held back for that class, if there is one.
    #[must_use]
    pub fn new(putter: Putter, class: Option<Arc<str>>) -> Self {
        Self { putter, class }
    }

    fn class(&self) -> &str {
        self.class.as_deref().unwrap_or_default()
    }
}

/// How an upload ended.
enum Outcome {
    /// S3 has answered.
    Answered(Box<ResponseHeader>),
    /// S3 cannot be reached, or has given out.
    Upstream(Box<Error>),
    /// The client is gone.
    Gone,
    /// The client has stopped sending.
    Slow,
    /// The body can be read in several ways.
    Malformed(Defect),
}

impl DripProxy {
    /// Serves a PUT from its head to its answer.
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
        // Interim responses come before the body's end, and are no reason to close.
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(false);
        let mut put = None;
        let end = self.pass_on(uploads, session, ctx, &mut put, &sent).await;
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

    /// Passes the body on until S3 answers or there is nobody to pass it on to.
    async fn pass_on(
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
        let marks = self.shaper.as_ref().and_then(|shaper| shaper.socket_options(uploads.class()));
        let put = match uploads.putter.connect(marks.unwrap_or_default()).await {
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
            return refused_or(put, e).await;
        }
        let mut passing = Passing {
            put,
            flow: uploads.class.as_deref().and_then(|class| self.flow(session, class)),
            piece: Bytes::new(),
            complete: false,
            expects,
            response_timeout: uploads.putter.upstream().settings.response_timeout,
            limits,
        };
        passing.run(session, sent).await
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
                let cause = reason.clone().unwrap_or_else(|| e.to_string());
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

    /// Writes a whole answer, record by record.
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

/// A body on its way.
struct Passing<'a> {
    put: &'a mut Put,
    flow: Option<Flow>,
    /// What was read and not sent yet.
    piece: Bytes,
    /// The whole body was sent.
    complete: bool,
    /// The client waits for S3's leave to send (RFC 9110 §10.1.1).
    expects: bool,
    response_timeout: Duration,
    limits: limits::Settings,
}

enum Event {
    Answer(Result<Box<ResponseHeader>>),
    Leave(usize),
    Read(Result<Option<Bytes>>),
    Silence,
}

impl Passing<'_> {
    async fn run(&mut self, session: &mut Session, sent: &ByteCount) -> Outcome {
        if session.as_downstream_mut().is_body_done()
            && let Err(e) = self.complete().await
        {
            return refused_or(self.put, e).await;
        }
        loop {
            let end = match self.next(session).await {
                Event::Answer(Err(e)) => Some(Outcome::Upstream(e)),
                Event::Answer(Ok(head)) => self.answered(session, head).await,
                Event::Leave(leave) => self.send(session, leave, sent).await,
                Event::Read(Err(e)) => Some(broken(&e)),
                Event::Read(Ok(read)) => {
                    self.expects = false;
                    self.piece = read.unwrap_or_default();
                    self.send(session, 0, sent).await
                }
                // A client that waits for S3's leave, or has sent all, owes nothing.
                Event::Silence if self.complete || self.expects => {
                    let context = format!("no answer in {:?}", self.response_timeout);
                    Some(Outcome::Upstream(Error::explain(ReadTimedout, context).into_up()))
                }
                Event::Silence => Some(Outcome::Slow),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Waits for whatever comes first: an answer, leave to send, more of the body, or too long.
    #[expect(
        clippy::disallowed_methods,
        reason = "a client's silence is measured from the last piece"
    )]
    async fn next(&mut self, session: &mut Session) -> Event {
        let pending = self.piece.len();
        let patience = match (self.complete || self.expects, pending) {
            (true, _) => self.response_timeout,
            (false, 0) => self.limits.receive_timeout,
            // It is the class that holds it back, and the class lets some through in time.
            (false, _) => Duration::from_secs(24 * 3600),
        };
        let flow = &mut self.flow;
        let leave = async {
            match flow {
                Some(flow) => flow.acquire(pending).await,
                None => pending,
            }
        };
        tokio::select! {
            biased;
            answer = self.put.answer() => Event::Answer(answer),
            leave = leave, if pending > 0 => Event::Leave(leave),
            // Once all was read this waits for the client to go.
            read = session.as_downstream_mut().read_body_or_idle(self.complete), if pending == 0 => {
                Event::Read(read)
            }
            () = tokio::time::sleep_until(Instant::now() + patience) => Event::Silence,
        }
    }

    /// Takes a response head of S3's; interim ones are no end.
    async fn answered(
        &mut self,
        session: &mut Session,
        head: Box<ResponseHeader>,
    ) -> Option<Outcome> {
        if !head.status.is_informational() {
            return Some(Outcome::Answered(head));
        }
        if head.status == StatusCode::CONTINUE && self.expects {
            self.expects = false;
            let go_on = ResponseHeader::build(StatusCode::CONTINUE, Some(0)).ok()?;
            if session.write_response_header(Box::new(go_on), false).await.is_err() {
                return Some(Outcome::Gone);
            }
        }
        None
    }

    /// Sends as much of the piece as there is leave for, and ends the body after its last byte.
    async fn send(
        &mut self,
        session: &mut Session,
        leave: usize,
        sent: &ByteCount,
    ) -> Option<Outcome> {
        if leave > 0 {
            if let Err(e) = self.put.send(&self.piece[..leave]).await {
                return Some(refused_or(self.put, e).await);
            }
            if let Some(flow) = &mut self.flow {
                flow.spend(leave);
            }
            self.piece.advance(leave);
            sent.add(leave);
        }
        if self.piece.is_empty()
            && session.as_downstream_mut().is_body_done()
            && let Err(e) = self.complete().await
        {
            return Some(refused_or(self.put, e).await);
        }
        None
    }

    async fn complete(&mut self) -> Result<()> {
        self.complete = true;
        // Whoever has sent all has no use for it any more; the class has.
        self.flow = None;
        self.put.end().await
    }
}

/// S3's answer, if it gave one before it took no more; else the failure.
async fn refused_or(put: &mut Put, e: Box<Error>) -> Outcome {
    match put.last_words().await {
        Some(head) => Outcome::Answered(head),
        None => Outcome::Upstream(e),
    }
}

/// Why a client's body cannot be read.
fn broken(e: &Error) -> Outcome {
    let io = e.root_cause().downcast_ref::<io::Error>();
    let defect = io.and_then(io::Error::get_ref).and_then(|e| e.downcast_ref::<Defect>());
    defect.map_or(Outcome::Gone, |defect| Outcome::Malformed(*defect))
}

/// How many bytes the client has announced.
fn length(session: &Session) -> Option<u64> {
    let headers = &session.req_header().headers;
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.trim().parse().ok(),
        None => (!headers.contains_key(header::TRANSFER_ENCODING)).then_some(0),
    }
}
