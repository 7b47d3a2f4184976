//! Why a server cannot start, each reason with the configuration key that it is about.

use std::io;
use std::net::SocketAddr;

use openssl::error::ErrorStack;

use crate::shape::TreeError;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket cannot be bound.
    #[error("{key}: cannot listen on {addr}: {source}{}", privileged_port(*addr, source))]
    Bind {
        /// The configuration key.
        key: String,
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The CA file has become unreadable since it was checked.
    #[error("s3.ca: {source}")]
    Ca {
        /// Why.
        source: io::Error,
    },
    /// The system has no threads left.
    #[error("server.threads: cannot start the threads that drip: {source}")]
    Threads {
        /// Why.
        source: io::Error,
    },
    /// The class tree is invalid. The configuration's reader checks it before.
    #[error("shaping.classes: {0}")]
    Classes(TreeError),
    /// OpenSSL refuses a listener's settings.
    #[error("{key}: {source}")]
    Tls {
        /// The configuration key.
        key: String,
        /// Why.
        source: ErrorStack,
    },
}

/// What to do about a port that only the privileged may bind (capabilities(7)).
fn privileged_port(addr: SocketAddr, source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied && addr.port() < 1024 {
        "; a port below 1024 needs CAP_NET_BIND_SERVICE, which the drop-in systemd/port-443.conf grants"
    } else {
        ""
    }
}
