//! The one place where requests to S3 are built: the client's own that go on, uploads, and the
//! spool's. [`Authority`] says who vouches for a request.
//!
//! Invariant: path and query go out byte for byte as they are given, since a signature covers them. A
//! client's header goes out unchanged or not at all ([`super::headers`]). This file must not know what
//! the answer is for, nor open a connection.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::endpoint::Endpoint;
use super::headers::{self, SignedHeaders};

/// Header fields that most requests have room for.
const FIELDS: usize = 8;

/// Who vouches for a request, so that S3 answers it.
///
/// A signature of dripline's own would be another variant. [`Outgoing::pass_on`] would then let no
/// header pass for the sake of the client's signature, and [`Outgoing::finish`] would sign the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The client. Its signature is in the query of the target, or there is none.
    Client {
        /// Whether it may be in the client's `Authorization` header as well.
        authorization: bool,
    },
}

/// A request to S3 that is being built.
#[derive(Debug)]
pub struct Outgoing {
    head: RequestHeader,
    authority: Authority,
}

impl Outgoing {
    /// A request for `target`, path and query, at the endpoint. It has a `Host` and nothing else. No `#`
    /// is in a target (RFC 9112 §3.2); Pingora drops one with all that follows.
    ///
    /// # Errors
    ///
    /// If the target is no request target.
    pub fn new(
        endpoint: &Endpoint,
        method: Method,
        target: &[u8],
        authority: Authority,
    ) -> Result<Self> {
        let mut head = RequestHeader::build(method, target, Some(FIELDS))?;
        head.set_version(Version::HTTP_11);
        head.insert_header(header::HOST, endpoint.host_header())?;
        Ok(Self { head, authority })
    }

