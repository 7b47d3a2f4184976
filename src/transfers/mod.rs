//! Everything that moves bytes for a client: downloads, uploads and tunnels, each a [`Transfer`].
//!
//! [`Live`] lists the transfers that run, for pages that show them. [`LiveTransfer`] is a transfer's
//! place in that list. From [`Live::begin`] until it is dropped it is counted in
//! the metrics and has its two lines in the access log, however it ends.
//!
//! Invariant: a transfer is listed, counted and logged here and nowhere else, so that all three agree.
//!
//! This room must not know how bytes are moved, nor who shows the list.

mod access_log;
mod byte_count;
mod gone;
mod live;

pub use byte_count::{ByteCount, ByteCounts};
pub use live::{Live, LiveTransfer};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use http::{Method, StatusCode};

use crate::drip::Progress;
use crate::tls::record::Offer;

/// A download, an upload or a tunnel.
#[derive(Debug)]
pub struct Transfer {
    /// The client's address.
    pub client: Option<SocketAddr>,
    /// The user, where clients name one.
    pub user: Option<Arc<str>>,
    /// The class that it waits for; of a tunnel, that of what the client sends.
    pub class: Option<Arc<str>>,
    /// The body's length in bytes, if it is known.
    pub total: Option<u64>,
    /// When it began.
    pub began: Instant,
    /// What the client was answered; 0 for nothing yet.
    status: AtomicU16,
    /// What it is, and what only its kind has.
    pub kind: Kind,
}

/// What a transfer is.
#[derive(Debug)]
pub enum Kind {
    /// A response on its way to a client.
    Download(Download),
    /// A request body on its way to S3.
    Upload(Upload),
    /// A CONNECT: bytes both ways.
    Tunnel(Tunnel),
}

/// A response on its way to a client.
#[derive(Debug)]
pub struct Download {
    /// The request's method.
    pub method: Method,
    /// The object's key, as it is logged: without the query.
    pub key: String,
    /// The name of the client's profile.
    pub profile: String,
    /// Where the body comes from.
    pub source: BodySource,
    /// What the client's handshake asked for.
    pub offer: Offer,
    /// What the client was sent so far.
    pub progress: Arc<Progress>,
}

/// Where a response's body comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySource {
    /// From the spool.
    Spool,
    /// From S3, as S3 sends it.
    Direct,
    /// dripline wrote it.
    Own,
}

/// A request body on its way to S3.
#[derive(Debug)]
pub struct Upload {
    /// The object's key, as it is logged: without the query.
    pub key: String,
    /// The name of the client's profile.
    pub profile: String,
    /// The body's bytes that S3 was sent so far.
    pub sent: Arc<ByteCount>,
}

/// Bytes both ways between a client and a host.
#[derive(Debug)]
pub struct Tunnel {
    /// The host's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The bytes that were moved so far.
    pub moved: Arc<ByteCounts>,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is complete. Of an upload: S3 has answered, whatever it said.
    Done,
    /// The client, or its connection, failed or closed.
    Client,
    /// S3, a tunnel's server, or the connection to it failed or closed.
    Upstream,
    /// Nothing has moved for too long.
    Idle,
    /// A drain cut it.
    Drain,
}

impl End {
    /// For logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Idle => "idle",
            Self::Drain => "drain",
        }
    }
}

impl BodySource {
    /// For logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Direct => "direct",
            Self::Own => "none",
        }
    }
}

impl Transfer {
    /// A transfer that begins now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a transfer has a begin")]
    pub fn new(client: Option<SocketAddr>, kind: Kind) -> Self {
        let status = AtomicU16::new(0);
        Self { client, user: None, class: None, total: None, began: Instant::now(), status, kind }
    }

    /// The same, of that user.
    #[must_use]
    pub fn user(self, user: Option<Arc<str>>) -> Self {
        Self { user, ..self }
    }

    /// The same, in that class.
    #[must_use]
    pub fn class(self, class: Option<Arc<str>>) -> Self {
        Self { class, ..self }
    }

    /// The same, of `total` bytes.
    #[must_use]
    pub fn total(self, total: Option<u64>) -> Self {
        Self { total, ..self }
    }

    /// Notes what the client is answered.
    pub fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// The status that the client was answered; 0 for none yet.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// The object's key or the tunnel's host, for people to read.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Download(download) => &download.key,
            Kind::Upload(upload) => &upload.key,
            Kind::Tunnel(tunnel) => &tunnel.host,
        }
    }

    /// Bytes of the body that were sent; of a tunnel, those of both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::Download(download) => download.progress.bytes(),
            Kind::Upload(upload) => upload.sent.bytes(),
            Kind::Tunnel(Tunnel { moved, .. }) => moved.up.bytes() + moved.down.bytes(),
        }
    }

    /// Body records that were sent; only a download has records.
    #[must_use]
    pub fn records(&self) -> Option<u64> {
        match &self.kind {
            Kind::Download(download) => Some(download.progress.records()),
            Kind::Upload(_) | Kind::Tunnel(_) => None,
        }
    }
}
