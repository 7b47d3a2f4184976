//! What is remembered of a tunnel, and the access log that comes of it: one line when it begins, one when
//! it ends, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use log::info;
use prometheus::IntCounter;

use super::Agreed;
use super::allow::Target;
use super::relay::End;
use crate::metrics::TunnelMetrics;

/// The log target of the access log.
const ACCESS: &str = "access";

/// A tunnel that stands. Dropped without [`Tunnel::end`] only when a drain cuts it.
pub(super) struct Tunnel {
    client: SocketAddr,
    target: Target,
    user: Option<Arc<str>>,
    began: Instant,
    tally: Tally,
    end: &'static str,
    metrics: TunnelMetrics,
}

/// Counts a tunnel's bytes.
pub(super) struct Tally {
    pub(super) up: Count,
    pub(super) down: Count,
}

/// Counts one direction's, of this tunnel and of all.
pub(super) struct Count {
    own: AtomicU64,
    all: IntCounter,
}

impl Count {
    fn new(all: IntCounter) -> Self {
        Self { own: AtomicU64::new(0), all }
    }

    pub(super) fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.inc_by(bytes as u64);
    }

    fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

impl Tunnel {
    /// Notes that a tunnel begins, and logs it.
    pub(super) fn begin(client: SocketAddr, agreed: Agreed, metrics: TunnelMetrics) -> Self {
        let Agreed { target, user, .. } = agreed;
        metrics.open.inc();
        let tally =
            Tally { up: Count::new(metrics.up.clone()), down: Count::new(metrics.down.clone()) };
        info!(
            target: ACCESS,
            client:% = client, method = "CONNECT", host = target.host.as_str(), port = target.port,
            user = user.as_deref().unwrap_or_default();
            "begin"
        );
        Self { client, target, user, began: Instant::now(), tally, end: "drain", metrics }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Notes how it ended.
    pub(super) fn end(&mut self, end: End) {
        self.end = end.label();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.metrics.ended.with_label_values(&[self.end]).inc();
        info!(
            target: ACCESS,
            client:% = self.client, method = "CONNECT", host = self.target.host.as_str(),
            port = self.target.port, user = self.user.as_deref().unwrap_or_default(),
            bytes_up = self.tally.up.bytes(), bytes_down = self.tally.down.bytes(),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            end = self.end;
            "end"
        );
    }
}
