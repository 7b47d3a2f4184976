//! An upload's body on its way from the client to S3, until S3 answers or either side fails.
//!
//! Invariant: one piece of the body is in memory at a time; the next is read when S3 was sent this one.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use pingora::prelude::*;
use pingora_http::ResponseHeader;
use tokio::time::Instant;

use crate::http1::framing::Defect;
use crate::limits;
use crate::s3::put::Put;
use crate::shape::Flow;
use crate::transfers::ByteCount;

/// How forwarding ended.
pub(super) enum Outcome {
    /// S3 has answered.
    Answered(Box<ResponseHeader>),
    /// S3 cannot be reached, or its connection failed.
    Upstream(Box<Error>),
    /// The client has closed, or its connection failed.
    Gone,
    /// The client has stopped sending.
    Slow,
    /// The body's framing is ambiguous or broken.
    Malformed(Defect),
}

/// A body that is being forwarded.
pub(super) struct Forwarding<'a> {
    pub(super) put: &'a mut Put,
    /// Counts the bytes that S3 was sent.
    pub(super) sent: &'a ByteCount,
    /// What the bytes wait for; None if they are not shaped, or all are sent.
    pub(super) flow: Option<Flow>,
    /// What was read and not sent yet.
    pub(super) piece: Bytes,
    /// The whole body was sent.
    pub(super) complete: bool,
    /// The client waits for a 100 before it sends (RFC 9110 §10.1.1).
    pub(super) expects: bool,
    pub(super) response_timeout: Duration,
    pub(super) limits: limits::Settings,
}

/// What happens first.
enum Event {
    Answer(Result<Box<ResponseHeader>>),
    Permit(usize),
    Read(Result<Option<Bytes>>),
    Silence,
}

impl Forwarding<'_> {
    /// Forwards the body until S3 answers, or either side fails.
    pub(super) async fn run(&mut self, session: &mut Session) -> Outcome {
        if session.as_downstream_mut().is_body_done()
            && let Err(e) = self.complete().await
        {
            return answer_or(self.put, e).await;
        }
        loop {
            let end = match self.next(session).await {
                Event::Answer(Err(e)) => Some(Outcome::Upstream(e)),
                Event::Answer(Ok(head)) => self.answered(session, head).await,
                Event::Permit(permit) => self.send(session, permit).await,
                Event::Read(Err(e)) => Some(broken(&e)),
                Event::Read(Ok(read)) => {
                    self.expects = false;
                    self.piece = read.unwrap_or_default();
                    self.send(session, 0).await
                }
                // A client that waits for a 100, or has sent all, is not the one that is late.
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

    /// Waits for the first of: an answer, a permit to send, more of the body, a timeout.
    #[expect(
        clippy::disallowed_methods,
        reason = "a client's silence is measured from the last piece"
    )]
    async fn next(&mut self, session: &mut Session) -> Event {
        let pending = self.piece.len();
        let timeout = match (self.complete || self.expects, pending) {
            (true, _) => self.response_timeout,
            (false, 0) => self.limits.receive_timeout,
            // The class delays it, and no class does so without end.
            (false, _) => Duration::from_secs(24 * 3600),
        };
        let flow = &mut self.flow;
        let permit = async {
            match flow {
                Some(flow) => flow.acquire(pending).await,
                None => pending,
            }
        };
        tokio::select! {
            biased;
            answer = self.put.answer() => Event::Answer(answer),
            permit = permit, if pending > 0 => Event::Permit(permit),
            // Once all was read, this resolves when the client closes.
            read = session.as_downstream_mut().read_body_or_idle(self.complete), if pending == 0 => {
                Event::Read(read)
            }
            () = tokio::time::sleep_until(Instant::now() + timeout) => Event::Silence,
        }
    }

    /// Takes a response head of S3's. An interim one does not end the upload.
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
            let interim = ResponseHeader::build(StatusCode::CONTINUE, Some(0)).ok()?;
            if session.write_response_header(Box::new(interim), false).await.is_err() {
                return Some(Outcome::Gone);
            }
        }
        None
    }

    /// Sends `permit` bytes of the piece, and ends the body after its last byte.
    async fn send(&mut self, session: &mut Session, permit: usize) -> Option<Outcome> {
        if permit > 0 {
            if let Err(e) = self.put.send(&self.piece[..permit]).await {
                return Some(answer_or(self.put, e).await);
            }
            if let Some(flow) = &mut self.flow {
                flow.spend(permit);
            }
            self.piece.advance(permit);
            self.sent.add(permit);
        }
        if self.piece.is_empty()
            && session.as_downstream_mut().is_body_done()
            && let Err(e) = self.complete().await
        {
            return Some(answer_or(self.put, e).await);
        }
        None
    }

    /// Ends the body.
    async fn complete(&mut self) -> Result<()> {
        self.complete = true;
        // The class need not count a flow that has nothing left to send.
        self.flow = None;
        self.put.end().await
    }
}

/// S3's answer, if it sent one before its connection failed with `e`; else that failure.
pub(super) async fn answer_or(put: &mut Put, e: Box<Error>) -> Outcome {
    match put.early_answer().await {
        Some(head) => Outcome::Answered(head),
        None => Outcome::Upstream(e),
    }
}

/// How an upload ends whose body cannot be read.
fn broken(e: &Error) -> Outcome {
    let io = e.root_cause().downcast_ref::<io::Error>();
    let defect = io.and_then(io::Error::get_ref).and_then(|e| e.downcast_ref::<Defect>());
    defect.map_or(Outcome::Gone, |defect| Outcome::Malformed(*defect))
}
