//! The running process's side: the upgrade socket, and who is given what there.

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
use super::{Handed, VERSION};

/// How long a successor may take to say its first word.
const HELLO: Duration = Duration::from_secs(5);

/// How long to wait before the next accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The open upgrade socket of a running process.
pub struct SocketServer {
    listener: UnixListener,
    /// Goes with it.
    _place: Place,
    patience: Duration,
    sockets: Vec<Handed>,
}

/// A successor that accepts. It goes on, taking over the upgrade socket and talking to the service
/// manager, once this is dropped.
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    /// Closed with this.
    _wire: Wire,
}

/// The socket's place, removed when this process is done with it, unless another has taken it.
struct Place {
    path: PathBuf,
    /// Device and inode, to know our own by.
    own: (u64, u64),
}

/// Why no successor can ask.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such directory.
    #[error("{}: {source}", .dir.display())]
    Directory {
        /// Where the socket would be.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put a socket of theirs there.
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

/// A hand-over that did not happen.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it belongs to another user")]
    Stranger,
    #[error("it does not speak version {VERSION} of the protocol, but {0:?}")]
    Version(String),
    #[error("it said nothing in {HELLO:?}")]
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
    /// Opens the upgrade socket at `path`, where a successor is given `sockets` and has `patience`
    /// to be ready. `taking_over`: from whoever listens there now.
    ///
    /// # Errors
    ///
    /// If the directory is not there or not private, or if another process listens there.
    pub fn open(
        path: &Path,
        sockets: Vec<Handed>,
        patience: Duration,
        taking_over: bool,
    ) -> Result<Self, OpenError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        private(dir)?;
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(OpenError::NotASocket(path.to_owned()));
            }
            Ok(_) if !taking_over && std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(OpenError::Taken(path.to_owned()));
            }
            _ => {}
        }
        let bind = || {
            // Made beside it and renamed: whoever asks meets either the old one or this.
            let made = path.with_extension(std::process::id().to_string());
            let _ = fs::remove_file(&made);
            let listener = UnixListener::bind(&made)?;
            fs::set_permissions(&made, Permissions::from_mode(0o600))?;
            let there = fs::symlink_metadata(&made)?;
            fs::rename(&made, path)?;
            Ok((listener, (there.dev(), there.ino())))
        };
        let (listener, own) =
            bind().map_err(|source| OpenError::Bind { path: path.to_owned(), source })?;
        Ok(Self { listener, _place: Place { path: path.to_owned(), own }, patience, sockets })
    }

    /// Serves successors until one has taken over.
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
                _ = draining.wait_for(|draining| *draining) => Err(Failed::Stopping),
            };
            match done {
                Ok(()) => return Ok(Successor { pid, _wire: wire }),
                Err(e) => {
                    warn!("upgrade: no hand-over to process {pid}: {e}; this process goes on");
                    let _ = timeout(HELLO, wire.send(&format!("refused {e}"), None)).await;
                }
            }
        }
    }

    async fn hand_over(&self, wire: &mut Wire) -> Result<(), Failed> {
        let peer = wire.peer()?;
        if !peer.is_trusted() {
            return Err(Failed::Stranger);
        }
        let hello = timeout(HELLO, wire.line()).await.map_err(|_| Failed::Mute)??;
        let hello = hello.ok_or(Failed::Ended)?;
        if hello != format!("dripline-upgrade {VERSION}") {
            return Err(Failed::Version(hello.chars().take(40).collect()));
        }
        let addresses: Vec<SocketAddr> = self.sockets.iter().map(|one| one.addr).collect();
        info!("upgrade: process {} is given the sockets of {addresses:?}", peer.pid);
        let give = async {
            for Handed { role, addr, socket } in &self.sockets {
                wire.send(&format!("socket {role} {addr}"), Some(socket.as_fd())).await?;
            }
            wire.send("end", None).await?;
            wire.line().await
        };
        let ready = timeout(self.patience, give).await;
        match ready.map_err(|_| Failed::Hung(self.patience))?? {
            Some(line) if line == "ready" => Ok(wire.send("yours", None).await?),
            Some(line) => Err(Failed::Version(line)),
            None => Err(Failed::Ended),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether only this user and root can put something into `dir`.
fn private(dir: &Path) -> Result<(), OpenError> {
    let stat =
        fs::metadata(dir).map_err(|source| OpenError::Directory { dir: dir.to_owned(), source })?;
    let own = stat.uid() == 0 || stat.uid() == rustix::process::geteuid().as_raw();
    if !stat.is_dir() || !own || stat.mode() & 0o022 != 0 {
        return Err(OpenError::NotPrivate(dir.to_owned()));
    }
    Ok(())
}
