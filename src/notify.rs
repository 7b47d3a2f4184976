//! Messages to the service manager (sd_notify(3)): that the process is ready, reloads or stops, which process
//! is the main one, that it is alive, and how many drips run. Without a service manager nothing is sent.
//!
//! This file must not know what causes any of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::debug;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::lifecycle::Lifecycle;

/// How often the status is checked for a change.
const STATUS: Duration = Duration::from_secs(5);

/// By how much a running drain extends the manager's own time limit, so that only `server.drain_timeout` ends
/// the drain. It is several times [`STATUS`], at which it is sent.
const EXTENSION: Duration = Duration::from_secs(30);

/// The connection to the service manager.
#[derive(Clone, Default)]
pub(crate) struct Notify {
    /// Another process is the main one: nothing is sent any more.
    muted: Arc<AtomicBool>,
    /// The status that was sent last, by whichever method.
    status: Arc<Mutex<String>>,
}

impl Notify {
    /// The process accepts, or a reload is over.
    pub(crate) fn ready(&self, lifecycle: &Lifecycle) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&self.status(lifecycle).0)]);
    }

    /// A reload begins; [`Self::ready`] ends it.
    pub(crate) fn reloading(&self) {
        // Both in one message: systemd 253 takes one without the other for a failure.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(e) => debug!("no monotonic clock: {e}"),
        }
    }

    /// A drain begins that ends the service.
    pub(crate) fn stopping(&self, lifecycle: &Lifecycle) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&self.status(lifecycle).0)]);
    }

    /// Another process is the main one from now on. With NotifyAccess=main, the default, only the main
    /// process may say so, and nothing that this one says later would be heard.
    pub(crate) fn set_main_pid(&self, pid: u32) {
        self.send(&[NotifyState::MainPid(pid)]);
        self.muted.store(true, Ordering::Release);
    }

    /// Keeps the manager informed for as long as this is awaited.
    pub(crate) async fn keep_informed(&self, lifecycle: &Lifecycle) {
        let mut tasks = JoinSet::new();
        if let Some(limit) = sd_notify::watchdog_enabled() {
            tasks.spawn(self.clone().watchdog(limit));
        }
        // The first status is sent with READY=1. Before that a successor is not the main process, and the
        // manager would not listen to it.
        let _ = self.status(lifecycle);
        let mut ticks = interval(STATUS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (status, changed) = self.status(lifecycle);
            if changed {
                self.send(&[NotifyState::Status(&status)]);
            }
            if lifecycle.is_draining() {
                let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
                self.send(&[NotifyState::ExtendTimeoutUsec(extension)]);
            }
        }
    }

    /// Reports twice in `limit` that the process is alive, as long as the runtime works: before each report
    /// it has run as many new tasks as it has workers.
    async fn watchdog(self, limit: Duration) {
        let mut ticks = interval(limit / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut tasks = JoinSet::new();
            for _ in 0..tokio::runtime::Handle::current().metrics().num_workers() {
                tasks.spawn(tokio::task::yield_now());
            }
            tasks.join_all().await;
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// The status as it is now, and whether it differs from the one that was sent last.
    fn status(&self, lifecycle: &Lifecycle) -> (String, bool) {
        let drips = lifecycle.active();
        let state = if lifecycle.is_draining() { "draining" } else { "serving" };
        let now = format!("{state}: {drips} drip(s) running");
        // Nothing panics while it is held.
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *last != now;
        last.clone_from(&now);
        (now, changed)
    }

    fn send(&self, state: &[NotifyState<'_>]) {
        if self.muted.load(Ordering::Acquire) {
            return;
        }
        if let Err(e) = sd_notify::notify(state) {
            debug!("cannot notify the service manager: {e}");
        }
    }
}
