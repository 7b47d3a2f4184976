//! What is remembered of one upload: its place among what runs, its figures, and a line in the access
//! log when it begins and when it ends, however it ends.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use log::info;
use prometheus::IntCounter;

use super::super::context::{ACCESS, Board, Context};
use super::super::running::{self, Running};
use crate::drip::Progress;
use crate::metrics::Metrics;

/// An upload under way. Dropped without [`Entry::ended`] or [`Entry::answered`] only when a drain cuts
/// it.
pub struct Entry {
    running: running::Entry,
    profile: String,
    class: String,
    /// What the client was answered; 0 for nothing.
    status: u16,
    end: &'static str,
    metrics: Metrics,
}

impl Entry {
    /// Notes that an upload of `total` bytes begins, and logs it.
    pub fn begin(ctx: &Context, total: Option<u64>, class: &str, board: &Board) -> Self {
        // Bytes count as uploads' alone; records are what is sent to devices.
        let pieces = IntCounter::new("pieces", "of no interest").expect("a valid name");
        let progress = Progress::new(board.metrics.uploads.bytes.clone(), pieces);
        let running = Running {
            client: ctx.client.clone().unwrap_or_default(),
            method: ctx.method.clone(),
            key: ctx.key.clone(),
            status: 0,
            total,
            began: Instant::now(),
            progress: Arc::new(progress),
        };
        info!(
            target: ACCESS,
            client = running.client.as_str(), method = running.method.as_str(),
            key = running.key.as_str(), profile = ctx.served.profile.as_str(), class = class,
            source = "upload";
            "begin"
        );
        board.metrics.uploads.running.inc();
        Self {
            running: board.drips.add(running),
            profile: ctx.served.profile.clone(),
            class: class.to_owned(),
            status: 0,
            end: "drain",
            metrics: board.metrics.clone(),
        }
    }

    /// Counts bytes of the body that S3 was sent.
    pub fn sent(&self, bytes: usize) {
        self.running.progress.record(bytes);
    }

    /// Notes what the client is told, and why the upload ends with it.
    pub fn answered(&mut self, status: StatusCode, end: &'static str) {
        self.status = status.as_u16();
        self.end = end;
    }

    /// Notes why the upload ends.
    pub fn ended(&mut self, end: &'static str) {
        self.end = end;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Running { client, method, key, began, progress, .. } = &*self.running;
        self.metrics.uploads.running.dec();
        self.metrics.uploads.ended.with_label_values(&[self.end]).inc();
        info!(
            target: ACCESS,
            client = client.as_str(), method = method.as_str(), key = key.as_str(),
            status = self.status, bytes = progress.bytes(),
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            profile = self.profile.as_str(), class = self.class.as_str(), source = "upload",
            end = self.end;
            "end"
        );
    }
}
