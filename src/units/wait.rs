//! Lengths of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::UnitError;

/// A length of time, written `500ms`, `10s`, `10m`, `24h`, `1h30m`, or a bare `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wait(Duration);

impl Wait {
    /// A wait of `duration`.
    #[must_use]
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The time itself.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Wait {
    type Err = UnitError;

    /// Reads a bare `0`, or numbers with units from `ns` to `years`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let zero = text.bytes().all(|b| b == b'0');
            return if zero {
                Ok(Self(Duration::ZERO))
            } else {
                Err(UnitError::new(text, &format!("has no unit; write {text}ms or {text}s")))
            };
        }
        let error =
            |_| UnitError::new(text, "is not a time; write one such as 500ms, 10s, 10m or 1h30m");
        humantime::parse_duration(text).map(Self).map_err(error)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spaced = humantime::format_duration(self.0).to_string();
        f.write_str(&spaced.replace(' ', ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wait(text: &str) -> Result<Duration, String> {
        text.parse::<Wait>().map(Wait::duration).map_err(|e| e.to_string())
    }

    #[test]
    fn waits_as_people_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            (" 10s ", 10_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(wait(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn every_error_says_what_would_be_right() {
        assert_eq!(wait("500"), Err("`500` has no unit; write 500ms or 500s".to_owned()));
        for text in ["", "fast", "5 bits", "-1s", "1.5", "99999999999999999999s"] {
            let expected =
                format!("`{text}` is not a time; write one such as 500ms, 10s, 10m or 1h30m");
            assert_eq!(wait(text), Err(expected));
        }
    }

    #[test]
    fn waits_display_without_spaces() {
        assert_eq!(Wait::new(Duration::from_secs(5400)).to_string(), "1h30m");
        assert_eq!(Wait::new(Duration::ZERO).to_string(), "0s");
    }

    proptest! {
        #[test]
        fn a_wait_reads_back(seconds in 0_u64..1 << 36, nanos in 0_u32..1_000_000_000) {
            let wait = Wait::new(Duration::new(seconds, nanos));
            prop_assert_eq!(wait.to_string().parse(), Ok(wait));
        }

        #[test]
        fn no_text_panics(any in ".*", near in "[-+0-9.]{0,25} ?[kKMGTiBmshbt/ ]{0,5}") {
            for text in [any, near] {
                let _ = text.parse::<Wait>();
            }
        }
    }
}
