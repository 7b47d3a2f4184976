//! The successor's side: asks the running process for its sockets, and tells it when to stop accepting.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::Wire;
use super::{HandedSocket, InheritedSockets, VERSION};

/// How long the running process may take for an answer. It has the answer at hand.
const ANSWER: Duration = Duration::from_secs(10);

/// The running process, which has given its sockets and goes on accepting until [`Predecessor::accepting`].
pub struct Predecessor {
    wire: Wire,
}

/// Why nothing is taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// `server.upgrade_sock` is off.
    #[error("server.upgrade_sock is off, so no running process can be asked for its sockets")]
    Off,
    /// No process listens there.
    #[error(
        "server.upgrade_sock: {path}: {source}; is dripline running? Without --upgrade it starts anew"
    )]
    Nobody {
        /// The upgrade socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another user's process listens there.
    #[error("server.upgrade_sock: {0} belongs to another user's process")]
    Stranger(PathBuf),
    /// The running process keeps its sockets.
    #[error("the running process refuses: {0}")]
    Refused(String),
    /// The running process does not answer in time.
    #[error("the running process does not answer")]
    Silent,
    /// It sends a line that is not of the protocol.
    #[error("the running process sent a line that is not of the upgrade protocol: {0}")]
    Garbled(String),
    /// It has ended, or the connection broke.
    #[error("the running process has gone: {0}")]
    Gone(#[from] io::Error),
}

/// Asks the process that listens at `path` for its listening sockets.
///
/// # Errors
///
/// If there is none, or it gives none.
pub async fn take_sockets(
    path: Option<&Path>,
) -> Result<(InheritedSockets, Predecessor), TakeoverError> {
    let path = path.ok_or(TakeoverError::Off)?;
    let stream = UnixStream::connect(path).await;
    let nobody = |source| TakeoverError::Nobody { path: path.to_owned(), source };
    let mut wire = Wire::new(stream.map_err(nobody)?);
    if !wire.peer()?.is_trusted() {
        return Err(TakeoverError::Stranger(path.to_owned()));
    }
    wire.send(&format!("dripline-upgrade {VERSION}"), None).await?;
    let mut inherited = Vec::new();
    loop {
        let line = answer(&mut wire).await?.ok_or_else(closed)?;
        if line == "end" {
            return Ok((InheritedSockets(inherited), Predecessor { wire }));
        }
        inherited.push(socket(&line, &mut wire)?);
    }
}

/// The socket that a line announces.
fn socket(line: &str, wire: &mut Wire) -> Result<HandedSocket, TakeoverError> {
    let garbled = || TakeoverError::Garbled(line.to_owned());
    let words: Vec<&str> = line.split(' ').collect();
    let ["socket", role, addr] = words[..] else { return Err(garbled()) };
    let role = role.parse().map_err(|()| garbled())?;
    let addr = addr.parse().map_err(|_| garbled())?;
    let socket = TcpListener::from(wire.descriptor().ok_or_else(garbled)?);
    Ok(HandedSocket { role, addr, socket })
}

impl Predecessor {
    /// Tells the running process that this one accepts. True once the running process has stopped accepting,
    /// false if it has ended without an answer.
    ///
    /// # Errors
    ///
    /// If it goes on accepting: then this process must not serve.
    pub async fn accepting(mut self) -> Result<bool, TakeoverError> {
        if self.wire.send("ready", None).await.is_err() {
            return Ok(false);
        }
        match answer(&mut self.wire).await {
            Ok(Some(line)) if line == "yours" => {
                // It closes the connection once it has told the service manager of its successor.
                let _ = timeout(ANSWER, self.wire.line()).await;
                Ok(true)
            }
            Ok(Some(line)) => Err(TakeoverError::Garbled(line)),
            Ok(None) | Err(TakeoverError::Gone(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The next line, unless it is a refusal.
async fn answer(wire: &mut Wire) -> Result<Option<String>, TakeoverError> {
    let line = timeout(ANSWER, wire.line()).await.map_err(|_| TakeoverError::Silent)??;
    match line.as_deref().and_then(|line| line.strip_prefix("refused ")) {
        Some(why) => Err(TakeoverError::Refused(why.to_owned())),
        None => Ok(line),
    }
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
