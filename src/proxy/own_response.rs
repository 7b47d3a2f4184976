//! A response that dripline writes itself, in place of S3's: a status and one plain line.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::prelude::*;
use pingora_http::ResponseHeader;

use super::plan::Refusal;

/// A response of dripline's own.
pub struct OwnResponse {
    status: StatusCode,
    reason: String,
    allow: Option<&'static str>,
}

impl OwnResponse {
    /// A status and the line that explains it.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), allow: None }
    }

    /// The response to a request that is refused.
    pub fn refusal(refusal: Refusal) -> Self {
        Self {
            status: refusal.status(),
            reason: refusal.reason().to_owned(),
            allow: refusal.allow(),
        }
    }

    /// The response to a request that failed on its way; none if it is the client that is gone.
    pub fn failure(e: &Error, reason: Option<String>) -> Option<Self> {
        if let (HTTPStatus(code), Some(reason)) = (e.etype(), &reason) {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY);
            return Some(Self::new(status, reason));
        }
        let response = match (e.esource(), e.etype()) {
            (ErrorSource::Upstream, _) => match failure_kind(e) {
                "timeout" => Self::new(StatusCode::GATEWAY_TIMEOUT, "S3 did not answer in time"),
                "connect" => Self::new(StatusCode::BAD_GATEWAY, "cannot connect to S3"),
                _ if answers_in_tls(e) => Self::new(StatusCode::BAD_GATEWAY, TLS_AT_HTTP),
                _ => Self::new(StatusCode::BAD_GATEWAY, "S3's answer is broken or incomplete"),
            },
            (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed) => return None,
            (ErrorSource::Downstream, _) => Self::new(StatusCode::BAD_REQUEST, "bad request"),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        };
        Some(response)
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Head and body.
    pub fn build(&self) -> Result<(ResponseHeader, Bytes)> {
        let body = Bytes::from(format!("{}\n", self.reason));
        let mut head = ResponseHeader::build(self.status, Some(4))?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        head.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
        if let Some(allow) = self.allow {
            head.insert_header(header::ALLOW, allow)?;
        }
        Ok((head, body))
    }
}

/// Why a plain request has no answer, where S3's port speaks TLS.
const TLS_AT_HTTP: &str = "S3's port speaks TLS: s3.endpoint has to begin with https://";

/// What the log says of a failure. `tls` is whether S3 was asked over TLS.
pub fn cause(e: &Error, tls: bool) -> String {
    match e.etype() {
        InvalidHTTPHeader if answers_in_tls(e) => format!("{TLS_AT_HTTP} ({e})"),
        // Once a response has begun, S3 speaks plain HTTP.
        ConnectionClosed if *e.esource() == ErrorSource::Upstream && !tls && !in_body(e) => {
            format!("{e}; if S3's port speaks TLS, s3.endpoint has to begin with https://")
        }
        _ => e.to_string(),
    }
}

/// Whether a TLS record, an alert or a handshake's (RFC 8446 §5.1), came in place of a response. Pingora
/// shows the bytes that it could not read in its error, escaped.
fn answers_in_tls(e: &Error) -> bool {
    // Pingora may have put another context around it.
    let shown = e.to_string();
    let received = |bytes: &str| shown.contains(&format!("buf: {bytes}"));
    *e.root_etype() == InvalidHTTPHeader && (received(r"\x15\x03") || received(r"\x16\x03"))
}

/// Whether the connection was closed within a response's body. Pingora says so in its error's text.
fn in_body(e: &Error) -> bool {
    e.to_string().contains("prematurely closed")
}

/// Why S3 could not answer, as the metric names it.
pub fn failure_kind(e: &Error) -> &'static str {
    let io = e.root_cause().downcast_ref::<std::io::Error>();
    if io.is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut) {
        return "timeout";
    }
    match e.etype() {
        ConnectTimedout | TLSHandshakeTimedout | ReadTimedout | WriteTimedout => "timeout",
        ConnectRefused | ConnectNoRoute | ConnectError | TLSHandshakeFailure | InvalidCert
        | SocketError | BindError => "connect",
        _ => "response",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_at_a_port_that_was_asked_in_plain_is_named() {
        let broken = |context: &'static str| {
            let e = Error::explain(InvalidHTTPHeader, context).into_up();
            let (_, body) = OwnResponse::failure(&e, None).unwrap().build().unwrap();
            (String::from_utf8(body.to_vec()).unwrap(), cause(&e, false))
        };
        for tls in [r"buf: \x15\x03\x01\x00\x02\x02F", r"buf: \x16\x03\x03"] {
            let (body, cause) = broken(tls);
            assert_eq!(body, format!("{TLS_AT_HTTP}\n"));
            assert!(cause.starts_with(TLS_AT_HTTP) && cause.contains(tls), "{cause}");
        }
        let (body, cause) = broken("buf: SSH-2.0");
        assert_eq!(body, "S3's answer is broken or incomplete\n");
        assert!(!cause.contains("https"), "{cause}");
    }

    #[test]
    fn a_closed_connection_is_a_hint_where_s3_was_asked_in_plain() {
        let closed = Error::new_up(ConnectionClosed);
        assert!(cause(&closed, false).ends_with("has to begin with https://"));
        assert_eq!(cause(&closed, true), closed.to_string());
        let context = "Peer prematurely closed connection with 5 bytes of body remaining to read";
        let cut = Error::explain(ConnectionClosed, context).into_up();
        assert_eq!(cause(&cut, false), cut.to_string());
        let client = Error::new_down(ConnectionClosed);
        assert_eq!(cause(&client, false), client.to_string());
    }

    #[test]
    fn failures_have_a_status_and_a_line() {
        let status =
            |e: Box<Error>| OwnResponse::failure(&e, None).map(|own| own.status().as_u16());
        assert_eq!(status(Error::new_up(ConnectTimedout)), Some(504));
        assert_eq!(status(Error::new_up(ReadTimedout)), Some(504));
        assert_eq!(status(Error::new_up(ConnectRefused)), Some(502));
        assert_eq!(status(Error::new_up(InvalidHTTPHeader)), Some(502));
        assert_eq!(status(Error::new_down(ReadTimedout)), Some(400));
        assert_eq!(status(Error::new_down(WriteError)), None);
        assert_eq!(status(Error::new_in(InternalError)), Some(500));
        let redirect = Error::new_up(HTTPStatus(502));
        let response = OwnResponse::failure(&redirect, Some("elsewhere".into())).unwrap();
        let (head, body) = response.build().unwrap();
        assert_eq!((head.status.as_u16(), &body[..]), (502, &b"elsewhere\n"[..]));
        assert_eq!(head.headers["content-length"], "10");
    }
}
