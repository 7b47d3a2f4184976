//! How S3's response becomes the client's: whichever way it came (passed on piece by piece, read whole
//! by the spool, or the answer to an upload), its head passes through here.
//!
//! Invariants: status and body stay as S3 sent them; a redirect never reaches a client.

use http::{Method, StatusCode, Version, header};
use log::{info, warn};
use pingora::prelude::*;
use pingora_http::ResponseHeader;

use super::error_code::ErrorCodeSearch;
use super::{Context, DripProxy};
use crate::header_pattern::HeaderPattern;
use crate::s3::endpoint::Endpoint;
use crate::s3::headers;

impl DripProxy {
    /// Checks the head of a response that is to be passed on. Its body, if it is an error's, is then to
    /// be [looked through](Self::look_through).
    pub(super) fn accept(&self, head: &ResponseHeader, ctx: &mut Context) -> Result<()> {
        if let Some(reason) = redirect(head, &self.upstream.endpoint) {
            self.count_failure("redirect");
            ctx.s3.failure = Some(reason.clone());
            let status = HTTPStatus(StatusCode::BAD_GATEWAY.as_u16());
            return Err(Error::explain(status, reason).into_up());
        }
        ctx.s3.error_code = ErrorCodeSearch::new(head.status);
        if head.status == StatusCode::FORBIDDEN && ctx.request.method == Method::HEAD {
            // The answer to a HEAD has no body, so no reason either.
            info!(
                key = ctx.request.key.as_str();
                "S3 answered 403 to a HEAD: a URL that was signed for GET does"
            );
        }
        Ok(())
    }

    /// Checks and frames a response that was read whole, before it is [trimmed](trim).
    pub(super) fn accept_whole(
        &self,
        head: &mut ResponseHeader,
        body: &[u8],
        ctx: &mut Context,
    ) -> Result<()> {
        self.accept(head, ctx)?;
        self.look_through(body, ctx);
        frame(head, &ctx.request.method, body.len())
    }

    /// Says in the log what an error of S3's comes of, if this piece of a body completes a known code.
    pub(super) fn look_through(&self, body: &[u8], ctx: &mut Context) {
        if let Some(code) = ctx.s3.error_code.find(body) {
            warn!(
                key = ctx.request.key.as_str(), host = self.upstream.endpoint.host_header();
                "{}", code.explanation()
            );
        }
    }
}

/// Why a response is not passed on: a redirect would send the device to S3 itself, whose records it
/// cannot take.
fn redirect(head: &ResponseHeader, endpoint: &Endpoint) -> Option<String> {
    if !matches!(head.status.as_u16(), 300..=303 | 305..=308) {
        return None;
    }
    let (status, bucket) = (head.status.as_u16(), endpoint.bucket());
    Some(match head.headers.get("x-amz-bucket-region") {
        Some(region) => format!(
            "S3 answered {status}: bucket {bucket} is in region {}; set s3.region (AWS_REGION) to it",
            String::from_utf8_lossy(region.as_bytes()),
        ),
        None => format!(
            "S3 answered {status} (a redirect) for bucket {bucket}; check s3.region, s3.host and \
             s3.endpoint",
        ),
    })
}

/// Makes the head one of HTTP/1.1 that holds what a device needs, and what `extra` adds to that.
pub(super) fn trim(head: &mut ResponseHeader, extra: &[HeaderPattern]) {
    let dropped: Vec<_> =
        head.headers.keys().filter(|name| !headers::keeps(name.as_str(), extra)).cloned().collect();
    for name in &dropped {
        head.remove_header(name);
    }
    head.set_version(Version::HTTP_11);
}

/// Frames a body that was read whole, of `length` bytes. The answer to a HEAD keeps the length that S3
/// told; a 204 has none (RFC 9110 §8.6).
fn frame(head: &mut ResponseHeader, method: &Method, length: usize) -> Result<()> {
    head.remove_header(&header::TRANSFER_ENCODING);
    head.remove_header(&header::CONNECTION);
    if *method != Method::HEAD && head.status != StatusCode::NO_CONTENT {
        head.insert_header(header::CONTENT_LENGTH, length)?;
    }
    Ok(())
}

/// How many body bytes follow this head; `None` if only their end will tell (RFC 9112 §6.3).
pub(super) fn body_length(method: &Method, head: &ResponseHeader) -> Option<u64> {
    let bodiless = *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Some(0);
    }
    let length = head.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::settings::{Addressing, BucketName};

    fn head(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn a_redirect_is_told_from_what_is_passed_on() {
        let bucket = "my-bucket".parse::<BucketName>().unwrap();
        let endpoint = Endpoint::custom("http://192.0.2.1:9000", &bucket, Addressing::Auto);
        let endpoint = endpoint.unwrap();
        for status in [200, 206, 304, 403, 404, 503] {
            assert_eq!(redirect(&head(status, &[]), &endpoint), None);
        }
        for status in [301, 302, 307, 308] {
            let reason = redirect(&head(status, &[]), &endpoint).unwrap();
            assert!(reason.contains("my-bucket; check s3.region"), "{reason}");
        }
        let elsewhere = head(301, &[("x-amz-bucket-region", "eu-west-1")]);
        let reason = redirect(&elsewhere, &endpoint).unwrap();
        assert!(reason.contains("is in region eu-west-1"), "{reason}");
    }

    #[test]
    fn a_whole_body_has_a_length_and_nothing_of_the_connection_it_came_on() {
        let from_s3 = [
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("content-length", "7"),
            ("etag", "\"1\""),
            ("x-amz-version-id", "1"),
        ];
        for (method, status, length) in [
            (Method::GET, 403, Some("5")),
            (Method::HEAD, 403, Some("7")),
            (Method::PUT, 200, Some("5")),
            (Method::PUT, 204, Some("7")),
        ] {
            let mut head = head(status, &from_s3);
            frame(&mut head, &method, 5).unwrap();
            trim(&mut head, &["x-amz-*".parse().unwrap()]);
            let found = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap());
            assert_eq!(found("content-length"), length, "{method} {status}");
            assert_eq!((found("transfer-encoding"), found("connection")), (None, None));
            assert_eq!((found("etag"), found("x-amz-version-id")), (Some("\"1\""), Some("1")));
            trim(&mut head, &[]);
            assert_eq!(head.headers.get("x-amz-version-id"), None);
        }
    }

    #[test]
    fn the_length_of_a_body() {
        let sized = head(200, &[("content-length", "7")]);
        assert_eq!(body_length(&Method::GET, &sized), Some(7));
        assert_eq!(body_length(&Method::HEAD, &sized), Some(0));
        assert_eq!(body_length(&Method::GET, &head(304, &[("content-length", "7")])), Some(0));
        assert_eq!(body_length(&Method::GET, &head(200, &[])), None);
    }
}
