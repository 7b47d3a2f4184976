//! Which headers pass: from a client to S3, and from S3 to a device.
//!
//! Towards S3 the rule is what S3 reads and what the client's signature covers, because S3 refuses an
//! unsigned `x-amz-*` header with 403 and a signature fails without the headers that it names. Towards
//! a device the rule is brevity: the head has to fit one small record.
//!
//! Header names are given in lower case, as `http::HeaderName` holds them; one in another case passes
//! nowhere. This file must not know values, other than those that list header names, and verifies no
//! signature.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::header_pattern::HeaderPattern;

/// Request headers that S3 acts on without a signature: ranges and conditions (RFC 9110 §13.1, §14.2).
const READ_BY_S3: [&str; 6] =
    ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];

/// Headers of an upload that S3 stores with the object, or checks it against, signed or not.
const DESCRIBE_AN_UPLOAD: [&str; 7] = [
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "content-md5",
    "cache-control",
    "expires",
];

/// Headers of one connection rather than of a message (RFC 9110 §7.6.1), besides `proxy-*`.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Never sent on, even if signed. dripline sets `host` itself, cookies are not meant for S3, and the body
/// headers of a GET would announce a body that does not follow.
const NEVER_FORWARDED: [&str; 4] = ["host", "cookie", "content-length", "expect"];

/// What a device needs of a response, with the headers that delimit the body (RFC 9112 §6) and close the
/// connection. `content-encoding` is one of them, since the body cannot be read without it.
const KEPT: [&str; 10] = [
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "etag",
    "last-modified",
    "accept-ranges",
    "transfer-encoding",
    "connection",
    "retry-after",
];

/// Whether a request header is passed on to S3.
///
/// `name` is in lower case. `authorization` is whether the configuration lets clients sign in headers;
/// then `Authorization` passes, and so does `Date`, which such a signature may cover without naming it. Headers
/// that the client's `Connection` header names are not known here: ask [`hop_by_hop`].
pub fn forwards(name: &str, signed: &SignedHeaders, authorization: bool) -> bool {
    if NEVER_FORWARDED.contains(&name) || is_hop_by_hop(name) {
        return false;
    }
    match name {
        // S3 refuses two signatures at once, so a signature in the query does not make this one pass.
        "authorization" => authorization,
        "date" if authorization => true,
        _ => READ_BY_S3.contains(&name) || signed.covers(name),
    }
}

/// Whether a header of an upload is passed on to S3: what [`forwards`] says, and whatever describes the
/// object.
///
/// Every `x-amz-*` header passes, signed or not. Each of them changes what is stored (encryption, tags,
/// checksums, who may read it). Without one of them S3 would store something else than the client asked
/// for and report success. With it S3 answers 403 if it should have been signed, and the client learns
/// that. What frames the body (`content-length`, `transfer-encoding`, `expect`) is not decided
/// here.
pub fn forwards_upload(name: &str, signed: &SignedHeaders, authorization: bool) -> bool {
    DESCRIBE_AN_UPLOAD.contains(&name)
        || name.starts_with("x-amz-")
        || forwards(name, signed, authorization)
}

/// Whether a response header is passed on to a device.
///
/// `name` is in lower case; `extra` is what the configuration adds. Hop-by-hop headers other than
/// `Transfer-Encoding` and `Connection`, which the HTTP layer rewrites, are never added.
pub fn keeps(name: &str, extra: &[HeaderPattern]) -> bool {
    KEPT.contains(&name)
        || (!is_hop_by_hop(name) && extra.iter().any(|pattern| pattern.matches(name)))
}

/// Whether a header belongs to the connection it came on: by its name (in lower case), or because one
/// of the message's `Connection` values names it (RFC 9110 §7.6.1).
pub fn hop_by_hop(name: &str, connection: &[&[u8]]) -> bool {
    let nominated = |value: &[u8]| {
        value
            .split(|b| *b == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    is_hop_by_hop(name) || connection.iter().any(|value| nominated(value))
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name) || name.starts_with("proxy-")
}

/// Whether a header, in lower case, belongs to an object that is encrypted with a key of the
/// customer's own (SSE-C), on either side.
pub fn is_customer_key(name: &str) -> bool {
    name.starts_with("x-amz-server-side-encryption-customer-")
}

/// The headers that a request's own signature says it covers.
///
/// Nothing is verified: a name that is listed without a valid signature only earns S3's refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignedHeaders {
    /// Lower case, in the order of the signature.
    names: Vec<String>,
    /// Signature version 2 lists no names: it covers every `x-amz-*` header and two more.
    version_2: bool,
}

