//! What the kernel is told of a class's connections: how packets are marked, how fast they may leave, and
//! how many bytes it may hold unsent.
//!
//! This file must not know the class tree.

#![expect(unsafe_code, reason = "setsockopt for an option that socket2 does not have")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, SockRef};

/// Unsent bytes that the kernel may hold of a connection (TCP_NOTSENT_LOWAT). The class tree cannot hold
/// back what is in there, so a change of rate or priority shows only after it.
const NOTSENT_LOWAT: u32 = 16 << 10;

/// What is to be set on the sockets of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// The TOS or traffic class byte (IP_TOS, IPV6_TCLASS).
    pub tos: Option<u8>,
    /// Bytes per second that no single connection can exceed (SO_MAX_PACING_RATE).
    pub max_pacing_rate: Option<u64>,
}

impl SocketOptions {
    /// Sets them on a connection's socket. Set before it connects, they mark the handshake's packets too.
    /// TCP_NOTSENT_LOWAT is set in any case.
    ///
    /// # Errors
    ///
    /// If the kernel refuses one of them, which the error names.
    pub fn apply(self, socket: &impl AsFd) -> io::Result<()> {
        let named = |option: &'static str| {
            move |e: io::Error| io::Error::new(e.kind(), format!("cannot set {option}: {e}"))
        };
        let options = SockRef::from(socket);
        options.set_tcp_notsent_lowat(NOTSENT_LOWAT).map_err(named("TCP_NOTSENT_LOWAT"))?;
        if let Some(tos) = self.tos.map(u32::from) {
            match options.domain()? {
                Domain::IPV6 => options.set_tclass_v6(tos).map_err(named("IPV6_TCLASS"))?,
                _ => options.set_tos_v4(tos).map_err(named("IP_TOS"))?,
            }
        }
        if let Some(rate) = self.max_pacing_rate {
            set_max_pacing_rate(socket, rate).map_err(named("SO_MAX_PACING_RATE"))?;
        }
        Ok(())
    }
}

/// Sets SO_MAX_PACING_RATE (socket(7)), which socket2 does not have.
fn set_max_pacing_rate(socket: &impl AsFd, rate: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the 8 bytes of `rate`, which outlives the call. The descriptor is borrowed
    // for as long.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            size_of::<u64>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use socket2::{Socket, Type};

    use super::*;

    fn max_pacing_rate(socket: &Socket) -> u64 {
        let mut rate = 0_u64;
        let mut size = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes, which `rate` has.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                (&raw mut rate).cast(),
                &raw mut size,
            )
        };
        assert_eq!((got, size), (0, 8));
        rate
    }

    #[test]
    fn the_kernel_has_what_was_set() {
        let options = SocketOptions { tos: Some(0x04), max_pacing_rate: Some(5_000_000_000) };
        let four = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        options.apply(&four).unwrap();
        assert_eq!(four.tos_v4().unwrap(), 0x04);
        let six = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        options.apply(&six).unwrap();
        assert_eq!(six.tclass_v6().unwrap(), 0x04);
        for socket in [four, six] {
            assert_eq!(max_pacing_rate(&socket), 5_000_000_000);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        }
    }

    #[test]
    fn without_options_only_the_low_water_mark_is_set() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        SocketOptions::default().apply(&socket).unwrap();
        assert_eq!(socket.tos_v4().unwrap(), 0);
        assert_eq!(max_pacing_rate(&socket), u64::MAX);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
    }
}
