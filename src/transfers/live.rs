//! The list of the transfers that run, and each one's place in it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BodySource, End, Kind, Transfer, access_log, gone};
use crate::metrics::Metrics;

/// The transfers that run. A clone is the same list.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    metrics: Metrics,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, Arc<Transfer>>,
}

impl Live {
    /// An empty list, whose transfers `metrics` counts.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { inner: Arc::new(Inner { metrics, table: Mutex::default() }) }
    }

    /// Those that run now, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Transfer>> {
        self.lock().running.values().cloned().collect()
    }

    /// Counts, lists and logs a transfer that begins.
    #[must_use]
    pub fn begin(&self, transfer: Transfer) -> LiveTransfer {
        let metrics = &self.inner.metrics;
        if let Kind::Tunnel(_) = &transfer.kind {
            metrics.tunnels.open.inc();
        }
        access_log::begin(&transfer);
        match &transfer.kind {
            Kind::Download(_) => {
                let status = transfer.status().to_string();
                metrics.drips.running.inc();
                metrics.responses.begun.with_label_values(&[status.as_str()]).inc();
            }
            Kind::Upload(_) => metrics.uploads.running.inc(),
            Kind::Tunnel(_) => {}
        }
        let transfer = Arc::new(transfer);
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.running.insert(id, Arc::clone(&transfer));
        drop(table);
        LiveTransfer { id, transfer, end: End::Drain, live: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer that runs. When it is dropped, it is counted and logged as ended, and is listed no
/// longer. If [`LiveTransfer::set_end`] was not called, a drain has cut it.
pub struct LiveTransfer {
    id: u64,
    transfer: Arc<Transfer>,
    end: End,
    live: Live,
}

impl LiveTransfer {
    /// Notes how it ends. The last call counts.
    pub fn set_end(&mut self, end: End) {
        self.end = end;
    }
}

impl Deref for LiveTransfer {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.transfer
    }
}

impl Drop for LiveTransfer {
    fn drop(&mut self) {
        let Self { transfer, end, .. } = &*self;
        let metrics = &self.live.inner.metrics;
        let label = &[end.label()];
        match &transfer.kind {
            Kind::Download(download) => {
                gone::report(transfer.client, download, *end, &metrics.drips);
                metrics.drips.running.dec();
                metrics.drips.ended.with_label_values(label).inc();
                if download.source == BodySource::Spool {
                    metrics.spool.client_bytes.inc_by(download.progress.bytes());
                }
            }
            Kind::Upload(_) => {
                metrics.uploads.running.dec();
                metrics.uploads.ended.with_label_values(label).inc();
            }
            Kind::Tunnel(_) => {
                metrics.tunnels.open.dec();
                metrics.tunnels.ended.with_label_values(label).inc();
            }
        }
        access_log::end(transfer, *end);
        self.live.lock().running.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ByteCount, ByteCounts, Download, Tunnel, Upload};
    use super::*;
    use crate::drip::Progress;
    use crate::tls::record::Offer;
    use http::{Method, StatusCode};

    fn download(metrics: &Metrics) -> Transfer {
        let drips = &metrics.drips;
        let progress = Progress::new(drips.body_bytes.clone(), drips.body_records.clone());
        progress.record(100);
        let download = Download {
            method: Method::GET,
            key: "a".to_owned(),
            profile: "default".to_owned(),
            source: BodySource::Spool,
            offer: Offer::default(),
            progress: Arc::new(progress),
        };
        let transfer = Transfer::new(None, Kind::Download(download)).total(Some(1000));
        transfer.answered(StatusCode::OK);
        transfer
    }

    #[test]
    fn all_kinds_are_listed_and_counted_until_they_end() {
        let metrics = Metrics::new();
        let live = Live::new(metrics.clone());
        let sent = Arc::new(ByteCount::new(metrics.uploads.bytes.clone()));
        let upload = Upload { key: "b".to_owned(), profile: "default".to_owned(), sent };
        let up = ByteCount::new(metrics.tunnels.up.clone());
        let down = ByteCount::new(metrics.tunnels.down.clone());
        let moved = Arc::new(ByteCounts { up, down });
        let tunnel = Tunnel { host: "host".to_owned(), port: 443, moved: Arc::clone(&moved) };
        let mut download = live.begin(download(&metrics));
        let upload = live.begin(Transfer::new(None, Kind::Upload(upload)));
        let mut tunnel = live.begin(Transfer::new(None, Kind::Tunnel(tunnel)));
        moved.up.add(3);
        moved.down.add(4);
        let seen: Vec<_> = live
            .running()
            .iter()
            .map(|t| (t.name().to_owned(), t.bytes(), t.records(), t.total))
            .collect();
        let expected = [
            ("a".to_owned(), 100, Some(1), Some(1000)),
            ("b".to_owned(), 0, None, None),
            ("host".to_owned(), 7, None, None),
        ];
        assert_eq!(seen, expected);
        let running = || {
            let Metrics { drips, uploads, tunnels, .. } = &metrics;
            [drips.running.get(), uploads.running.get(), tunnels.open.get()]
        };
        assert_eq!(running(), [1, 1, 1]);
        download.set_end(End::Client);
        download.set_end(End::Done);
        tunnel.set_end(End::Idle);
        drop((download, upload, tunnel));
        assert!(live.running().is_empty());
        assert_eq!(running(), [0, 0, 0]);
        assert_eq!(metrics.spool.client_bytes.get(), 100);
        assert_eq!(metrics.tunnels.up.get(), 3);
        let text = String::from_utf8(metrics.text()).unwrap();
        for line in [
            "dripline_responses_total{status=\"200\"} 1",
            "dripline_drips_ended_total{end=\"done\"} 1",
            "dripline_uploads_ended_total{end=\"drain\"} 1",
            "dripline_tunnels_ended_total{end=\"idle\"} 1",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    /// Ten thousand drips hold ten thousand of each.
    #[test]
    fn what_a_drip_holds_of_its_record_is_small() {
        assert!(size_of::<LiveTransfer>() <= 32);
        assert!(size_of::<Transfer>() <= 256);
    }
}
