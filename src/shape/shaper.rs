//! The async shell around the tree: flows wait here, and one task knows when to look again.
//!
//! One lock protects everything. Whoever asks for a permit dispatches the tree, for others as well, and
//! wakes them once the lock is released; a thread for it would cost more than the tree does. The task
//! sleeps until the tree or a ceiling has something due.
//!
//! Invariant: whatever changes the tree, dispatches it under the same lock, so no flow waits for a permit
//! that it could have.
//!
//! This room must not know how the tree chooses, or what a ceiling's source is.

mod changes;
mod flow;
mod report;
#[cfg(test)]
mod tests;

pub use changes::{Change, ChangeError, TreeError};
pub use flow::{Flow, Owner};
pub use report::ClassReport;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::bucket::{Nanos, SECOND};
use super::ceiling::Ceilings;
use super::counters::ClassCounters;
use super::flows::FlowId;
use super::settings::Settings;
use super::socket_options::SocketOptions;
use super::tree::Tree;
use crate::metrics::ShapeMetrics;
use crate::units::Rate;

/// How often the clock on the wall is read at least: it may be set, and the machine may sleep.
const MAX_CLOCK_AGE: Nanos = 60 * SECOND;

/// Tells the time of day.
type WallClock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The class tree of one server, shared by everything that moves bytes.
pub struct Shaper {
    core: Mutex<Core>,
    /// The index of each class, in the settings' order.
    classes: HashMap<Arc<str>, usize>,
    start: Instant,
    wall_clock: WallClock,
    /// Wakes the timer when it has to look earlier than it planned.
    rearm: Arc<Notify>,
    timer_started: AtomicBool,
    metrics: ShapeMetrics,
}

/// What the lock protects.
struct Core {
    settings: Settings,
    ceilings: Ceilings,
    /// When the ceilings are to be updated.
    ceilings_due: Nanos,
    tree: Tree,
    /// By flow: who is to be woken when it is granted a permit.
    wakers: Vec<Option<Waker>>,
    /// When the timer will look.
    timer_at: Nanos,
    /// What the metrics have counted already, by class.
    counted: Vec<ClassCounters>,
    /// Flows that were granted a permit and are to be woken. Empty while the lock is free.
    granted: Vec<FlowId>,
}