impl SignedHeaders {
    /// Reads them from the raw query string (without its `?`) and from an `Authorization` value. Give
    /// the latter only when it will be forwarded.
    ///
    /// Known are `X-Amz-SignedHeaders` and `SignedHeaders=` of Signature Version 4 and 4A, and version
    /// 2 in both places, recognised in a query by `AWSAccessKeyId`, `Signature` and `Expires` together.
    pub fn of(query: Option<&[u8]>, authorization: Option<&[u8]>) -> Self {
        let mut signed = Self::default();
        let query = query.unwrap_or_default();
        for (name, value) in parameters(query) {
            if name.eq_ignore_ascii_case(b"x-amz-signedheaders") {
                signed.add(&value);
            }
        }
        signed.version_2 = is_version_2(query);

        let authorization = authorization.unwrap_or_default().trim_ascii();
        if authorization.starts_with(b"AWS ") {
            signed.version_2 = true;
        } else if authorization.starts_with(b"AWS4-") {
            // AWS4-HMAC-SHA256 Credential=…, SignedHeaders=host;range, Signature=…
            for part in authorization.split(|b| matches!(b, b',' | b' ')) {
                if let Some(names) = part.strip_prefix(b"SignedHeaders=") {
                    signed.add(names);
                }
            }
        }
        signed
    }

    /// Whether the signature covers the header of this name, in lower case.
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|signed| signed == name)
            || (self.version_2
                && (name.starts_with("x-amz-") || matches!(name, "content-type" | "content-md5")))
    }

    /// The names that the signature lists, in lower case; none for version 2.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn add(&mut self, list: &[u8]) {
        let names = list.split(|b| *b == b';').filter(|name| !name.is_empty());
        self.names.extend(names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()));
    }
}

/// Whether a query carries a signature of version 2, which has no parameter of its own that says so.
pub(super) fn is_version_2(query: &[u8]) -> bool {
    let has = |wanted: &[u8]| parameters(query).any(|(name, _)| *name == *wanted);
    has(b"AWSAccessKeyId") && has(b"Signature") && has(b"Expires")
}

/// The parameters of a raw query string, names and values percent-decoded.
pub(super) fn parameters(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    raw_parameters(query).map(|(name, value)| {
        (percent_decode(name).into(), percent_decode(value.unwrap_or_default()).into())
    })
}

/// The parameters of a raw query string as they stand in it; a value is `None` where there is no `=`.
pub(crate) fn raw_parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    query.split(|b| *b == b'&').map(|pair| {
        let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (&pair[..end], pair.get(end + 1..))
    })
}

/// How many bytes a Range header asks for at most, if that can be told without the object's size: one
/// range with both ends, or a suffix (RFC 9110 §14.1.2).
#[must_use]
pub fn range_length(value: &[u8]) -> Option<u64> {
    let range = std::str::from_utf8(value).ok()?.trim().strip_prefix("bytes=")?;
    match range.split_once('-')? {
        ("", suffix) => suffix.parse().ok(),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            last.checked_sub(first)?.checked_add(1)
        }
    }
}

