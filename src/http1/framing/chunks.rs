//! Finds where a chunked body ends (RFC 9112 §7.1), while its bytes pass.
//!
//! Pure. Nothing is decoded: the bytes go on as they came. Their reader is more lenient than this one, so it
//! finds the same end. Stricter than the RFC: every line ends in CRLF, a size has at most 16 digits, an
//! extension is short, and there is no trailer.

use super::Defect;

/// The longest extension of a chunk's size line, in bytes. S3 is not known to read any, and without a bound a
/// peer could send megabytes of them around a few bytes of body.
const MAX_EXTENSION: u16 = 128;

/// Follows a chunked body through its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line, after so many digits.
    Size {
        digits: u8,
        size: u64,
    },
    /// In an extension, of which so many bytes may still come.
    Extension {
        left: u16,
        size: u64,
    },
    /// Before the LF of a size line.
    SizeLf {
        size: u64,
    },
    /// In a chunk's data.
    Data {
        left: u64,
    },
    /// Before the CR LF behind the data.
    DataCr,
    DataLf,
    /// Before the CR LF behind the last chunk.
    EndCr,
    EndLf,
    End,
}

impl Default for Chunks {
    fn default() -> Self {
        Self(State::Size { digits: 0, size: 0 })
    }
}

impl Chunks {
    /// Takes the next bytes of the body. If the body ends in them, returns how many of them belong to it, else
    /// None. It must not be called again after the end.
    ///
    /// # Errors
    ///
    /// If the bytes are no chunks as the RFC has them.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<Option<usize>, Defect> {
        let mut at = 0;
        while self.0 != State::End {
            if let State::Data { left } = &mut self.0 {
                let here = bytes.len() - at;
                let taken = usize::try_from(*left).unwrap_or(here).min(here);
                at += taken;
                *left -= taken as u64;
                if *left == 0 {
                    self.0 = State::DataCr;
                }
            }
            let Some(byte) = bytes.get(at) else { return Ok(None) };
            self.0 = self.0.after(*byte)?;
            at += 1;
        }
        Ok(Some(at))
    }
}

impl State {
    /// After one more byte that is not data.
    fn after(self, byte: u8) -> Result<Self, Defect> {
        Ok(match (self, byte) {
            // 16 digits fill a u64.
            (Self::Size { digits: digits @ 0..16, size }, b) if b.is_ascii_hexdigit() => {
                let digit = char::from(b).to_digit(16).unwrap_or_default();
                Self::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Self::Size { digits: 1.., size }, b'\r') => Self::SizeLf { size },
            (Self::Size { digits: 1.., size }, b';') => {
                Self::Extension { left: MAX_EXTENSION, size }
            }
            (Self::Extension { size, .. }, b'\r') => Self::SizeLf { size },
            (Self::Extension { left: left @ 1.., size }, b)
                if b == b'\t' || !b.is_ascii_control() =>
            {
                Self::Extension { left: left - 1, size }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::EndCr,
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Chunks::default().0,
            (Self::EndCr, b'\r') => Self::EndLf,
            (Self::EndLf, b'\n') => Self::End,
            (Self::EndCr, b) if b.is_ascii_graphic() => return Err(Defect::Trailer),
            _ => return Err(Defect::Chunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(body: &[u8]) -> Result<Option<usize>, Defect> {
        Chunks::default().pass(body)
    }

    #[test]
    fn bodies_end_after_their_last_chunk() {
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;name=\"a b\"\r\nhello\r\n00;x\r\n\r\n",
            "A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let followed = format!("{body}GET /");
            assert_eq!(end(followed.as_bytes()), Ok(Some(body.len())), "{body:?}");
            assert_eq!(end(&body.as_bytes()[..3]), Ok(None), "{body:?}");
        }
        assert_eq!(end(b""), Ok(None));
        assert_eq!(end(b"ffffffffffffffff\r\n0\r\n\r\n"), Ok(None), "all of it is data");
    }

    #[test]
    fn what_could_end_elsewhere_is_refused() {
        let long = format!("5;{}\r\n", "x".repeat(usize::from(MAX_EXTENSION) + 1));
        for body in [
            "\r\n\r\n",
            "10000000000000000\r\n",
            "-1\r\n",
            "+0\r\n",
            "0x0\r\n",
            "0_0\r\n",
            " 0\r\n",
            "0 \r\n",
            "zero\r\n",
            "0\n\n",
            "0\r\r",
            "0;a\n\r\n",
            "0;a\rb",
            "0;\0\r\n",
            "1\r\naX",
            "1\r\na\n0",
            "1\r\na\rX",
            "0\r\n\n",
            "0\r\n\r\r",
            long.as_str(),
        ] {
            assert_eq!(end(body.as_bytes()), Err(Defect::Chunk), "{body:?}");
        }
        assert_eq!(end(b"0\r\nX: y\r\n\r\n"), Err(Defect::Trailer));
    }

    proptest! {
        /// However the bytes are cut, the same end or the same defect is found.
        #[test]
        fn pieces_make_no_difference(
            bytes in proptest::collection::vec(proptest::sample::select(&b"012f;\r\n\r\nx"[..]), 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let whole = end(&bytes);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut chunks, mut before, mut found) = (Chunks::default(), 0, Ok(None));
            for cut in cuts {
                found = chunks.pass(&bytes[before..cut]).map(|end| end.map(|end| before + end));
                before = cut;
                if found != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(found, whole);
        }
    }
}
