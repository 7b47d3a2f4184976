//! What a class has done, in plain numbers; the shell turns them into metrics and reports.

use super::bucket::{Nanos, SECOND};

/// A wait is called starvation from its second second on.
const STARVING: Nanos = SECOND;

/// The counts of one class, its children's included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ClassCounters {
    /// Bytes granted and used.
    pub(super) bytes: u64,
    /// Flows there are.
    pub(super) flows: usize,
    /// Flows that wait.
    pub(super) waiting: usize,
    /// Waits that ended.
    pub(super) waits: u64,
    /// How long they took together.
    pub(super) waited: Nanos,
    /// What of that came after the first second of each.
    pub(super) starved: Nanos,
    /// Grants out of turn.
    pub(super) trickles: u64,
    meter: Meter,
}

impl ClassCounters {
    /// `bytes` were moved.
    pub(super) fn used(&mut self, bytes: usize, now: Nanos) {
        self.bytes += bytes as u64;
        self.meter.roll(now);
        self.meter.bytes += bytes as u64;
    }

    /// A flow was granted something after it waited for that long.
    pub(super) fn served(&mut self, waited: Nanos, trickle: bool) {
        self.waiting -= 1;
        self.trickles += u64::from(trickle);
        if waited > 0 {
            self.waits += 1;
            self.waited = self.waited.saturating_add(waited);
            self.starved = self.starved.saturating_add(waited.saturating_sub(STARVING));
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
    /// Closes the window if it is over. What was measured over much more than a second says nothing of
    /// now.
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
        let mut tally = ClassCounters::default();
        for step in 0..30 {
            tally.used(1000, step * SECOND / 10);
        }
        assert_eq!(tally.rate(3 * SECOND), 10_000);
        assert_eq!(tally.rate(10 * SECOND), 0);
        assert_eq!(tally.bytes, 30_000);
    }

    #[test]
    fn only_what_comes_after_a_second_is_starvation() {
        let mut tally = ClassCounters { waiting: 3, ..ClassCounters::default() };
        tally.served(0, false);
        tally.served(SECOND / 2, false);
        tally.served(11 * SECOND, true);
        let counts = (tally.waits, tally.waited, tally.starved, tally.trickles);
        assert_eq!(counts, (2, 11 * SECOND + SECOND / 2, 10 * SECOND, 1));
    }
}
