//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use super::UnitError;
use super::scale::{self, ScaleError, scaled};

/// The units that a size may have, with their bytes; those of one kind largest first.
const UNITS: [(&str, u64); 9] = [
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

const NOT_A_SIZE: &str = "is not a size; write one such as 4096, 4KiB, 512MiB or 20MB";

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
        let error = |what: &str| UnitError::new(text, what);
        let (number, unit) = scale::split(text);
        if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            return Err(error("is negative; write a size such as 4096 or 4KiB"));
        }
        if matches!(scaled(number, 1), Err(ScaleError::NotANumber)) {
            return Err(error(NOT_A_SIZE));
        }
        let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => 1,
            None => return Err(error(&wrong_unit(number, unit))),
        };
        scaled(number, scale).map(Self).map_err(|defect| match defect {
            ScaleError::TooLarge => error("is more than 2^64 - 1 bytes"),
            ScaleError::NotWhole | ScaleError::NotANumber => {
                error("is not a whole number of bytes")
            }
        })
    }
}

/// Says why `unit` is not one of a size, and which ones the writer may have meant.
fn wrong_unit(number: &str, unit: &str) -> String {
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
    match (letter, unit.len()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), 1..=3) => {
            let kilo = if letter == 'K' { 'k' } else { letter };
            format!("does not say which unit; write {number}{letter}iB or {number}{kilo}B")
        }
        _ => NOT_A_SIZE.to_owned(),
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides the size, else bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(name, scale)| {
            name.ends_with("iB") && self.0 >= *scale && self.0.is_multiple_of(*scale)
        });
        let (name, scale) = exact.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(ByteSize::bytes).map_err(|e| e.to_string())
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
    fn every_error_says_what_would_be_right() {
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
            assert_eq!(size(text), Err(format!("`{}` {NOT_A_SIZE}", text.trim().escape_debug())));
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

    proptest! {
        #[test]
        fn a_size_reads_back(bytes: u64, shift in 0_u32..64) {
            for bytes in [bytes, bytes >> shift, (bytes >> shift) << shift] {
                let size = ByteSize::new(bytes);
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn no_text_panics(any in ".*", near in "[-+0-9.]{0,25} ?[kKMGTiBmshbt/ ]{0,5}") {
            for text in [any, near] {
                let _ = text.parse::<ByteSize>();
            }
        }
    }
}
