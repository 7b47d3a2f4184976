//! What a [`FaultOrigin`](super::FaultOrigin) does with a request: a description, and the bytes it
//! comes to.
//!
//! Invariant: nothing here is corrected; a plan that lies comes out as a lie.
//!
//! It must not know sockets.

use std::sync::Arc;
use std::time::Duration;

/// The first `len` bytes of an endless body that repeats in no power of two, nor anywhere else
/// within reach: any slice of it tells where it belongs.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Knuth's MMIX generator; its period is 2^64.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// What happens when the planned bytes of a body are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The next request on the connection is awaited.
    KeepAlive,
    /// The connection is closed in good order (close_notify under TLS, then FIN).
    Close,
    /// FIN alone: under TLS a truncation.
    Cut,
    /// RST. What the client's socket has not taken by then may be lost.
    Reset,
    /// Nothing more is sent and nothing closed.
    Stall,
    /// So many more bytes, beyond all that was announced, and then a stall.
    Extra(usize),
}

/// How one request is answered. Starts from one of the associated functions; the methods change
/// details.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) reaction: Reaction,
    pub(super) delay: Duration,
    status: String,
    headers: Vec<String>,
    content_length: Option<Vec<String>>,
    chunk: Option<usize>,
    body: Arc<Vec<u8>>,
    send_only: Option<usize>,
    pub(super) pieces: Vec<usize>,
    pub(super) pause: Duration,
    pub(super) end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Answer,
    Raw(Vec<u8>),
    Silence,
    NoAccept,
}

impl Plan {
    /// 200 with [`pattern`]`(len)`, announced truthfully, and keep-alive.
    pub fn ok(len: usize) -> Self {
        Self {
            reaction: Reaction::Answer,
            delay: Duration::ZERO,
            status: "200 OK".into(),
            headers: vec!["ETag: \"fault\"".into(), "Accept-Ranges: bytes".into()],
            content_length: None,
            chunk: None,
            body: Arc::new(pattern(len)),
            send_only: None,
            pieces: vec![usize::MAX],
            pause: Duration::ZERO,
            end: End::KeepAlive,
        }
    }

    /// An S3 error: this status line, XML with this code.
    pub fn error(status: &str, code: &str) -> Self {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code></Error>"
        );
        let plain = Self { headers: Vec::new(), ..Self::ok(0) };
        plain.status(status).header("Content-Type", "application/xml").body(xml.into_bytes())
    }

    /// 503 as S3 sends it when it is asked too much.
    pub fn slow_down() -> Self {
        Self::error("503 Slow Down", "SlowDown")
    }

    /// 301 (PermanentRedirect) or 307 (TemporaryRedirect) to the bucket's own region.
    pub fn redirect(status: u16, region: &str) -> Self {
        let plan = match status {
            301 => Self::error("301 Moved Permanently", "PermanentRedirect"),
            _ => Self::error("307 Temporary Redirect", "TemporaryRedirect")
                .header("Location", &format!("https://bucket.s3.{region}.amazonaws.com/key")),
        };
        plan.header("x-amz-bucket-region", region)
    }

    /// 200 with `count` headers of `len` bytes each besides the usual ones.
    pub fn huge_headers(count: usize, len: usize) -> Self {
        let mut plan = Self::ok(5);
        plan.headers.extend((0..count).map(|n| format!("x-amz-meta-{n}: {}", "h".repeat(len))));
        plan
    }

    /// These bytes instead of an answer, whatever they are; closed after them unless [`Plan::then`]
    /// says otherwise.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { reaction: Reaction::Raw(bytes.into()), end: End::Close, ..Self::ok(0) }
    }

    /// Requests are read and never answered.
    pub fn silent() -> Self {
        Self { reaction: Reaction::Silence, ..Self::ok(0) }
    }

    /// Connections are not even accepted: a client's connect hangs. For [`FaultOrigin::start`](super::FaultOrigin::start)
    /// only.
    pub fn never_accept() -> Self {
        Self { reaction: Reaction::NoAccept, ..Self::ok(0) }
    }

    /// Another status line, without the version.
    pub fn status(mut self, status: &str) -> Self {
        status.clone_into(&mut self.status);
        self
    }

    /// One more header, as it is.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(format!("{name}: {value}"));
        self
    }

    /// Another body.
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = Arc::new(body);
        self
    }

    /// The Content-Length lines instead of the true one: none, a lie, garbage, several.
    pub fn content_length(mut self, values: &[&str]) -> Self {
        self.content_length = Some(values.iter().map(|&value| value.to_owned()).collect());
        self
    }

    /// Chunked, `size` bytes a chunk, without Content-Length unless [`Plan::content_length`] adds
    /// one. Together with [`Plan::send_only`] the terminating chunk is missing.
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunk = Some(size.max(1));
        self
    }

    /// Only the first `bytes` of the body are sent.
    pub fn send_only(mut self, bytes: usize) -> Self {
        self.send_only = Some(bytes);
        self
    }

    /// What follows the last byte.
    pub fn then(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Waits before answering.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Writes of these sizes in turn, 1 ms apart, instead of one; chunk framing counts too.
    pub fn pieces(mut self, sizes: &[usize]) -> Self {
        assert!(!sizes.is_empty() && !sizes.contains(&0), "pieces of nothing never end");
        self.pieces = sizes.to_vec();
        self.pause = Duration::from_millis(1);
        self
    }

    /// Another pause between two pieces.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Status line and headers.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut lines = vec![format!("HTTP/1.1 {}", self.status)];
        lines.extend(self.headers.iter().cloned());
        let truth =
            if self.chunk.is_none() { vec![self.body.len().to_string()] } else { Vec::new() };
        let lengths = self.content_length.clone().unwrap_or(truth);
        lines.extend(lengths.iter().map(|value| format!("Content-Length: {value}")));
        if self.chunk.is_some() {
            lines.push("Transfer-Encoding: chunked".into());
        }
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    /// The body as it goes over the wire, framing included.
    pub(super) fn payload(&self) -> Vec<u8> {
        let sent = &self.body[..self.send_only.unwrap_or(usize::MAX).min(self.body.len())];
        let Some(size) = self.chunk else {
            return sent.to_vec();
        };
        let mut framed = Vec::with_capacity(sent.len() + 64);
        for (at, data) in (0..).step_by(size).zip(sent.chunks(size)) {
            // A chunk that is cut off still announces its whole.
            let announced = size.min(self.body.len() - at);
            framed.extend_from_slice(format!("{announced:x}\r\n").as_bytes());
            framed.extend_from_slice(data);
            if data.len() == announced {
                framed.extend_from_slice(b"\r\n");
            }
        }
        if self.send_only.is_none() {
            framed.extend_from_slice(b"0\r\n\r\n");
        }
        framed
    }
}
