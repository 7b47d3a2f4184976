//! Lines of text over a Unix socket, some with a file descriptor (SCM_RIGHTS, unix(7)).
//!
//! Invariant: a peer can send neither an endless line nor endless descriptors. This file must not
//! know what the lines say.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest line, in bytes.
const MAX_LINE: usize = 512;

/// The most descriptors that wait to be taken: far more than any configuration has listeners.
const MAX_DESCRIPTORS: usize = 1024;

/// How many descriptors one read may bring. Each line brings at most one, and the kernel ends a read after
/// the bytes that a descriptor came with.
const AT_A_TIME: usize = 4;

/// One end of the connection.
pub(super) struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// The process at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) pid: u32,
    uid: u32,
}

impl Peer {
    /// Whether it may give or take sockets: the same user, or root.
    pub(super) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptors: VecDeque::new() }
    }

    pub(super) fn peer(&self) -> io::Result<Peer> {
        let credentials = sockopt::socket_peercred(&self.stream)?;
        let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Peer { pid, uid: credentials.uid.as_raw() })
    }

    /// Sends a line, with a descriptor or without.
    pub(super) async fn send(&self, line: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let line = format!("{line}\n");
        let mut left = line.as_bytes();
        let fd = fd.map(|fd| [fd]);
        let mut fds = fd.as_ref().map(<[_; 1]>::as_slice);
        while !left.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if let Some(fds) = fds {
                    control.push(SendAncillaryMessage::ScmRights(fds));
                }
                let data = [IoSlice::new(left)];
                Ok(sendmsg(&self.stream, &data, &mut control, SendFlags::NOSIGNAL)?)
            });
            left = &left[sent.await?..];
            fds = None;
        }
        Ok(())
    }

    /// The next line; None if the peer has closed its end.
    pub(super) async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let rest = self.received.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.truncate(end);
                return String::from_utf8(line).map(Some).map_err(|_| garbage("not UTF-8"));
            }
            if self.received.len() > MAX_LINE {
                return Err(garbage("an endless line"));
            }
            if self.receive().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The oldest descriptor that came.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    async fn receive(&mut self) -> io::Result<usize> {
        let Self { stream, received, descriptors } = self;
        let read = stream.async_io(Interest::READABLE, || {
            let mut bytes = [0; MAX_LINE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut data = [IoSliceMut::new(&mut bytes)];
            // Closed on exec, so that a process that this one starts does not inherit them.
            let message = recvmsg(&*stream, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    descriptors.extend(fds);
                }
            }
            received.extend_from_slice(&bytes[..message.bytes]);
            Ok(message.bytes)
        });
        let read = read.await?;
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(garbage("endless descriptors"));
        }
        Ok(read)
    }
}

fn garbage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other process sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn lines_and_descriptors_come_in_their_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (Wire::new(a), Wire::new(b));
        assert!(b.peer().unwrap().is_trusted());
        assert_eq!(b.peer().unwrap().pid, std::process::id());
        let sockets = [(); 9].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        for (at, socket) in sockets.iter().enumerate() {
            a.send(&format!("socket {at}"), Some(socket.as_fd())).await.unwrap();
        }
        a.send("end", None).await.unwrap();
        drop(a);
        for at in 0..sockets.len() {
            assert_eq!(b.line().await.unwrap(), Some(format!("socket {at}")));
        }
        assert_eq!(b.line().await.unwrap().as_deref(), Some("end"));
        assert_eq!(b.line().await.unwrap(), None);
        for socket in &sockets {
            let came = TcpListener::from(b.descriptor().unwrap());
            assert_eq!(came.local_addr().unwrap(), socket.local_addr().unwrap());
        }
        assert!(b.descriptor().is_none());
    }

    #[tokio::test]
    async fn an_endless_line_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (Wire::new(a), Wire::new(b));
        a.send(&"x".repeat(2 * MAX_LINE), None).await.unwrap();
        assert!(b.line().await.is_err());
    }
}
