//! Which part of an object a request gets: conditions (RFC 9110 §13) and ranges (§14) as S3 reads
//! them. Pure.
//!
//! Invariant: the conditions are evaluated in the order of RFC 9110 §13.2.2, and before the range.
//!
//! It must not know where objects are kept, nor who asks.

use std::ops::RangeInclusive;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::dto::{ETag, HeadObjectOutput, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result};

/// The headers that decide between 200, 206, 304, 412 and 416. They are evaluated here and not by s3s,
/// which answers 400 to what it cannot parse, where S3 ignores it.
pub(super) const DECIDING_HEADERS: [HeaderName; 5] = [
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// The headers of a request as they were sent.
#[derive(Clone)]
pub(super) struct RequestHeaders(pub(super) HeaderMap);

impl RequestHeaders {
    /// Those of the request that these extensions belong to; empty if it came by no wire.
    pub(super) fn of(extensions: &http::Extensions) -> HeaderMap {
        extensions.get::<Self>().map(|headers| headers.0.clone()).unwrap_or_default()
    }
}

/// Which part of an object a request gets: an error (304, 412, 416), the whole (`None`) or a range.
pub(super) fn select(
    known: &HeadObjectOutput,
    asked: &HeaderMap,
) -> S3Result<Option<RangeInclusive<u64>>> {
    let size = known.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    let modified = http_date(known.last_modified.as_ref());
    let etag = known.e_tag.as_ref().map_or("", ETag::value);
    check_preconditions(asked, etag, &modified)?;
    match asked.get(header::RANGE).map_or(Ok(None), |range| satisfy(range.as_bytes(), size)) {
        Ok(range) => Ok(range),
        Err(Unsatisfiable) => {
            let mut error = S3Error::with_message(
                S3ErrorCode::InvalidRange,
                "The requested range is not satisfiable",
            );
            let range = HeaderValue::from_str(&format!("bytes */{size}"))
                .map_err(S3Error::internal_error)?;
            let xml = HeaderValue::from_static("application/xml");
            error.set_headers(
                [(header::CONTENT_RANGE, range), (header::CONTENT_TYPE, xml)].into_iter().collect(),
            );
            Err(error)
        }
    }
}

/// The preconditions of RFC 9110 §13.2.2, in its order, for an object with this ETag (without its
/// quotes) and date.
fn check_preconditions(asked: &HeaderMap, etag: &str, modified: &str) -> S3Result<()> {
    let failed = || {
        let reason = "At least one of the pre-conditions you specified did not hold";
        Err(S3Error::with_message(S3ErrorCode::PreconditionFailed, reason))
    };
    if asked.contains_key(header::IF_MATCH) {
        if !names(asked, header::IF_MATCH, etag, false) {
            return failed();
        }
    } else if let Some(since) = date(asked, header::IF_UNMODIFIED_SINCE)
        && date_of(modified).is_some_and(|modified| modified > since)
    {
        return failed();
    }
    let unchanged = if asked.contains_key(header::IF_NONE_MATCH) {
        names(asked, header::IF_NONE_MATCH, etag, true)
    } else {
        let since = date(asked, header::IF_MODIFIED_SINCE);
        since.is_some_and(|since| date_of(modified).is_some_and(|modified| modified <= since))
    };
    if !unchanged {
        return Ok(());
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    let value = |text: &str| HeaderValue::from_str(text).map_err(S3Error::internal_error);
    let headers =
        [(header::ETAG, value(&format!("\"{etag}\""))?), (header::LAST_MODIFIED, value(modified)?)];
    error.set_headers(headers.into_iter().collect());
    Err(error)
}

/// Whether a list of entity tags, or `*`, contains this one; weak tags match only if `weak` is set
/// (RFC 9110 §8.8.3.2). As in S3, a tag may lack its quotes. An ETag of S3 contains no comma.
fn names(asked: &HeaderMap, name: HeaderName, etag: &str, weak: bool) -> bool {
    let lines = asked.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).any(|tag| {
        let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
        tag == "*"
            || tag == etag
            || tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(etag)
    })
}

/// A date header; a value that is no date counts as absent (RFC 9110 §13.1.3).
fn date(asked: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    date_of(asked.get(name)?.to_str().ok()?)
}

fn date_of(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text).ok()
}

fn http_date(timestamp: Option<&Timestamp>) -> String {
    let mut text = Vec::new();
    if let Some(timestamp) = timestamp {
        let _ = timestamp.format(TimestampFormat::HttpDate, &mut text);
    }
    String::from_utf8(text).unwrap_or_default()
}

