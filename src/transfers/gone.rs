//! Reports clients that close right after a record: a device whose buffer is smaller than a record
//! sends no alert and closes the connection, so an operator is told which record was the last.

use std::net::SocketAddr;
use std::time::Duration;

use log::info;

use super::{Download, End};
use crate::metrics::DripMetrics;

/// A client that closes this soon after a record may have closed because of it.
const RIGHT_AFTER: Duration = Duration::from_secs(1);

/// Counts and logs a download that ended this way; does nothing for any other end.
pub(super) fn report(
    client: Option<SocketAddr>,
    download: &Download,
    end: End,
    metrics: &DripMetrics,
) {
    let Download { profile, offer, progress, .. } = download;
    if end != End::Client || progress.head() == 0 || progress.since_last() > RIGHT_AFTER {
        return;
    }
    let records = progress.records();
    let (which, what) = match records {
        0 => ("head", format!("the head of {} bytes", progress.head())),
        1 => ("first", format!("record 1 of {} bytes", progress.last_record())),
        _ => ("later", format!("record {records} of {} bytes", progress.last_record())),
    };
    metrics.clients_gone.with_label_values(&[profile.as_str(), which]).inc();
    let client = client.map(|client| client.to_string()).unwrap_or_default();
    let offer = offer.to_string();
    info!(
        client = client.as_str(), profile = profile.as_str(), offer = offer.as_str();
        "client gone after {what}"
    );
}
