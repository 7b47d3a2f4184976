//! One connection's life, request by request: a head is read and judged here, served by a Pingora
//! app, and the connection goes on or ends.
//!
//! Why not Pingora's own loop: its timeouts are for one read each, so a byte a minute is in time; it
//! mends and escapes what it reads before any filter sees it; and it lets a head grow to 1 MB.
//!
//! It would also keep a request's whole state, some 20 KB, for the hours that its body may drip. Here a
//! request is over for Pingora once the client's stream has taken the promise of all that is left
//! ([`PacedStream::is_dripping`]); what goes on is the stream and a [`DetachedBody`].
//!
//! Invariant: a connection whose request was refused is never read for another.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use log::info;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::GetSocketDigest;
use pingora_core::protocols::http::{ServerSession, date};
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;

use super::DetachedBody;
use super::head::{self, ANSWER_TIMEOUT, NoHead};
use super::stream::HttpStream;
use crate::drip::stream::PacedStream;
use crate::drip::threads::DripThreads;
use crate::lifecycle::Connection;
use crate::limits::connections::ConnectionLimiter;

/// How long and how much is still read of a client that was refused, so that what it has sent does
/// not reset the connection before it has read why.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 << 10);

/// Serves the requests of one connection until it ends, or a drain comes between two of them. Each
/// request's context is given `connection`, to be marked busy.
pub async fn serve_connection<A>(
    app: &Arc<A>,
    threads: &DripThreads,
    stream: PacedStream,
    limiter: &Arc<ConnectionLimiter>,
    connection: &Arc<Connection>,
    draining: &ShutdownWatch,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let limits = &limiter.settings();
    let mut gate = Box::new(HttpStream::new(stream, Arc::clone(limiter)));
    let mut left = limits.requests_per_connection;
    loop {
        let new = left == limits.requests_per_connection;
        // Boxed, as a drip of hours does not need the room for either.
        let (head, body) = match Box::pin(head::next(&mut gate, new, limits)).await {
            Ok(head) => head,
            Err(why) => return Box::pin(refuse(&mut gate, limiter, why)).await,
        };
        gate.expect(body);
        left -= 1;
        if left == 0 && limits.requests_per_connection > 1 {
            limiter.count_hit("requests_per_connection");
        }
        let mut session = ServerSession::new_http1(gate);
        session.set_keepalive_reuses_remaining(Some(left));
        session.set_pipelined_prefix(head);
        session.set_connection_user_context(Some(Box::new(Arc::clone(connection))));
        let reused = app.process_new_http(session, draining).await;
        let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) else { return };
        let Ok(same) = stream.into_any().downcast::<HttpStream>() else { return };
        gate = same;
        if gate.is_owed_body() {
            // What comes next is no request.
            return gate.shutdown_stream().await;
        }
        let rest = settings.and_then(|mut settings| settings.take_user_context());
        if let Some(Ok(rest)) = rest.map(|rest| rest.downcast::<Box<dyn DetachedBody>>()) {
            let Some((same, sent)) = drip_out(threads, gate).await else { return };
            gate = same;
            let goes_on = rest.end(&sent);
            // Nothing vouches for the end of a body that is not whole.
            if sent.is_err() {
                return;
            }
            if !goes_on {
                return gate.shutdown_stream().await;
            }
        }
        connection.idle();
        if *draining.borrow() {
            return gate.shutdown_stream().await;
        }
    }
}

/// Sends the rest of a promised body: what is more than a record, on a thread for that.
async fn drip_out(
    threads: &DripThreads,
    mut gate: Box<HttpStream>,
) -> Option<(Box<HttpStream>, io::Result<()>)> {
    let short = gate.paced().is_dripping_its_last();
    let records = gate.paced().records_per_second();
    let rest = async move {
        let sent = gate.drip_out().await;
        (gate, sent)
    };
    match short {
        true => Some(rest.await),
        false => threads.run(records, rest).await,
    }
}

/// Counts why there is no request, tells the client, and ends the connection.
async fn refuse(gate: &mut HttpStream, limiter: &ConnectionLimiter, why: NoHead) {
    match why {
        NoHead::Over => {}
        NoHead::Idle { new: true } | NoHead::Slow => limiter.count_hit("header_timeout"),
        NoHead::Idle { new: false } => limiter.count_hit("idle_timeout"),
        NoHead::Large => limiter.count_hit("header_bytes"),
        NoHead::Bad(defect) => {
            limiter.metrics.malformed.with_label_values(&[defect.label()]).inc();
        }
    }
    if let Some((status, reason)) = why.answer() {
        let client = gate.get_socket_digest();
        let client = client.as_ref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
        info!(client:? = client, status = status.as_u16(); "request refused: {reason}");
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, tell(gate, status, &reason, None)).await;
        if matches!(answer, Ok(Ok(()))) {
            return linger(gate).await;
        }
    }
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, gate.shutdown()).await;
}

/// Refuses a connection before its first request, in plain HTTP.
pub async fn reject_connection(
    stream: PacedStream,
    limiter: &Arc<ConnectionLimiter>,
    status: StatusCode,
    reason: &str,
) {
    let mut gate = HttpStream::new(stream, Arc::clone(limiter));
    let told = tell(&mut gate, status, reason, Some("Retry-After: 10\r\n"));
    if matches!(tokio::time::timeout(ANSWER_TIMEOUT, told).await, Ok(Ok(()))) {
        linger(&mut gate).await;
    }
}

/// Writes a whole response and ends the sending side.
async fn tell(
    gate: &mut HttpStream,
    status: StatusCode,
    reason: &str,
    header: Option<&str>,
) -> std::io::Result<()> {
    let date = date::get_cached_date();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: text/plain; charset=utf-8\r\n{}\
         Date: {}\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1,
        header.unwrap_or_default(),
        date.to_str().unwrap_or_default(),
    );
    gate.write_all(answer.as_bytes()).await?;
    gate.flush().await?;
    AsyncWriteExt::shutdown(gate).await
}

async fn linger(gate: &mut HttpStream) {
    let (time, mut bytes) = LINGER;
    let drain = async {
        let mut space = BytesMut::with_capacity(4096);
        while let Ok(read @ 1..) = gate.receive(&mut space).await {
            space.clear();
            let Some(left) = bytes.checked_sub(read) else { break };
            bytes = left;
        }
    };
    let _ = tokio::time::timeout(time, drain).await;
}
