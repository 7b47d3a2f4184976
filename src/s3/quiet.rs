//! Whether a pooled connection may carry the next request: nothing has come on it since the last
//! response ended.
//!
//! Pingora's pool looks as well, but it asks the runtime, which learns of bytes a moment after the
//! kernel has them. Surplus bytes of one response could then be read as the beginning of the next
//! one. So the kernel is asked. Bytes that arrive later cannot be told from a response, by anybody
//! (RFC 9112 §9.3).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Whether neither bytes nor the end of the stream are waiting to be read on that socket.
#[must_use]
pub fn is_quiet(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0; 1];
    let read = recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(read, Err(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn bytes_and_ends_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let (near, mut far) = pair();
        assert!(is_quiet(near.as_fd()));
        far.write_all(b"x").unwrap();
        assert!(!is_quiet(near.as_fd()));
        let (near, far) = pair();
        drop(far);
        assert!(!is_quiet(near.as_fd()));
    }
}
