//! What a class has done, in plain numbers. The shell turns them into metrics and reports.
//!
//! Pure: time is a parameter. This file must not know any metric's name.

use super::bucket::{Nanos, SECOND};

/// What of a wait comes after its first second is counted as starvation.
const STARVING_AFTER: Nanos = SECOND;

/// The counts of one class, its children's included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ClassCounters {
    /// Bytes granted and used.
    pub(super) bytes: u64,
    /// Flows registered.
    pub(super) flows: usize,
    /// Flows that wait.
    pub(super) waiting: usize,
    /// Waits that ended.
    pub(super) waits: u64,
    /// How long these waits took together.
    pub(super) waited: Nanos,
    /// The part of that which came after the first second of each.
    pub(super) starved: Nanos,
    /// Grants out of turn.
    pub(super) trickles: u64,
    meter: Meter,
}

impl ClassCounters {
    /// Counts `bytes` that were moved.
    pub(super) fn count_moved(&mut self, bytes: usize, now: Nanos) {
        self.bytes += bytes as u64;
        self.meter.roll(now);
        self.meter.bytes += bytes as u64;
    }

    /// Counts a grant to a flow that had waited for that long.
    pub(super) fn count_grant(&mut self, waited: Nanos, trickle: bool) {
        self.waiting -= 1;
        self.trickles += u64::from(trickle);
        if waited > 0 {
            self.waits += 1;
            self.waited = self.waited.saturating_add(waited);
            self.starved = self.starved.saturating_add(waited.saturating_sub(STARVING_AFTER));
        }
    }

    /// Bytes per second over the last second or so.
    pub(super) fn rate(&mut self, now: Nanos) -> u64 {
        self.meter.roll(now);
        self.meter.rate
    }
}

/// Bytes in windows of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Meter {
    since: Nanos,
    bytes: u64,
    rate: u64,
}

impl Meter {
    /// Closes the window if it is over. A mean over much more than a second says nothing about now, so
    /// the rate is 0 then.
    fn roll(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.since);
        if passed < SECOND {
            return;
        }
        // Bytes of a second or so are below 2^40, and a second below 2^30.
        let rate = u128::from(self.bytes) * u128::from(SECOND) / u128::from(passed);
        self.rate = if passed < 2 * SECOND { u64::try_from(rate).unwrap_or(u64::MAX) } else { 0 };
        (self.since, self.bytes) = (now, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut counters = ClassCounters::default();
        for step in 0..30 {
            counters.count_moved(1000, step * SECOND / 10);
        }
        assert_eq!(counters.rate(3 * SECOND), 10_000);
        assert_eq!(counters.rate(10 * SECOND), 0);
        assert_eq!(counters.bytes, 30_000);
    }

    #[test]
    fn only_what_comes_after_a_second_is_starvation() {
        let mut counters = ClassCounters { waiting: 3, ..ClassCounters::default() };
        counters.count_grant(0, false);
        counters.count_grant(SECOND / 2, false);
        counters.count_grant(11 * SECOND, true);
        let counts = (counters.waits, counters.waited, counters.starved, counters.trickles);
        assert_eq!(counts, (2, 11 * SECOND + SECOND / 2, 10 * SECOND, 1));
    }
}
