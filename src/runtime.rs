//! The tokio runtime that the daemon and the demo run on.
//!
//! This file must not know what runs on it.

use std::io;
use std::ops::RangeInclusive;

use tokio::runtime::{Builder, Runtime};

/// Bounds of the number of worker threads, 0 being one per core: more than any machine has cores is
/// a mistake.
pub(crate) const THREADS: RangeInclusive<usize> = 0..=1024;

/// Builds a runtime with that many worker threads, 0 for one per core.
///
/// # Errors
///
/// If the system refuses to create the threads or their descriptors.
pub(crate) fn multi_threaded(threads: usize) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("dripline").build()
}
