//! When a signature in a query ends, as the query says. Nothing is verified, and S3 may end it sooner,
//! as with the credentials of a session.
//!
//! This file must not know which query is used for what, and it has no clock.

use std::time::{Duration, SystemTime};

/// The longest a signature of version 4 is valid: seven days, in seconds (S3's API reference,
/// "Authenticating Requests: Using Query Parameters").
const LONGEST: u64 = 604_800;

/// The end of a signature of version 4, from the values of `X-Amz-Date` and `X-Amz-Expires` (seconds).
/// `None` if S3 would take one of them as malformed.
#[must_use]
pub fn version_4(date: &[u8], expires: &[u8]) -> Option<SystemTime> {
    let seconds = number(expires).filter(|seconds| (1..=LONGEST).contains(seconds))?;
    basic_date(date)?.checked_add(Duration::from_secs(seconds))
}

/// The end of a signature of version 2, from the value of `Expires`: seconds since 1970. `None` if it
/// is no such number.
#[must_use]
pub fn version_2(expires: &[u8]) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(number(expires)?))
}

/// A decimal number without a sign.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `YYYYMMDD'T'HHMMSS'Z'`, the one form that `X-Amz-Date` has (ISO 8601's basic format). The date crate
/// reads more forms than that, and S3 does not.
fn basic_date(text: &[u8]) -> Option<SystemTime> {
    let shape = |(at, b): (usize, &u8)| match at {
        8 => *b == b'T',
        15 => *b == b'Z',
        _ => b.is_ascii_digit(),
    };
    if text.len() != 16 || !text.iter().enumerate().all(shape) {
        return None;
    }
    let date: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(date.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(end: Option<SystemTime>) -> Option<u64> {
        end.map(|end| end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn a_signature_ends_when_its_query_says() {
        assert_eq!(seconds(version_4(b"20250101T000000Z", b"900")), Some(1_735_690_500));
        assert_eq!(seconds(version_4(b"20250101T000000Z", b"604800")), Some(1_736_294_400));
        assert_eq!(seconds(version_2(b"1735689600")), Some(1_735_689_600));
    }

    #[test]
    fn what_s3_would_not_read_has_no_end() {
        for (date, expires) in [
            ("20250101T000000Z", "0"),
            ("20250101T000000Z", "604801"),
            ("20250101T000000Z", "+900"),
            ("20250101T000000Z", ""),
            ("2025-01-01T00:00:00Z", "900"),
            ("20251301T000000Z", "900"),
            ("20250101t000000z", "900"),
            ("", "900"),
        ] {
            assert_eq!(version_4(date.as_bytes(), expires.as_bytes()), None, "{date} {expires}");
        }
        for expires in ["", "-1", "1e9", "99999999999999999999"] {
            assert_eq!(version_2(expires.as_bytes()), None, "{expires}");
        }
    }
}
