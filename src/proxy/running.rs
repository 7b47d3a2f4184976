//! The drips and uploads that run now, for whoever shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::drip::Progress;

/// One response under way, or one upload (method PUT).
#[derive(Debug)]
pub struct Running {
    /// The client's address.
    pub client: String,
    /// The request's method.
    pub method: String,
    /// The key, for people to read.
    pub key: String,
    /// The response's status code; 0 for an upload, which has none yet.
    pub status: u16,
    /// The body's length in bytes, if it is known.
    pub total: Option<u64>,
    /// When the response, or the upload, began.
    pub began: Instant,
    /// What was sent: to the client of a response, to S3 of an upload.
    pub progress: Arc<Progress>,
}

/// All responses and uploads under way, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Drips {
    inner: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, Arc<Running>>,
}

impl Drips {
    /// Those that run now.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Running>> {
        self.lock().running.values().cloned().collect()
    }

    /// Adds one; it is listed until the entry is dropped.
    #[must_use]
    pub fn add(&self, running: Running) -> Entry {
        let running = Arc::new(running);
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.running.insert(id, Arc::clone(&running));
        Entry { id, running, drips: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the list.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    running: Arc<Running>,
    drips: Drips,
}

impl std::ops::Deref for Entry {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.drips.lock().running.remove(&self.id);
    }
}
