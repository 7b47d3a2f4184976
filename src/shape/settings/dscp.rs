//! How packets are marked: code points of the Differentiated Services field (RFC 2474).

use std::str::FromStr;

use super::WordError;

/// The highest code point: the field has six bits (RFC 2474, section 3).
const MAX_POINT: u8 = 63;

/// A code point, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dscp(u8);

impl Dscp {
    /// A code point of 0 to 63; None beyond.
    #[must_use]
    pub const fn new(point: u8) -> Option<Self> {
        if point <= MAX_POINT { Some(Self(point)) } else { None }
    }

    /// The TOS or traffic class byte: the code point in its upper six bits.
    #[must_use]
    pub const fn tos(self) -> u8 {
        self.0 << 2
    }
}

impl FromStr for Dscp {
    type Err = WordError;

    /// Reads a name of IANA's registry (`le`, RFC 8622; `cs1`, RFC 2474; `af11`, RFC 2597; `ef`, RFC
    /// 3246) or a number.
    fn from_str(text: &str) -> Result<Self, WordError> {
        let error =
            || WordError::new(text, "a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63");
        let digits = |text: &str| -> Option<Vec<u8>> {
            text.bytes().map(|b| b.is_ascii_digit().then(|| b - b'0')).collect()
        };
        let point = if text == "le" {
            Some(1)
        } else if text == "ef" {
            Some(46)
        } else if let Some(class) = text.strip_prefix("cs") {
            match digits(class).as_deref() {
                Some([class @ 0..=7]) => Some(class * 8),
                _ => None,
            }
        } else if let Some(class) = text.strip_prefix("af") {
            match digits(class).as_deref() {
                Some([class @ 1..=4, drop @ 1..=3]) => Some(class * 8 + drop * 2),
                _ => None,
            }
        } else {
            text.parse().ok()
        };
        point.and_then(Self::new).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_by_name_and_by_number() {
        for (text, tos) in
            [("le", 0x04), ("cs1", 0x20), ("af41", 0x88), ("ef", 0xb8), ("63", 0xfc), ("0", 0)]
        {
            assert_eq!(text.parse::<Dscp>().map(Dscp::tos), Ok(tos), "{text}");
        }
        for text in ["", "cs8", "cs12", "af50", "af14", "af1", "64", "-1", "LE", "0x04"] {
            let error = text.parse::<Dscp>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "`{text}` is not a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63"
                )
            );
        }
    }
}
