//! The layer between the sockets and s3s: it prepares requests for s3s, gives responses S3's outer form,
//! and has the rules that s3s asks for (who may do what, which Host names a bucket, which access key has
//! which secret).
//!
//! Invariant: a request is answered with an object only if its signature was verified, or if the
//! origin is public and the request is an unsigned GET or HEAD.
//!
//! It must not know sockets, nor where objects are kept.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::StreamingBlob;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, S3ErrorCode, S3Result};

use super::api::Api;
use super::conditions::{DECIDING_HEADERS, RequestHeaders};
use super::objects::Objects;
use super::options::OriginOptions;

/// s3s over `objects`, with the rules of this file.
pub(super) fn build(options: &OriginOptions, objects: Arc<Objects>) -> S3Service {
    let mut builder = S3ServiceBuilder::new(Api(objects));
    builder.set_auth(Keys {
        access: options.access_key.clone(),
        secret: options.secret_key.as_str().into(),
    });
    builder.set_access(Access { public: options.public });
    builder.set_host(Hosts {
        suffix: options.virtual_host_suffix.as_deref().map(str::to_ascii_lowercase),
    });
    builder.build()
}

/// Changes a request so that s3s treats it as S3 would: the headers that `conditions` evaluates are
/// taken out, and equal query names are ordered by value, which SigV4 asks for and s3s leaves out.
pub(super) fn prepare(mut request: http::Request<Body>) -> http::Request<Body> {
    let headers = RequestHeaders(request.headers().clone());
    let signed = signed_headers(request.uri(), request.headers());
    for name in DECIDING_HEADERS {
        // A signed header has to stay, or the signature would not match.
        if !signed.iter().any(|signed| signed == name.as_str()) {
            request.headers_mut().remove(name);
        }
    }
    request.extensions_mut().insert(headers);
    if let Some(query) = request.uri().query() {
        let mut pairs: Vec<&str> = query.split('&').collect();
        pairs.sort_by_key(|pair| pair.split_once('=').unwrap_or((pair, "")));
        if let Ok(uri) = format!("{}?{}", request.uri().path(), pairs.join("&")).parse() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// The header names, in lower case, that the request's signature covers.
fn signed_headers(uri: &Uri, headers: &HeaderMap) -> Vec<String> {
    let query = uri
        .query()
        .unwrap_or("")
        .split('&')
        .find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="));
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = authorization.and_then(|value| value.split_once("SignedHeaders="));
    let list =
        query.or(header.map(|(_, rest)| rest.split(',').next().unwrap_or(rest))).unwrap_or("");
    list.replace("%3B", ";").replace("%3b", ";").split(';').map(str::to_ascii_lowercase).collect()
}

/// Gives a response of s3s the outer form of S3's.
pub(super) fn finish(mut response: http::Response<Body>) -> http::Response<Body> {
    if response.status() == StatusCode::OK && response.headers().contains_key(header::CONTENT_RANGE)
    {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if response.status() == StatusCode::NOT_MODIFIED {
        *response.body_mut() = Body::empty();
    }
    if response.status().as_u16() >= 400 {
        // S3 sends its errors chunked. A stream without a length has that effect.
        let xml = std::mem::take(response.body_mut()).map(|piece| piece.map_err(io::Error::other));
        *response.body_mut() = Body::from(StreamingBlob::wrap(xml));
    }
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("AmazonS3"));
    headers.insert("x-amz-request-id", HeaderValue::from_static("DR1P0000000000L1"));
    headers.insert(
        "x-amz-id-2",
        HeaderValue::from_static("ZHJpcGxpbmUgZGVtbyBvcmlnaW4sIG5vdCBBbWF6b24gUzM="),
    );
    response
}

/// The only access key.
struct Keys {
    access: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access {
            return Ok(self.secret.clone());
        }
        let reason = "The AWS Access Key Id you provided does not exist in our records.";
        Err(S3Error::with_message(S3ErrorCode::InvalidAccessKeyId, reason))
    }
}

/// Who may do what, once s3s has verified the signature.
struct Access {
    public: bool,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        let reads = matches!(request.s3_op().name(), "GetObject" | "HeadObject");
        let query = request.uri().query().unwrap_or("");
        if request.credentials().is_none() {
            if !(self.public && reads) {
                return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"));
            }
            if query.split('&').any(|pair| pair.starts_with("response-")) {
                let reason =
                    "Request specific response headers cannot be used for anonymous GET requests.";
                return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, reason));
            }
            return Ok(());
        }
        if query.contains("X-Amz-Signature=")
            && request.headers().contains_key(header::AUTHORIZATION)
        {
            let reason = "Only one auth mechanism allowed";
            return Err(S3Error::with_message(S3ErrorCode::InvalidArgument, reason));
        }
        let signed = signed_headers(request.uri(), request.headers());
        let loose = |name: &HeaderName| {
            name.as_str().starts_with("x-amz-") && !signed.iter().any(|s| s == name.as_str())
        };
        if request.headers().keys().any(loose) {
            let reason = "There were headers present in the request which were not signed";
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, reason));
        }
        Ok(())
    }
}

/// Distinguishes virtual-hosted from path-style requests; both are accepted.
struct Hosts {
    suffix: Option<String>,
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        let bucket =
            self.suffix.as_deref().and_then(|suffix| name.strip_suffix(suffix)?.strip_suffix('.'));
        Ok(match bucket {
            Some(bucket) => VirtualHost::new(host).with_bucket(bucket.to_owned()),
            None => VirtualHost::new(host),
        })
    }
}
