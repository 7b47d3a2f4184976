//! A rate limit as one theoretical arrival time (GCRA, ITU-T I.371): the time at which all bytes that
//! were let through would have arrived at exactly the rate.
//!
//! Invariant: the bytes let through in any window are at most the rate times the window, the burst, and
//! one grant. A grant is made while anything is left of the burst, so it may exceed the burst. Callers
//! keep the invariant by asking [`Bucket::ready_at`] before they charge.
//!
//! Exact: remainders of divisions are carried on. Pure: time is nanoseconds since a start that the caller
//! chose, and never goes back. This file must not know of classes or flows.

use crate::units::Rate;

/// Nanoseconds since the start; 64 bits are 584 years.
pub(super) type Nanos = u64;

pub(super) const MILLISECOND: Nanos = 1_000_000;
pub(super) const SECOND: Nanos = 1_000 * MILLISECOND;

/// What may leave in one go after a pause, unless configured: 10 ms of the rate. With less, rate would be
/// lost to timers, which are 1 ms coarse; more would queue behind the bottleneck.
const DEFAULT_BURST: Nanos = 10 * MILLISECOND;

/// The longest wait after a rate is lowered. A grant that was made at the old rate is paid at the new
/// one, but a new rate must show within 500 ms.
const MAX_DEBT: Nanos = 250 * MILLISECOND;

/// What one byte is charged: the nanoseconds that it takes at 1 bit/s. Below 2^33.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost(pub(super) u64);

impl Cost {
    /// A byte is 8 bits.
    pub(super) const PAYLOAD: Self = Self(8 * SECOND);
    /// A full segment of 1,448 bytes takes 66 more for TCP with timestamps, IPv4 and Ethernet: 4.6 %.
    pub(super) const WIRE: Self = Self(8_368 * MILLISECOND);
}

/// One rate limit.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    cost: Cost,
    /// The burst, as time at the rate.
    depth: Nanos,
    /// The theoretical arrival time. The whole burst is available again then.
    full_at: Nanos,
    /// The remainder that `full_at` is short of, in bit-nanoseconds: less than the rate's bits.
    remainder: u64,
    /// When the count was last restarted. What was granted before cannot be given back.
    restarted_at: Nanos,
}

impl Bucket {
    /// A bucket with its whole burst. `rate` is at least 1 bit/s; `burst` in bytes.
    pub(super) fn new(rate: Rate, burst: Option<u64>, cost: Cost, now: Nanos) -> Self {
        let rate = Rate::from_bits(rate.bits().max(1));
        let depth = depth(rate, burst, cost);
        Self { rate, cost, depth, full_at: now, remainder: 0, restarted_at: now }
    }

    /// A bucket whose burst is used up, but for one grant.
    pub(super) fn empty(rate: Rate, cost: Cost, now: Nanos) -> Self {
        let bucket = Self::new(rate, None, cost, now);
        Self { full_at: now.saturating_add(bucket.depth), ..bucket }
    }

    /// The rate.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// When the next grant may be made; in the past if it may now.
    pub(super) fn ready_at(&self) -> Nanos {
        self.full_at.saturating_sub(self.depth)
    }

    /// When the whole burst is available again. From then on rate is lost if nothing is granted.
    pub(super) fn full_at(&self) -> Nanos {
        self.full_at
    }

    /// Counts `bytes` that are let through at `now`.
    pub(super) fn charge(&mut self, bytes: usize, now: Nanos) {
        if self.full_at < now {
            (self.full_at, self.remainder, self.restarted_at) = (now, 0, now);
        }
        // Grants are at most 64 KiB and a cost below 2^33, so the product is below 2^49.
        let work = bytes as u64 * self.cost.0 + self.remainder;
        self.full_at = self.full_at.saturating_add(work / self.rate.bits());
        self.remainder = work % self.rate.bits();
    }

