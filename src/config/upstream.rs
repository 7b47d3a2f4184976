//! `upstream`: the connections to S3.

use super::section::Section;
use crate::s3::upstream::Settings;

/// Reads `upstream`.
pub(super) fn upstream(mut section: Section<'_>) -> Settings {
    let default = Settings::default();
    let range = Settings::TIMEOUTS;
    let settings = Settings {
        connect_timeout: section.time("connect_timeout", default.connect_timeout, &range),
        response_timeout: section.time("response_timeout", default.response_timeout, &range),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, &range),
        recv_buffer: section.size("recv_buffer", default.recv_buffer, Settings::RECV_BUFFERS),
    };
    section.finish(&[]);
    settings
}
