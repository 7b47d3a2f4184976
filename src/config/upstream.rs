//! `upstream`: the connections to S3.

use std::time::Duration;

use super::section::Section;
use crate::units::ByteSize;

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

/// Reads `upstream`.
pub(super) fn upstream(mut section: Section<'_>) -> Upstream {
    let default = Upstream::default();
    let range = crate::limits::Settings::TIMEOUTS;
    let buffers = ByteSize::new(4 << 10)..=ByteSize::new(16 << 20);
    let upstream = Upstream {
        connect_timeout: section.time("connect_timeout", default.connect_timeout, &range),
        response_timeout: section.time("response_timeout", default.response_timeout, &range),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, &range),
        recv_buffer: section.size("recv_buffer", default.recv_buffer, buffers),
    };
    section.finish(&[]);
    upstream
}
