//! Signature Version 4 for one request, as a presigned URL or as headers.
//!
//! A signer of our own, because the keys that matter most to a proxy are those that no URL type
//! carries unchanged (`..`, `a//b`, a query name given twice): everything here is bytes and text,
//! and nothing is normalised.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>
//!
//! Invariant: what is signed is exactly what [`Presign::host`] and [`Presign::target`] say.
//!
//! It must not know sockets, nor read a clock.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use http::Method;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::sign::Signer;

/// The payload hash of a request whose body is not part of the signature.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Where the bucket's name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Into the path: `https://host/bucket/key`.
    Path,
    /// Before the host: `https://bucket.host/key`.
    Virtual,
}

/// A request about to be signed.
#[derive(Clone)]
pub struct Presign {
    bucket: String,
    key: Vec<u8>,
    access_key: String,
    secret_key: String,
    scheme: String,
    path_host: String,
    virtual_host: String,
    style: Style,
    method: Method,
    region: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    at: SystemTime,
    expires: Duration,
}

impl Presign {
    /// A GET for `key`, any bytes, unescaped: path style, region us-east-1, valid for one hour.
    pub fn new(bucket: &str, key: &[u8]) -> Self {
        Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            access_key: String::new(),
            secret_key: String::new(),
            scheme: "https".into(),
            path_host: "s3.amazonaws.com".into(),
            virtual_host: "s3.amazonaws.com".into(),
            style: Style::Path,
            method: Method::GET,
            region: "us-east-1".into(),
            query: Vec::new(),
            headers: Vec::new(),
            at: SystemTime::UNIX_EPOCH,
            expires: Duration::from_secs(3600),
        }
    }

    /// Signs with this access key and secret.
    pub fn credentials(mut self, access_key: &str, secret_key: &str) -> Self {
        (self.access_key, self.secret_key) = (access_key.to_owned(), secret_key.to_owned());
        self
    }

    /// The scheme, and the host (with a port that is not the scheme's own) for one style, without
    /// the bucket.
    pub fn endpoint(mut self, scheme: &str, style: Style, host: &str) -> Self {
        scheme.clone_into(&mut self.scheme);
        let which = if style == Style::Path { &mut self.path_host } else { &mut self.virtual_host };
        host.clone_into(which);
        self
    }

    /// Path style or virtual-hosted.
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Another method than GET.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// The region to sign for.
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// One more query parameter, unescaped; a name may come more than once, a value may be empty.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more header that the signature covers, besides Host; the request must then carry it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        self
    }

    /// When the signature's validity begins, to the second.
    pub fn at(mut self, at: SystemTime) -> Self {
        self.at = at;
        self
    }

    /// How long it lasts, in whole seconds; S3 allows 1 s to 7 days.
    pub fn expires(mut self, expires: Duration) -> Self {
        self.expires = expires;
        self
    }

    /// The Host header that is signed.
    pub fn host(&self) -> String {
        match self.style {
            Style::Path => self.path_host.clone(),
            Style::Virtual => format!("{}.{}", self.bucket, self.virtual_host),
        }
    }

    /// The path that is signed, percent-encoded; also the request target of an unsigned request.
    pub fn path(&self) -> String {
        match self.style {
            Style::Path => format!("/{}/{}", self.bucket, self.escaped_key()),
            Style::Virtual => format!("/{}", self.escaped_key()),
        }
    }

    /// The key, percent-encoded but for its slashes.
    pub fn escaped_key(&self) -> String {
        escape(&self.key, b"/")
    }

    /// The request target of the presigned URL.
    pub fn target(&self) -> String {
        format!("{}?{}", self.path(), self.signed_query())
    }

    /// The presigned URL.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host(), self.target())
    }

    /// The query of the presigned URL, signature last.
    pub fn signed_query(&self) -> String {
        let headers = self.canonical_headers(&[]);
        let mut query = self.query.clone();
        query.extend([
            ("X-Amz-Algorithm".into(), "AWS4-HMAC-SHA256".into()),
            ("X-Amz-Credential".into(), format!("{}/{}", self.access_key, self.scope())),
            ("X-Amz-Date".into(), self.date()),
            ("X-Amz-Expires".into(), self.expires.as_secs().to_string()),
            ("X-Amz-SignedHeaders".into(), headers.names.clone()),
        ]);
        let query = canonical_query(&query);
        let signature = self.signature(&query, &headers);
        format!("{query}&X-Amz-Signature={signature}")
    }

    /// The same request signed by headers instead: its target and the headers to send besides Host.
    pub fn authorization(&self) -> (String, Vec<(String, String)>) {
        let mut sent = vec![
            ("x-amz-content-sha256".into(), UNSIGNED_PAYLOAD.to_owned()),
            ("x-amz-date".into(), self.date()),
        ];
        let headers = self.canonical_headers(&sent);
        let query = canonical_query(&self.query);
        let signature = self.signature(&query, &headers);
        let credential = format!("{}/{}", self.access_key, self.scope());
        let names = &headers.names;
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        );
        sent.extend(self.headers.iter().cloned());
        sent.push(("authorization".into(), authorization));
        let path = self.path();
        (if query.is_empty() { path } else { format!("{path}?{query}") }, sent)
    }

    fn signature(&self, query: &str, headers: &CanonicalHeaders) -> String {
        let CanonicalHeaders { lines, names } = headers;
        let request = format!(
            "{}\n{}\n{query}\n{lines}\n{names}\n{UNSIGNED_PAYLOAD}",
            self.method,
            self.path()
        );
        let date = self.date();
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{date}\n{}\n{}",
            self.scope(),
            hex(&sha256(request.as_bytes()))
        );
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in self.scope().split('/') {
            key = hmac(&key, part.as_bytes());
        }
        hex(&hmac(&key, to_sign.as_bytes()))
    }

    /// Host, the headers asked for and `more`, sorted.
    fn canonical_headers(&self, more: &[(String, String)]) -> CanonicalHeaders {
        let mut headers = vec![("host".to_owned(), self.host())];
        headers.extend_from_slice(&self.headers);
        headers.extend_from_slice(more);
        headers.sort();
        let lines = headers
            .iter()
            .fold(String::new(), |lines, (name, value)| lines + name + ":" + value + "\n");
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        CanonicalHeaders { lines, names: names.join(";") }
    }

    /// `20130524T000000Z`
    fn date(&self) -> String {
        let date = humantime::format_rfc3339_seconds(self.at).to_string();
        date.replace(['-', ':'], "")
    }

    fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", &self.date()[..8], self.region)
    }
}

struct CanonicalHeaders {
    lines: String,
    names: String,
}

/// Escaped pairs, sorted by name and then by value.
fn canonical_query(query: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> = query
        .iter()
        .map(|(name, value)| (escape(name.as_bytes(), b""), escape(value.as_bytes(), b"")))
        .collect();
    pairs.sort();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Percent-encodes all but RFC 3986's unreserved characters and those in `keep`.
fn escape(bytes: &[u8], keep: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let sign = || {
        let key = PKey::hmac(key)?;
        Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(data)
    };
    sign().expect("OpenSSL has HMAC-SHA256")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that AWS publishes with the algorithm.
    #[test]
    fn signs_as_aws_does() {
        let url = Presign::new("examplebucket", b"test.txt")
            .credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
            .style(Style::Virtual)
            .at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600))
            .expires(Duration::from_secs(86400))
            .url();
        assert_eq!(
            url,
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }
}
