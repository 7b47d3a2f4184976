//! Listening sockets, the accept loop, and the options of accepted sockets.
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

use super::{Bound, StartError, proxy_header};
use crate::lifecycle::Lifecycle;
use crate::upgrade::{InheritedSockets, Role};

/// Connections that the kernel keeps for a listener until they are accepted; it lowers this to
/// net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Unsent bytes that the kernel keeps for a client (tcp(7), TCP_NOTSENT_LOWAT). A device that stalls gets
/// no more than this at once when it reads on, and holds no more memory.
const NOTSENT_LOWAT: u32 = 16 << 10;

/// How long to wait before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where listening sockets come from: a predecessor that hands them over, or the system.
pub(super) struct Sockets<'a> {
    inherited: &'a mut InheritedSockets,
}

impl<'a> Sockets<'a> {
    /// The sockets of a predecessor, if there is one.
    pub(super) fn new(inherited: &'a mut InheritedSockets) -> Self {
        Self { inherited }
    }

    /// A socket that listens at `addr`, which stands under `key` in the configuration.
    pub(super) fn listen(
        &mut self,
        role: Role,
        addr: SocketAddr,
        key: &str,
    ) -> Result<Bound, StartError> {
        let socket = match self.inherited.take(role, addr) {
            Some(socket) => socket,
            None => bind(addr, || key.to_owned())?,
        };
        Ok(Bound { addr, socket })
    }

    /// The same for a listener that may be switched off.
    pub(super) fn listen_if(
        &mut self,
        role: Role,
        addr: Option<SocketAddr>,
        key: &str,
    ) -> Result<Option<Bound>, StartError> {
        addr.map(|addr| self.listen(role, addr, key)).transpose()
    }
}

/// A listening socket. `key` is the configuration key of its address.
fn bind(addr: SocketAddr, key: impl Fn() -> String) -> Result<TcpListener, StartError> {
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

/// Serves the connections of a listener.
pub(super) trait Serve: Send + Sync + 'static {
    /// Sets the options of an accepted socket.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        prepare(stream)
    }

    /// Serves a connection to its end.
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

/// A connection as Pingora's type, with its peer known.
pub(super) fn to_pingora(socket: TcpStream, peer: SocketAddr) -> L4Stream {
    let mut stream = L4Stream::from(socket);
    let digest = SocketDigest::from_raw_fd(std::os::fd::AsRawFd::as_raw_fd(&stream));
    let _ = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    stream
}

/// Sends each record as it is written, and bounds what the kernel keeps for a client that stalls.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// A plain HTTP listener of a Pingora app.
pub(super) struct Plain<A> {
    pub(super) app: Arc<A>,
    /// How long an optional PROXY header may take; None for a listener that takes none.
    pub(super) proxy_header: Option<Duration>,
}

impl<A: ServerApp + Send + Sync + 'static> Serve for Plain<A> {
    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        let mut socket = to_pingora(socket, peer);
        if let Some(limit) = self.proxy_header
            && !proxy_header::skip(&mut socket, limit).await
        {
            return;
        }
        self.app.process_new(Box::new(socket), &lifecycle.draining()).await;
    }
}
