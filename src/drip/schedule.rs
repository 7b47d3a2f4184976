//! When the next body record may leave: at the points of a grid, which are one `wait` apart. The grid
//! belongs to the connection, not to a response.
//!
//! Pure: time is a parameter (a [`Duration`] since an instant that all connections share, never
//! decreasing), so tests run hours of it in microseconds. This file must not know of sockets, timers or
//! TLS.
//!
//! Invariants, for `wait` > 0:
//! - deadlines are computed from earlier deadlines, never from when a timer fired, so delays do not add
//!   up;
//! - a record that is late by less than half a wait does not move the grid; a later one skips whole grid
//!   points, so two records are never closer than half a wait;
//! - the first record of a response waits for the grid of the previous response;
//! - a new grid begins on a point that connections share, so the first record leaves up to a twentieth of
//!   a wait, and at most 25 ms, after it was ready: see `common`. The gaps are not rounded.
//!
//! ```
//! use std::time::Duration;
//! use dripline::drip::schedule::{Next, Schedule};
//!
//! let (start, wait) = (Duration::ZERO, Duration::from_millis(500));
//! let mut schedule = Schedule::new(4096, wait);
//! assert_eq!(schedule.next(start, Some(5000)), Next::Send(4096));
//! schedule.sent(start);
//! assert_eq!(schedule.next(start, Some(904)), Next::WaitUntil(wait));
//! assert_eq!(schedule.next(wait, Some(904)), Next::Send(904));
//! ```

use std::time::Duration;

/// Distances between the points that connections share. With 5,000 connections a thread is
/// woken every 25 ms for a batch of records instead of every 100 µs for one; at 1,000 that halves
/// the CPU time.
const COMMON: [Duration; 7] = {
    let ms = Duration::from_millis;
    [ms(25), ms(20), ms(10), ms(5), ms(4), ms(2), ms(1)]
};

/// A grid begins late by at most this fraction of its wait: 1/20.
const LATEST: u32 = 20;

/// What a connection may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A record of this many body bytes may leave.
    Send(usize),
    /// Nothing may leave before this time.
    WaitUntil(Duration),
}

/// The pace of one connection.
#[derive(Debug, Clone)]
pub struct Schedule {
    chunk: usize,
    wait: Duration,
    /// The grid point of the next record; None before the connection's first record.
    due: Option<Duration>,
    /// When the last record left.
    last: Duration,
    /// [`Self::next`] was not called for this response yet.
    first: bool,
}

impl Schedule {
    /// A connection that has sent no body record yet. `chunk` bytes, at least 1, may leave at each grid
    /// point: one record, or several smaller ones.
    #[must_use]
    pub fn new(chunk: usize, wait: Duration) -> Self {
        Self { chunk, wait, due: None, last: Duration::ZERO, first: true }
    }

    /// Begins a response, which may have its own record size and wait. The grid stays.
    pub fn begin(&mut self, chunk: usize, wait: Duration) {
        self.chunk = chunk;
        self.wait = wait;
        self.first = true;
    }

