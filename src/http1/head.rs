//! Reads one request head: no longer than it may be, in no more time than there is, and framed in
//! one way only.
//!
//! Invariant: what is returned passed [`framing::parse_head`], whole and alone; what the client sent after
//! it stays with the [`HttpStream`].

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use tokio::time::{Instant, sleep_until};

use super::stream::HttpStream;
use crate::http1::framing::{self, Body, Defect, Scan};
use crate::limits::Settings;

/// The room for a head at first, in bytes: most presigned URLs and a few headers. It grows by that
/// much, and what is not used is given back, since the head is kept while its response drips.
const ROOM: usize = 1024;

/// Empty lines that may come before a request line ("SHOULD ignore at least one", RFC 9112 §2.2);
/// old clients send one after a body.
const EMPTY_LINES: usize = 2;

/// Why there is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHead {
    /// The client is gone: nothing to say.
    Over,
    /// Nothing came on a new connection within the header timeout, or on an old one within the idle
    /// timeout: nothing to say.
    Idle {
        /// Whether the connection never had a request.
        new: bool,
    },
    /// The head did not come in time.
    Slow,
    /// The head is too long.
    Large,
    /// The head can be read in several ways, or in none.
    Bad(Defect),
}

impl NoHead {
    /// What the client is told, if there is somebody to tell: a status and a line.
    #[must_use]
    pub fn answer(self) -> Option<(StatusCode, String)> {
        match self {
            Self::Over | Self::Idle { .. } => None,
            Self::Slow => {
                Some((StatusCode::REQUEST_TIMEOUT, "the request did not come in time".into()))
            }
            Self::Large => Some((
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's head is too long".into(),
            )),
            Self::Bad(defect) => Some((StatusCode::BAD_REQUEST, defect.to_string())),
        }
    }
}

/// The next request's head, and how the body behind it would end; `new` if it is the connection's
/// first.
///
/// # Errors
///
/// If there is none to be served.
pub async fn next(
    gate: &mut HttpStream,
    new: bool,
    limits: &Settings,
) -> Result<(BytesMut, Body), NoHead> {
    let mut bytes = gate.take_rest();
    let patience = |begun| {
        Instant::now() + if new || begun { limits.header_timeout } else { limits.idle_timeout }
    };
    let mut timer = pin!(sleep_until(patience(!bytes.is_empty())));
    let (mut scan, mut empty_lines) = (Scan::default(), 0);
    loop {
        match scan.head(&bytes).map_err(NoHead::Bad)? {
            Some(2) if empty_lines < EMPTY_LINES => {
                let _ = bytes.split_to(2);
                (scan, empty_lines) = (Scan::default(), empty_lines + 1);
                continue;
            }
            Some(end) if end > limits.header_bytes => return Err(NoHead::Large),
            Some(end) => {
                let body = framing::parse_head(&bytes[..end]).map_err(NoHead::Bad)?;
                return Ok((cut(gate, bytes, end), body));
            }
            None if bytes.len() >= limits.header_bytes => return Err(NoHead::Large),
            None => {}
        }
        let begun = !bytes.is_empty();
        if bytes.capacity() == bytes.len() {
            bytes.reserve(ROOM);
        }
        let read = tokio::select! {
            biased;
            read = gate.receive(&mut bytes) => read,
            () = &mut timer => return Err(if begun { NoHead::Slow } else { NoHead::Idle { new } }),
        };
        if read.unwrap_or(0) == 0 {
            return Err(NoHead::Over);
        }
        if !begun && !new {
            timer.as_mut().reset(patience(true));
        }
    }
}

/// The head in an allocation of its own size; the rest goes back to the gate.
fn cut(gate: &mut HttpStream, mut bytes: BytesMut, end: usize) -> BytesMut {
    let head = BytesMut::from(&bytes[..end]);
    if bytes.len() > end {
        let _ = bytes.split_to(end);
        gate.keep_rest(BytesMut::from(&bytes[..]));
    }
    head
}

/// How long an answer to what was no request may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
