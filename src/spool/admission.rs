//! Which requests may be served from the spool, under which name, and until when a presigned query is valid.
//!
//! Invariant: S3's answer to an authorised request depends on nothing but its [`ObjectName`], so one
//! stored object serves everybody who asks for that name. Whatever could change the answer is either in
//! the name or keeps the request out, and so does whatever S3 might understand in another way than this
//! file. A request that goes direct costs a fetch; a wrong name would hand out the wrong bytes.
//!
//! This file must not know what the spool holds, and verifies no signature: S3 does. It has no clock and
//! does no I/O. It is called with whatever the network sends.
//!
//! ```
//! use dripline::route::ObjectKey;
//! use dripline::spool::admission::admit;
//! use http::{HeaderMap, Method};
//!
//! let key = ObjectKey::new(b"fw.bin").unwrap();
//! let admit = |query| admit(&Method::GET, &key, Some(query), &HeaderMap::new());
//! assert!(admit(b"versionId=1").is_ok());
//! assert_ne!(admit(b"versionId=1"), admit(b"versionId=2"), "two objects");
//! assert!(admit(b"acl").is_err(), "for S3 alone to answer");
//! ```

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method, header};
use percent_encoding::percent_decode;

use crate::route::{ObjectKey, breaks_request_line};
use crate::s3::expiry;
use crate::s3::headers::{SignedHeaders, raw_parameters};

/// Every query parameter that may touch the spool. Names are compared exactly: S3 does so too.
///
/// In the order in which the name holds them, which is sorted by name.
const KNOWN: [(&str, Part); 20] = [
    ("AWSAccessKeyId", Part::Version2),
    ("Expires", Part::Version2),
    ("Signature", Part::Version2),
    ("X-Amz-Algorithm", Part::Version4),
    ("X-Amz-Content-Sha256", Part::Payload),
    ("X-Amz-Credential", Part::Version4),
    ("X-Amz-Date", Part::Version4),
    ("X-Amz-Expires", Part::Version4),
    ("X-Amz-Security-Token", Part::Version4),
    ("X-Amz-Signature", Part::Version4),
    ("X-Amz-SignedHeaders", Part::Version4),
    ("response-cache-control", Part::Name),
    ("response-content-disposition", Part::Name),
    ("response-content-encoding", Part::Name),
    ("response-content-language", Part::Name),
    ("response-content-type", Part::Name),
    ("response-expires", Part::Name),
    ("versionId", Part::Name),
    ("x-amz-security-token", Part::Version2),
    ("x-id", Part::Operation),
];

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It chooses the object's version or a header of the response.
    Name,
    /// SDKs name the operation; S3 ignores it.
    Operation,
    /// Two SDKs say in a signature of version 4 that a GET has no body to sign.
    Payload,
    /// Signature Version 4. `X-Amz-Region-Set` of 4A is not among these.
    Version4,
    /// Signature Version 2.
    Version2,
}

/// The one operation that a stored object answers, as SDKs write it.
const OPERATION: &[u8] = b"GetObject";

/// The one digest of a body that a GET can have, as SDKs write it.
const NO_PAYLOAD: &[u8] = b"UNSIGNED-PAYLOAD";

/// Ranges up to this many bytes are first asked of S3 directly, without a check of their own: over a pooled
/// connection, and held in memory whole.
pub const SMALL_RANGE: u64 = 64 << 10;

/// Headers in which a client gives its own encryption key (SSE-C).
const SSE_C: &str = "x-amz-server-side-encryption-customer-";

/// The longest unknown parameter name that is repeated in a message, in bytes: less than any signature
/// (28 and 64) or secret key (40) that a mangled URL might show in a name's place.
const LONGEST_SHOWN: usize = 24;

/// The name of a stored object: its key, `versionId` and `response-*` overrides; never a signature.
///
/// The bucket has no place in it: it is the endpoint's, one per process. Nor has the method: a HEAD asks
/// about the same object. Key and values are raw bytes, as in the request target: two spellings (`A` and
/// `%41`) are two names, even if S3 takes them for one object. That is safe, since it only stores the
/// object twice.
///
/// The bytes are the key, then name and value of each parameter that is there, in the order of their
/// names; before each of these stands its length. So two names are equal only if all parts are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectName(Arc<[u8]>);

