//! Quantities as people write them: sizes, rates and times with a unit.
//!
//! Invariant: a number without a unit is accepted only where it can mean one thing. A bare `4096`
//! is bytes; a bare `20M` or a wait of `500` is refused, because readers disagree on what it says.
//! Whatever a value displays as parses back to the same value.
//!
//! This room is pure: it knows neither which key a quantity belongs to nor its permitted range.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is wrong with a quantity, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Names of the units a size may have, largest first, with their bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes, written `4096`, `4096B`, `4KiB` (1,024), `4kB` (1,000), `512MiB`, `1GiB`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Reads digits, optionally a fraction that comes out at whole bytes (`1.5KiB`), and a unit.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let error = |what: &str| UnitError(format!("`{}` {what}", text.escape_debug()));
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            return Err(error("is negative; write a size such as 4096 or 4KiB"));
        }
        if matches!(scaled(number, 1), Err(Scaling::NoNumber)) {
            return Err(error("is not a size; write one such as 4096, 4KiB, 512MiB or 20MB"));
        }
        let unit = unit.trim_start();
        let scale = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => 1,
            None => return Err(error(&wrong_unit(number, unit))),
        };
        scaled(number, scale).map(Self).map_err(|defect| match defect {
            Scaling::TooLarge => error("is more than 2^64 - 1 bytes"),
            Scaling::NotWhole | Scaling::NoNumber => error("is not a whole number of bytes"),
        })
    }
}

/// Why a number with a unit is no quantity.
enum Scaling {
    NoNumber,
    TooLarge,
    NotWhole,
}

/// Digits, optionally with a fraction, times `scale`, where that comes out whole.
fn scaled(number: &str, scale: u64) -> Result<u64, Scaling> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return Err(Scaling::NoNumber);
    }
    let whole: u128 = whole.parse().map_err(|_| Scaling::TooLarge)?;
    let mut product = whole.checked_mul(u128::from(scale)).ok_or(Scaling::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        // Beyond 20 places nobody means an exact quantity, and 20 digits times the largest unit's
        // 13 stay within the 38 of a u128.
        let parts: Option<u128> = (fraction.len() <= 20).then(|| fraction.parse().ok()).flatten();
        let parts = parts.map(|parts| parts * u128::from(scale));
        let divisor = 10_u128.pow(u32::try_from(fraction.len().min(20)).unwrap_or(20));
        match parts {
            Some(parts) if parts % divisor == 0 => product += parts / divisor,
            _ => return Err(Scaling::NotWhole),
        }
    }
    u64::try_from(product).map_err(|_| Scaling::TooLarge)
}

/// Says why `unit` is none, and which ones the writer may have meant.
fn wrong_unit(number: &str, unit: &str) -> String {
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
    match (letter, unit.len()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), 1..=3) => {
            let kilo = if letter == 'K' { 'k' } else { letter };
            format!("does not say which unit; write {number}{letter}iB or {number}{kilo}B")
        }
        _ => "is not a size; write one such as 4096, 4KiB, 512MiB or 20MB".into(),
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides the size, else bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS.iter().find(|(name, scale)| {
            name.ends_with("iB") && self.0 >= *scale && self.0.is_multiple_of(*scale)
        });
        let (name, scale) = exact.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

/// Names of the units a rate may have, largest first, with their bits per second.
const RATE_UNITS: [(&str, u64); 11] = [
    ("GiB/s", 8 << 30),
    ("GB/s", 8_000_000_000),
    ("Gbit", 1_000_000_000),
    ("MiB/s", 8 << 20),
    ("MB/s", 8_000_000),
    ("Mbit", 1_000_000),
    ("KiB/s", 8 << 10),
    ("kB/s", 8_000),
    ("kbit", 1_000),
    ("B/s", 8),
    ("bit", 1),
];

/// A number of bits per second, written `20Mbit`, `512kbit` (1,000 each), `5MiB/s`, `5MB/s`, …, or a
/// bare `0`. A bare `20M` is refused: RouterOS means bits by it, rclone bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(u64);

