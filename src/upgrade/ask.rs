//! The successor's side: asks the running process for its sockets, and tells it when to stop.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::Wire;
use super::{Handed, Inherited, VERSION};

/// How long the running process may take for an answer. It does nothing else meanwhile than look up
/// what it knows.
const ANSWER: Duration = Duration::from_secs(10);

/// What was agreed on with the running process: it waits to be told to stop.
pub struct Hand {
    wire: Wire,
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// `server.upgrade_sock` is off.
    #[error("server.upgrade_sock is off: there is nobody to take over from")]
    Off,
    /// Nobody listens there.
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
    /// The running process says nothing.
    #[error("the running process does not answer")]
    Silent,
    /// It says something else.
    #[error("the running process says what is not understood: {0}")]
    Garbled(String),
    /// It has ended, or the connection broke.
    #[error("the running process has gone: {0}")]
    Gone(#[from] io::Error),
}

/// Asks whoever listens at `path` for its listening sockets.
///
/// # Errors
///
/// If nobody does, or nothing is given.
pub async fn ask(path: Option<&Path>) -> Result<(Inherited, Hand), AskError> {
    let path = path.ok_or(AskError::Off)?;
    let stream = UnixStream::connect(path).await;
    let nobody = |source| AskError::Nobody { path: path.to_owned(), source };
    let mut wire = Wire::new(stream.map_err(nobody)?);
    if !wire.peer()?.is_trusted() {
        return Err(AskError::Stranger(path.to_owned()));
    }
    wire.send(&format!("dripline-upgrade {VERSION}"), None).await?;
    let mut inherited = Vec::new();
    loop {
        let line = answer(&mut wire).await?.ok_or_else(closed)?;
        if line == "end" {
            return Ok((Inherited(inherited), Hand { wire }));
        }
        inherited.push(socket(&line, &mut wire)?);
    }
}

/// The socket that a line announces.
fn socket(line: &str, wire: &mut Wire) -> Result<Handed, AskError> {
    let garbled = || AskError::Garbled(line.to_owned());
    let words: Vec<&str> = line.split(' ').collect();
    let ["socket", role, addr] = words[..] else { return Err(garbled()) };
    let role = role.parse().map_err(|()| garbled())?;
    let addr = addr.parse().map_err(|_| garbled())?;
    let socket = TcpListener::from(wire.descriptor().ok_or_else(garbled)?);
    Ok(Handed { role, addr, socket })
}

impl Hand {
    /// Tells the running process to stop accepting; true once it does, false if it has ended of its
    /// own accord without an answer.
    ///
    /// # Errors
    ///
    /// If it goes on accepting: then this process must not.
    pub async fn accepting(mut self) -> Result<bool, AskError> {
        if self.wire.send("ready", None).await.is_err() {
            return Ok(false);
        }
        match answer(&mut self.wire).await {
            Ok(Some(line)) if line == "yours" => {
                // It closes when it has told the service manager who is the main process now.
                let _ = timeout(ANSWER, self.wire.line()).await;
                Ok(true)
            }
            Ok(Some(line)) => Err(AskError::Garbled(line)),
            Ok(None) | Err(AskError::Gone(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The next line, unless it is a refusal.
async fn answer(wire: &mut Wire) -> Result<Option<String>, AskError> {
    let line = timeout(ANSWER, wire.line()).await.map_err(|_| AskError::Silent)??;
    match line.as_deref().and_then(|line| line.strip_prefix("refused ")) {
        Some(why) => Err(AskError::Refused(why.to_owned())),
        None => Ok(line),
    }
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
