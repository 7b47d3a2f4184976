//! The async shell around the tree: flows wait here, and one task knows when to look again.
//!
//! One lock around everything: whoever asks for leave dispatches, for others as well, and wakes them
//! once the lock is released. A thread of its own would cost more than the tree does.

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
use super::counters::ClassCounters;
use super::flow::{Flow, Owner};
use super::flows::FlowId;
use super::report::{Change, ChangeError, ClassReport};
use super::settings::{ClassSettings, Fault, Settings};
use super::socket_options::SocketOptions;
use super::timetable::Timetable;
use super::tree::Tree;
use crate::metrics::ShapeMetrics;
use crate::units::Rate;

/// How often the wall's clock is asked at least: it may be set, and the machine may sleep.
const MINUTE: Nanos = 60 * SECOND;

/// What tells the time of day.
type Wall = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// Why settings cannot be put in place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// They do not hold together; see [`Settings::faults`].
    #[error("class {name}: {}: {}", fault.setting, fault.message)]
    Fault {
        /// The class's name.
        name: Arc<str>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Classes, their parents or classifiers differ from those that are running.
    #[error("other classes, parents or classifiers take an upgrade")]
    Structure,
}

/// The class tree of one server, shared by everything that moves bytes.
pub struct Shaper {
    core: Mutex<Core>,
    /// The index of each class, in the settings' order.
    classes: HashMap<Arc<str>, usize>,
    start: Instant,
    wall: Wall,
    /// Tells the timer that it has to look earlier than it meant to.
    alarm: Arc<Notify>,
    timed: AtomicBool,
    metrics: ShapeMetrics,
}

/// What the lock protects.
struct Core {
    settings: Settings,
    /// The max-limits in force.
    ceilings: Vec<Option<Rate>>,
    tree: Tree,
    /// Who is to be woken when a flow is granted something.
    wakers: Vec<Option<Waker>>,
    /// When the timer will look.
    armed: Nanos,
    /// When the timetables are to be looked at.
    consult_at: Nanos,
    /// What the metrics have counted already.
    counted: Vec<ClassCounters>,
    granted: Vec<FlowId>,
}