impl Rate {
    /// No bits at all.
    pub const ZERO: Self = Self(0);

    /// A rate of `bits` per second.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The rate in bits per second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The rate in whole bytes per second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    /// Reads digits, optionally a fraction that comes out at whole bits (`1.5Mbit`), and a unit.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let error = |what: &str| UnitError(format!("`{}` {what}", text.escape_debug()));
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start();
        let scale = RATE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let zero = !number.is_empty() && number.bytes().all(|b| b == b'0');
        match scale {
            Some(scale) => match scaled(number, scale) {
                Ok(bits) => Ok(Self(bits)),
                Err(Scaling::NoNumber) => Err(error(NO_RATE)),
                Err(Scaling::TooLarge) => Err(error("is more than 2^64 - 1 bits per second")),
                Err(Scaling::NotWhole) => Err(error("is not a whole number of bits per second")),
            },
            None if zero && unit.is_empty() => Ok(Self(0)),
            None if scaled(number, 1).is_ok() => Err(error(&wrong_rate(number, unit))),
            None => Err(error(NO_RATE)),
        }
    }
}

const NO_RATE: &str = "is not a rate; write one such as 20Mbit, 512kbit or 5MiB/s";

/// Says why `unit` is none of a rate, and which ones the writer may have meant.
fn wrong_rate(number: &str, unit: &str) -> String {
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
    match (letter, unit.len()) {
        (None, _) => format!(
            "has no unit; write {number}bit, {number}kbit or {number}Mbit, or {number}kB/s in bytes"
        ),
        (Some(letter @ ('K' | 'M' | 'G')), 1..=4) => {
            let kilo = if letter == 'K' { 'k' } else { letter };
            format!(
                "does not say bits or bytes; write {number}{kilo}bit, {number}{kilo}B/s or {number}{letter}iB/s"
            )
        }
        _ => NO_RATE.to_owned(),
    }
}

