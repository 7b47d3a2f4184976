//! `server`: threads, drains and upgrades. Each has settings in the domain that it belongs to.

use std::path::PathBuf;

use super::field::{Field, shown};
use super::section::Section;
use crate::runtime::THREADS;
use crate::{lifecycle, upgrade};

/// What `server` holds.
pub(super) struct Server {
    /// See [`Config::threads`](super::Config::threads).
    pub(super) threads: usize,
    pub(super) drain: lifecycle::Settings,
    pub(super) upgrade: upgrade::Settings,
}

/// Reads `server`.
pub(super) fn server(mut section: Section<'_>) -> Server {
    let threads = section.take("threads").and_then(|field| threads(&field));
    let drain = lifecycle::Settings::default();
    let drains = lifecycle::Settings::DRAIN_TIMEOUTS;
    let drain = lifecycle::Settings {
        shutdown_delay: section.time(
            "shutdown_delay",
            drain.shutdown_delay,
            &lifecycle::Settings::SHUTDOWN_DELAY,
        ),
        drain_timeout: section.time("drain_timeout", drain.drain_timeout, &drains),
        upgrade_drain_timeout: section.time(
            "upgrade_drain_timeout",
            drain.upgrade_drain_timeout,
            &drains,
        ),
    };
    let upgrade = upgrade::Settings::default();
    let upgrade = upgrade::Settings {
        timeout: section.time("upgrade_timeout", upgrade.timeout, &upgrade::Settings::TIMEOUT),
        sock: match section.take("upgrade_sock") {
            Some(field) if field.is_off() => None,
            Some(field) => socket_path(&field),
            None => upgrade.sock,
        },
    };
    section.finish(&[]);
    Server { threads: threads.unwrap_or_default(), drain, upgrade }
}

fn threads(field: &Field<'_>) -> Option<usize> {
    let text = field.scalar()?;
    let threads = text.parse().ok().filter(|threads| THREADS.contains(threads));
    if threads.is_none() {
        let (text, most) = (shown(&text), THREADS.end());
        field
            .fail(format!("`{text}` is not a number of threads; write 0 (one per core) to {most}"));
    }
    threads
}

/// The path of a Unix socket.
fn socket_path(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    let most = upgrade::Settings::MAX_SOCK;
    if !path.is_absolute() || path.file_name().is_none() || path.as_os_str().len() > most {
        field.fail(format!(
            "{} is not an absolute path of at most {most} bytes; write it out, or `off`",
            path.display()
        ));
    }
    Some(path)
}
