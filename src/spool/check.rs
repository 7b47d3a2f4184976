//! Asking S3 whether a client may have what it asks for, and which version of the object that is.
//!
//! Invariant: the question carries the client's own path and query, and nothing but S3's response
//! authorises. This file must not know what is stored, nor how a client is served.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::object::Object;
use super::{Spool, SpoolRequest, Verdict};
use crate::s3::client::S3Response;
use crate::s3::headers;

/// Bytes of a refusal's body that are relayed. S3's error documents have a few hundred.
const MAX_REFUSAL: usize = 64 << 10;

/// What a check found.
pub(super) enum Checked {
    /// Authorised: the object that was known is S3's.
    Unchanged(Arc<Object>),
    /// Authorised: S3 has this version. The head is the object's, as of a GET.
    Version { etag: HeaderValue, length: u64, head: Box<ResponseHeader> },
    /// All else.
    Ended(Verdict),
}

impl Spool {
    /// Asks S3 for the object's first byte, unless S3 has the version that is `known`. The range keeps the
    /// answer small if it is another version; S3 evaluates If-None-Match before it (RFC 9110 §13.2.2).
    #[expect(clippy::disallowed_methods, reason = "the time that S3 takes is measured")]
    pub(super) async fn check(
        &self,
        ask: &SpoolRequest<'_>,
        known: Option<Arc<Object>>,
    ) -> Checked {
        let mut headers: Vec<(HeaderName, HeaderValue)> =
            vec![(header::RANGE, HeaderValue::from_static("bytes=0-0"))];
        if let Some(known) = &known {
            headers.push((header::IF_NONE_MATCH, known.etag().clone()));
        }
        for name in [header::IF_MATCH, header::IF_UNMODIFIED_SINCE] {
            if let Some(value) = ask.request.headers.get(&name) {
                headers.push((name, value.clone()));
            }
        }
        let began = Instant::now();
        let authority = self.client.upstream().authority();
        let mut answer = self.client.get(ask.target, authority, &headers).await;
        let empty = answer.as_ref().is_ok_and(|a| a.status() == StatusCode::RANGE_NOT_SATISFIABLE);
        if empty && ask.request.method == Method::HEAD {
            // The object is empty. A request for all of it costs nothing, and brings its head.
            answer = self.client.get(ask.target, authority, &headers[1..]).await;
        }
        self.metrics.check_seconds.observe(began.elapsed().as_secs_f64());
        let checked = match answer {
            Ok(answer) => self.evaluate(ask, known, answer).await,
            Err(e) => Checked::Ended(Verdict::Failed(e)),
        };
        let result = match &checked {
            Checked::Unchanged(_) => "unchanged",
            Checked::Version { .. } => "version",
            Checked::Ended(Verdict::Relay(..)) => "refused",
            Checked::Ended(Verdict::Direct(_)) => "direct",
            Checked::Ended(_) => "failed",
        };
        self.metrics.checks.with_label_values(&[result]).inc();
        checked
    }

    /// What S3's answer to a check means.
    async fn evaluate(
        &self,
        ask: &SpoolRequest<'_>,
        known: Option<Arc<Object>>,
        mut answer: S3Response,
    ) -> Checked {
        let status = answer.status();
        let etag = answer.header(header::ETAG).cloned();
        match status {
            StatusCode::NOT_MODIFIED => {
                self.client.release(answer).await;
                match known {
                    Some(object) => Checked::Unchanged(object),
                    None => Checked::Ended(Verdict::Direct("unstorable")),
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => {
                let length = if status == StatusCode::OK {
                    number(answer.header(header::CONTENT_LENGTH))
                } else {
                    let range = answer.header(header::CONTENT_RANGE);
                    range.and_then(content_range).map(|(_, length)| length)
                };
                let head = object_head(answer.head());
                // The one byte is read, so that the connection can be used again. A whole body is not read:
                // its connection is closed.
                if status == StatusCode::PARTIAL_CONTENT && answer.body(1).await.is_ok() {
                    self.client.release(answer).await;
                }
                version(known, etag, length, head)
            }
            // The object is empty: authorised, and not worth a file.
            StatusCode::RANGE_NOT_SATISFIABLE => Checked::Ended(Verdict::Direct("empty")),
            // The URL may have been signed for HEAD, and the check is a GET.
            StatusCode::FORBIDDEN if ask.request.method == Method::HEAD => {
                Checked::Ended(Verdict::Direct("head"))
            }
            _ => {
                let head = answer.head().cloned().map(Box::new);
                match (answer.body(MAX_REFUSAL).await, head) {
                    (Ok(body), Some(head)) => {
                        self.client.release(answer).await;
                        Checked::Ended(Verdict::Relay(head, body))
                    }
                    (Err(e), _) => Checked::Ended(Verdict::Failed(e)),
                    (Ok(_), None) => Checked::Ended(Verdict::Direct("unstorable")),
                }
            }
        }
    }
}

/// The version that an authorised answer of S3's names.
fn version(
    known: Option<Arc<Object>>,
    etag: Option<HeaderValue>,
    length: Option<u64>,
    mut head: ResponseHeader,
) -> Checked {
    let (Some(etag), Some(length)) = (etag, length) else {
        return Checked::Ended(Verdict::Direct("unstorable"));
    };
    let customer_key = |name: &HeaderName| headers::is_customer_key(name.as_str());
    if head.headers.keys().any(customer_key) {
        return Checked::Ended(Verdict::Direct("sse_c"));
    }
    // A server that ignores If-None-Match names the known version with a 206 or 200.
    if let Some(object) = known.filter(|object| object.etag() == etag && object.length() == length)
    {
        return Checked::Unchanged(object);
    }
    if head.insert_header(header::CONTENT_LENGTH, length).is_err() {
        return Checked::Ended(Verdict::Direct("unstorable"));
    }
    Checked::Version { etag, length, head: Box::new(head) }
}

/// The headers of an answer to a GET that describe the object, as the head of a 200.
pub(super) fn object_head(answer: Option<&ResponseHeader>) -> ResponseHeader {
    const OF_ONE_ANSWER: [&str; 8] = [
        "date",
        "server",
        "age",
        "via",
        "content-range",
        "x-amz-request-id",
        "x-amz-id-2",
        "x-amz-cf-id",
    ];
    let mut head = ResponseHeader::build(StatusCode::OK, Some(16)).expect("200 is a status");
    for (name, value) in answer.into_iter().flat_map(|answer| answer.headers.iter()) {
        if !OF_ONE_ANSWER.contains(&name.as_str()) && !headers::hop_by_hop(name.as_str(), &[]) {
            // Cannot fail: name and value come from a header map.
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
    head
}

/// First byte and whole length of a single range.
pub(super) fn content_range(value: &HeaderValue) -> Option<(u64, u64)> {
    headers::content_range(value.as_bytes())
}

fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}
