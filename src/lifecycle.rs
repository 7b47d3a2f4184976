//! A server's life from ready to gone. Readiness begins when the listeners accept, and does not return
//! after a drain has begun. A drain waits for what runs, no longer than its timeout.
//!
//! A drain tells connections apart. One with a request goes on until the request is answered. One that waits
//! for its next request ends at once, which HTTP allows at any time. One that has only just come, and has had
//! no request yet, gets a moment to send it. The task of a connection waits for [`Connection::dismissed`].
//!
//! This file counts connections and what runs; it must not know what that is.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a drain waits for the first requests of new connections when the process is to stop: the client's
/// bytes are under way, but an operator waits for the process to end.
const ARRIVALS: Duration = Duration::from_millis(300);

/// The same when a successor has taken over and nobody waits: enough for a handshake on a slow link.
const ARRIVALS_AFTER_HANDOVER: Duration = Duration::from_secs(10);

/// How long the phases of a drain may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long after SIGTERM new connections are still taken, with /readyz failing.
    pub shutdown_delay: Duration,
    /// How long running drips may go on after that.
    pub drain_timeout: Duration,
    /// How long running drips may go on after a successor has taken over.
    pub upgrade_drain_timeout: Duration,
}

impl Settings {
    /// Bounds of `shutdown_delay`.
    pub const SHUTDOWN_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
    /// Bounds of both drain timeouts: zero to 30 days.
    pub const DRAIN_TIMEOUTS: RangeInclusive<Duration> =
        Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(600),
            upgrade_drain_timeout: Duration::from_secs(24 * 3600),
        }
    }
}

/// The state of one server, shared by all parts that serve, drain or report.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    ready: AtomicBool,
    active: AtomicUsize,
    arriving: AtomicUsize,
    /// Notified whenever one of the two falls.
    changed: watch::Sender<()>,
    draining: watch::Sender<bool>,
    stage: watch::Sender<Stage>,
    /// When a drain ends at the latest.
    deadline: watch::Sender<Option<Instant>>,
    handed_over: AtomicBool,
}

/// How far a drain has come: which connections must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    /// None.
    Serving,
    /// Those between two requests.
    Idle,
    /// Those without a first request as well.
    Arriving,
    /// All.
    Expired,
}

impl Lifecycle {
    /// A server that is not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                ready: AtomicBool::new(false),
                active: AtomicUsize::new(0),
                arriving: AtomicUsize::new(0),
                changed: watch::Sender::new(()),
                draining: watch::Sender::new(false),
                stage: watch::Sender::new(Stage::Serving),
                deadline: watch::Sender::new(None),
                handed_over: AtomicBool::new(false),
            }),
        }
    }

    /// The listeners accept: the server is ready, unless a drain has begun.
    pub fn started(&self) {
        if !self.is_draining() {
            self.inner.ready.store(true, Ordering::Release);
        }
    }

    /// Drops readiness while everything is served as before, so that load balancers see it in time.
    pub fn unready(&self) {
        self.inner.ready.store(false, Ordering::Release);
    }

    /// Whether new clients should be sent to this address.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.inner.draining.borrow()
    }

    /// Whether a successor accepts on this server's addresses.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.inner.handed_over.load(Ordering::Acquire)
    }

    /// Whether a drain has ended with drips still running, which are being cut.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        *self.inner.stage.borrow() == Stage::Expired
    }

    /// Turns true when a drain begins. The type is Pingora's `ShutdownWatch`.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.inner.draining.subscribe()
    }

    /// A connection that was accepted just now.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.inner.arriving.fetch_add(1, Ordering::AcqRel);
        // It may have been on its way through a listener that closes now.
        if self.is_draining() {
            self.inner.changed.send_replace(());
        }
        Connection { inner: Arc::clone(&self.inner), ends_at: AtomicU8::new(Stage::Arriving as u8) }
    }

    /// Counts something that a drain waits for, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Active {
        self.inner.active.fetch_add(1, Ordering::AcqRel);
        Active { inner: Arc::clone(&self.inner) }
    }

    /// How many things run that a drain waits for.
    #[must_use]
    pub fn active(&self) -> usize {
        self.inner.active.load(Ordering::Acquire)
    }

    /// Drops readiness, stops the listeners, and waits until nothing runs any more or `timeout` has passed.
    /// Returns how many things still ran then; they are being cut.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.unready();
        self.wind_down(timeout, ARRIVALS).await
    }

    /// The same, but readiness stays: a successor accepts on these addresses, and load balancers must go on
    /// sending clients there.
    pub async fn drain_behind_successor(&self, timeout: Duration) -> usize {
        self.inner.handed_over.store(true, Ordering::Release);
        self.wind_down(timeout, ARRIVALS_AFTER_HANDOVER).await
    }

    /// Ends a drain that has begun at the latest `timeout` from now.
    #[expect(clippy::disallowed_methods, reason = "a drain has a deadline")]
    pub fn shorten_drain(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        self.inner.deadline.send_modify(|old| *old = Some(old.map_or(end, |old| old.min(end))));
    }

    #[expect(clippy::disallowed_methods, reason = "a drain has a deadline")]
    async fn wind_down(&self, timeout: Duration, arrivals: Duration) -> usize {
        let inner = &self.inner;
        let arrivals_end = Instant::now() + arrivals.min(timeout);
        self.shorten_drain(timeout);
        inner.draining.send_replace(true);
        inner.stage.send_replace(Stage::Idle);
        let mut changed = inner.changed.subscribe();
        let mut deadline = inner.deadline.subscribe();
        loop {
            let arriving =
                inner.arriving.load(Ordering::Acquire) > 0 && !self.has_reached(Stage::Arriving);
            if self.active() == 0 && !arriving {
                break;
            }
            let end = deadline.borrow_and_update().unwrap_or_else(Instant::now);
            tokio::select! {
                _ = changed.changed() => {}
                _ = deadline.changed() => {}
                () = sleep_until(arrivals_end), if arriving => {
                    inner.stage.send_replace(Stage::Arriving);
                }
                () = sleep_until(end) => break,
            }
        }
        let left = self.active();
        inner.stage.send_replace(if left > 0 { Stage::Expired } else { Stage::Arriving });
        left
    }

    fn has_reached(&self, stage: Stage) -> bool {
        *self.inner.stage.borrow() >= stage
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that a drain waits for, until it is dropped.
pub struct Active {
    inner: Arc<Inner>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.inner.active.fetch_sub(1, Ordering::AcqRel);
        self.inner.changed.send_replace(());
    }
}