    /// Bytes of a full grid point.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Whether there is no pace: records leave whenever they can.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.wait.is_zero()
    }

    /// Grid points in a second, rounded up; `usize::MAX` without a pace.
    #[must_use]
    pub fn per_second(&self) -> usize {
        if self.is_free() {
            return usize::MAX;
        }
        let points = Duration::from_secs(1).as_nanos().div_ceil(self.wait.as_nanos());
        usize::try_from(points).unwrap_or(usize::MAX)
    }

    /// Whether a record may leave at `now`, and how long it is when `left` bytes of the body remain
    /// (`None`: the body's length is not known). To be called when the record is ready to be sent: the
    /// first call for a response may begin a new grid, on the next common point.
    #[must_use]
    pub fn next(&mut self, now: Duration, left: Option<u64>) -> Next {
        let due = self.due(now);
        if now < due {
            return Next::WaitUntil(due);
        }
        let chunk = self.chunk;
        Next::Send(left.map_or(chunk, |left| chunk.min(usize::try_from(left).unwrap_or(chunk))))
    }

    /// Records that a record left at `now`.
    pub fn sent(&mut self, now: Duration) {
        let due = self.due(now);
        let points = steps(now.saturating_sub(due), self.wait);
        self.due = Some(due.saturating_add(self.wait.saturating_mul(points)));
        self.last = now;
    }

    /// The grid point of the next record. If a response's first record is ready only after the grid point
    /// has passed, a new grid begins, no earlier than one wait after the last record (which may itself have
    /// been late).
    fn due(&mut self, now: Duration) -> Duration {
        let due = match self.due {
            _ if self.wait.is_zero() => now,
            Some(due) if !self.first => due,
            // Already a common point, unless the previous response had another wait.
            Some(due) if now <= due => self.align(due),
            Some(_) => self.align(now.max(self.last.saturating_add(self.wait))),
            None => self.align(now),
        };
        self.first = false;
        self.due = Some(due);
        due
    }

    /// The first common point that is not before `at`.
    fn align(&self, at: Duration) -> Duration {
        let Some(common) = common(self.wait) else { return at };
        let past = at.as_nanos() % common.as_nanos();
        // Less than 25 ms, so it fits.
        let past = Duration::from_nanos(u64::try_from(past).unwrap_or(0));
        if past.is_zero() { at } else { at.saturating_add(common - past) }
    }
}

/// The distance of the common points for connections with that wait: the largest of [`COMMON`] that
/// divides it, so that every later record is due on a common point too, and that is at most 1/20 of it.
fn common(wait: Duration) -> Option<Duration> {
    let fits = |common: &Duration| {
        wait.as_nanos().is_multiple_of(common.as_nanos()) && common.saturating_mul(LATEST) <= wait
    };
    COMMON.into_iter().find(fits)
}