impl Shaper {
    /// A tree of `settings`.
    ///
    /// # Errors
    ///
    /// The first fault of the settings.
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
        wall: Wall,
    ) -> Result<Arc<Self>, TreeError> {
        sound(settings)?;
        let names = settings.classes.iter().map(|class| Arc::clone(&class.name));
        let ceilings = ceilings(settings, wall());
        Ok(Arc::new(Self {
            classes: names.enumerate().map(|(at, name)| (name, at)).collect(),
            start: Instant::now(),
            wall,
            alarm: Arc::default(),
            timed: AtomicBool::new(false),
            metrics,
            core: Mutex::new(Core {
                tree: Tree::new(settings, &ceilings, 0),
                settings: settings.clone(),
                counted: vec![ClassCounters::default(); ceilings.len()],
                ceilings,
                wakers: Vec::new(),
                armed: Nanos::MAX,
                consult_at: 0,
                granted: Vec::new(),
            }),
        }))
    }

    /// Whether there is such a class and it has no children: whether [`Self::register_flow`] has a flow for it.
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
        let id = core.tree.join(class, owner.client, owner.user.as_ref(), now);
        if core.wakers.len() <= id {
            core.wakers.resize(id + 1, None);
        }
        drop(core);
        Some(Flow::new(Arc::clone(self), id))
    }

    /// Puts other rates, priorities and timetables in place, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If the settings have a fault, or their classes are not the same.
    pub fn reload(&self, settings: &Settings) -> Result<(), TreeError> {
        sound(settings)?;
        let mut core = self.lock();
        if !same_structure(&core.settings, settings) {
            return Err(TreeError::Structure);
        }
        let woken = self.put(&mut core, settings.clone());
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Changes one class, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If there is no such class or the tree would not hold together.
    pub fn change(&self, class: &str, change: &Change) -> Result<(), ChangeError> {
        let unknown = || ChangeError::Unknown(class.to_owned());
        let at = *self.classes.get(class).ok_or_else(unknown)?;
        let mut core = self.lock();
        let idle = match change {
            Change { priority: Some(_), .. } if !core.tree.is_leaf(at) => Some((
                "priority",
                "changes nothing in a class with classes below it: only theirs count",
            )),
            Change { limit_at: Some(_), .. } if core.settings.classes[at].parent.is_none() => {
                Some((
                    "limit_at",
                    "changes nothing in a class without a parent: there is nobody to guarantee it against",
                ))
            }
            _ => None,
        };
        if let Some((setting, message)) = idle {
            return Err(ChangeError::Refused { setting, message: message.to_owned() });
        }
        let mut settings = core.settings.clone();
        let changed = &mut settings.classes[at];
        changed.limit_at = change.limit_at.unwrap_or(changed.limit_at);
        changed.max_limit = change.max_limit.unwrap_or(changed.max_limit);
        changed.priority = change.priority.unwrap_or(changed.priority);
        if let Some(fault) = settings.faults().into_iter().next() {
            let name = &settings.classes[fault.class].name;
            let whose = if fault.class == at { String::new() } else { format!("class {name}: ") };
            let message = format!("{whose}{}", fault.message);
            return Err(ChangeError::Refused { setting: fault.setting, message });
        }
        let woken = self.put(&mut core, settings);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Every class as it is now, in the settings' order.
    #[must_use]
    pub fn report(&self) -> Vec<ClassReport> {
        let mut core = self.lock();
        let (now, today) = (self.now(), (self.wall)());
        let core = &mut *core;
        let mut report = Vec::new();
        for (at, class) in core.settings.classes.iter().enumerate() {
            let (tally, rate) = core.tree.tally(at, now);
            report.push(ClassReport {
                name: Arc::clone(&class.name),
                parent: class.parent.clone(),
                limit_at: class.limit_at,
                max_limit: core.ceilings[at],
                configured_max_limit: class.max_limit,
                timetable: class.timetable.as_ref().map(Timetable::to_string),
                next_change: class.timetable.as_ref().and_then(|table| table.next_change(today)),
                priority: class.priority,
                rate,
                bytes: tally.bytes,
                flows: tally.flows,
                queued: tally.waiting,
                waited: Duration::from_nanos(tally.waited),
                starved: Duration::from_nanos(tally.starved),
            });
        }
        report
    }

    /// What is to be set on the sockets of a class. None if there is no such class.
    #[must_use]
    pub fn socket_options(&self, class: &str) -> Option<SocketOptions> {
        let at = *self.classes.get(class)?;
        let core = self.lock();
        let settings = &core.settings.classes[at];
        // A fifth more than the class, or the kernel would be the one that shapes.
        let pacing = |limit: Rate| limit.bytes().saturating_mul(6) / 5;
        Some(SocketOptions {
            tos: settings.dscp.map(|dscp| dscp.tos()),
            max_pacing_rate: core.settings.lowest_limit(at).filter(|_| settings.pacing).map(pacing),
        })
    }

    /// Brings the metrics up to date.
    pub fn update_metrics(&self) {
        let mut core = self.lock();
        let now = self.now();
        let core = &mut *core;
        for (at, class) in core.settings.classes.iter().enumerate() {
            let (tally, rate) = core.tree.tally(at, now);
            let last = std::mem::replace(&mut core.counted[at], tally);
            let (name, metrics) = ([&*class.name], &self.metrics);
            let seconds = |time: Nanos| Duration::from_nanos(time).as_secs_f64();
            let level = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            metrics.bytes.with_label_values(&name).inc_by(tally.bytes - last.bytes);
            metrics.waits.with_label_values(&name).inc_by(tally.waits - last.waits);
            metrics.trickles.with_label_values(&name).inc_by(tally.trickles - last.trickles);
            let waited = seconds(tally.waited - last.waited);
            metrics.queue_seconds.with_label_values(&name).inc_by(waited);
            let starved = seconds(tally.starved - last.starved);
            metrics.starved_seconds.with_label_values(&name).inc_by(starved);
            metrics.rate.with_label_values(&name).set(level(rate));
            metrics.limit_at.with_label_values(&name).set(level(class.limit_at.bytes()));
            let ceiling = core.ceilings[at].map_or(0, Rate::bytes);
            metrics.max_limit.with_label_values(&name).set(level(ceiling));
            metrics.flows.with_label_values(&name).set(level(tally.flows as u64));
            metrics.queued.with_label_values(&name).set(level(tally.waiting as u64));
        }
    }

    /// A flow asks for leave. Returns what it has; 0: the waker is woken when it has some.
    pub(super) fn request(&self, id: FlowId, want: usize, waker: &Waker) -> usize {
        let mut core = self.lock();
        let now = self.now();
        let top = core.tree.request(id, want, now);
        let woken = match top {
            Some(top) => self.dispatch(&mut core, top, now),
            None => Vec::new(),
        };
        let leave = core.tree.leave_of(id);
        if leave == 0 {
            match &mut core.wakers[id] {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        leave
    }

    pub(super) fn spend(&self, id: FlowId, used: usize) {
        let mut core = self.lock();
        let now = self.now();
        let Some(top) = core.tree.spend(id, used, now) else { return };
        let woken = self.dispatch(&mut core, top, now);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn leave(&self, id: FlowId) {
        let mut core = self.lock();
        let now = self.now();
        core.wakers[id] = None;
        let top = core.tree.leave(id, now);
        let woken = self.dispatch(&mut core, top, now);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Dispatches one tree, and has the timer look in time. Returns who is to be woken.
    fn dispatch(&self, core: &mut Core, top: usize, now: Nanos) -> Vec<Waker> {
        core.tree.dispatch(top, now, &mut core.granted);
        if let Some(deadline) = core.tree.deadline_of(top)
            && deadline < core.armed
        {
            core.armed = deadline;
            self.alarm.notify_one();
        }
        core.woken()
    }

    /// Puts settings of the same structure in place.
    fn put(&self, core: &mut Core, settings: Settings) -> Vec<Waker> {
        core.ceilings = ceilings(&settings, (self.wall)());
        core.settings = settings;
        // The timer has to learn of a timetable's next change too.
        core.consult_at = 0;
        self.alarm.notify_one();
        core.apply(self.now())
    }

    /// Does what is due. Returns when something will be again.
    fn tick(&self) -> Instant {
        let mut core = self.lock();
        let now = self.now();
        let mut woken = Vec::new();
        if now >= core.consult_at {
            let today = (self.wall)();
            let ceilings = ceilings(&core.settings, today);
            if ceilings != core.ceilings {
                core.ceilings = ceilings;
                woken = core.apply(now);
            }
            core.consult_at = now.saturating_add(next_look(&core.settings, today));
        }
        let Core { tree, granted, .. } = &mut *core;
        tree.dispatch_due(now, granted);
        woken.extend(core.woken());
        core.armed = core.tree.deadline().unwrap_or(Nanos::MAX).min(core.consult_at);
        let next = self.start + Duration::from_nanos(core.armed);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        next
    }

    /// Starts the timer, if it does not run yet and can be: within a tokio runtime. The first flow does
    /// so too; until then timetables stand still.
    pub fn start_timer(self: &Arc<Self>) {
        if self.timed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.timed.swap(true, Ordering::Relaxed) {
            runtime.spawn(keep_time(Arc::downgrade(self), Arc::clone(&self.alarm)));
        }
    }

    /// To be asked under the lock, so that the tree's time never goes back.
    fn now(&self) -> Nanos {
        Nanos::try_from(self.start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Gives the tree its settings and ceilings, and dispatches all of it.
    fn apply(&mut self, now: Nanos) -> Vec<Waker> {
        self.tree.apply(&self.settings, &self.ceilings, now);
        for top in self.tree.tops() {
            self.tree.dispatch(top, now, &mut self.granted);
        }
        self.woken()
    }

    /// The wakers of those that were granted something.
    fn woken(&mut self) -> Vec<Waker> {
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
        // The timer sees that there is nothing left to look at.
        self.alarm.notify_one();
    }
}

/// Looks at the tree whenever something is due, until it is gone.
async fn keep_time(shaper: Weak<Shaper>, alarm: Arc<Notify>) {
    loop {
        let Some(next) = shaper.upgrade().map(|shaper| shaper.tick()) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = alarm.notified() => {}
        }
    }
}

/// The max-limits in force: the lower of what is configured and what the timetable has.
fn ceilings(settings: &Settings, today: Timestamp) -> Vec<Option<Rate>> {
    let ceiling = |class: &ClassSettings| {
        let of_the_time = class.timetable.as_ref().and_then(|table| table.at(today));
        class.max_limit.into_iter().chain(of_the_time).min()
    };
    settings.classes.iter().map(ceiling).collect()
}

/// How long the timetables need not be looked at.
fn next_look(settings: &Settings, today: Timestamp) -> Nanos {
    let changes = settings.classes.iter().filter_map(|class| class.timetable.as_ref());
    let next = changes.filter_map(|table| table.next_change(today)).min();
    let wait = next.map(|at| at.duration_since(today).unsigned_abs().as_nanos());
    wait.map_or(MINUTE, |wait| Nanos::try_from(wait).unwrap_or(MINUTE).min(MINUTE))
}

fn sound(settings: &Settings) -> Result<(), TreeError> {
    let Some(fault) = settings.faults().into_iter().next() else { return Ok(()) };
    Err(TreeError::Fault { name: Arc::clone(&settings.classes[fault.class].name), fault })
}

/// Whether the classes are the same but for what can be changed under way.
fn same_structure(running: &Settings, new: &Settings) -> bool {
    let structure = |settings: &Settings| -> Vec<_> {
        let of = |class: &ClassSettings| {
            (Arc::clone(&class.name), class.parent.clone(), class.pcq.classifier)
        };
        settings.classes.iter().map(of).collect()
    };
    structure(running) == structure(new)
}

#[cfg(test)]
mod tests;