impl fmt::Display for Rate {
    /// The largest decimal unit of bits that divides the rate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = RATE_UNITS.iter().find(|(name, scale)| {
            name.ends_with("bit") && self.0 >= *scale && self.0.is_multiple_of(*scale)
        });
        let (name, scale) = exact.copied().unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

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

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let zero = text.bytes().all(|b| b == b'0');
            return if zero {
                Ok(Self(Duration::ZERO))
            } else {
                Err(UnitError(format!("`{text}` has no unit; write {text}ms or {text}s")))
            };
        }
        humantime::parse_duration(text).map(Self).map_err(|_| {
            let text = text.escape_debug();
            UnitError(format!("`{text}` is not a time; write one such as 500ms, 10s, 10m or 1h30m"))
        })
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

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(ByteSize::bytes).map_err(|e| e.to_string())
    }

    fn wait(text: &str) -> Result<Duration, String> {
        text.parse::<Wait>().map(Wait::duration).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            (" 4096B ", 4096),
            ("4KiB", 4096),
            ("4 KiB", 4096),
            ("4kB", 4000),
            ("20MB", 20_000_000),
            ("512MiB", 512 << 20),
            ("1GB", 1_000_000_000),
            ("1GiB", 1 << 30),
            ("1TiB", 1 << 40),
            ("1.5KiB", 1536),
            ("1.50kB", 1500),
            ("0.5GB", 500_000_000),
            ("1.0B", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn every_size_error_says_what_would_be_right() {
        let not_a_size = "is not a size; write one such as 4096, 4KiB, 512MiB or 20MB";
        for (text, message) in [
            ("20M", "`20M` does not say which unit; write 20MiB or 20MB"),
            ("4k", "`4k` does not say which unit; write 4KiB or 4kB"),
            ("4KB", "`4KB` does not say which unit; write 4KiB or 4kB"),
            ("1.5Gi", "`1.5Gi` does not say which unit; write 1.5GiB or 1.5GB"),
            ("-4096", "`-4096` is negative; write a size such as 4096 or 4KiB"),
            ("1.3KiB", "`1.3KiB` is not a whole number of bytes"),
            (
                "1.000000000000000000001TiB",
                "`1.000000000000000000001TiB` is not a whole number of bytes",
            ),
            ("18446744073709551616", "`18446744073709551616` is more than 2^64 - 1 bytes"),
            ("99999999TiB", "`99999999TiB` is more than 2^64 - 1 bytes"),
        ] {
            assert_eq!(size(text), Err(message.to_owned()));
        }
        for text in ["", "KiB", ".5kB", "4.KiB", "1.2.3kB", "20Mbit", "5MiB/s", "+4", "-x", "\n!"] {
            assert_eq!(size(text), Err(format!("`{}` {not_a_size}", text.trim().escape_debug())));
        }
        let digits = "9".repeat(60);
        assert_eq!(size(&digits), Err(format!("`{digits}` is more than 2^64 - 1 bytes")));
    }

    #[test]
    fn sizes_display_in_the_largest_exact_binary_unit() {
        for (bytes, text) in
            [(0, "0B"), (1000, "1000B"), (4096, "4KiB"), (1536, "1536B"), (1 << 40, "1TiB")]
        {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, bits) in [
            ("0", 0),
            ("20Mbit", 20_000_000),
            (" 512 kbit ", 512_000),
            ("1.5Mbit", 1_500_000),
            ("1Gbit", 1_000_000_000),
            ("64bit", 64),
            ("5MiB/s", 41_943_040),
            ("5MB/s", 40_000_000),
            ("1KiB/s", 8_192),
            ("1kB/s", 8_000),
            ("1B/s", 8),
        ] {
            assert_eq!(text.parse(), Ok(Rate::from_bits(bits)), "{text}");
        }
        assert_eq!(Rate::from_bits(20_000_000).bytes(), 2_500_000);
    }

    #[test]
    fn every_rate_error_says_what_would_be_right() {
        for (text, message) in [
            ("20M", "does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s"),
            ("512k", "does not say bits or bytes; write 512kbit, 512kB/s or 512KiB/s"),
            ("5MiB", "does not say bits or bytes; write 5Mbit, 5MB/s or 5MiB/s"),
            ("20", "has no unit; write 20bit, 20kbit or 20Mbit, or 20kB/s in bytes"),
            ("20Mbps", "does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s"),
            ("0.3bit", "is not a whole number of bits per second"),
            ("99999999999Gbit", "is more than 2^64 - 1 bits per second"),
            ("fast", NO_RATE),
            ("-1Mbit", NO_RATE),
            ("1.Mbit", NO_RATE),
            ("", NO_RATE),
            ("20 parsecs", NO_RATE),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` {message}"));
        }
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
    fn every_wait_error_says_what_would_be_right() {
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
        fn a_size_reads_back(bytes: u64, shift in 0_u32..64) {
            for bytes in [bytes, bytes >> shift, (bytes >> shift) << shift] {
                let size = ByteSize::new(bytes);
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn a_rate_reads_back(bits: u64, zeros in 0_u32..12) {
            let bits = bits / 10_u64.pow(zeros) * 10_u64.pow(zeros);
            let rate = Rate::from_bits(bits);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn a_wait_reads_back(seconds in 0_u64..1 << 36, nanos in 0_u32..1_000_000_000) {
            let wait = Wait::new(Duration::new(seconds, nanos));
            prop_assert_eq!(wait.to_string().parse(), Ok(wait));
        }

        #[test]
        fn no_text_panics(any in ".*", near in "[-+0-9.]{0,25} ?[kKMGTiBmshbt/ ]{0,5}") {
            for text in [any, near] {
                let _ = text.parse::<ByteSize>();
                let _ = text.parse::<Wait>();
                let _ = text.parse::<Rate>();
            }
        }
    }
}