impl ObjectName {
    fn new(key: &ObjectKey<'_>, parameters: &Parameters<'_>) -> Self {
        let mut bytes = Vec::new();
        let mut push = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        };
        push(key.as_bytes());
        for ((name, part), value) in KNOWN.iter().zip(parameters.0) {
            if let (Part::Name, Some(value)) = (part, value) {
                push(name.as_bytes());
                push(value);
            }
        }
        Self(bytes.into())
    }

    /// A canonical form: equal for equal names, different for different ones. For keys of caches; not
    /// to be shown, and no promise between versions of dripline.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key, then names and values in turn.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
            let (part, after) = after.split_at_checked(length)?;
            rest = after;
            Some(part)
        })
    }
}

/// For logs: the parts, invalid UTF-8 replaced, control characters escaped.
impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectName")?;
        f.debug_list().entries(self.parts().map(String::from_utf8_lossy)).finish()
    }
}

/// The name under which a request may touch the spool.
///
/// `query` is the raw query string without its `?`. Whether the client may have the object is not
/// decided here: S3 has to be asked in any case.
///
/// # Errors
///
/// A [`Bypass`]: the request goes direct.
pub fn admit(
    method: &Method,
    key: &ObjectKey<'_>,
    query: Option<&[u8]>,
    headers: &HeaderMap,
) -> Result<ObjectName, Bypass> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Bypass::Method);
    }
    check_headers(headers)?;
    let parameters = Parameters::read(query)?;
    check_signature(&parameters, query, headers)?;
    Ok(ObjectName::new(key, &parameters))
}

/// When a presigned query ends: `X-Amz-Date` and `X-Amz-Expires` seconds more (Signature Version 4), or
/// `Expires` in seconds since 1970 (version 2).
///
/// `None` if it is unsigned, if that cannot be read, or if the query repeats or mixes parameters or holds
/// one that is not spooled. What comes out is what the query says, unverified; S3 may end it sooner, as
/// with the credentials of a session.
pub fn expires(query: Option<&[u8]>) -> Option<SystemTime> {
    let parameters = Parameters::read(query).ok()?;
    let value = |name| parameters.value(name).map(|raw| Cow::from(percent_decode(raw)));
    if let Some(signed) = value("X-Amz-Date").filter(|_| parameters.has("X-Amz-Signature")) {
        return expiry::version_4(&signed, &value("X-Amz-Expires")?);
    }
    let version_2 = parameters.has("AWSAccessKeyId") && parameters.has("Signature");
    expiry::version_2(&value("Expires").filter(|_| version_2)?)
}

/// Why a request goes direct.
///
/// Messages name the parameter or the header at fault; never a value, which may be a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    #[error("the method is neither GET nor HEAD")]
    Method,
    /// A parameter that is not known to leave the object as it is, such as `partNumber`; its name, if
    /// it is fit to be shown.
    #[error("the query parameter {} is not spooled", .0.as_deref().unwrap_or("(not shown)"))]
    Parameter(Option<Box<str>>),
    /// A known parameter without `=`, with a broken percent-encoding, or with another value than the
    /// one that may touch the spool.
    #[error("the query parameter {0} has no value that is spooled")]
    Value(&'static str),
    /// An empty parameter, a broken percent-encoding in a name, or a character that some servers take
    /// as a delimiter: S3 might read another query than dripline.
    #[error("the query can be read in more than one way")]
    Malformed,
    /// Parameters of Signature Version 4 and of version 2 in one query.
    #[error("the query mixes the parameters of two signature versions")]
    MixedSignatures,
    /// A known parameter twice: S3 might heed another one than dripline.
    #[error("the query parameter {0} is repeated")]
    Repeated(&'static str),
    /// A signature of version 4 that covers more than the host, or does not say.
    #[error("X-Amz-SignedHeaders is not host alone")]
    SignedHeaders,
    /// An `Authorization` header: it signs one request, and its own headers.
    #[error("the request has an Authorization header")]
    Authorization,
    /// SSE-C: the object is readable with the client's own key alone.
    #[error("the request has an SSE-C header ({0})")]
    SseC(HeaderName),
    /// Another `x-amz-*` header, which S3 acts on or refuses, or one that the signature covers.
    #[error("the request has the header {0}")]
    Header(HeaderName),
}

impl Bypass {
    /// The reason as a metric's label: seven of them, and stable.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Parameter(_) | Self::Value(_) | Self::Malformed | Self::MixedSignatures => {
                "query"
            }
            Self::Repeated(_) => "repeated",
            Self::SignedHeaders => "signed_headers",
            Self::Authorization => "authorization",
            Self::SseC(_) => "sse_c",
            Self::Header(_) => "header",
        }
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), Bypass> {
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(Bypass::Authorization);
    }
    let first = |prefix| headers.keys().find(|name| name.as_str().starts_with(prefix)).cloned();
    if let Some(name) = first(SSE_C) {
        return Err(Bypass::SseC(name));
    }
    first("x-amz-").map_or(Ok(()), |name| Err(Bypass::Header(name)))
}