    /// Takes back bytes that [`Bucket::charge`] counted at `charged_at`. If the count was restarted
    /// since, nothing is owed for them any more.
    pub(super) fn refund(&mut self, bytes: usize, charged_at: Nanos) {
        if charged_at < self.restarted_at {
            return;
        }
        let work = bytes as u64 * self.cost.0;
        let (mut whole, part) = (work / self.rate.bits(), work % self.rate.bits());
        // `remainder` and `part` are both below the rate, so no sum exceeds twice the rate, which is
        // below 2^40 bit/s (`settings::MAX_RATE`).
        if self.remainder < part {
            self.remainder += self.rate.bits();
            whole += 1;
        }
        self.remainder -= part;
        self.full_at = self.full_at.saturating_sub(whole);
    }

    /// Another rate from now on. Bytes that are used of the burst stay used, up to the new burst. Bytes
    /// that are owed beyond it are owed at the new rate, but for [`MAX_DEBT`] at most.
    pub(super) fn retune(&mut self, rate: Rate, burst: Option<u64>, cost: Cost, now: Nanos) {
        let rate = Rate::from_bits(rate.bits().max(1));
        let depth = depth(rate, burst, cost);
        if (rate, cost, depth) == (self.rate, self.cost, self.depth) {
            return;
        }
        // Times are below 2^64 and rates below 2^40.
        let scale = |time: Nanos| {
            let bits = u128::from(time) * u128::from(self.rate.bits());
            let new = bits * u128::from(cost.0) / u128::from(self.cost.0);
            Nanos::try_from(new / u128::from(rate.bits())).unwrap_or(Nanos::MAX)
        };
        let used = self.full_at.saturating_sub(now);
        let owed = scale(used.saturating_sub(self.depth)).min(MAX_DEBT);
        let used = scale(used).min(depth.saturating_add(owed));
        *self = Self {
            rate,
            cost,
            depth,
            full_at: now.saturating_add(used),
            remainder: 0,
            restarted_at: now,
        };
    }
}

