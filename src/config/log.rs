//! `log`: how log lines are written.

use super::section::Section;
use crate::logging::Format;

/// Reads `log`.
pub(super) fn log(mut section: Section<'_>) -> Format {
    let format = section.take("format").and_then(|field| field.parse());
    section.finish(&[]);
    format.unwrap_or_default()
}