/// First byte and whole length of what a Content-Range header says of a single range (RFC 9110 §14.4).
#[must_use]
pub fn content_range(value: &[u8]) -> Option<(u64, u64)> {
    let value = std::str::from_utf8(value).ok()?;
    let (range, length) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, length): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, length.parse().ok()?);
    (first <= last && last < length).then_some((first, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(query: &str) -> SignedHeaders {
        SignedHeaders::of(Some(query.as_bytes()), None)
    }

    fn patterns(list: &[&str]) -> Vec<HeaderPattern> {
        list.iter().map(|pattern| pattern.parse().expect("a pattern")).collect()
    }

    const V2: &str = "AWSAccessKeyId=AKIA&Signature=a%2Fb&Expires=1";

    #[test]
    fn the_length_of_a_range_is_known_where_both_ends_are() {
        for (value, length) in [
            ("bytes=0-0", Some(1)),
            ("bytes=4096-8191", Some(4096)),
            ("bytes=-500", Some(500)),
            ("bytes=0-18446744073709551615", None),
            ("bytes=0-", None),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=-", None),
            ("", None),
        ] {
            assert_eq!(range_length(value.as_bytes()), length, "{value}");
        }
    }

    #[test]
    fn without_a_signature_only_ranges_and_conditions_pass() {
        let unsigned = SignedHeaders::default();
        for name in READ_BY_S3 {
            assert!(forwards(name, &unsigned, false), "{name}");
        }
        for name in [
            "x-amz-request-payer",
            "x-amz-security-token",
            "authorization",
            "date",
            "cookie",
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "content-type",
            "content-md5",
            "x-forwarded-for",
            "Range",
            "",
        ] {
            assert!(!forwards(name, &unsigned, false), "{name}");
        }
    }

    #[test]
    fn signed_headers_pass_and_their_neighbours_do_not() {
        let signed = query(
            "X-Amz-SignedHeaders=host%3Bx-amz-request-payer%3BRange%3buser-agent&X-Amz-Signature=0",
        );
        assert!(forwards("x-amz-request-payer", &signed, false));
        assert!(forwards("user-agent", &signed, false));
        assert!(!forwards("x-amz-expected-bucket-owner", &signed, false));
        assert!(!forwards("host", &signed, false), "set by the proxy");
        let names: Vec<_> = signed.names().collect();
        assert_eq!(names, ["host", "x-amz-request-payer", "range", "user-agent"]);
    }

    #[test]
    fn what_an_upload_says_of_its_object_passes() {
        let unsigned = SignedHeaders::default();
        for name in DESCRIBE_AN_UPLOAD.into_iter().chain([
            "x-amz-acl",
            "x-amz-content-sha256",
            "x-amz-decoded-content-length",
            "x-amz-checksum-crc32",
            "if-none-match",
        ]) {
            assert!(forwards_upload(name, &unsigned, false), "{name}");
        }
        for name in ["host", "cookie", "content-length", "expect", "transfer-encoding", "te"] {
            let signed = query(&format!("X-Amz-SignedHeaders={name}"));
            assert!(!forwards_upload(name, &signed, true), "{name}");
        }
        for name in ["user-agent", "authorization", "accept", "x-forwarded-for"] {
            assert!(!forwards_upload(name, &unsigned, false), "{name}");
        }
        assert!(forwards_upload("user-agent", &query("X-Amz-SignedHeaders=user-agent"), false));
    }

    #[test]
    fn some_headers_never_pass_even_if_signed() {
        let never = "cookie;host;connection;keep-alive;proxy-authorization;proxy-connection;te;trailer;\
                     transfer-encoding;upgrade;content-length;expect";
        let signed = query(&format!("X-Amz-SignedHeaders={never}"));
        for name in never.split(';') {
            assert!(signed.covers(name), "{name}");
            assert!(!forwards(name, &signed, true), "{name}");
        }
        assert!(!forwards("authorization", &query("X-Amz-SignedHeaders=authorization"), false));
    }

    #[test]
    fn names_are_read_however_the_query_spells_them() {
        for spelled in [
            "X-Amz-SignedHeaders=host;x-amz-a",
            "X-Amz-SignedHeaders=host%3Bx-amz-a",
            "x-amz-signedheaders=HOST;X-AMZ-A",
            "X%2DAmz%2DSignedHeaders=host;x%2Damz%2da",
            "a&&b=&X-Amz-SignedHeaders=host&X-Amz-SignedHeaders=;x-amz-a;&c",
        ] {
            assert!(query(spelled).covers("x-amz-a"), "{spelled}");
            assert!(query(spelled).covers("host"), "{spelled}");
            assert!(!query(spelled).covers(""), "{spelled}");
        }
        for none in
            ["", "X-Amz-SignedHeaders", "X-Amz-SignedHeaders=", "Z-X-Amz-SignedHeaders=x-amz-a"]
        {
            assert_eq!(query(none), SignedHeaders::default(), "{none}");
        }
        assert_eq!(SignedHeaders::of(None, None), SignedHeaders::default());
    }

    #[test]
    fn version_2_covers_all_of_amazons_headers() {
        let signed = query(V2);
        for name in ["x-amz-request-payer", "x-amz-meta-a", "content-type", "content-md5"] {
            assert!(forwards(name, &signed, false), "{name}");
        }
        for name in ["user-agent", "date", "cookie", "authorization", "content-length"] {
            assert!(!forwards(name, &signed, false), "{name}");
        }
        for part in [
            "AWSAccessKeyId=AKIA&Signature=a",
            "Signature=a&Expires=1",
            "AWSAccessKeyId=AKIA&Expires=1",
        ] {
            assert!(!query(part).covers("x-amz-request-payer"), "{part}");
        }
    }

    #[test]
    fn a_signature_in_the_header_counts_only_when_it_is_forwarded() {
        let v4 = "AWS4-HMAC-SHA256 Credential=AKIA/20250101/ap-southeast-2/s3/aws4_request, \
                  SignedHeaders=host;x-amz-content-sha256;X-Amz-Date, Signature=00";
        let joined = v4.replace(", ", ",");
        for value in [v4, &joined] {
            let signed = SignedHeaders::of(None, Some(value.as_bytes()));
            for name in ["authorization", "date", "x-amz-content-sha256", "x-amz-date"] {
                assert!(forwards(name, &signed, true), "{name}");
            }
            assert!(!forwards("x-amz-other", &signed, true));
            assert!(!forwards("authorization", &signed, false));
            assert!(!forwards("date", &signed, false));
        }
        let v2 = SignedHeaders::of(None, Some(b"AWS AKIA:c2lnbmF0dXJl"));
        assert!(forwards("x-amz-date", &v2, true));
        let basic = SignedHeaders::of(None, Some(b"Basic SignedHeaders=x-amz-date"));
        assert!(!forwards("x-amz-date", &basic, true));
    }

    #[test]
    fn a_signed_date_passes() {
        assert!(forwards("date", &query("X-Amz-SignedHeaders=date;host"), false));
    }

    #[test]
    fn a_device_gets_what_it_needs_and_no_more() {
        for name in KEPT {
            assert!(keeps(name, &[]), "{name}");
        }
        let rest = [
            "x-amz-request-id",
            "x-amz-id-2",
            "server",
            "date",
            "x-amz-meta-a",
            "set-cookie",
            "x-amz-version-id",
        ];
        for name in rest {
            assert!(!keeps(name, &[]), "{name}");
        }
        let extra = patterns(&["X-Amz-Meta-*", "x-amz-version-id"]);
        assert!(keeps("x-amz-meta-a", &extra));
        assert!(keeps("x-amz-version-id", &extra));
        assert!(!keeps("x-amz-version-id-2", &extra));
        assert!(!keeps("x-amz-id-2", &extra));
        let rude = patterns(&["keep-alive", "proxy-*", "upgrade", "te*"]);
        for name in ["keep-alive", "proxy-authenticate", "upgrade", "te"] {
            assert!(!keeps(name, &rude), "{name}");
        }
    }

    #[test]
    fn the_connection_header_nominates() {
        let connection: [&[u8]; 2] = [b"close , X-Private", b"Range"];
        for name in ["x-private", "range", "close", "te", "proxy-anything"] {
            assert!(hop_by_hop(name, &connection), "{name}");
        }
        assert!(!hop_by_hop("if-match", &connection));
        assert!(!hop_by_hop("range", &[]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in ".{0,20}") {
            let signed = SignedHeaders::of(Some(&bytes), Some(&bytes));
            let _ = forwards(&name, &signed, true);
            let _ = hop_by_hop(&name, &[&bytes]);
            if let Ok(pattern) = name.parse::<HeaderPattern>() {
                let _ = keeps(&name, &[pattern]);
            }
        }

        #[test]
        fn whatever_is_signed_is_forwarded_unless_it_never_is(name in "[a-z][a-z0-9-]{0,20}") {
            let signed = query(&format!("X-Amz-SignedHeaders=host%3B{name}"));
            let never = NEVER_FORWARDED.contains(&&*name) || is_hop_by_hop(&name) || name == "authorization";
            prop_assert_eq!(forwards(&name, &signed, false), !never);
        }
    }
}
