//! Threads that do nothing but drip. A body that needs no more of its request than the stream and a
//! source goes out on one of them, always the same for one drip.
//!
//! Why not on the threads that serve requests: there a drip would wake on whichever of them is free,
//! record by record, and its connection's memory would move between cores; with thousands of drips
//! due at the same instant those threads would also steal from and wake one another. Measured at
//! 5,000 drips that is a sixth of all the CPU time. What is awaited from elsewhere (the client's
//! socket, a disk) still wakes a drip, whatever thread notices it.
//!
//! This file must not know what is sent, nor when.

pub mod ticks;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Disk reads at a time that the drips of one thread may wait for.
const DISK_READS: usize = 32;

/// Records in a second that a thread is given before the next one gets any: about a tenth of a core.
/// The more drips are due at an instant, the less each of them costs.
const ENOUGH: usize = 4000;

/// The threads, until they are dropped.
#[derive(Debug)]
pub struct Lanes(Box<[Lane]>);

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    /// Records in a second of the drips on it.
    records: AtomicUsize,
    /// Its thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

/// Counts a drip's records while it is on its lane.
struct Place<'a> {
    lane: &'a Lane,
    records: usize,
}

impl<'a> Place<'a> {
    fn on(lane: &'a Lane, records: usize) -> Self {
        lane.records.fetch_add(records, Ordering::Relaxed);
        Self { lane, records }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lane.records.fetch_sub(self.records, Ordering::Relaxed);
    }
}

impl Lanes {
    /// Starts that many threads, 0 for one per core.
    ///
    /// # Errors
    ///
    /// If there are no threads or descriptors to be had.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => thread::available_parallelism()?.get(),
            some => some,
        };
        (0..threads).map(|_| Lane::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Does `work`, which sends so many `records` in a second, on a thread: the first that has little
    /// to do, or else the one that has the least. None if it came to no end there; dropping this
    /// future ends it as well.
    pub async fn run<T: Send + 'static>(
        &self,
        records: usize,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        // Whoever has no pace keeps a thread busy.
        let records = records.min(ENOUGH);
        let busy = |lane: &&Lane| lane.records.load(Ordering::Relaxed);
        let idle = self.0.iter().find(|lane| busy(lane) + records <= ENOUGH);
        let lane = idle.or_else(|| self.0.iter().min_by_key(busy))?;
        let _place = Place::on(lane, records);
        // A set of one, because it ends its task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn_on(work, &lane.runtime);
        task.join_next().await?.ok()
    }
}

impl Lane {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(DISK_READS)
            .thread_name("dripline-disk")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("dripline-drip".to_owned()).spawn(move || {
            runtime.block_on(async {
                // Nothing is ever sent; the end of the channel is the sign.
                tokio::select! {
                    _ = stopped => {}
                    () = ticks::run() => {}
                }
            });
            // A read of a slow disk must not hold up the end of the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, records: AtomicUsize::new(0), _stop: stop })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::future::{pending, poll_fn};
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_without_a_pace_stays_on_its_thread_and_spreads_over_all() {
        let lanes = Arc::new(Lanes::start(3).unwrap());
        let (begun, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (lanes, begun) = (Arc::clone(&lanes), begun.clone());
            running.spawn(async move {
                lanes
                    .run(usize::MAX, async move {
                        let at = thread::current().id();
                        begun.send(at).unwrap();
                        for _ in 0..10 {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            assert_eq!(thread::current().id(), at);
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        at
                    })
                    .await
            });
            waiting.recv().await.unwrap();
        }
        let mut threads = HashSet::new();
        while let Some(at) = running.join_next().await {
            threads.insert(at.unwrap().unwrap());
        }
        assert_eq!(threads.len(), 3);
        assert!(lanes.0.iter().all(|lane| lane.records.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn a_thread_is_given_enough_before_the_next() {
        let lanes = Lanes::start(2).unwrap();
        let mut running = Vec::new();
        for (records, on) in [
            (ENOUGH / 2, [ENOUGH / 2, 0]),
            (ENOUGH / 2, [ENOUGH, 0]),
            (10, [ENOUGH, 10]),
            (usize::MAX, [ENOUGH, ENOUGH + 10]),
            (10, [ENOUGH + 10, ENOUGH + 10]),
        ] {
            let mut work = Box::pin(lanes.run(records, pending::<()>()));
            assert!(poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await);
            running.push(work);
            let loads: Vec<_> =
                lanes.0.iter().map(|lane| lane.records.load(Ordering::Relaxed)).collect();
            assert_eq!(loads, on, "after {records}");
        }
    }

    #[tokio::test]
    async fn work_ends_with_whoever_waits_for_it() {
        let lanes = Lanes::start(1).unwrap();
        let (held, mut released) = oneshot::channel::<()>();
        let work = lanes.run(2, async move {
            let _held = held;
            pending::<()>().await;
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        let end = tokio::time::timeout(Duration::from_secs(10), &mut released).await;
        assert!(end.unwrap().is_err(), "dropped with the work");
        assert_eq!(lanes.0[0].records.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn work_that_panics_comes_to_no_end() {
        let lanes = Lanes::start(1).unwrap();
        assert_eq!(lanes.run(2, async { panic!("of the test's own making") }).await, None::<()>);
        assert_eq!(lanes.run(2, async { 7 }).await, Some(7), "the thread goes on");
    }
}
