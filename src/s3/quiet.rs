//! Whether a pooled connection may carry the next request: nothing has come on it since the last
//! response ended.
//!
//! Pingora's pool looks as well, but it asks the runtime, which learns of bytes a moment after the
//! kernel has them. A response that is longer than it said could then pass for the next one's
//! beginning. So the kernel is asked. What comes later still cannot be told from an answer
//! (RFC 9112 §9.3), by anybody.

#![expect(unsafe_code, reason = "a descriptor that Pingora hands out as a number")]

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Whether that socket has neither bytes nor its end to be read.
///
/// `fd` must be open.
#[must_use]
pub fn is_quiet(fd: RawFd) -> bool {
    // SAFETY: the caller holds the connection, and its descriptor is open for as long as this call.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut byte = [0; 1];
    let read = recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(read, Err(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn bytes_and_ends_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let (near, mut far) = pair();
        assert!(is_quiet(near.as_raw_fd()));
        far.write_all(b"x").unwrap();
        assert!(!is_quiet(near.as_raw_fd()));
        let (near, far) = pair();
        drop(far);
        assert!(!is_quiet(near.as_raw_fd()));
    }
}
