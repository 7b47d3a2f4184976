//! What the classes do: as a report, and as metrics.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Shaper;
use crate::shape::bucket::Nanos;
use crate::shape::settings::Priority;
use crate::shape::timetable::Timetable;
use crate::units::Rate;

/// A class as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassReport {
    /// Its name.
    pub name: Arc<str>,
    /// Its parent's name.
    pub parent: Option<Arc<str>>,
    /// What it is guaranteed, in force.
    pub limit_at: Rate,
    /// What it never exceeds, in force: the lowest of its ceilings, which are `max_limit` and what the
    /// timetable has now.
    pub max_limit: Option<Rate>,
    /// `max_limit` as it was configured or changed: what is in force when the timetable says `off`.
    pub configured_max_limit: Option<Rate>,
    /// Its timetable, as text.
    pub timetable: Option<String>,
    /// When the timetable's next entry begins.
    pub next_change: Option<Timestamp>,
    /// Its priority, in force.
    pub priority: Priority,
    /// Bytes per second over the last second or so.
    pub rate: u64,
    /// Bytes granted and used since the start, its children's included.
    pub bytes: u64,
    /// Flows registered, its children's included.
    pub flows: usize,
    /// Of them, flows that wait for a permit.
    pub queued: usize,
    /// How long flows have waited, all waits that ended together.
    pub waited: Duration,
    /// The part of that which came after the first second of a wait.
    pub starved: Duration,
}

impl Shaper {
    /// Every class as it is now, in the settings' order.
    #[must_use]
    pub fn report(&self) -> Vec<ClassReport> {
        let mut core = self.lock();
        let (now, today) = (self.now(), (self.wall_clock)());
        let core = &mut *core;
        let mut report = Vec::new();
        for (at, class) in core.settings.classes.iter().enumerate() {
            let (counters, rate) = core.tree.counters(at, now);
            report.push(ClassReport {
                name: Arc::clone(&class.name),
                parent: class.parent.clone(),
                limit_at: class.limit_at,
                max_limit: core.ceilings.in_force()[at],
                configured_max_limit: class.max_limit,
                timetable: class.timetable.as_ref().map(Timetable::to_string),
                next_change: class.timetable.as_ref().and_then(|table| table.next_change(today)),
                priority: class.priority,
                rate,
                bytes: counters.bytes,
                flows: counters.flows,
                queued: counters.waiting,
                waited: Duration::from_nanos(counters.waited),
                starved: Duration::from_nanos(counters.starved),
            });
        }
        report
    }

    /// Brings the metrics up to date.
    pub fn update_metrics(&self) {
        let mut core = self.lock();
        let now = self.now();
        let core = &mut *core;
        for (at, class) in core.settings.classes.iter().enumerate() {
            let (counters, rate) = core.tree.counters(at, now);
            let last = std::mem::replace(&mut core.counted[at], counters);
            let (name, metrics) = ([&*class.name], &self.metrics);
            let seconds = |time: Nanos| Duration::from_nanos(time).as_secs_f64();
            let level = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            metrics.bytes.with_label_values(&name).inc_by(counters.bytes - last.bytes);
            metrics.waits.with_label_values(&name).inc_by(counters.waits - last.waits);
            metrics.trickles.with_label_values(&name).inc_by(counters.trickles - last.trickles);
            let waited = seconds(counters.waited - last.waited);
            metrics.queue_seconds.with_label_values(&name).inc_by(waited);
            let starved = seconds(counters.starved - last.starved);
            metrics.starved_seconds.with_label_values(&name).inc_by(starved);
            metrics.rate.with_label_values(&name).set(level(rate));
            metrics.limit_at.with_label_values(&name).set(level(class.limit_at.bytes()));
            let ceiling = core.ceilings.in_force()[at].map_or(0, Rate::bytes);
            metrics.max_limit.with_label_values(&name).set(level(ceiling));
            metrics.flows.with_label_values(&name).set(level(counters.flows as u64));
            metrics.queued.with_label_values(&name).set(level(counters.waiting as u64));
        }
    }
}
