//! The access log: one line when a transfer begins and one when it ends.
//!
//! Operators' tools read these fields in this order.

use log::info;

use super::{Download, End, Kind, Transfer, Tunnel, Upload};

/// The log target of both lines.
const ACCESS: &str = "access";

/// The line of a transfer that begins.
pub(super) fn begin(transfer: &Transfer) {
    let client = client(transfer);
    match &transfer.kind {
        Kind::Download(Download { method, key, profile, source, .. }) => info!(
            target: ACCESS,
            client = client.as_str(), method = method.as_str(), key = key.as_str(),
            status = transfer.status(), profile = profile.as_str(), source = source.label();
            "begin"
        ),
        Kind::Upload(Upload { key, profile, .. }) => info!(
            target: ACCESS,
            client = client.as_str(), method = "PUT", key = key.as_str(),
            profile = profile.as_str(), class = class(transfer), source = "upload";
            "begin"
        ),
        Kind::Tunnel(Tunnel { host, port, .. }) => info!(
            target: ACCESS,
            client = client.as_str(), method = "CONNECT", host = host.as_str(), port = *port,
            user = user(transfer);
            "begin"
        ),
    }
}

/// The line of a transfer that has ended.
#[expect(clippy::disallowed_methods, reason = "the duration of a transfer is logged")]
pub(super) fn end(transfer: &Transfer, end: End) {
    let client = client(transfer);
    let duration_ms = u64::try_from(transfer.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &transfer.kind {
        Kind::Download(Download { method, key, profile, source, progress, .. }) => info!(
            target: ACCESS,
            client = client.as_str(), method = method.as_str(), key = key.as_str(),
            status = transfer.status(), bytes = progress.bytes(), records = progress.records(),
            duration_ms = duration_ms, profile = profile.as_str(), source = source.label(),
            end = end.label();
            "end"
        ),
        Kind::Upload(Upload { key, profile, sent }) => info!(
            target: ACCESS,
            client = client.as_str(), method = "PUT", key = key.as_str(),
            status = transfer.status(), bytes = sent.bytes(), duration_ms = duration_ms,
            profile = profile.as_str(), class = class(transfer), source = "upload",
            end = end.label();
            "end"
        ),
        Kind::Tunnel(Tunnel { host, port, moved }) => info!(
            target: ACCESS,
            client = client.as_str(), method = "CONNECT", host = host.as_str(), port = *port,
            user = user(transfer), bytes_up = moved.up.bytes(), bytes_down = moved.down.bytes(),
            duration_ms = duration_ms, end = end.label();
            "end"
        ),
    }
}

fn client(transfer: &Transfer) -> String {
    transfer.client.map(|client| client.to_string()).unwrap_or_default()
}

fn class(transfer: &Transfer) -> &str {
    transfer.class.as_deref().unwrap_or_default()
}

fn user(transfer: &Transfer) -> &str {
    transfer.user.as_deref().unwrap_or_default()
}
