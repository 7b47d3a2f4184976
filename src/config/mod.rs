//! The configuration: one YAML file and the environment become a [`Config`] that can run, or every
//! error at once, each with its key path and what would be right.
//!
//! Invariant: a [`Config`] is valid by construction. Its certificates are read and fit their keys,
//! its numbers are in range, no two listeners want one address. Nothing later checks them again.
//!
//! What the user wrote stays a YAML tree (`env` lays the environment over it, `read` walks it);
//! what it means is in `sections`, `listen`, `profiles` and `shaping`. Domains own their settings' types and import
//! nothing from here. This room opens files but no socket, and reads no process-wide state.

mod env;
mod error;
mod field;
mod listen;
mod profiles;
mod read;
mod sections;
mod shaping;
#[cfg(test)]
mod tests;
mod tunnels;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

pub use crate::logging::Format as LogFormat;
pub use error::{ConfigError, ConfigErrors, Where};
pub use listen::{Listener, ListenerTls};

use crate::drip;
use crate::forward_proxy;
use crate::limits;
use crate::profile::Profiles;
use crate::s3::endpoint::Endpoint;
use crate::shape;
use crate::spool;
use crate::units::ByteSize;
use env::Environment;
use read::Reader;

/// Everything that `dripline run` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Device listeners; at least one, unless there is a forward proxy.
    pub listen: Vec<Listener>,
    /// Where objects come from; there if anything listens for devices.
    pub s3: Option<S3>,
    /// How responses drip.
    pub drip: drip::Settings,
    /// How kinds of devices are served; the default one is `drip`.
    pub profiles: Profiles,
    /// Where objects are kept while devices read them; None if switched off.
    pub spool: Option<spool::Settings>,
    /// Uploads; None if they are switched off.
    pub uploads: Option<Uploads>,
    /// The class tree; None if nothing is shaped.
    pub shaping: Option<shape::Settings>,
    /// The connections to S3.
    pub upstream: Upstream,
    /// The forward proxy; None if not wanted.
    pub forward_proxy: Option<forward_proxy::Settings>,
    /// What clients may take.
    pub limits: limits::Settings,
    /// Metrics and readiness, always on loopback; None if switched off.
    pub admin: Option<SocketAddr>,
    /// Liveness and readiness alone, for an orchestrator; None if not wanted.
    pub health: Option<SocketAddr>,
    /// How log lines are written.
    pub log: LogFormat,
    /// The process.
    pub server: Server,
    /// What runs but should be known, one sentence each.
    pub warnings: Vec<String>,
}

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// The bucket, and the host that serves it.
    pub endpoint: Endpoint,
    /// PEM certificates to trust for that host instead of the system's.
    pub ca: Option<PathBuf>,
    /// Whether a client's Authorization header is forwarded.
    pub authorization: bool,
}

/// Uploads by PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploads {
    /// The class of [`Config::shaping`] that holds them back; None: nothing does.
    pub class: Option<Arc<str>>,
}

/// The connections to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upstream {
    /// For TCP and TLS together; 1 ms to 24 h.
    pub connect_timeout: Duration,
    /// From the request sent to the response head; 1 ms to 24 h.
    pub response_timeout: Duration,
    /// How long an idle connection is kept for reuse; 1 ms to 24 h.
    pub idle_timeout: Duration,
    /// The socket's receive buffer; 4 KiB to 16 MiB.
    pub recv_buffer: ByteSize,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(20),
            // S3 closes an idle connection after about 5 s; be first, or a request meets the close.
            idle_timeout: Duration::from_secs(4),
            recv_buffer: ByteSize::new(16 << 10),
        }
    }
}

/// The process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Threads that serve requests, and as many again that bodies drip on; at most 1,024; 0 is one
    /// per core.
    pub threads: usize,
    /// How long after SIGTERM new connections are still taken, with /readyz failing; at most 1 h.
    pub shutdown_delay: Duration,
    /// How long running drips may go on after that; at most 30 days.
    pub drain_timeout: Duration,
    /// How long running drips may go on after a successor has taken over; at most 30 days.
    pub upgrade_drain_timeout: Duration,
    /// How long a successor may take from its start to its first accept; 1 s to 1 h.
    pub upgrade_timeout: Duration,
    /// Where a successor asks for the listening sockets; None if upgrades are switched off.
    pub upgrade_sock: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: 0,
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(600),
            upgrade_drain_timeout: Duration::from_secs(24 * 3600),
            upgrade_timeout: Duration::from_secs(30),
            upgrade_sock: Some(PathBuf::from("/run/dripline/upgrade.sock")),
        }
    }
}

/// What a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The YAML file, if there is one.
    pub file: Option<PathBuf>,
    /// A file of `NAME=value` lines. The environment goes before it.
    pub env_file: Option<PathBuf>,
    /// The environment; nothing else of it is ever read.
    pub env: Vec<(String, String)>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("env_file", &self.env_file)
            .field("env", &"MASKED")
            .finish()
    }
}

impl Config {
    /// Reads the sources. TLS material and the CA file are opened and checked as well.
    ///
    /// # Errors
    ///
    /// Every error of all sources. If one of them cannot be read, what would be missing without it
    /// is not counted.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::default();
        let (tree, env) = tree(sources, &mut reader);
        let config = sections::config(reader.root(tree), &env);
        let warnings = reader.finish()?;
        Ok(Self { warnings, ..config.expect("whatever leaves no configuration is reported") })
    }
}

/// The admin and the health listener's addresses, whatever else is configured: for asking a daemon
/// that runs with more than the asker was given.
///
/// # Errors
///
/// Those of `admin` and `health`, and of sources that cannot be read.
pub fn report_addresses(
    sources: &Sources,
) -> Result<(Option<SocketAddr>, Option<SocketAddr>), ConfigErrors> {
    let mut reader = Reader::default();
    let (tree, _) = tree(sources, &mut reader);
    let addresses = sections::report_addresses(reader.root(tree));
    reader.finish()?;
    Ok(addresses)
}

/// What all sources say together.
fn tree(sources: &Sources, reader: &mut Reader) -> (Mapping, Environment) {
    let mut tree = sources.file.as_deref().map(|path| file(path, reader)).unwrap_or_default();
    let env = Environment::gather(sources, reader);
    env.overlay(&mut tree, reader);
    (tree, env)
}

/// The file's tree; an empty one if the file is empty or wrong, which is reported.
fn file(path: &Path, reader: &mut Reader) -> Mapping {
    let name = path.display().to_string();
    let (at, message) = match read_text(path) {
        Err(error) => (name, error),
        Ok(text) => match serde_yaml::from_str(&text) {
            Ok(Value::Mapping(map)) => return map,
            Ok(Value::Null) => return Mapping::new(),
            Ok(other) => (
                name,
                format!(
                    "must be a map of keys, such as `drip: {{wait: 500ms}}`, not {}",
                    field::kind(&other)
                ),
            ),
            Err(error) => {
                let place =
                    error.location().map(|l| format!("line {} column {}", l.line(), l.column()));
                let mut message = error.to_string();
                if let Some(place) = &place {
                    message = message.replacen(&format!(" at {place}"), "", 1);
                }
                match place {
                    Some(place) => (place, format!("{name} is not valid YAML: {message}")),
                    None => (name, format!("not valid YAML: {message}")),
                }
            }
        },
    };
    reader.incomplete = true;
    reader.fail_from(&at, Where::File, message);
    Mapping::new()
}

/// A file's text, or why it cannot be read.
fn read_text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())
}
