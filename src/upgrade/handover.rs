//! The running process's side: the upgrade socket, and the hand-over to a successor that asks there.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{info, warn};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::wire::{Peer, Wire};
use super::{HandedSocket, VERSION};

/// How long a successor may take for its first line.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The open upgrade socket of a running process.
pub struct SocketServer {
    listener: UnixListener,
    /// Removes the path when this is dropped.
    _path: SocketPath,
    /// How long a successor may take to be ready.
    ready_timeout: Duration,
    sockets: Vec<HandedSocket>,
}

/// A successor that accepts. It waits with the upgrade socket and the service manager until this is
/// dropped.
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    /// Its closing is the sign that the successor waits for.
    _wire: Wire,
}

/// The socket's path, removed when it is dropped unless another process has taken it.
struct SocketPath {
    path: PathBuf,
    /// Device and inode of this process's own socket.
    own: (u64, u64),
}

/// Why there is no upgrade socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketServerError {
    /// There is no such directory.
    #[error("{}: {source}", .dir.display())]
    Directory {
        /// Where the socket would be.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Other users could put their own socket there.
    #[error("{} is not private: it must belong to this user or root and be writable for nobody else (mode 0700)", .0.display())]
    NotPrivate(PathBuf),
    /// Something else is there.
    #[error("{} is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Another process is asked there.
    #[error("another process listens at {}", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("{}: {source}", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why there was no hand-over.
#[derive(Debug, thiserror::Error)]
enum HandoverError {
    #[error("it belongs to another user")]
    Stranger,
    #[error("it does not speak version {VERSION} of the protocol, but {0:?}")]
    Version(String),
    #[error("it said nothing in {HELLO_TIMEOUT:?}")]
    Mute,
    #[error("it was not ready in {0:?}")]
    Hung(Duration),
    #[error("it ended before it was ready")]
    Ended,
    #[error("this process is stopping")]
    Stopping,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SocketServer {
    /// Opens the upgrade socket at `path`. A successor is given `sockets`, and then has `ready_timeout` to be
    /// ready. With `taking_over` the path is taken from the process that listens there.
    ///
    /// # Errors
    ///
    /// If the directory is not there or not private, or if another process listens there.
    pub fn open(
        path: &Path,
        sockets: Vec<HandedSocket>,
        ready_timeout: Duration,
        taking_over: bool,
    ) -> Result<Self, SocketServerError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        check_private(dir)?;
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketServerError::NotASocket(path.to_owned()));
            }
            Ok(_) if !taking_over && std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(SocketServerError::Taken(path.to_owned()));
            }
            _ => {}
        }
        let bind = || {
            // Bound beside it and renamed, so that a successor meets either the old socket or this.
            let new = path.with_extension(std::process::id().to_string());
            let _ = fs::remove_file(&new);
            let listener = UnixListener::bind(&new)?;
            fs::set_permissions(&new, Permissions::from_mode(0o600))?;
            let there = fs::symlink_metadata(&new)?;
            fs::rename(&new, path)?;
            Ok((listener, (there.dev(), there.ino())))
        };
        let (listener, own) =
            bind().map_err(|source| SocketServerError::Bind { path: path.to_owned(), source })?;
        Ok(Self {
            listener,
            _path: SocketPath { path: path.to_owned(), own },
            ready_timeout,
            sockets,
        })
    }

    /// Answers successors until one has taken over.
    ///
    /// # Errors
    ///
    /// If a drain begins first.
    pub async fn handed_over(self, mut draining: watch::Receiver<bool>) -> io::Result<Successor> {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = draining.wait_for(|draining| *draining) => {
                    return Err(io::Error::other("this process is stopping"));
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    warn!("upgrade: cannot accept a successor: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let mut wire = Wire::new(stream);
            let Ok(Peer { pid, .. }) = wire.peer() else { continue };
            let done = tokio::select! {
                done = self.hand_over(&mut wire) => done,
                _ = draining.wait_for(|draining| *draining) => Err(HandoverError::Stopping),
            };
            match done {
                Ok(()) => return Ok(Successor { pid, _wire: wire }),
                Err(e) => {
                    warn!("upgrade: no hand-over to process {pid}: {e}; this process goes on");
                    let _ = timeout(HELLO_TIMEOUT, wire.send(&format!("refused {e}"), None)).await;
                }
            }
        }
    }

    async fn hand_over(&self, wire: &mut Wire) -> Result<(), HandoverError> {
        let peer = wire.peer()?;
        if !peer.is_trusted() {
            return Err(HandoverError::Stranger);
        }
        let hello =
            timeout(HELLO_TIMEOUT, wire.line()).await.map_err(|_| HandoverError::Mute)??;
        let hello = hello.ok_or(HandoverError::Ended)?;
        if hello != format!("dripline-upgrade {VERSION}") {
            return Err(HandoverError::Version(hello.chars().take(40).collect()));
        }
        let addresses: Vec<SocketAddr> = self.sockets.iter().map(|one| one.addr).collect();
        info!("upgrade: process {} is given the sockets of {addresses:?}", peer.pid);
        let give = async {
            for HandedSocket { role, addr, socket } in &self.sockets {
                wire.send(&format!("socket {role} {addr}"), Some(socket.as_fd())).await?;
            }
            wire.send("end", None).await?;
            wire.line().await
        };
        let ready = timeout(self.ready_timeout, give).await;
        match ready.map_err(|_| HandoverError::Hung(self.ready_timeout))?? {
            Some(line) if line == "ready" => Ok(wire.send("yours", None).await?),
            Some(line) => Err(HandoverError::Version(line)),
            None => Err(HandoverError::Ended),
        }
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Checks that only this user and root can create files in `dir`.
fn check_private(dir: &Path) -> Result<(), SocketServerError> {
    let stat = fs::metadata(dir)
        .map_err(|source| SocketServerError::Directory { dir: dir.to_owned(), source })?;
    let own = stat.uid() == 0 || stat.uid() == rustix::process::geteuid().as_raw();
    if !stat.is_dir() || !own || stat.mode() & 0o022 != 0 {
        return Err(SocketServerError::NotPrivate(dir.to_owned()));
    }
    Ok(())
}
