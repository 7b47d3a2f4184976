//! What is told of classes, and what may be changed of them while they run.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::settings::Priority;
use crate::units::Rate;

/// A class as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassReport {
    /// Its name.
    pub name: Arc<str>,
    /// Its parent's name.
    pub parent: Option<Arc<str>>,
    /// What it is guaranteed, in force.
    pub limit_at: Rate,
    /// What it never exceeds, in force: the lower of what is configured, or was changed, and what the
    /// timetable has now.
    pub max_limit: Option<Rate>,
    /// What it never exceeds when the timetable says `off`.
    pub configured_max_limit: Option<Rate>,
    /// Its timetable.
    pub timetable: Option<String>,
    /// When the timetable's next entry begins.
    pub next_change: Option<Timestamp>,
    /// Its priority, in force.
    pub priority: Priority,
    /// Bytes per second over the last second or so.
    pub rate: u64,
    /// Bytes granted and used since the start, its children's included.
    pub bytes: u64,
    /// Flows registered, its children's included.
    pub flows: usize,
    /// Of them, flows that wait for leave.
    pub queued: usize,
    /// How long flows have waited, all waits that ended together.
    pub waited: Duration,
    /// What of that came after the first second of a wait.
    pub starved: Duration,
}

/// What PATCH may change; None leaves a setting as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The guarantee; 0 is none.
    pub limit_at: Option<Rate>,
    /// The ceiling; `Some(None)` is no limit.
    pub max_limit: Option<Option<Rate>>,
    /// The priority.
    pub priority: Option<Priority>,
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such class.
    #[error("there is no class `{0}`")]
    Unknown(String),
    /// The tree would not hold together.
    #[error("{setting}: {message}")]
    Refused {
        /// Which setting.
        setting: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}
