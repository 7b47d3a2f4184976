//! What becomes of a request, decided once, from its head alone.
//!
//! Pure. Invariant: a request has one plan, and no later phase reads its target or method to make another.
//! This file must not know what the spool holds or what S3 will answer.

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::route::{self, ObjectKey, Route, route};
use crate::s3::endpoint::Endpoint;
use crate::s3::headers;
use crate::spool::admission::{self, Bypass, ObjectName, SMALL_RANGE, admit};

/// The head of a client's request, as far as the plan depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target as it came.
    pub target: &'a [u8],
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Whether its framing announces a body.
    pub has_body: bool,
}

/// What the plan depends on besides the request.
#[derive(Debug, Clone, Copy)]
pub struct ServerFacts<'a> {
    /// Where the bucket is.
    pub endpoint: &'a Endpoint,
    /// Whether PUT is served.
    pub uploads: bool,
    /// Whether there is a spool.
    pub spool: bool,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// dripline answers it; S3 is not asked.
    Refuse(Refusal),
    /// Its body goes to S3.
    Upload {
        /// Path and query, as S3 gets them.
        target: Vec<u8>,
    },
    /// The spool has S3 authorise it.
    Spool {
        /// Path and query, as S3 gets them.
        target: Vec<u8>,
        /// What it asks for.
        name: ObjectName,
        /// When its signature ends, if it has one.
        expires: Option<SystemTime>,
    },
    /// S3 answers it.
    Direct {
        /// Path and query, as S3 gets them.
        target: Vec<u8>,
        /// Why not the spool; None if there is none.
        bypass: Option<Bypass>,
    },
}

/// Why dripline answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No object, or no method that objects have.
    Route(route::Refusal),
    /// A GET or HEAD with a body, which S3 would ignore or refuse.
    Body,
}

impl Refusal {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Route(refusal) => refusal.status(),
            Self::Body => StatusCode::BAD_REQUEST,
        }
    }

    /// One plain line for the client, without a line end.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Route(refusal) => refusal.reason(),
            Self::Body => "a GET or HEAD takes no body here",
        }
    }

    /// The methods that would be allowed, if it is for the method that the request was refused.
    pub fn allow(self) -> Option<&'static str> {
        match self {
            Self::Route(refusal) => refusal.allow(),
            Self::Body => None,
        }
    }
}

/// Decides what becomes of a request. The key is returned besides the plan, since a request that is
/// refused may have one too.
pub fn plan<'a>(request: &Request<'a>, facts: &ServerFacts<'_>) -> (Option<ObjectKey<'a>>, Plan) {
    let Route { key, query } = match route(request.method, request.target, facts.uploads) {
        Ok(route) => route,
        Err(refusal) => return (None, Plan::Refuse(Refusal::Route(refusal))),
    };
    (Some(key), of_object(request, facts, &key, query))
}

/// The plan of a request for an object.
fn of_object(
    request: &Request<'_>,
    facts: &ServerFacts<'_>,
    key: &ObjectKey<'_>,
    query: Option<&[u8]>,
) -> Plan {
    let target = match facts.endpoint.target(key, query) {
        Ok(target) => target,
        Err(refusal) => return Plan::Refuse(Refusal::Route(refusal)),
    };
    if *request.method == Method::PUT {
        return Plan::Upload { target };
    }
    if request.has_body {
        return Plan::Refuse(Refusal::Body);
    }
    if !facts.spool {
        return Plan::Direct { target, bypass: None };
    }
    match admit(request.method, key, query, request.headers) {
        Ok(name) => Plan::Spool { target, name, expires: admission::expires(query) },
        Err(bypass) => Plan::Direct { target, bypass: Some(bypass) },
    }
}

