//! Threads that do nothing but drip. A response body that needs nothing more of its request, only the
//! stream and a source, is sent on one of these threads, and stays on it to its end.
//!
//! Why not on the threads that serve requests: there a drip would wake on whichever thread is free,
//! record by record, and its connection's memory would move between cores. With thousands of drips
//! due at the same instant those threads would also steal tasks from each other and wake each other.
//! Measured at 5,000 drips, that costs a sixth of all CPU time. Events from elsewhere (the client's
//! socket, a disk) still wake a drip, whichever thread notices them.
//!
//! This file must not know what is sent, nor when.

pub mod clock;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Disk reads that the drips of one thread may have in progress at a time.
const DISK_READS: usize = 32;

/// Records per second that a thread gets before the next thread gets any: about a tenth of a core.
/// The more drips are due at one instant, the less each of them costs.
const FULL_LOAD: usize = 4000;

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub struct DripThreads(Box<[DripThread]>);

#[derive(Debug)]
struct DripThread {
    runtime: Handle,
    /// Records per second of all drips on this thread.
    load: AtomicUsize,
    /// The thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

/// A drip's records per second, counted in a thread's load until this is dropped.
struct LoadGuard<'a> {
    thread: &'a DripThread,
    records: usize,
}

impl<'a> LoadGuard<'a> {
    fn new(thread: &'a DripThread, records: usize) -> Self {
        thread.load.fetch_add(records, Ordering::Relaxed);
        Self { thread, records }
    }
}

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        self.thread.load.fetch_sub(self.records, Ordering::Relaxed);
    }
}

impl DripThreads {
    /// Starts that many threads, 0 for one per core.
    ///
    /// # Errors
    ///
    /// If the system refuses to create a thread or its descriptors.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => thread::available_parallelism()?.get(),
            some => some,
        };
        (0..threads).map(|_| DripThread::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Runs `work`, which sends that many `records` per second, on the first thread that is not fully
    /// loaded, or else on the one with the least load. Returns None if `work` panicked. `work` ends
    /// early if the future returned here is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        records: usize,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        // A body without a pace uses as much of a thread as it can get.
        let records = records.min(FULL_LOAD);
        let load = |thread: &&DripThread| thread.load.load(Ordering::Relaxed);
        let free = self.0.iter().find(|thread| load(thread) + records <= FULL_LOAD);
        let thread = free.or_else(|| self.0.iter().min_by_key(load))?;
        let _load = LoadGuard::new(thread, records);
        // A set of one task, because a JoinSet aborts its tasks when it is dropped.
        let mut task = JoinSet::new();
        task.spawn_on(work, &thread.runtime);
        task.join_next().await?.ok()
    }
}

impl DripThread {
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
                // Nothing is ever sent; the channel closes when the sender is dropped.
                tokio::select! {
                    _ = stopped => {}
                    () = clock::run() => {}
                }
            });
            // Not waiting for reads of a slow disk, which would delay the end of the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, load: AtomicUsize::new(0), _stop: stop })
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
        let threads = Arc::new(DripThreads::start(3).unwrap());
        let (begun, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (threads, begun) = (Arc::clone(&threads), begun.clone());
            running.spawn(async move {
                threads
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
        let mut used = HashSet::new();
        while let Some(at) = running.join_next().await {
            used.insert(at.unwrap().unwrap());
        }
        assert_eq!(used.len(), 3);
        assert!(threads.0.iter().all(|thread| thread.load.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn a_thread_is_fully_loaded_before_the_next_gets_any() {
        let threads = DripThreads::start(2).unwrap();
        let mut running = Vec::new();
        for (records, on) in [
            (FULL_LOAD / 2, [FULL_LOAD / 2, 0]),
            (FULL_LOAD / 2, [FULL_LOAD, 0]),
            (10, [FULL_LOAD, 10]),
            (usize::MAX, [FULL_LOAD, FULL_LOAD + 10]),
            (10, [FULL_LOAD + 10, FULL_LOAD + 10]),
        ] {
            let mut work = Box::pin(threads.run(records, pending::<()>()));
            assert!(poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await);
            running.push(work);
            let loads: Vec<_> =
                threads.0.iter().map(|thread| thread.load.load(Ordering::Relaxed)).collect();
            assert_eq!(loads, on, "after {records}");
        }
    }

    #[tokio::test]
    async fn work_ends_when_its_future_is_dropped() {
        let threads = DripThreads::start(1).unwrap();
        let (held, mut released) = oneshot::channel::<()>();
        let work = threads.run(2, async move {
            let _held = held;
            pending::<()>().await;
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        let end = tokio::time::timeout(Duration::from_secs(10), &mut released).await;
        assert!(end.unwrap().is_err(), "dropped with the work");
        assert_eq!(threads.0[0].load.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn work_that_panics_returns_none() {
        let threads = DripThreads::start(1).unwrap();
        assert_eq!(threads.run(2, async { panic!("of the test's own making") }).await, None::<()>);
        assert_eq!(threads.run(2, async { 7 }).await, Some(7), "the thread goes on");
    }
}
