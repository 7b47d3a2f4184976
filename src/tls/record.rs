//! Record arithmetic: how OpenSSL is to be told the size of the records it may send.
//!
//! Pure. All sizes are plaintext bytes of one record: the fragment of RFC 5246 §6.2.1 and the
//! content of RFC 8446 §5.2, without header, content-type byte, padding and authentication tag.

use crate::drip::ChunkSize;

/// The smallest value that OpenSSL accepts for `max_send_fragment`, in bytes.
pub const OPENSSL_FLOOR: usize = 512;

/// The settings that keep every record of a connection within a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragments {
    /// `SSL_CTX_set_max_send_fragment`: the size of a full record.
    pub max_send: usize,
    /// `SSL_CTX_set_split_send_fragment`: where a longer write is cut. Below
    /// [`OPENSSL_FLOOR`] this is what holds the cap; OpenSSL before 3.2 ignores it there.
    pub split: usize,
}

impl Fragments {
    /// What keeps handshake and application records within `cap`.
    #[must_use]
    pub fn within(cap: ChunkSize) -> Self {
        let cap = cap.bytes();
        Self { max_send: cap.max(OPENSSL_FLOOR), split: cap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_below_the_floor_are_held_by_the_split() {
        let fragments = |cap| Fragments::within(ChunkSize::new(cap).unwrap());
        assert_eq!(fragments(64), Fragments { max_send: 512, split: 64 });
        assert_eq!(fragments(512), Fragments { max_send: 512, split: 512 });
        assert_eq!(fragments(4097), Fragments { max_send: 4097, split: 4097 });
        assert_eq!(fragments(16_384), Fragments { max_send: 16_384, split: 16_384 });
    }
}