/// How many grid points to move on after a record that was `late`: one for less than half a wait,
/// one more for each further wait.
fn steps(late: Duration, wait: Duration) -> u32 {
    if wait.is_zero() {
        return 0;
    }
    // round(late / wait) + 1, halves upward. Durations are below 2^94 ns, so doubling them fits
    // u128; the result saturates at 2^32 points, which at 1 ms each is 49 days of lateness.
    let (late, wait) = (late.as_nanos(), wait.as_nanos());
    u32::try_from((2 * late + wait) / (2 * wait) + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const WAIT: Duration = Duration::from_millis(500);

    fn schedule() -> Schedule {
        Schedule::new(4096, WAIT)
    }

    /// Runs a body of `total` bytes; `late(k)` is how late the k-th record leaves after the time
    /// that the schedule asked for. Returns when each record left and how long it was.
    fn drip(
        schedule: &mut Schedule,
        now: &mut Duration,
        total: u64,
        mut late: impl FnMut(usize) -> Duration,
    ) -> Vec<(Duration, usize)> {
        let mut records = Vec::new();
        let mut left = total;
        while left > 0 {
            if let Next::WaitUntil(due) = schedule.next(*now, Some(left)) {
                assert!(due > *now);
                *now = due;
            }
            *now += late(records.len());
            let Next::Send(length) = schedule.next(*now, Some(left)) else {
                panic!("still waiting after the time it asked for");
            };
            schedule.sent(*now);
            records.push((*now, length));
            left -= length as u64;
        }
        records
    }

    #[test]
    fn a_body_leaves_on_the_next_common_point_and_then_once_per_wait() {
        let mut now = 7 * MS;
        let total = (1 << 20) + 10;
        let records = drip(&mut schedule(), &mut now, total, |_| Duration::ZERO);
        assert_eq!(records.len(), 257);
        for (k, (at, length)) in records.iter().enumerate() {
            assert_eq!(*at, 25 * MS + WAIT * u32::try_from(k).unwrap());
            assert_eq!(*length, if k == 256 { 10 } else { 4096 });
        }
    }

    #[test]
    fn a_small_delay_does_not_move_the_grid() {
        let late = |k| if k % 2 == 1 { 249 * MS } else { Duration::ZERO };
        let records = drip(&mut schedule(), &mut { Duration::ZERO }, 4096 * 1000, late);
        assert_eq!(records[998].0, WAIT * 998);
        assert_eq!(records[999].0, WAIT * 999 + 249 * MS);
    }

    #[test]
    fn a_large_delay_skips_grid_points_and_never_bursts() {
        for (late, next) in [(250, 1000), (600, 1000), (749, 1000), (750, 1500), (5000, 5500)] {
            let stall = |k| if k == 1 { late * MS } else { Duration::ZERO };
            let records = drip(&mut schedule(), &mut { Duration::ZERO }, 4096 * 4, stall);
            assert_eq!(records[1].0, (500 + late) * MS);
            assert_eq!(records[2].0, (500 + next) * MS, "late by {late} ms");
            assert_eq!(records[3].0, (1000 + next) * MS);
        }
    }

    #[test]
    fn grid_points_per_second() {
        let points = |ms: u32| Schedule::new(4096, ms * MS).per_second();
        assert_eq!([0, 500, 300, 2000].map(points), [usize::MAX, 2, 4, 1]);
    }

    #[test]
    fn the_next_response_waits_for_the_grid_of_the_last() {
        let mut schedule = schedule();
        let mut now = Duration::ZERO;
        let mut starts = Vec::new();
        for _ in 0..5 {
            schedule.begin(4096, WAIT);
            starts.push(drip(&mut schedule, &mut now, 4096, |_| 3 * MS)[0].0);
            now += 20 * MS;
        }
        assert_eq!(starts, [3, 503, 1003, 1503, 2003].map(|ms| ms * MS));
    }

    #[test]
    fn a_response_after_a_pause_starts_a_new_grid_on_the_next_common_point() {
        let mut schedule = schedule();
        let mut now = Duration::ZERO;
        drip(&mut schedule, &mut now, 4096 * 2, |_| Duration::ZERO);
        now = 1234 * MS;
        schedule.begin(4096, WAIT);
        let records = drip(&mut schedule, &mut now, 4096 * 2, |_| Duration::ZERO);
        assert_eq!(records[0].0, 1250 * MS);
        assert_eq!(records[1].0, 1750 * MS);
    }

    #[test]
    fn a_response_right_after_a_late_record_keeps_one_wait_of_distance() {
        for (late, due) in [(200, 1200), (207, 1225)] {
            let mut schedule = schedule();
            let mut now = Duration::ZERO;
            let stall = |k| if k == 1 { late * MS } else { Duration::ZERO };
            drip(&mut schedule, &mut now, 4096 * 2, stall);
            now = 1100 * MS; // past the grid point at 1000, less than a wait after the last record
            schedule.begin(4096, WAIT);
            assert_eq!(schedule.next(now, None), Next::WaitUntil(due * MS));
        }
    }

    #[test]
    fn common_points_divide_the_wait_and_are_a_twentieth_of_it_at_most() {
        let cases =
            [(500, 25), (3000, 25), (250, 10), (400, 20), (100, 5), (80, 4), (50, 2), (20, 1)];
        for (wait, expected) in cases {
            assert_eq!(common(wait * MS), Some(expected * MS), "{wait} ms");
        }
        assert_eq!(common(333 * MS), Some(MS));
        for none in [Duration::ZERO, 19 * MS, Duration::from_micros(500_500)] {
            assert_eq!(common(none), None, "{none:?}");
        }
    }

    #[test]
    fn connections_that_began_at_any_time_are_due_together() {
        let due: Vec<_> = (0..20u32)
            .map(|k| {
                let mut now = 1001 * MS + MS * k;
                drip(&mut schedule(), &mut now, 4096 * 50, |_| Duration::ZERO)
            })
            .collect();
        assert!(due.iter().all(|records| *records == due[0]));
        assert_eq!(due[0][49].0, 1025 * MS + WAIT * 49);
    }

    #[test]
    fn another_wait_may_move_the_grid_to_its_common_points() {
        let mut schedule = Schedule::new(4096, 230 * MS); // 10 ms apart
        let mut now = 5 * MS;
        drip(&mut schedule, &mut now, 4096, |_| Duration::ZERO);
        schedule.begin(4096, WAIT);
        let records = drip(&mut schedule, &mut now, 4096 * 2, |_| Duration::ZERO);
        assert_eq!([records[0].0, records[1].0], [250 * MS, 750 * MS]);
    }

    #[test]
    fn without_a_wait_everything_may_leave_at_once() {
        let mut schedule = Schedule::new(512, Duration::ZERO);
        let mut now = 5 * MS;
        let records = drip(&mut schedule, &mut now, 512 * 100 + 1, |_| Duration::ZERO);
        assert_eq!(now, 5 * MS);
        assert_eq!(records.len(), 101);
        assert_eq!(records[100].1, 1);
    }

    #[test]
    fn lengths_beyond_memory_and_unknown_lengths_give_full_records() {
        assert_eq!(schedule().next(Duration::ZERO, Some(u64::MAX)), Next::Send(4096));
        assert_eq!(schedule().next(Duration::ZERO, None), Next::Send(4096));
        assert_eq!(schedule().next(Duration::ZERO, Some(0)), Next::Send(0));
    }

    proptest! {
        /// Whatever the delays: no two records closer than half a wait, none ahead of its grid
        /// point, every one within half a wait of the grid or followed by a skip, and the sizes
        /// add up.
        #[test]
        fn delays_neither_accumulate_nor_burst(
            wait_ms in 1u32..5000,
            begin in 0u64..100_000_000,
            chunk in 1usize..=16_384,
            delays in proptest::collection::vec(0u64..20_000_000_000, 1..60),
            last in 1u64..16_384,
        ) {
            let wait = MS * wait_ms;
            let total = (delays.len() as u64 - 1) * chunk as u64 + last.min(chunk as u64);
            let mut schedule = Schedule::new(chunk, wait);
            let begin = Duration::from_nanos(begin);
            let records = drip(&mut schedule, &mut { begin }, total, |k| Duration::from_nanos(delays[k]));
            prop_assert_eq!(records.len(), delays.len());
            prop_assert_eq!(records.iter().map(|r| r.1 as u64).sum::<u64>(), total);
            let origin = records[0].0 - Duration::from_nanos(delays[0]);
            let late = origin - begin;
            prop_assert!(late * 20 < wait && late < MS * 25, "begins {late:?} late");
            if let Some(common) = common(wait) {
                prop_assert_eq!(origin.as_nanos() % common.as_nanos(), 0);
            }
            for (k, pair) in records.windows(2).enumerate() {
                let gap = pair[1].0 - pair[0].0;
                prop_assert!(gap * 2 >= wait, "gap {gap:?} after record {k}");
                // the time asked for is on the grid that was anchored when the first was ready
                let asked = pair[1].0 - Duration::from_nanos(delays[k + 1]) - origin;
                prop_assert_eq!(asked.as_nanos() % wait.as_nanos(), 0);
            }
        }

        /// Without delays every gap is one wait, to the nanosecond, whatever the wait and the time.
        #[test]
        fn gaps_are_exact(wait in 1u64..10_000_000_000, begin in 0u64..10_000_000_000, whole in any::<bool>()) {
            let wait = if whole { MS * u32::try_from(wait % 5000 + 1).unwrap() } else { Duration::from_nanos(wait) };
            let mut schedule = Schedule::new(4096, wait);
            let records = drip(&mut schedule, &mut Duration::from_nanos(begin), 4096 * 20, |_| Duration::ZERO);
            prop_assert!(records.windows(2).all(|pair| pair[1].0 - pair[0].0 == wait));
        }

        #[test]
        fn no_time_and_no_length_panics(
            chunk in 1usize..=16_384,
            wait in 0u64..u64::MAX / 4,
            times in proptest::collection::vec(0u64..u64::MAX / 4, 1..20),
            left in proptest::option::of(any::<u64>()),
        ) {
            let mut schedule = Schedule::new(chunk, Duration::from_nanos(wait));
            let mut times = times;
            times.sort_unstable();
            for (k, at) in times.into_iter().enumerate() {
                if k % 3 == 0 {
                    schedule.begin(4096, Duration::from_nanos(wait));
                }
                let now = Duration::from_nanos(at);
                let _ = schedule.next(now, left);
                schedule.sent(now);
            }
        }
    }
}