impl Shaper {
    /// A tree of `settings`.
    ///
    /// # Errors
    ///
    /// The first fault of the settings.
    #[expect(clippy::disallowed_methods, reason = "timetables follow the wall clock")]
    pub fn new(settings: &Settings, metrics: ShapeMetrics) -> Result<Arc<Self>, TreeError> {
        Self::with_clock(settings, metrics, Box::new(Timestamp::now))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the class tree is given the time, and this is where it comes from"
    )]
    fn with_clock(
        settings: &Settings,
        metrics: ShapeMetrics,
        wall_clock: WallClock,
    ) -> Result<Arc<Self>, TreeError> {
        changes::check(settings)?;
        let names = settings.classes.iter().map(|class| Arc::clone(&class.name));
        let classes: HashMap<_, _> = names.enumerate().map(|(at, name)| (name, at)).collect();
        let ceilings = Ceilings::new(settings, wall_clock());
        Ok(Arc::new(Self {
            core: Mutex::new(Core {
                settings: settings.clone(),
                tree: Tree::new(settings, ceilings.in_force(), 0),
                ceilings,
                ceilings_due: 0,
                wakers: Vec::new(),
                timer_at: Nanos::MAX,
                counted: vec![ClassCounters::default(); settings.classes.len()],
                granted: Vec::new(),
            }),
            classes,
            start: Instant::now(),
            wall_clock,
            rearm: Arc::default(),
            timer_started: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Whether there is such a class and it has no children: whether [`Self::register_flow`] has a flow
    /// for it.
    #[must_use]
    pub fn has_leaf(&self, class: &str) -> bool {
        self.classes.get(class).is_some_and(|class| self.lock().tree.is_leaf(*class))
    }

    /// Registers a flow with a class that has no children. None if there is no such class.
    #[must_use]
    pub fn register_flow(self: &Arc<Self>, class: &str, owner: &Owner) -> Option<Flow> {
        let class = *self.classes.get(class)?;
        self.start_timer();
        let mut core = self.lock();
        let now = self.now();
        if !core.tree.is_leaf(class) {
            return None;
        }
        let id = core.tree.add_flow(class, owner.client, owner.user.as_ref(), now);
        if core.wakers.len() <= id {
            core.wakers.resize(id + 1, None);
        }
        drop(core);
        Some(Flow::new(Arc::clone(self), id))
    }

    /// What is to be set on the sockets of a class. None if there is no such class.
    #[must_use]
    pub fn socket_options(&self, class: &str) -> Option<SocketOptions> {
        let at = *self.classes.get(class)?;
        let core = self.lock();
        let settings = &core.settings.classes[at];
        // A fifth more than the class may send, or the kernel would be the one that shapes.
        let pacing = |limit: Rate| limit.bytes().saturating_mul(6) / 5;
        Some(SocketOptions {
            tos: settings.dscp.map(|dscp| dscp.tos()),
            max_pacing_rate: core.settings.lowest_limit(at).filter(|_| settings.pacing).map(pacing),
        })
    }

    /// Asks for a permit for up to `want` bytes. Returns the bytes of the permit that the flow has; 0 if
    /// it has to wait, and `waker` is woken when it is granted one.
    fn request(&self, id: FlowId, want: usize, waker: &Waker) -> usize {
        let mut core = self.lock();
        let now = self.now();
        let root = core.tree.request(id, want, now);
        let woken = match root {
            Some(root) => self.dispatch(&mut core, root, now),
            None => Vec::new(),
        };
        let permit = core.tree.permit_of(id);
        if permit == 0 {
            match &mut core.wakers[id] {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        permit
    }

    /// A flow has moved `used` bytes of its permit and gives the rest back.
    fn spend(&self, id: FlowId, used: usize) {
        let mut core = self.lock();
        let now = self.now();
        let Some(root) = core.tree.spend(id, used, now) else { return };
        let woken = self.dispatch(&mut core, root, now);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Removes a flow.
    fn remove_flow(&self, id: FlowId) {
        let mut core = self.lock();
        let now = self.now();
        core.wakers[id] = None;
        let root = core.tree.remove_flow(id, now);
        let woken = self.dispatch(&mut core, root, now);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Dispatches one tree, and has the timer look in time. Returns who is to be woken.
    fn dispatch(&self, core: &mut Core, root: usize, now: Nanos) -> Vec<Waker> {
        core.tree.dispatch(root, now, &mut core.granted);
        if let Some(deadline) = core.tree.deadline_of(root)
            && deadline < core.timer_at
        {
            core.timer_at = deadline;
            self.rearm.notify_one();
        }
        core.take_wakers()
    }

    /// Does what is due. Returns when something will be again.
    fn tick(&self) -> Instant {
        let mut core = self.lock();
        let now = self.now();
        let mut woken = Vec::new();
        if now >= core.ceilings_due {
            if core.ceilings.update((self.wall_clock)()) {
                woken = core.apply(now);
            }
            let hold_for = core.ceilings.hold_for().map(|time| time.as_nanos());
            let hold_for = hold_for.and_then(|nanos| Nanos::try_from(nanos).ok());
            let wait = hold_for.map_or(MAX_CLOCK_AGE, |nanos| nanos.min(MAX_CLOCK_AGE));
            core.ceilings_due = now.saturating_add(wait);
        }
        let Core { tree, granted, .. } = &mut *core;
        tree.dispatch_due(now, granted);
        woken.extend(core.take_wakers());
        core.timer_at = core.tree.deadline().unwrap_or(Nanos::MAX).min(core.ceilings_due);
        let next = self.start + Duration::from_nanos(core.timer_at);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        next
    }

    /// Starts the timer if it does not run yet and this is within a tokio runtime. The first flow starts
    /// it too; until then timetables stand still.
    pub fn start_timer(self: &Arc<Self>) {
        if self.timer_started.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.timer_started.swap(true, Ordering::Relaxed) {
            runtime.spawn(run_timer(Arc::downgrade(self), Arc::clone(&self.rearm)));
        }
    }

    /// Nanoseconds since the start. To be read under the lock, so that the tree's time never goes back.
    #[expect(
        clippy::disallowed_methods,
        reason = "the class tree is given the time, and this is where it comes from"
    )]
    fn now(&self) -> Nanos {
        Nanos::try_from(self.start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Gives the tree its settings and the ceilings in force, and dispatches all of it. Returns who is to
    /// be woken.
    fn apply(&mut self, now: Nanos) -> Vec<Waker> {
        self.tree.apply(&self.settings, self.ceilings.in_force(), now);
        for root in self.tree.roots() {
            self.tree.dispatch(root, now, &mut self.granted);
        }
        self.take_wakers()
    }

    /// The wakers of flows that were granted a permit.
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.granted.drain(..).filter_map(|id| self.wakers[id].take()).collect()
    }
}

impl fmt::Debug for Shaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shaper").field("classes", &self.classes.len()).finish_non_exhaustive()
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        // The timer wakes, sees that the shaper is gone, and ends.
        self.rearm.notify_one();
    }
}

/// Looks at the tree whenever something is due, until the shaper is dropped.
async fn run_timer(shaper: Weak<Shaper>, rearm: Arc<Notify>) {
    loop {
        let Some(next) = shaper.upgrade().map(|shaper| shaper.tick()) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = rearm.notified() => {}
        }
    }
}
