//! The clock of a drip thread: one timer wakes all drips that are due at the same instant.
//!
//! Why not a timer for each drip: connections share the instants at which their records are due, so
//! dozens are due at a time, and a timer wheel inserts, moves and fires the timer of each one
//! separately. Here a waiting drip is one entry of a list.
//!
//! Invariant: a task for which [`wake_at`] returned true is woken at its instant or up to a
//! millisecond later. An entry stays until its instant even if its drip has ended, so only waits of up
//! to `LONGEST` are accepted.
//!
//! This file must not know what the tasks do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest wait that is accepted.
const LONGEST: Duration = Duration::from_secs(10);

/// Empty lists that are kept for later instants.
const SPARE: usize = 4;

thread_local! {
    /// The clock of this thread, if it is a drip thread.
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Clock {
    waiting: BTreeMap<Instant, Vec<Waker>>,
    spare: Vec<Vec<Waker>>,
    /// The task in [`run`], and the instant until which it sleeps (None: until it is woken).
    runner: Option<(Waker, Option<Instant>)>,
}

/// Arranges that the task is woken at that instant. Returns false if this thread has no clock, or if
/// the instant is too far away; the caller needs a timer then.
#[must_use]
pub fn wake_at(at: Instant, now: Instant, cx: &Context<'_>) -> bool {
    CLOCK.with_borrow_mut(|clock| {
        let Some(clock) = clock.as_mut().filter(|_| at <= now + LONGEST) else { return false };
        let spare = &mut clock.spare;
        let waiting = clock.waiting.entry(at).or_insert_with(|| spare.pop().unwrap_or_default());
        waiting.push(cx.waker().clone());
        if let Some((runner, until)) = &clock.runner
            && until.is_none_or(|until| at < until)
        {
            runner.wake_by_ref();
        }
        true
    })
}

/// Runs this thread's clock. Never returns.
#[expect(clippy::disallowed_methods, reason = "this is the clock of a drip thread")]
pub(super) async fn run() {
    CLOCK.set(Some(Clock::default()));
    let mut sleep = pin!(sleep_until(Instant::now()));
    poll_fn(|cx| {
        while let Some(next) = fire(Instant::now(), cx) {
            sleep.as_mut().reset(next);
            if sleep.as_mut().poll(cx).is_pending() {
                break;
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Wakes all tasks that are due. Returns the next instant at which one is; if no task waits, None, and
/// [`wake_at`] wakes the runner when the next one comes.
fn fire(now: Instant, cx: &Context<'_>) -> Option<Instant> {
    loop {
        let due = CLOCK.with_borrow_mut(|clock| {
            let first = clock.as_mut()?.waiting.first_entry().filter(|first| *first.key() <= now);
            first.map(|first| first.remove())
        });
        let Some(mut due) = due else { break };
        due.drain(..).for_each(Waker::wake);
        CLOCK.with_borrow_mut(|clock| {
            if let Some(clock) = clock.as_mut().filter(|clock| clock.spare.len() < SPARE) {
                clock.spare.push(due);
            }
        });
    }
    CLOCK.with_borrow_mut(|clock| {
        let clock = clock.as_mut()?;
        let next = clock.waiting.keys().next().copied();
        clock.runner = Some((cx.waker().clone(), next));
        next
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;

    /// Waits for `at`, and says when that was and how often it was asked.
    async fn wait(at: Instant) -> (Instant, usize) {
        let mut asked = 0;
        poll_fn(|cx| {
            asked += 1;
            let now = Instant::now();
            if now >= at {
                return Poll::Ready((now, asked));
            }
            assert!(wake_at(at, now, cx));
            Poll::Pending
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_an_instant_are_woken_at_it_and_once() {
        let clock = tokio::spawn(run());
        tokio::task::yield_now().await;
        let began = Instant::now();
        // The latest first: the clock sleeps too long, and has to be woken for the earlier ones.
        let due = [500, 25, 25, 500, 9000, 25].map(|ms| began + Duration::from_millis(ms));
        let waiting: Vec<_> = due.iter().map(|at| tokio::spawn(wait(*at))).collect();
        for (at, waited) in due.iter().zip(waiting) {
            let (woken, asked) = waited.await.unwrap();
            assert!(woken >= *at && woken - *at <= Duration::from_millis(1), "{:?}", woken - *at);
            assert_eq!(asked, 2);
        }
        clock.abort();
        CLOCK.set(None);
    }

    #[tokio::test(start_paused = true)]
    async fn long_waits_and_other_threads_need_a_timer() {
        let at = Instant::now() + Duration::from_millis(1);
        let asked = |at| poll_fn(move |cx| Poll::Ready(wake_at(at, Instant::now(), cx)));
        assert!(!asked(at).await, "no clock here");
        CLOCK.set(Some(Clock::default()));
        assert!(asked(at).await);
        assert!(!asked(at + LONGEST).await);
        CLOCK.set(None);
    }
}