    /// Sets a header of dripline's own. It must not be one that S3 takes only if it is signed.
    ///
    /// # Errors
    ///
    /// Never, for a name and a value that are valid already; Pingora's function is fallible.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
        self.head.insert_header(name, value)
    }

    /// Asks S3 to close the connection after its answer.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn close_after(&mut self) -> Result<()> {
        self.insert(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// Adds those of a client's headers that S3 reads or the authority covers; of an upload those too
    /// that describe the object ([`headers::forwards`], [`headers::forwards_upload`]).
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn pass_on(&mut self, client: &HeaderMap) -> Result<()> {
        let (signed, authorization) = self.covered(client);
        let upload = self.head.method == Method::PUT;
        let forwards = if upload { headers::forwards_upload } else { headers::forwards };
        let connection = client.get_all(header::CONNECTION);
        let connection: Vec<_> = connection.iter().map(HeaderValue::as_bytes).collect();
        for (name, value) in client {
            let nominated = headers::hop_by_hop(name.as_str(), &connection);
            if !nominated && forwards(name.as_str(), &signed, authorization) {
                self.head.append_header(name.clone(), value.clone())?;
            }
        }
        Ok(())
    }

    /// Announces the body of an upload as the client does: its length, or that it comes in chunks, and
    /// whether the client waits for leave to send it (RFC 9110 §10.1.1). Without a body the length is
    /// 0, which S3 requires.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn announce_body(&mut self, client: &RequestHeader) -> Result<()> {
        // The client has at most one of the two: its head was checked.
        if client.headers.contains_key(header::TRANSFER_ENCODING) {
            self.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        } else {
            let length = client.headers.get(header::CONTENT_LENGTH).cloned();
            let length = length.unwrap_or(HeaderValue::from_static("0"));
            self.insert(header::CONTENT_LENGTH, length)?;
        }
        // What an HTTP/1.0 client expects is to be ignored.
        let expect = client.headers.get(header::EXPECT);
        if let Some(expect) = expect.filter(|_| client.version == Version::HTTP_11) {
            self.insert(header::EXPECT, expect.clone())?;
        }
        Ok(())
    }

    /// The request's head, complete.
    #[must_use]
    pub fn finish(self) -> RequestHeader {
        match self.authority {
            // The signature is in the target or among the headers already.
            Authority::Client { .. } => self.head,
        }
    }

    /// The headers that the authority's signature covers, and whether `Authorization` passes.
    fn covered(&self, client: &HeaderMap) -> (SignedHeaders, bool) {
        match self.authority {
            Authority::Client { authorization } => {
                let target = self.head.raw_path();
                let query = target.iter().position(|b| *b == b'?').map(|at| &target[at + 1..]);
                let header = client.get(header::AUTHORIZATION).filter(|_| authorization);
                (SignedHeaders::of(query, header.map(HeaderValue::as_bytes)), authorization)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::s3::endpoint::Addressing;

    const QUERY: Authority = Authority::Client { authorization: false };

    fn endpoint() -> Endpoint {
        let bucket = "b".parse().unwrap();
        Endpoint::custom("http://[::1]:9000", &bucket, Addressing::Auto).unwrap()
    }

    fn outgoing(method: Method, target: &[u8], authority: Authority) -> Outgoing {
        Outgoing::new(&endpoint(), method, target, authority).unwrap()
    }

    fn client(version: Version, headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut head = RequestHeader::build("PUT", b"/file/k", None).unwrap();
        head.set_version(version);
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn fields(head: &RequestHeader) -> Vec<(&str, &str)> {
        head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_request_says_its_host_and_what_it_is_told() {
        let mut request = outgoing(Method::GET, b"/b/k?a", QUERY);
        request.close_after().unwrap();
        request.insert(header::RANGE, HeaderValue::from_static("bytes=0-0")).unwrap();
        let head = request.finish();
        assert_eq!(head.version, Version::HTTP_11);
        assert_eq!(head.method, Method::GET);
        let expected = [("host", "[::1]:9000"), ("connection", "close"), ("range", "bytes=0-0")];
        assert_eq!(fields(&head), expected);
    }

    #[test]
    fn the_clients_signature_decides_which_of_its_headers_pass() {
        let client = client(
            Version::HTTP_11,
            &[
                ("host", "dripline"),
                ("range", "bytes=0-9"),
                ("x-amz-request-payer", "requester"),
                ("x-amz-other", "1"),
                ("if-match", "\"1\""),
                ("connection", "if-match"),
                ("authorization", "AWS4-HMAC-SHA256 SignedHeaders=x-amz-other, Signature=0"),
                ("date", "now"),
            ],
        );
        let passed = |target: &[u8], authority| {
            let mut request = outgoing(Method::GET, target, authority);
            request.pass_on(&client.headers).unwrap();
            let head = request.finish();
            let names: Vec<_> = head.headers.keys().skip(1).map(ToString::to_string).collect();
            names.join(" ")
        };
        assert_eq!(passed(b"/b/k", QUERY), "range");
        let signed = b"/b/k?X-Amz-SignedHeaders=host%3Bx-amz-request-payer";
        assert_eq!(passed(signed, QUERY), "range x-amz-request-payer");
        let in_headers = Authority::Client { authorization: true };
        assert_eq!(passed(b"/b/k", in_headers), "range x-amz-other authorization date");
    }

    #[test]
    fn an_upload_passes_on_what_describes_its_object_and_announces_its_body() {
        let passed = |client: &RequestHeader| {
            let mut request = outgoing(Method::PUT, b"/b/k", QUERY);
            request.pass_on(&client.headers).unwrap();
            request.announce_body(client).unwrap();
            let head = request.finish();
            fields(&head)[1..].iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>()
        };
        let http_11 = |headers| passed(&client(Version::HTTP_11, headers));
        assert_eq!(http_11(&[]), ["content-length: 0"]);
        let described =
            [("x-amz-acl", "private"), ("content-length", "7"), ("expect", "100-continue")];
        assert_eq!(
            http_11(&described),
            ["x-amz-acl: private", "content-length: 7", "expect: 100-continue"]
        );
        assert_eq!(http_11(&[("transfer-encoding", "Chunked")]), ["transfer-encoding: chunked"]);
        let old = client(Version::HTTP_10, &described);
        assert_eq!(passed(&old), ["x-amz-acl: private", "content-length: 7"]);
    }

    #[test]
    fn path_and_query_go_out_byte_for_byte() {
        for target in [
            "/b/dir//a%20b+c%2Bd%2fe;x=../up?",
            "/b/k?X-Amz-Credential=AKIA%2F20250101%2fx&a=b+c%20d&&empty=&bare",
            "/b/k?a?b&response-content-type=%3F/../",
            "/b/gr\u{fc}\u{df}e?\u{65e5}",
        ] {
            let head = outgoing(Method::GET, target.as_bytes(), QUERY).finish();
            assert_eq!(head.raw_path(), target.as_bytes(), "{target}");
        }
        let head = outgoing(Method::GET, b"/b/\xff\xfe?\xff", QUERY).finish();
        assert_eq!(head.raw_path(), b"/b/\xff\xfe?\xff");
    }

    /// Any byte but a control character and `#`, where Pingora ends a target.
    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![0x21..=0x22u8, 0x24..=0x7eu8, 0x80..=0xffu8]
    }

    proptest! {
        #[test]
        fn no_target_goes_out_changed(rest in proptest::collection::vec(byte(), 0..100)) {
            let target = [b"/".as_slice(), &rest].concat();
            // What cannot be sent as it is fails instead.
            if let Ok(request) = Outgoing::new(&endpoint(), Method::GET, &target, QUERY) {
                let head = request.finish();
                prop_assert_eq!(head.raw_path(), &target[..]);
            }
        }
    }
}
