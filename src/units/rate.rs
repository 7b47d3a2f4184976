//! Rates in bits per second.

use std::fmt;
use std::str::FromStr;

use super::UnitError;
use super::scale::{self, ScaleError, scaled};

/// The units that a rate may have, with their bits per second; those of one kind largest first.
const UNITS: [(&str, u64); 11] = [
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

const NOT_A_RATE: &str = "is not a rate; write one such as 20Mbit, 512kbit or 5MiB/s";

/// A number of bits per second, written `20Mbit`, `512kbit` (1,000 each), `5MiB/s`, `5MB/s`, …, or a
/// bare `0`. A bare `20M` is refused: RouterOS means bits by it, rclone bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(u64);

impl Rate {
    /// 0 bit/s.
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
        let error = |what: &str| UnitError::new(text, what);
        let (number, unit) = scale::split(text);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let zero = !number.is_empty() && number.bytes().all(|b| b == b'0');
        match scale {
            Some(scale) => match scaled(number, scale) {
                Ok(bits) => Ok(Self(bits)),
                Err(ScaleError::NotANumber) => Err(error(NOT_A_RATE)),
                Err(ScaleError::TooLarge) => Err(error("is more than 2^64 - 1 bits per second")),
                Err(ScaleError::NotWhole) => Err(error("is not a whole number of bits per second")),
            },
            None if zero && unit.is_empty() => Ok(Self(0)),
            None if scaled(number, 1).is_ok() => Err(error(&wrong_unit(number, unit))),
            None => Err(error(NOT_A_RATE)),
        }
    }
}

/// Says why `unit` is not one of a rate, and which ones the writer may have meant.
fn wrong_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() {
        return format!(
            "has no unit; write {number}bit, {number}kbit or {number}Mbit, or {number}kB/s in bytes"
        );
    }
    let (prefix, rest) = match unit.chars().next() {
        Some(letter @ ('k' | 'K' | 'm' | 'M' | 'g' | 'G')) => {
            (letter.to_ascii_uppercase().to_string(), &unit[1..])
        }
        _ => (String::new(), unit),
    };
    // The decimal units have a small k, the binary ones a capital.
    let decimal = prefix.replace('K', "k");
    match rest {
        "bps" => format!(
            "has the unit bps, which usually means bits per second; write {number}{decimal}bit for \
             that, or {number}{decimal}B/s for bytes per second"
        ),
        "bit/s" | "bits" | "bits/s" => format!("is written {number}{decimal}bit here"),
        "Bps" => format!("is written {number}{decimal}B/s here"),
        rest if !prefix.is_empty() && rest.len() <= 3 => format!(
            "does not say bits or bytes; write {number}{decimal}bit, {number}{decimal}B/s or \
             {number}{prefix}iB/s"
        ),
        _ => NOT_A_RATE.to_owned(),
    }
}

impl fmt::Display for Rate {
    /// The largest decimal unit of bits that divides the rate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(name, scale)| {
            name.ends_with("bit") && self.0 >= *scale && self.0.is_multiple_of(*scale)
        });
        let (name, scale) = exact.copied().unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn every_error_says_what_would_be_right() {
        for (text, message) in [
            ("20M", "does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s"),
            ("512k", "does not say bits or bytes; write 512kbit, 512kB/s or 512KiB/s"),
            ("5MiB", "does not say bits or bytes; write 5Mbit, 5MB/s or 5MiB/s"),
            ("5Mb/s", "does not say bits or bytes; write 5Mbit, 5MB/s or 5MiB/s"),
            ("20", "has no unit; write 20bit, 20kbit or 20Mbit, or 20kB/s in bytes"),
            (
                "20Mbps",
                "has the unit bps, which usually means bits per second; write 20Mbit for that, or \
                 20MB/s for bytes per second",
            ),
            (
                "512 Kbps",
                "has the unit bps, which usually means bits per second; write 512kbit for that, or \
                 512kB/s for bytes per second",
            ),
            (
                "9bps",
                "has the unit bps, which usually means bits per second; write 9bit for that, or 9B/s \
                 for bytes per second",
            ),
            ("20Mbit/s", "is written 20Mbit here"),
            ("20kbits", "is written 20kbit here"),
            ("5MBps", "is written 5MB/s here"),
            ("0.3bit", "is not a whole number of bits per second"),
            ("99999999999Gbit", "is more than 2^64 - 1 bits per second"),
            ("fast", NOT_A_RATE),
            ("-1Mbit", NOT_A_RATE),
            ("1.Mbit", NOT_A_RATE),
            ("", NOT_A_RATE),
            ("20 parsecs", NOT_A_RATE),
            ("20 miles", NOT_A_RATE),
            ("20é", NOT_A_RATE),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` {message}"));
        }
    }

    proptest! {
        #[test]
        fn a_rate_reads_back(bits: u64, zeros in 0_u32..12) {
            let bits = bits / 10_u64.pow(zeros) * 10_u64.pow(zeros);
            let rate = Rate::from_bits(bits);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_panics(any in ".*", near in "[-+0-9.]{0,25} ?[kKMGTiBmshbtp/é ]{0,5}") {
            for text in [any, near] {
                let _ = text.parse::<Rate>();
            }
        }
    }
}