/// A client's connection. At first it has had no request.
pub struct Connection {
    inner: Arc<Inner>,
    /// The [`Stage`] that ends this connection, as a number.
    ends_at: AtomicU8,
}

impl Connection {
    /// It has a request, which an [`Active`] counts from now on.
    pub fn busy(&self) {
        self.ends_at(Stage::Expired);
    }

    /// Its request was answered, and the next one may come.
    pub fn idle(&self) {
        self.ends_at(Stage::Idle);
    }

    /// Resolves when this connection has to end.
    pub async fn dismissed(&self) {
        let mut stage = self.inner.stage.subscribe();
        let due = |stage: &Stage| *stage as u8 >= self.ends_at.load(Ordering::Acquire);
        // The sender lives as long as this connection.
        let _ = stage.wait_for(due).await;
    }

    fn ends_at(&self, stage: Stage) {
        if self.ends_at.swap(stage as u8, Ordering::AcqRel) == Stage::Arriving as u8 {
            self.inner.arriving.fetch_sub(1, Ordering::AcqRel);
            self.inner.changed.send_replace(());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.idle();
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_the_last_that_runs() {
        let lifecycle = Lifecycle::new();
        lifecycle.started();
        assert!(lifecycle.is_ready());
        let active = [lifecycle.enter(), lifecycle.enter()];
        let start = tokio::time::Instant::now();
        let drain = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.drain(Duration::from_secs(600)).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!lifecycle.is_ready() && lifecycle.is_draining());
        for one in active {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(one);
        }
        assert_eq!(drain.await.unwrap(), 0);
        assert!(start.elapsed() < Duration::from_secs(12));
        lifecycle.started();
        assert!(!lifecycle.is_ready(), "readiness does not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_timeout_and_can_be_hurried() {
        let lifecycle = Lifecycle::new();
        let _runs = lifecycle.enter();
        let start = Instant::now();
        assert_eq!(lifecycle.drain(Duration::from_secs(3)).await, 1);
        assert!(lifecycle.is_expired());
        assert_eq!(start.elapsed().as_secs(), 3);

        let lifecycle = Lifecycle::new();
        let _runs = lifecycle.enter();
        let start = Instant::now();
        let shorten = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            lifecycle.shorten_drain(Duration::from_secs(5));
            lifecycle.shorten_drain(Duration::from_secs(500));
        };
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(tokio::join!(lifecycle.drain_behind_successor(day), shorten).0, 1);
        assert_eq!(start.elapsed().as_secs(), 15);
    }

    #[tokio::test]
    async fn a_drain_with_nothing_running_is_over_at_once() {
        assert_eq!(Lifecycle::new().drain(Duration::from_secs(3600)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_only_just_come_gets_a_moment_and_who_is_idle_goes() {
        let lifecycle = Lifecycle::new();
        let [silent, comes, idle] = [(); 3].map(|()| lifecycle.connection());
        idle.idle();
        let start = Instant::now();
        let gone = |connection: Connection| async move {
            connection.dismissed().await;
            start.elapsed()
        };
        let arrival = async {
            tokio::time::sleep(ARRIVALS / 2).await;
            let active = lifecycle.enter();
            comes.busy();
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(active);
            comes.idle();
            gone(comes).await
        };
        let drain = lifecycle.drain(Duration::from_secs(60));
        let (left, silent, idle, arrival) = tokio::join!(drain, gone(silent), gone(idle), arrival);
        assert_eq!((left, idle, silent), (0, Duration::ZERO, ARRIVALS));
        assert_eq!(arrival, ARRIVALS / 2 + Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_through_a_closing_listener_gets_no_more_than_a_moment() {
        let lifecycle = Lifecycle::new();
        let _runs = lifecycle.enter();
        let start = Instant::now();
        let late = async {
            tokio::time::sleep(ARRIVALS / 3).await;
            let late = lifecycle.connection();
            late.dismissed().await;
            start.elapsed()
        };
        let (left, late) = tokio::join!(lifecycle.drain(Duration::from_secs(60)), late);
        assert_eq!((left, late), (1, ARRIVALS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_leaves_readiness_alone() {
        let lifecycle = Lifecycle::new();
        lifecycle.started();
        let silent = lifecycle.connection();
        let start = Instant::now();
        let gone = async {
            silent.dismissed().await;
            drop(silent);
        };
        tokio::join!(lifecycle.drain_behind_successor(Duration::from_secs(60)), gone);
        assert_eq!(start.elapsed(), ARRIVALS_AFTER_HANDOVER);
        assert!(lifecycle.is_ready() && lifecycle.is_handed_over());
    }
}
