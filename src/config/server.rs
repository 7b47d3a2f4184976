//! `server`: the process, its threads, its drains and its upgrades.

use std::path::PathBuf;
use std::time::Duration;

use super::field::{Field, shown};
use super::section::Section;

/// The longest time that a drain may take.
const MAX_DRAIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest delays of a process: before it drains, before a successor accepts.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// The longest path of a socket: sun_path holds 108 bytes (unix(7)), and a temporary name beside it
/// is up to 12 longer.
const MAX_SOCKET: usize = 90;
/// The most worker threads; more than any machine has cores is a slip.
const MAX_THREADS: usize = 1024;

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

/// Reads `server`.
pub(super) fn server(mut section: Section<'_>) -> Server {
    let default = Server::default();
    let threads = section.take("threads").and_then(|field| {
        let text = field.scalar()?;
        let threads = text.parse().ok().filter(|threads| *threads <= MAX_THREADS);
        if threads.is_none() {
            let text = shown(&text);
            field.fail(format!(
                "`{text}` is not a number of threads; write 0 (one per core) to {MAX_THREADS}"
            ));
        }
        threads
    });
    let drains = Duration::ZERO..=MAX_DRAIN;
    let server = Server {
        threads: threads.unwrap_or(default.threads),
        shutdown_delay: section.time(
            "shutdown_delay",
            default.shutdown_delay,
            Duration::ZERO..=MAX_DELAY,
        ),
        drain_timeout: section.time("drain_timeout", default.drain_timeout, drains.clone()),
        upgrade_drain_timeout: section.time(
            "upgrade_drain_timeout",
            default.upgrade_drain_timeout,
            drains,
        ),
        upgrade_timeout: section.time(
            "upgrade_timeout",
            default.upgrade_timeout,
            Duration::from_secs(1)..=MAX_DELAY,
        ),
        upgrade_sock: match section.take("upgrade_sock") {
            Some(field) if field.is_off() => None,
            Some(field) => socket_path(&field),
            None => default.upgrade_sock,
        },
    };
    section.finish(&[]);
    server
}

/// The path of a Unix socket.
fn socket_path(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    if !path.is_absolute() || path.file_name().is_none() || path.as_os_str().len() > MAX_SOCKET {
        field.fail(format!(
            "{} is not an absolute path of at most {MAX_SOCKET} bytes; write it out, or `off`",
            path.display()
        ));
    }
    Some(path)
}