/// No byte of the object is in the range.
#[derive(Debug, PartialEq)]
struct Unsatisfiable;

/// The bytes of an object of `size` that a Range header selects. S3 ignores a header that it does not
/// understand, several ranges included (RFC 9110 §14.2).
fn satisfy(range: &[u8], size: u64) -> Result<Option<RangeInclusive<u64>>, Unsatisfiable> {
    let parsed = std::str::from_utf8(range)
        .ok()
        .and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = parsed else {
        return Ok(None);
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Ok(None);
    }
    match (first.parse::<u64>().ok(), last.parse::<u64>().ok()) {
        (None, Some(suffix)) if first.is_empty() => {
            if suffix == 0 || size == 0 {
                return Err(Unsatisfiable);
            }
            Ok(Some(size.saturating_sub(suffix)..=size - 1))
        }
        (Some(first), Some(last)) if first > last => Ok(None),
        (Some(first), last) if last.is_some() || range.ends_with(b"-") => {
            if first >= size {
                return Err(Unsatisfiable);
            }
            Ok(Some(first..=last.unwrap_or(u64::MAX).min(size - 1)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_s3_reads_them() {
        let of = |text: &str, size| satisfy(text.as_bytes(), size);
        assert_eq!(of("bytes=0-0", 10), Ok(Some(0..=0)));
        assert_eq!(of("bytes=3-", 10), Ok(Some(3..=9)));
        assert_eq!(of("bytes=3-99", 10), Ok(Some(3..=9)));
        assert_eq!(of("bytes=-4", 10), Ok(Some(6..=9)));
        assert_eq!(of("bytes=-40", 10), Ok(Some(0..=9)));
        for unsatisfiable in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(of(unsatisfiable, 10), Err(Unsatisfiable), "{unsatisfiable}");
        }
        for unsatisfiable in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
            assert_eq!(of(unsatisfiable, 0), Err(Unsatisfiable), "{unsatisfiable} of nothing");
        }
        for ignored in [
            "bytes=5-2",
            "bytes=0-1,4-5",
            "bytes=-",
            "bytes=+1-2",
            "lines=0-1",
            "bytes=a-b",
            "bytes 0-1",
        ] {
            assert_eq!(of(ignored, 10), Ok(None), "{ignored}");
        }
    }

    #[test]
    fn preconditions_follow_their_order() {
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        let status = |headers: &[(HeaderName, &str)]| {
            let mut asked = HeaderMap::new();
            for (name, value) in headers {
                asked.append(name, HeaderValue::from_str(value).unwrap());
            }
            check_preconditions(&asked, "abc", DATE)
                .map_err(|error| error.status_code().unwrap().as_u16())
                .err()
        };
        use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
        assert_eq!(status(&[]), None);
        assert_eq!(status(&[(IF_MATCH, "\"abc\"")]), None);
        assert_eq!(status(&[(IF_MATCH, "*")]), None);
        assert_eq!(status(&[(IF_MATCH, "\"x\", \"abc\"")]), None);
        assert_eq!(status(&[(IF_MATCH, "W/\"abc\"")]), Some(412));
        assert_eq!(status(&[(IF_MATCH, "\"x\"")]), Some(412));
        assert_eq!(status(&[(IF_NONE_MATCH, "W/\"abc\"")]), Some(304));
        assert_eq!(status(&[(IF_NONE_MATCH, "\"x\"")]), None);
        assert_eq!(status(&[(IF_NONE_MATCH, "*")]), Some(304));
        assert_eq!(status(&[(IF_UNMODIFIED_SINCE, DATE)]), None);
        assert_eq!(status(&[(IF_UNMODIFIED_SINCE, BEFORE)]), Some(412));
        assert_eq!(status(&[(IF_MODIFIED_SINCE, DATE)]), Some(304));
        assert_eq!(status(&[(IF_MODIFIED_SINCE, BEFORE)]), None);
        assert_eq!(status(&[(IF_MODIFIED_SINCE, "yesterday")]), None);
        // If-Match hides If-Unmodified-Since, If-None-Match hides If-Modified-Since, and 412 comes
        // before 304.
        assert_eq!(status(&[(IF_MATCH, "\"abc\""), (IF_UNMODIFIED_SINCE, BEFORE)]), None);
        assert_eq!(status(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, DATE)]), None);
        assert_eq!(status(&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"abc\"")]), Some(412));
    }
}
