//! A lane's clock: drips that are due at one instant are woken together, by one timer.
//!
//! Why not a timer for each: records are due on instants that connections have in common, dozens of
//! them at a time, while a timer wheel files, moves and fires each connection's timer by itself. Here
//! a drip that waits is one entry of a list.
//!
//! Invariant: whoever was promised to be woken is woken, at that instant or up to a millisecond
//! later. An entry lives until its instant though its drip may be gone, so only waits of up to
//! `LONGEST` are taken.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest wait that is taken here.
const LONGEST: Duration = Duration::from_secs(10);

/// Empty lists that are kept for instants to come.
const SPARE: usize = 4;

thread_local! {
    /// This thread's, if it is a lane.
    static TICKS: RefCell<Option<Ticks>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Ticks {
    waiting: BTreeMap<Instant, Vec<Waker>>,
    spare: Vec<Vec<Waker>>,
    /// Whoever runs the clock, and until when it sleeps.
    clock: Option<(Waker, Option<Instant>)>,
}

/// Has the task woken at that instant. False if this thread has no such clock, or the instant is too
/// far away: a timer is needed.
#[must_use]
pub fn wake_at(at: Instant, now: Instant, cx: &Context<'_>) -> bool {
    TICKS.with_borrow_mut(|ticks| {
        let Some(ticks) = ticks.as_mut().filter(|_| at <= now + LONGEST) else { return false };
        let spare = &mut ticks.spare;
        let waiting = ticks.waiting.entry(at).or_insert_with(|| spare.pop().unwrap_or_default());
        waiting.push(cx.waker().clone());
        if let Some((clock, until)) = &ticks.clock
            && until.is_none_or(|until| at < until)
        {
            clock.wake_by_ref();
        }
        true
    })
}

/// Runs this thread's clock. It never ends.
pub(super) async fn run() {
    TICKS.set(Some(Ticks::default()));
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

/// Wakes all who are due. Returns when to come again; without anybody who waits, [`wake_at`] says so.
fn fire(now: Instant, cx: &Context<'_>) -> Option<Instant> {
    loop {
        let due = TICKS.with_borrow_mut(|ticks| {
            let first = ticks.as_mut()?.waiting.first_entry().filter(|first| *first.key() <= now);
            first.map(|first| first.remove())
        });
        let Some(mut due) = due else { break };
        due.drain(..).for_each(Waker::wake);
        TICKS.with_borrow_mut(|ticks| {
            if let Some(ticks) = ticks.as_mut().filter(|ticks| ticks.spare.len() < SPARE) {
                ticks.spare.push(due);
            }
        });
    }
    TICKS.with_borrow_mut(|ticks| {
        let ticks = ticks.as_mut()?;
        let next = ticks.waiting.keys().next().copied();
        ticks.clock = Some((cx.waker().clone(), next));
        next
    })
}

#[cfg(test)]
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
        // A later one first: the clock sleeps too long, and has to be told.
        let due = [500, 25, 25, 500, 9000, 25].map(|ms| began + Duration::from_millis(ms));
        let waiting: Vec<_> = due.iter().map(|at| tokio::spawn(wait(*at))).collect();
        for (at, waited) in due.iter().zip(waiting) {
            let (woken, asked) = waited.await.unwrap();
            assert!(woken >= *at && woken - *at <= Duration::from_millis(1), "{:?}", woken - *at);
            assert_eq!(asked, 2);
        }
        clock.abort();
        TICKS.set(None);
    }

    #[tokio::test(start_paused = true)]
    async fn long_waits_and_other_threads_need_a_timer() {
        let at = Instant::now() + Duration::from_millis(1);
        let asked = |at| poll_fn(move |cx| Poll::Ready(wake_at(at, Instant::now(), cx)));
        assert!(!asked(at).await, "no clock here");
        TICKS.set(Some(Ticks::default()));
        assert!(asked(at).await);
        assert!(!asked(at + LONGEST).await);
        TICKS.set(None);
    }
}
