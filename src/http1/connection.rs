//! One connection's life, request by request: a head is read and judged, a Pingora app serves the request,
//! and the connection goes on or ends.
//!
//! Pingora's own loop is not used. Its timeouts are for one read each, so a client that sends a byte a
//! minute is in time; it repairs and escapes what it reads before any filter sees it; and it lets a head
//! grow to 1 MB. It would also keep a request's whole state, some 20 KB, for the hours that its body may
//! drip. Here a request is over for Pingora once the client's stream has taken the promise of the whole
//! rest of the body ([`PacedStream::is_dripping`]); only the stream and a [`DetachedBody`] go on.
//!
//! Invariant: a connection whose request was refused is never read for another.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use http::StatusCode;
use log::info;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::{ServerSession, date};
use pingora_core::protocols::{GetSocketDigest, Shutdown};
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

use super::DetachedBody;
use super::head::{Head, HeadLimits, NoHead, read_head};
use super::refusal::{ANSWER_TIMEOUT, RefusalResponse};
use super::stream::HttpStream;
use crate::drip::stream::PacedStream;
use crate::drip::threads::DripThreads;
use crate::lifecycle::Connection;
use crate::limits;
use crate::limits::connections::ConnectionLimiter;

/// Empty lines that may come before a request line ("SHOULD ignore at least one", RFC 9112 §2.2);
/// old clients send one after a body.
const EMPTY_LINES: usize = 2;

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
    let mut stream = Box::new(HttpStream::new(stream, Arc::clone(limiter)));
    let mut left = limits.requests_per_connection;
    loop {
        let new = left == limits.requests_per_connection;
        // Boxed: a drip of hours must not keep the room that either needs.
        let head = match Box::pin(next_head(&mut stream, new, limits)).await {
            Ok(head) => head,
            Err(why) => return Box::pin(refuse(&mut stream, limiter, new, &why)).await,
        };
        left -= 1;
        if left == 0 && limits.requests_per_connection > 1 {
            limiter.count_hit("requests_per_connection");
        }
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive_reuses_remaining(Some(left));
        session.set_pipelined_prefix(head);
        session.set_connection_user_context(Some(Box::new(Arc::clone(connection))));
        let reused = app.process_new_http(session, draining).await;
        let Some((same, settings)) = reused.map(ReusedHttpStream::consume) else { return };
        let Ok(same) = same.into_any().downcast::<HttpStream>() else { return };
        stream = same;
        if stream.is_owed_body() {
            // The next bytes belong to a body that was not read: they are no request.
            return stream.shutdown_stream().await;
        }
        let body = settings.and_then(|mut settings| settings.take_user_context());
        if let Some(Ok(body)) = body.map(|body| body.downcast::<Box<dyn DetachedBody>>()) {
            let Some((same, sent)) = drip_out(threads, stream).await else { return };
            stream = same;
            let goes_on = body.end(&sent);
            // No close_notify after a body that is not whole: it would confirm that end (RFC 8446 §6.1).
            if sent.is_err() {
                return;
            }
            if !goes_on {
                return stream.shutdown_stream().await;
            }
        }
        connection.idle();
        if *draining.borrow() {
            return stream.shutdown_stream().await;
        }
    }
}

/// Sends the rest of a promised body: its last record at once, more than that on a thread for drips.
/// None if that thread is gone.
async fn drip_out(
    threads: &DripThreads,
    mut stream: Box<HttpStream>,
) -> Option<(Box<HttpStream>, io::Result<()>)> {
    let short = stream.paced().is_dripping_its_last();
    let records = stream.paced().records_per_second();
    let rest = async move {
        let sent = stream.drip_out().await;
        (stream, sent)
    };
    match short {
        true => Some(rest.await),
        false => threads.run(records, rest).await,
    }
}

/// Reads the next head, and tells the stream which body follows; `new` if it is the connection's first.
async fn next_head(
    stream: &mut HttpStream,
    new: bool,
    limits: &limits::Settings,
) -> Result<BytesMut, NoHead> {
    let limits = HeadLimits {
        bytes: limits.header_bytes,
        time: limits.header_timeout,
        idle: (!new).then_some(limits.idle_timeout),
        empty_lines: EMPTY_LINES,
    };
    let early = stream.take_rest();
    let Head { bytes, body, rest } = read_head(&mut stream.unfiltered(), early, limits).await?;
    stream.keep_rest(rest);
    stream.expect(body);
    Ok(bytes)
}

/// Counts why there is no request, tells the client, and ends the connection.
async fn refuse(stream: &mut HttpStream, limiter: &ConnectionLimiter, new: bool, why: &NoHead) {
    match why {
        NoHead::Gone(_) => {}
        NoHead::Idle if !new => limiter.count_hit("idle_timeout"),
        NoHead::Idle | NoHead::Slow => limiter.count_hit("header_timeout"),
        NoHead::Large => limiter.count_hit("header_bytes"),
        NoHead::Bad(defect) => {
            limiter.metrics.malformed.with_label_values(&[defect.label()]).inc();
        }
    }
    if let Some((status, reason)) = why.answer() {
        let client = client(stream);
        info!(client = client.as_str(), status = status.as_u16(); "request refused: {reason}");
        if send_refusal(stream, status, &reason, "").await {
            return;
        }
    }
    let _ = timeout(ANSWER_TIMEOUT, stream.shutdown()).await;
}

/// Refuses a connection before its first request, in plain HTTP.
pub async fn reject_connection(
    stream: PacedStream,
    limiter: &Arc<ConnectionLimiter>,
    status: StatusCode,
    reason: &str,
) {
    let mut stream = HttpStream::new(stream, Arc::clone(limiter));
    send_refusal(&mut stream, status, reason, "Retry-After: 10\r\n").await;
}

/// Sends a refusal as an origin server does, with the date (RFC 9110 §6.6.1). Returns whether it was sent.
async fn send_refusal(
    stream: &mut HttpStream,
    status: StatusCode,
    reason: &str,
    headers: &str,
) -> bool {
    let date = date::get_cached_date();
    let headers = format!("{headers}Date: {}\r\n", date.to_str().unwrap_or_default());
    let refusal = RefusalResponse { status, reason, in_status_line: false, headers: &headers };
    refusal.send(&mut stream.unfiltered()).await
}

/// The client's address, for the log; empty if it is unknown.
fn client(stream: &HttpStream) -> String {
    let digest = stream.get_socket_digest();
    let client = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet());
    client.map(ToString::to_string).unwrap_or_default()
}
