//! Reads one request head from any stream: no longer than it may be, in no more time than there is, and
//! framed in one way only.
//!
//! Invariant: a [`Head`] passed [`framing::parse_head`], whole and alone; what the client sent after it is
//! kept apart. This file must not know who serves the request, nor how a refusal is written.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

use super::framing::{self, Body, Defect, Scan};

/// The room for a head at first, in bytes: most presigned URLs and a few headers. It grows by that much.
const ROOM: usize = 1024;

/// The bounds of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, the empty line at the end included.
    pub bytes: usize,
    /// For the whole head: from its first byte if `idle` is given, else from the call.
    pub time: Duration,
    /// For the first byte; None if it is part of `time`.
    pub idle: Option<Duration>,
    /// Empty lines that may come before the request line (RFC 9112 §2.2).
    pub empty_lines: usize,
}

/// A request head, and what came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// From the request line to the empty line, in an allocation of its own size: it may be kept while a
    /// response drips for hours.
    pub bytes: BytesMut,
    /// How the body behind it ends.
    pub body: Body,
    /// What the client sent after it, in an allocation of its own size.
    pub rest: BytesMut,
}

/// Why there is no request.
#[derive(Debug)]
pub enum NoHead {
    /// The client has closed the connection, or it failed.
    Gone(io::Error),
    /// No byte came in time.
    Idle,
    /// The head began and did not end in time.
    Slow,
    /// The head is too long.
    Large,
    /// The head can be read in several ways, or in none.
    Bad(Defect),
}

impl NoHead {
    /// What the client is told: a status and a line. None if the client is gone or has sent nothing.
    #[must_use]
    pub fn answer(&self) -> Option<(StatusCode, String)> {
        match self {
            Self::Gone(_) | Self::Idle => None,
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

/// Reads the next head; `early` is what the stream has sent of it already.
///
/// # Errors
///
/// If no head comes that may be served.
#[expect(clippy::disallowed_methods, reason = "a head has a deadline")]
pub async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    early: BytesMut,
    limits: HeadLimits,
) -> Result<Head, NoHead> {
    let mut bytes = early;
    let idle = limits.idle.filter(|_| bytes.is_empty());
    let mut timer = pin!(sleep_until(Instant::now() + idle.unwrap_or(limits.time)));
    let (mut scan, mut empty_lines) = (Scan::default(), 0);
    loop {
        match scan.head(&bytes).map_err(NoHead::Bad)? {
            Some(2) if empty_lines < limits.empty_lines => {
                let _ = bytes.split_to(2);
                (scan, empty_lines) = (Scan::default(), empty_lines + 1);
                continue;
            }
            Some(end) if end > limits.bytes => return Err(NoHead::Large),
            Some(end) => {
                let body = framing::parse_head(&bytes[..end]).map_err(NoHead::Bad)?;
                let (head, rest) = bytes.split_at(end);
                return Ok(Head { bytes: head.into(), body, rest: rest.into() });
            }
            None if bytes.len() >= limits.bytes => return Err(NoHead::Large),
            None => {}
        }
        let begun = !bytes.is_empty();
        if bytes.capacity() == bytes.len() {
            bytes.reserve(ROOM);
        }
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut bytes) => read,
            () = &mut timer => return Err(if begun { NoHead::Slow } else { NoHead::Idle }),
        };
        if read.map_err(NoHead::Gone)? == 0 {
            return Err(NoHead::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        if !begun && limits.idle.is_some() {
            timer.as_mut().reset(Instant::now() + limits.time);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const LIMITS: HeadLimits =
        HeadLimits { bytes: 64, time: Duration::from_secs(10), idle: None, empty_lines: 1 };

    const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What is read of pieces, each of which comes a while after the one before; then the stream ends.
    async fn read(pieces: &[(u64, &[u8])], limits: HeadLimits) -> (Result<Head, NoHead>, u64) {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let start = Instant::now();
        let send = async move {
            for (seconds, piece) in pieces {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                let _ = client.write_all(piece).await;
            }
        };
        let read = async {
            let read = read_head(&mut server, BytesMut::new(), limits).await;
            (read, start.elapsed().as_secs())
        };
        tokio::join!(read, send).0
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_head_is_kept_apart() {
        let follows = [HEAD, b"GET /b"].concat();
        let (head, _) = read(&[(0, b"\r\n"), (1, &follows)], LIMITS).await;
        let head = head.unwrap();
        assert_eq!(
            (&head.bytes[..], head.body, &head.rest[..]),
            (HEAD, Body::None, &b"GET /b"[..])
        );
        assert_eq!(head.bytes.capacity(), HEAD.len(), "it may be kept for hours");
        let (early, rest) = HEAD.split_at(20);
        let head = read_head(&mut &*rest, BytesMut::from(early), LIMITS).await.unwrap();
        assert_eq!(head.bytes, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_of_size_hold_to_the_byte() {
        let exact = HeadLimits { bytes: HEAD.len(), ..LIMITS };
        assert!(read(&[(0, HEAD)], exact).await.0.is_ok());
        let short = HeadLimits { bytes: HEAD.len() - 1, ..LIMITS };
        assert!(matches!(read(&[(0, HEAD)], short).await.0, Err(NoHead::Large)));
        let endless = [b'x'; 64];
        assert!(matches!(read(&[(0, &endless[..])], LIMITS).await.0, Err(NoHead::Large)));
        let empty_lines = (0, &b"\r\n\r\n"[..]);
        let bad = read(&[empty_lines, (0, HEAD)], LIMITS).await.0;
        assert!(matches!(bad, Err(NoHead::Bad(Defect::RequestLine))), "{bad:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_and_the_whole_head_have_times_of_their_own() {
        let kept = HeadLimits { idle: Some(Duration::from_secs(60)), ..LIMITS };
        let (early, rest) = HEAD.split_at(20);
        for (limits, wait, more, seconds, ends) in [
            (LIMITS, 4, 5, 9, "ok"),
            (LIMITS, 4, 7, 10, "slow"),
            (LIMITS, 11, 0, 10, "idle"),
            (kept, 59, 9, 68, "ok"),
            (kept, 59, 11, 69, "slow"),
            (kept, 61, 0, 60, "idle"),
        ] {
            let (head, after) = read(&[(wait, early), (more, rest)], limits).await;
            let end = match head {
                Ok(_) => "ok",
                Err(NoHead::Slow) => "slow",
                Err(NoHead::Idle) => "idle",
                Err(_) => "other",
            };
            assert_eq!((end, after), (ends, seconds), "{limits:?} {wait} {more}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_and_one_that_speaks_tls_are_told_apart() {
        let gone = read(&[(0, &HEAD[..20])], LIMITS).await.0;
        assert!(matches!(gone, Err(NoHead::Gone(_))), "{gone:?}");
        let tls = read(&[(0, b"\x16\x03\x01\x02\x00\x01")], LIMITS).await.0.unwrap_err();
        let (status, reason) = tls.answer().unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(reason.contains("TLS"), "{reason}");
    }
}
