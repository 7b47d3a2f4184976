//! A connection to S3 for one paced body: it reads only while its [`Valve`] is open.
//!
//! Such a connection serves a single request: Pingora pools connections by their file descriptor, and
//! shows none for a connection of this kind. So it is used for long bodies; small ranges and heads go
//! over Pingora's own, pooled connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::{Error, ErrorType, OrErr, Result};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::valve::Valve;

/// How often the reader yields after each read, so that whoever takes the bytes can close the valve
/// before more are read: one read may complete a TLS record, and the next read another one. Twice,
/// because Pingora polls the two halves of a request in turns, and after one yield this half may be
/// polled first again.
const TURNS: u8 = 2;

/// Connects with a small receive buffer, behind a valve.
#[derive(Debug)]
pub struct ValvedConnect {
    /// Closed while bytes that were read are still to be written.
    pub valve: Arc<Valve>,
    /// Time for the TCP handshake.
    pub connect_timeout: Duration,
    /// Time without a byte that was waited for, which ends the connection with
    /// [`io::ErrorKind::TimedOut`]. It does not run while the valve is closed.
    pub response_timeout: Duration,
    /// Kernel receive buffer, in bytes.
    pub recv_buffer: usize,
}

#[async_trait]
impl Connect for ValvedConnect {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let addr = addr.as_inet().ok_or_else(|| {
            Error::explain(ErrorType::InternalError, "S3 is not on a Unix socket")
        })?;
        let connect = async {
            let socket = match addr {
                std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }?;
            // Set before the handshake, which announces the window.
            SockRef::from(&socket).set_recv_buffer_size(self.recv_buffer)?;
            socket.connect(*addr).await
        };
        let socket = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(connected) => connected.map_err(|e| {
                let kind = match e.kind() {
                    io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                    _ => ErrorType::ConnectError,
                };
                Error::because(kind, format!("cannot connect to {addr}"), e)
            })?,
            Err(_) => {
                let context = format!("no connection to {addr} in {:?}", self.connect_timeout);
                return Error::e_explain(ErrorType::ConnectTimedout, context);
            }
        };
        socket.set_nodelay(true).or_err(ErrorType::ConnectError, "cannot set TCP_NODELAY")?;
        let socket = Valved {
            socket,
            valve: Arc::clone(&self.valve),
            turns: 0,
            timeout: self.response_timeout,
            timer: None,
        };
        Ok(VirtualSocketStream::new(Box::new(socket)).into())
    }
}

/// A socket that is read while the valve is open.
#[derive(Debug)]
struct Valved {
    socket: TcpStream,
    valve: Arc<Valve>,
    /// How often the reader still has to yield.
    turns: u8,
    timeout: Duration,
    /// Runs while a byte is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Valved {
    #[expect(clippy::disallowed_methods, reason = "a connection attempt has a deadline")]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.valve.poll_open(cx).is_pending() {
            this.timer = None;
            return Poll::Pending;
        }
        if this.turns > 0 {
            this.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Poll::Ready(read) = Pin::new(&mut this.socket).poll_read(cx, buf) {
            this.turns = TURNS;
            this.timer = None;
            return Poll::Ready(read);
        }
        let timer = this.timer.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(Instant::now() + this.timeout))
        });
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Valved {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Valved {
    /// TCP_NODELAY is set already, and Pingora is asked for no other option.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair(timeout: Duration) -> (Stream, TcpStream, Arc<Valve>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let valve = Arc::new(Valve::default());
        let connect = ValvedConnect {
            valve: Arc::clone(&valve),
            connect_timeout: Duration::from_secs(5),
            response_timeout: timeout,
            recv_buffer: 16 << 10,
        };
        let addr = SocketAddr::from(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connect.connect(&addr), listener.accept());
        (near.unwrap(), far.unwrap().0, valve)
    }

    #[tokio::test]
    async fn nothing_is_read_while_the_valve_is_closed() {
        let (mut near, mut far, valve) = pair(Duration::from_millis(200)).await;
        far.write_all(b"one").await.unwrap();
        let mut buf = [0; 3];
        near.read_exact(&mut buf).await.unwrap();
        valve.close();
        far.write_all(b"two").await.unwrap();
        // longer than the timeout, which does not run now
        let closed = tokio::time::timeout(Duration::from_millis(500), near.read(&mut buf)).await;
        assert!(closed.is_err());
        valve.open();
        near.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"two");
    }

    #[tokio::test]
    async fn silence_that_is_waited_for_times_out() {
        let (mut near, _far, _valve) = pair(Duration::from_millis(50)).await;
        let error = near.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn everything_arrives() {
        let (mut near, mut far, valve) = pair(Duration::from_secs(5)).await;
        let sent: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move { far.write_all(&sent).await });
        let mut got = Vec::new();
        let mut piece = vec![0; 10_000];
        while got.len() < expected.len() {
            let n = near.read(&mut piece).await.unwrap();
            got.extend_from_slice(&piece[..n]);
            valve.close();
            valve.open();
        }
        assert!(got == expected);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refusal_says_so() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let connect = ValvedConnect {
            valve: Arc::default(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            recv_buffer: 4096,
        };
        let error = connect.connect(&SocketAddr::from(closed)).await.unwrap_err();
        assert_eq!(error.etype(), &ErrorType::ConnectRefused);
    }
}