/// Whether a direct GET asks for one small range: its connection to S3 is pooled and its body held
/// whole, however slow the client is.
pub fn is_small_range(headers: &HeaderMap) -> bool {
    let range = headers.get(header::RANGE).map(HeaderValue::as_bytes);
    let small = range.and_then(headers::range_length).is_some_and(|n| n <= SMALL_RANGE);
    // With If-Range the answer may be the whole object all the same.
    small && !headers.contains_key(header::IF_RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::settings::{Addressing, BucketName};
    use std::time::{Duration, UNIX_EPOCH};

    const SIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20240101%2Fus-east-1\
                          %2Fs3%2Faws4_request&X-Amz-Date=20240101T000000Z&X-Amz-Expires=60\
                          &X-Amz-SignedHeaders=host&X-Amz-Signature=00";

    fn headers(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(header).collect()
    }

    /// The plan of a request by `method` for `target`, `body` being whether it has one; of a server
    /// that takes uploads and has a spool, or not.
    fn plan_of(
        (method, target, body): (Method, &str, bool),
        request_headers: &[(&'static str, &'static str)],
        (uploads, spool): (bool, bool),
    ) -> (Option<String>, Plan) {
        let bucket = "my-bucket".parse::<BucketName>().unwrap();
        let endpoint = Endpoint::custom("http://192.0.2.1:9000", &bucket, Addressing::Auto);
        let headers = headers(request_headers);
        let request = Request {
            method: &method,
            target: target.as_bytes(),
            headers: &headers,
            has_body: body,
        };
        let (key, plan) =
            plan(&request, &ServerFacts { endpoint: &endpoint.unwrap(), uploads, spool });
        (key.map(|key| key.to_string()), plan)
    }

    #[test]
    fn what_is_no_request_for_an_object_is_refused() {
        let refused = |method, target, body| {
            let (key, plan) = plan_of((method, target, body), &[], (true, true));
            let Plan::Refuse(refusal) = plan else { panic!("{plan:?}") };
            (key, refusal.status().as_u16(), refusal.allow())
        };
        let key = |key: &str| Some(key.to_owned());
        assert_eq!(refused(Method::GET, "/other", false), (None, 404, None));
        assert_eq!(refused(Method::GET, "/file/", false), (None, 404, None));
        let allow = Some("GET, HEAD, PUT");
        assert_eq!(refused(Method::DELETE, "/file/a", false), (None, 405, allow));
        // The key is logged of what is refused for its path, or for a body.
        assert_eq!(refused(Method::GET, "/file/../a", false), (key("../a"), 400, None));
        assert_eq!(refused(Method::GET, "/file/a", true), (key("a"), 400, None));
        assert_eq!(refused(Method::HEAD, "/file/a", true), (key("a"), 400, None));
    }

    #[test]
    fn a_put_is_an_upload_where_uploads_are_taken() {
        for body in [true, false] {
            let put = (Method::PUT, "/file/a?b=c", body);
            let target = b"/my-bucket/a?b=c".to_vec();
            for spool in [true, false] {
                let (key, plan) = plan_of(put.clone(), &[], (true, spool));
                assert_eq!(key.as_deref(), Some("a"));
                assert_eq!(plan, Plan::Upload { target: target.clone() });
            }
            let (_, plan) = plan_of(put, &[], (false, true));
            let refusal = route::Refusal::MethodNotAllowed { uploads: false };
            assert_eq!(plan, Plan::Refuse(Refusal::Route(refusal)));
        }
    }

    #[test]
    fn what_the_spool_takes_goes_there_under_one_name_whoever_signed_it() {
        let spooled =
            |method, target: &str| match plan_of((method, target, false), &[], (false, true)) {
                (_, Plan::Spool { target, name, expires }) => (target, name, expires),
                (_, plan) => panic!("{plan:?}"),
            };
        let (target, name, expires) = spooled(Method::GET, "/file/a");
        assert_eq!((&target[..], expires), (&b"/my-bucket/a"[..], None));
        let (target, signed, expires) = spooled(Method::HEAD, &format!("/file/a?{SIGNED}"));
        assert_eq!(target, format!("/my-bucket/a?{SIGNED}").into_bytes());
        assert_eq!(expires, Some(UNIX_EPOCH + Duration::from_secs(1_704_067_260)));
        assert_eq!(signed, name);
        assert_ne!(spooled(Method::GET, "/file/b").1, name);
    }

    #[test]
    fn what_the_spool_does_not_take_goes_direct_and_says_why() {
        let direct = |headers: &[_], spool| match plan_of(
            (Method::GET, "/file/a", false),
            headers,
            (false, spool),
        ) {
            (_, Plan::Direct { target, bypass }) => {
                assert_eq!(target, b"/my-bucket/a");
                bypass
            }
            (_, plan) => panic!("{plan:?}"),
        };
        let authorization = [("authorization", "AWS4-HMAC-SHA256 Credential=A")];
        assert_eq!(direct(&authorization, true), Some(Bypass::Authorization));
        assert_eq!(direct(&authorization, false), None);
        assert_eq!(direct(&[], false), None);
    }

    #[test]
    fn a_small_range_is_one_that_can_only_have_a_small_answer() {
        let small = |pairs: &[_]| is_small_range(&headers(pairs));
        assert!(small(&[("range", "bytes=0-65535")]));
        assert!(small(&[("range", "bytes=-10")]));
        assert!(!small(&[("range", "bytes=0-65536")]));
        assert!(!small(&[("range", "bytes=5-")]));
        assert!(!small(&[("range", "bytes=0-9"), ("if-range", "\"1\"")]));
        assert!(!small(&[]));
    }
}