/// The time that `burst` bytes take at `rate`.
fn depth(rate: Rate, burst: Option<u64>, cost: Cost) -> Nanos {
    let Some(burst) = burst else { return DEFAULT_BURST };
    let time = u128::from(burst) * u128::from(cost.0) / u128::from(rate.bits());
    Nanos::try_from(time).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mbit(mbit: u64) -> Rate {
        Rate::from_bits(mbit * 1_000_000)
    }

    /// Grants of `bytes` as early as they may be, until `end`. Returns their sum.
    fn run(bucket: &mut Bucket, bytes: usize, mut now: Nanos, end: Nanos) -> u64 {
        let mut sum = 0;
        loop {
            now = now.max(bucket.ready_at());
            if now >= end {
                return sum;
            }
            bucket.charge(bytes, now);
            sum += bytes as u64;
        }
    }

    #[test]
    fn the_rate_is_exact_whatever_the_size_of_a_grant() {
        for (rate, bytes) in [(1, 1), (3, 7), (7, 1460), (999, 64), (1000, 16384), (40_000, 1)] {
            let mut bucket = Bucket::new(mbit(rate), Some(0), Cost::PAYLOAD, 0);
            let sum = run(&mut bucket, bytes, 0, SECOND / 10);
            let due = rate * 12_500;
            assert!(sum >= due && sum <= due + bytes as u64, "{rate} {bytes}: {sum} of {due}");
        }
    }

    #[test]
    fn the_wire_counts_for_4_6_per_cent_more() {
        let mut bucket = Bucket::new(mbit(1046), Some(0), Cost::WIRE, 0);
        assert_eq!(run(&mut bucket, 1000, 0, SECOND), 125_000_000);
    }

    #[test]
    fn a_pause_is_worth_the_burst_and_no_more() {
        let mut bucket = Bucket::new(mbit(8), None, Cost::PAYLOAD, 0);
        assert_eq!(run(&mut bucket, 1000, 0, 1), 11_000, "10 ms and one grant");
        assert_eq!(run(&mut bucket, 1000, SECOND, SECOND + 1), 11_000);
        let mut bucket = Bucket::new(mbit(8), Some(2500), Cost::PAYLOAD, 0);
        assert_eq!(run(&mut bucket, 1000, 0, 1), 3000);
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let mut bucket = Bucket::new(mbit(7), None, Cost::PAYLOAD, 0);
        let mut other = bucket.clone();
        for at in 0..1000 {
            bucket.charge(1460, at);
            other.charge(1000, at);
            bucket.refund(460, at);
        }
        assert_eq!((bucket.full_at, bucket.remainder), (other.full_at, other.remainder));
    }

    #[test]
    fn what_comes_back_after_a_pause_gives_no_second_burst() {
        let mut bucket = Bucket::new(mbit(8), None, Cost::PAYLOAD, 0);
        bucket.charge(5000, 0);
        bucket.charge(1000, SECOND);
        bucket.refund(5000, 0);
        assert_eq!(bucket.full_at(), SECOND + MILLISECOND);
    }

    #[test]
    fn a_lower_rate_shows_at_once_and_a_higher_one_too() {
        let mut bucket = Bucket::new(mbit(20), None, Cost::PAYLOAD, 0);
        run(&mut bucket, 5000, 0, SECOND);
        bucket.retune(mbit(1), None, Cost::PAYLOAD, SECOND);
        assert!(bucket.ready_at() <= SECOND + 40 * MILLISECOND, "one grant of 5000 bytes is owed");
        let slow = run(&mut bucket, 1460, SECOND, 2 * SECOND);
        assert!((118_000..=126_460).contains(&slow), "{slow}");
        bucket.retune(mbit(20), None, Cost::PAYLOAD, 2 * SECOND);
        assert!(bucket.ready_at() <= 2 * SECOND + MILLISECOND);
        let fast = run(&mut bucket, 5000, 2 * SECOND, 3 * SECOND);
        assert!((2_495_000..=2_530_000).contains(&fast), "{fast}");
    }

    #[test]
    fn a_rate_cut_to_next_to_nothing_still_shows_within_500_ms() {
        let mut bucket = Bucket::new(mbit(1000), Some(10 << 20), Cost::PAYLOAD, 0);
        run(&mut bucket, 65_536, 0, SECOND);
        bucket.retune(Rate::from_bits(1000), None, Cost::PAYLOAD, SECOND);
        assert!(bucket.ready_at() <= SECOND + MAX_DEBT);
    }

    proptest! {
        /// Any grants, refunds of a part and changes of the time between them.
        #[test]
        fn no_window_exceeds_the_rate(
            bits in 1_000_u64..10_000_000_000,
            burst in prop::option::of(0_u64..1 << 20),
            steps in prop::collection::vec((0_u64..5_000_000, 1_usize..65_536, 0_usize..65_536), 1..200),
        ) {
            let rate = Rate::from_bits(bits);
            let mut bucket = Bucket::new(rate, burst, Cost::PAYLOAD, 0);
            let mut now = 0;
            let mut sent: Vec<(Nanos, u64)> = Vec::new();
            for (pause, bytes, back) in steps {
                now = (now + pause).max(bucket.ready_at());
                bucket.charge(bytes, now);
                let back = back.min(bytes);
                bucket.refund(back, now);
                sent.push((now, (bytes - back) as u64));
            }
            let burst = burst.unwrap_or(bits / 800);
            for (index, (start, _)) in sent.iter().enumerate() {
                let mut sum = 0;
                for (at, bytes) in &sent[index..] {
                    sum += bytes;
                    let fair = u128::from(at - start) * u128::from(bits) / 8 / u128::from(SECOND);
                    prop_assert!(u128::from(sum) <= fair + u128::from(burst) + 65_536 + 1);
                }
            }
        }
    }
}
