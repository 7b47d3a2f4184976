//! Listening sockets, and what all that is accepted on them has in common.
//!
//! The accept loop is dripline's own, around Pingora's proxy, because Pingora's has a fixed
//! handshake timeout, a fixed grace period and no way to count connections.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{StartError, introduction};
use crate::lifecycle::Lifecycle;

/// Connections that the kernel keeps for a listener until they are accepted; it lowers this to
/// net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel keeps for a client beyond what the network has taken. A device that stalls
/// gets no more than this in one go when it reads on, and costs no more.
const NOTSENT_LOWAT: u32 = 16 << 10;

/// How long to wait before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. `key` says which key has its address.
pub(super) fn bind(addr: SocketAddr, key: impl Fn() -> String) -> Result<TcpListener, StartError> {
    let socket = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the last run's connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    socket().map_err(|source| StartError::Bind { key: key(), addr, source })
}

/// What happens to a connection once it is accepted.
pub(super) trait Serve: Send + Sync + 'static {
    /// Sets the options of an accepted socket.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        prepare(stream)
    }

    fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        lifecycle: Lifecycle,
    ) -> impl Future<Output = ()> + Send;
}

/// Accepts until `end` turns true.
pub(super) async fn accept<S: Serve>(
    socket: TcpListener,
    app: Arc<S>,
    lifecycle: Lifecycle,
    mut end: watch::Receiver<bool>,
) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(e) => return warn!("cannot use a listening socket: {e}"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = end.wait_for(|end| *end) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(e) = app.prepare(&stream) {
                    debug!("{peer}: {e}");
                    continue;
                }
                tokio::spawn(Arc::clone(&app).serve(stream, peer, lifecycle.clone()));
            }
            Err(e) => {
                warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection as Pingora has it.
pub(super) fn pingoras(socket: TcpStream, peer: SocketAddr) -> L4Stream {
    let mut stream = L4Stream::from(socket);
    let digest = SocketDigest::from_raw_fd(std::os::fd::AsRawFd::as_raw_fd(&stream));
    let _ = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    stream
}

/// A record leaves when it is written, and a device that stops reading is not owed megabytes.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// A plain HTTP listener of a Pingora app.
pub(super) struct Plain<A> {
    pub(super) app: Arc<A>,
    /// How long a PROXY header may take that a client may send first; None for a listener where
    /// nobody sends one.
    pub(super) tolerates: Option<Duration>,
}

impl<A: ServerApp + Send + Sync + 'static> Serve for Plain<A> {
    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = pingoras(socket, peer);
        if let Some(patience) = self.tolerates
            && !introduction::tolerate(&mut socket, patience).await
        {
            return;
        }
        self.app.process_new(Box::new(socket), &lifecycle.draining()).await;
    }
}
