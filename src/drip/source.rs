//! Bodies that need not be in memory while they wait: whoever answers a request hands out
//! [promises](promise), which are slices of one static region, and arms the client's stream with the
//! [`Source`] that holds the real bytes. The stream knows a promise by its address and reads a
//! record when its time has come, so ten thousand waiting readers hold no copy of anything.
//!
//! Invariant: the bytes of a promise mean nothing and are never sent. So a promise must reach the
//! stream as it is: a copy of it (by a filter that rewrites or compresses bodies) is ordinary bytes.
//!
//! This file must not know where a source has its bytes, or of HTTP.

use std::fmt;
use std::io;
use std::sync::LazyLock;

use bytes::Bytes;

/// At most this many bytes are promised in one piece. It bounds nothing but how often the next
/// promise is asked for, and what the region costs in address space: 64 KiB, four of the largest
/// records.
pub const LIMIT: usize = 64 << 10;

/// What promises are slices of. On the heap and not a constant: a linker may give equal constants
/// one address, and then some other buffer would look like a promise. Its pages are never touched.
static REGION: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; LIMIT].into_boxed_slice());

/// Where the bytes of a promised body are. What is at an offset never changes.
pub trait Source: Send + Sync + fmt::Debug {
    /// Where the body begins in the source, in bytes: asked once per response, when its first
    /// promised byte is due.
    fn start(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` if that takes no disk access. False if it would;
    /// what is in `buf` means nothing then.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be had. The connection ends short.
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;

    /// The same, and may block: called on a thread where that is allowed.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be had. The connection ends short.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A stand-in for the next `length` bytes of a source, or for [`LIMIT`] if that is less. It is as
/// long as what it stands for.
#[must_use]
pub fn promise(length: usize) -> Bytes {
    Bytes::from_static(&REGION[..length.min(LIMIT)])
}

/// Whether these bytes are a promise, or a part of one.
#[must_use]
pub fn is_promise(buf: &[u8]) -> bool {
    REGION.as_ptr_range().contains(&buf.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_known_whole_and_in_part_and_nothing_else_is() {
        for length in [1, 4096, LIMIT, LIMIT + 1, usize::MAX] {
            let promise = promise(length);
            assert_eq!(promise.len(), length.min(LIMIT));
            assert!(is_promise(&promise) && is_promise(&promise[promise.len() - 1..]));
            assert!(is_promise(&promise.slice(promise.len() / 2..)));
            let copy = promise.to_vec();
            assert!(!is_promise(&copy));
        }
        static ZEROS: [u8; LIMIT] = [0; LIMIT];
        assert!(!is_promise(&ZEROS) && !is_promise(&vec![0; LIMIT]) && !is_promise(b"x"));
    }
}
