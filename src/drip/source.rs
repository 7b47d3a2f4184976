//! Bodies that are not in memory while they wait. The code that answers a request writes
//! [promises](promise), which are slices of one static region, and arms the client's stream with the
//! [`Source`] that has the real bytes. The stream recognises a promise by its address and reads a
//! record when it is due, so ten thousand waiting readers hold no copy of anything.
//!
//! A promise of the whole rest of a body is accepted at once: the writer may return, and the stream
//! sends the rest by itself ([`super::stream::PacedStream::drip_out`]).
//!
//! Invariant: the bytes of a promise mean nothing and are never sent. A promise must therefore reach
//! the stream as it is: a copy of it (by a filter that rewrites or compresses bodies) would be sent as
//! ordinary bytes.
//!
//! This file must not know where a source has its bytes, or of HTTP.

#![expect(unsafe_code, reason = "mmap of address space that is never touched")]

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;

use bytes::Bytes;

/// The longest promise: 16 GiB, so that one promise can stand for the whole rest of a body, and its
/// writer need not wait. This is address space, not memory.
pub const LIMIT: usize = 16 << 30;

/// The longest promise where the process may not have that much address space: four of the largest
/// records.
const FALLBACK: usize = 64 << 10;

/// The region that promises are slices of. Not a constant: a linker may give equal constants one
/// address, and some other buffer would then look like a promise. Its pages are never read.
static REGION: LazyLock<&'static [u8]> =
    LazyLock::new(|| reserve(LIMIT).unwrap_or_else(|| vec![0; FALLBACK].leak()));

/// Reserves address space that nothing else uses, and that reads as zeros.
fn reserve(length: usize) -> Option<&'static [u8]> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping of the kernel's choice touches no memory of ours.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, -1, 0) };
    // SAFETY: the mapping is `length` readable bytes, never written and never unmapped.
    (at != libc::MAP_FAILED).then(|| unsafe { std::slice::from_raw_parts(at.cast(), length) })
}

/// Resolves when bytes that a source did not have are available, or with an error if they never will be.
pub type Availability = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Where the bytes of a promised body are, or will be. The bytes at an offset never change.
pub trait Source: Send + Sync + fmt::Debug {
    /// Where the body begins in the source, in bytes: asked once per response, when its first
    /// promised byte is due.
    fn start(&self) -> u64;

    /// What to wait for before the bytes up to `end` are read; None if they are available.
    fn availability(&self, end: u64) -> Option<Availability>;

    /// Fills `buf` with the bytes from `offset` if that takes no disk access. Returns false if it would;
    /// the contents of `buf` are arbitrary then.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be read. The connection is closed before the end of the body then.
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;

    /// Fills `buf` with the bytes from `offset`. May block: called on a thread where that is allowed.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be read. The connection is closed before the end of the body then.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A stand-in for the next `length` bytes of a source, at most [`LIMIT`] (less where address space is
/// short). It is as long as the bytes that it stands for.
#[must_use]
pub fn promise(length: usize) -> Bytes {
    Bytes::from_static(&REGION[..length.min(REGION.len())])
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
        }
        static ZEROS: [u8; FALLBACK] = [0; FALLBACK];
        assert!(!is_promise(&ZEROS) && !is_promise(&vec![0; FALLBACK]) && !is_promise(b"x"));
        let copy = promise(1 << 20).to_vec();
        assert!(!is_promise(&copy) && copy.iter().all(|byte| *byte == 0));
    }
}
