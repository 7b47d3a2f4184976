//! Record sizes: what is configured, what a client may ask for, and the OpenSSL settings that keep both.
//!
//! Invariant: no value of these types is a record size that TLS does not allow. It must not know OpenSSL's
//! calls, or who decides.
//!
//! Pure. All sizes are plaintext bytes of one record: the fragment of RFC 5246 §6.2.1 and the
//! content of RFC 8446 §5.2, without header, content-type byte, padding and authentication tag.
//!
//! ```
//! use dripline::tls::record::{MaxFragmentLength, Offer};
//!
//! assert_eq!(Offer::default().limit(4096), 4096);
//! // max_fragment_length 1 is 512 bytes (RFC 6066 §4).
//! let offer = Offer { max_fragment_length: MaxFragmentLength::parse(&[1]), ..Offer::default() };
//! assert_eq!(offer.limit(4096), 512);
//! ```

/// The largest fragment of TLS (RFC 8446 §5.1, RFC 5246 §6.2.1), in bytes.
const LARGEST: usize = 1 << 14;

/// The smallest value that OpenSSL accepts for `max_send_fragment`, in bytes.
pub const OPENSSL_FLOOR: usize = 512;

/// Plaintext bytes in one body record: 64 to 16,384.
///
/// The ceiling is the largest fragment that TLS allows (RFC 8446 §5.1, RFC 5246 §6.2.1); the floor
/// is the smallest limit that a client may ask for (RFC 8449 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkSize(u16);

impl ChunkSize {
    /// The smallest chunk, in bytes.
    pub const MIN: u64 = 64;
    /// The largest chunk, in bytes.
    pub const MAX: u64 = 16_384;

    /// A chunk of `bytes` plaintext bytes.
    ///
    /// # Errors
    ///
    /// If `bytes` is outside [`Self::MIN`]…[`Self::MAX`].
    pub fn new(bytes: u64) -> Result<Self, ChunkSizeError> {
        match u16::try_from(bytes) {
            Ok(size) if (Self::MIN..=Self::MAX).contains(&bytes) => Ok(Self(size)),
            _ => Err(ChunkSizeError(bytes)),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        Self(4096)
    }
}

impl std::fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A size that no TLS record can have, or that no device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a possible record size; write 64 to 16384")]
pub struct ChunkSizeError(pub u64);

/// The settings that keep every record of a connection within a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragments {
    /// `max_send_fragment`: the size of a full record.
    pub max_send: usize,
    /// `split_send_fragment`: where a longer write is cut. Below [`OPENSSL_FLOOR`], and below a
    /// negotiated max_fragment_length, this is what holds the cap; OpenSSL before 3.2 ignores it
    /// there.
    pub split: usize,
}

impl Fragments {
    /// What keeps handshake and application records within `cap` bytes, 1 to 16,384.
    #[must_use]
    pub fn within(cap: usize) -> Self {
        Self { max_send: cap.max(OPENSSL_FLOOR), split: cap }
    }
}

/// max_fragment_length (RFC 6066 §4), which a client asks for by a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxFragmentLength(u8);

impl MaxFragmentLength {
    /// The extension's number.
    pub const TYPE: u16 = 1;

    /// Reads the extension's data. None if it is not one of the four codes; OpenSSL refuses such a
    /// handshake with `illegal_parameter`.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        match data {
            [code @ 1..=4] => Some(Self(*code)),
            _ => None,
        }
    }

    /// The extension's code, 1 to 4.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }

    /// The limit in bytes: 512, 1024, 2048 or 4096.
    #[must_use]
    pub fn bytes(self) -> usize {
        256 << self.0
    }
}

/// record_size_limit (RFC 8449 §4): the largest record a client can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSizeLimit(u16);

/// Why a record_size_limit extension is an error; each is named after its alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordSizeLimitError {
    /// Not two bytes long: `decode_error`.
    Decode,
    /// Below 64: "MUST NOT send a value smaller than 64 … treat receipt … as a fatal error and
    /// generate an illegal_parameter alert" (RFC 8449 §4).
    Illegal,
}

impl RecordSizeLimit {
    /// The extension's number.
    pub const TYPE: u16 = 28;
    /// dripline's own limit: the largest value possible, in wire form. The limit of TLS 1.3 counts the
    /// content-type byte (RFC 8449 §4): 2^14 + 1.
    pub const OURS_TLS13: [u8; 2] = 16_385u16.to_be_bytes();
    /// The same for TLS 1.2: 2^14.
    pub const OURS_TLS12: [u8; 2] = 16_384u16.to_be_bytes();

    /// Reads the extension's data.
    ///
    /// # Errors
    ///
    /// If RFC 8449 §4 does not allow its length or value. Values beyond the protocol's largest
    /// record are allowed: a server must not enforce that bound, as an extension might raise it.
    pub fn parse(data: &[u8]) -> Result<Self, RecordSizeLimitError> {
        let data: [u8; 2] = data.try_into().map_err(|_| RecordSizeLimitError::Decode)?;
        match u16::from_be_bytes(data) {
            0..64 => Err(RecordSizeLimitError::Illegal),
            limit => Ok(Self(limit)),
        }
    }

