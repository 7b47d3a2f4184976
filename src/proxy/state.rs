//! What all services of a process share: what they count, what they list, and whether they accept
//! clients.

use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::transfers::Live;

/// What a process counts and lists, and whether it accepts clients. A clone is the same state.
#[derive(Clone)]
pub struct ProcessState {
    /// The metrics.
    pub metrics: Metrics,
    /// Ready, draining or gone; a drain waits for every response.
    pub lifecycle: Lifecycle,
    /// The downloads, uploads and tunnels that run.
    pub transfers: Live,
}

impl ProcessState {
    /// A process that is not ready yet, with nothing counted or listed.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Metrics::new();
        let transfers = Live::new(metrics.clone());
        Self { metrics, lifecycle: Lifecycle::new(), transfers }
    }
}

impl Default for ProcessState {
    fn default() -> Self {
        Self::new()
    }
}