fn check_signature(
    parameters: &Parameters<'_>,
    query: Option<&[u8]>,
    headers: &HeaderMap,
) -> Result<(), Bypass> {
    let version_4 = parameters.any(Part::Version4);
    let names = parameters.value("X-Amz-SignedHeaders").unwrap_or_default();
    if version_4 && Cow::from(percent_decode(names)) != b"host".as_slice() {
        return Err(Bypass::SignedHeaders);
    }
    // Version 2 lists no headers, but covers some that are not Amazon's own.
    let signed = SignedHeaders::of(query, None);
    let covered = |name: &&HeaderName| **name != header::HOST && signed.covers(name.as_str());
    headers.keys().find(covered).map_or(Ok(()), |name| Err(Bypass::Header(name.clone())))
}

/// A query of known parameters, none twice and of one signature version at most: the raw value of each,
/// where [`KNOWN`] has its name.
struct Parameters<'a>([Option<&'a [u8]>; KNOWN.len()]);

impl<'a> Parameters<'a> {
    /// Stops at the first parameter that keeps the request out, so its work is bounded by [`KNOWN`].
    fn read(query: Option<&'a [u8]>) -> Result<Self, Bypass> {
        let mut values = [None; KNOWN.len()];
        let Some(query) = query else {
            return Ok(Self(values));
        };
        if query.iter().any(|b| matches!(b, b';' | b'#') || breaks_request_line(b)) {
            return Err(Bypass::Malformed);
        }
        for (raw_name, value) in raw_parameters(query) {
            if raw_name.is_empty() || !well_encoded(raw_name) {
                return Err(Bypass::Malformed);
            }
            let decoded = Cow::from(percent_decode(raw_name));
            let Some(at) = KNOWN.iter().position(|(name, _)| name.as_bytes() == &*decoded) else {
                return Err(Bypass::Parameter(shown(&decoded)));
            };
            let (name, part) = KNOWN[at];
            let Some(value) = value.filter(|value| well_encoded(value)) else {
                return Err(Bypass::Value(name));
            };
            let only = match part {
                Part::Operation => Some(OPERATION),
                Part::Payload => Some(NO_PAYLOAD),
                _ => None,
            };
            if only.is_some_and(|only| value != only) {
                return Err(Bypass::Value(name));
            }
            if values[at].replace(value).is_some() {
                return Err(Bypass::Repeated(name));
            }
        }
        let parameters = Self(values);
        if parameters.any(Part::Version4) && parameters.any(Part::Version2) {
            return Err(Bypass::MixedSignatures);
        }
        Ok(parameters)
    }

    /// The raw value of a known parameter.
    fn value(&self, name: &str) -> Option<&'a [u8]> {
        let at = KNOWN.iter().position(|(known, _)| *known == name)?;
        self.0[at]
    }

    fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn any(&self, part: Part) -> bool {
        KNOWN.iter().zip(self.0).any(|((_, of), value)| *of == part && value.is_some())
    }
}

/// Whether two hexadecimal digits follow every `%` (RFC 3986 §2.1); decoders differ on what else to do.
fn well_encoded(text: &[u8]) -> bool {
    text.split(|b| *b == b'%')
        .skip(1)
        .all(|after| after.get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

/// An unknown parameter's name for a message, if it looks like one.
fn shown(name: &[u8]) -> Option<Box<str>> {
    let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    let name = std::str::from_utf8(name).ok()?;
    (plain && name.len() <= LONGEST_SHOWN).then(|| name.into())
}

#[cfg(test)]
mod tests;