    /// The largest plaintext to send, in bytes. In TLS 1.3 the limit covers the content-type byte
    /// as well (RFC 8449 §4).
    #[must_use]
    pub fn plaintext(self, tls13: bool) -> usize {
        let limit = usize::from(self.0) - usize::from(tls13);
        limit.min(LARGEST)
    }
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offer {
    /// max_fragment_length.
    pub max_fragment_length: Option<MaxFragmentLength>,
    /// record_size_limit, as plaintext bytes of the negotiated version.
    pub record_size_limit: Option<usize>,
}

impl Offer {
    /// The largest record to send, in bytes: the smallest of the operator's cap and what the client
    /// asked for. By RFC 8449 §5 max_fragment_length is ignored if both are offered; OpenSSL answers it
    /// nevertheless, so both limits are kept.
    #[must_use]
    pub fn limit(&self, cap: usize) -> usize {
        let asked =
            [self.max_fragment_length.map(MaxFragmentLength::bytes), self.record_size_limit];
        asked.into_iter().flatten().fold(cap, usize::min)
    }
}

impl std::fmt::Display for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.max_fragment_length, self.record_size_limit) {
            (None, None) => f.write_str("none"),
            (Some(mfl), None) => write!(f, "max_fragment_length:{}", mfl.bytes()),
            (None, Some(limit)) => write!(f, "record_size_limit:{limit}"),
            (Some(mfl), Some(limit)) => {
                write!(f, "max_fragment_length:{},record_size_limit:{limit}", mfl.bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_those_of_a_record() {
        assert_eq!(ChunkSize::new(64).map(ChunkSize::bytes), Ok(64));
        assert_eq!(ChunkSize::new(16_384).map(ChunkSize::bytes), Ok(16_384));
        for wrong in [0, 63, 16_385, 65_536 + 4096, u64::MAX] {
            assert_eq!(ChunkSize::new(wrong), Err(ChunkSizeError(wrong)));
        }
        assert_eq!(
            ChunkSizeError(0).to_string(),
            "0 bytes is not a possible record size; write 64 to 16384"
        );
    }

    #[test]
    fn caps_below_the_floor_are_held_by_the_split() {
        let fragments = Fragments::within;
        assert_eq!(fragments(64), Fragments { max_send: 512, split: 64 });
        assert_eq!(fragments(512), Fragments { max_send: 512, split: 512 });
        assert_eq!(fragments(4097), Fragments { max_send: 4097, split: 4097 });
        assert_eq!(fragments(16_384), Fragments { max_send: 16_384, split: 16_384 });
    }

    #[test]
    fn the_codes_of_rfc_6066() {
        let bytes = |data: &[u8]| MaxFragmentLength::parse(data).map(MaxFragmentLength::bytes);
        assert_eq!([1, 2, 3, 4].map(|code| bytes(&[code])), [512, 1024, 2048, 4096].map(Some));
        for wrong in [&[][..], &[0], &[5], &[255], &[1, 1]] {
            assert_eq!(bytes(wrong), None);
        }
    }

    #[test]
    fn the_limits_of_rfc_8449() {
        let parse = |limit: u16| RecordSizeLimit::parse(&limit.to_be_bytes());
        assert_eq!(parse(0), Err(RecordSizeLimitError::Illegal));
        assert_eq!(parse(63), Err(RecordSizeLimitError::Illegal));
        for wrong in [&[][..], &[64], &[0, 64, 0]] {
            assert_eq!(RecordSizeLimit::parse(wrong), Err(RecordSizeLimitError::Decode));
        }
        let plaintext = |limit, tls13| parse(limit).unwrap().plaintext(tls13);
        assert_eq!((plaintext(64, true), plaintext(64, false)), (63, 64));
        assert_eq!((plaintext(16_385, true), plaintext(16_384, false)), (16_384, 16_384));
        assert_eq!((plaintext(65_535, true), plaintext(65_535, false)), (16_384, 16_384));
    }

    #[test]
    fn the_smallest_wish_counts() {
        let offer = |mfl: Option<u8>, record_size_limit| Offer {
            max_fragment_length: mfl.and_then(|code| MaxFragmentLength::parse(&[code])),
            record_size_limit,
        };
        assert_eq!(offer(None, None).limit(4096), 4096);
        assert_eq!(offer(Some(4), None).limit(1024), 1024);
        assert_eq!(offer(Some(1), None).limit(4096), 512);
        assert_eq!(offer(None, Some(63)).limit(4096), 63);
        assert_eq!(offer(Some(2), Some(2000)).limit(4096), 1024);
        assert_eq!(offer(Some(3), Some(700)).limit(4096), 700);
    }
}
