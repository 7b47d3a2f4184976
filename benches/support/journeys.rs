//! Drips that are followed to their end, whole or cut. It must not know what ends them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{self, Load};
use super::histograms::Histograms;
use super::lab::Object;

/// One drip's end.
pub struct Ended {
    /// When.
    pub at: Instant,
    /// Of the body.
    pub bytes: usize,
    /// Why it is not whole.
    pub failure: Option<String>,
    /// The last record came whole.
    pub at_boundary: bool,
}

impl Ended {
    /// Every byte came.
    pub fn is_whole(&self) -> bool {
        self.failure.is_none()
    }
}

/// The drips of one round.
pub struct Journeys {
    load: Arc<Load>,
    begun: Arc<AtomicUsize>,
    gaps: Arc<Mutex<Histograms>>,
}

impl Journeys {
    /// None yet.
    pub fn new(load: &Load) -> Self {
        let gaps = Arc::new(Mutex::new(Histograms::new(load.wait)));
        Self { load: Arc::new(load.clone()), begun: Arc::default(), gaps }
    }

    /// Starts drips, `per_second` of them each second.
    pub fn launch(&self, object: &Object, count: usize, per_second: u64) -> JoinSet<Ended> {
        let mut drips = JoinSet::new();
        for number in 0..count {
            let at = Duration::from_secs_f64(number as f64 / per_second as f64);
            let (load, object) = (Arc::clone(&self.load), object.clone());
            let (begun, gaps) = (Arc::clone(&self.begun), Arc::clone(&self.gaps));
            drips.spawn(async move {
                tokio::time::sleep(at).await;
                drip(&load, &object, &begun, &gaps).await
            });
        }
        drips
    }

    /// Waits until so many drips have their first record.
    pub async fn all_begun(&self, count: usize, seconds: u64) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(seconds + 30);
        while self.begun.load(Ordering::Relaxed) < count {
            if Instant::now() > deadline {
                let begun = self.begun.load(Ordering::Relaxed);
                return Err(format!("{begun} of {count} drips have begun"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The 99th percentile of |gap - wait| in milliseconds.
    pub fn deviation_p99(&self) -> f64 {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).deviation_p99()
    }
}

async fn drip(
    load: &Load,
    object: &Object,
    begun: &AtomicUsize,
    gaps: &Mutex<Histograms>,
) -> Ended {
    let (mut bytes, mut last) = (0, None);
    let connected = tokio::time::timeout(load.stall, client::connect(load)).await;
    let mut stream = match connected.unwrap_or_else(|_| Err("no connection".to_owned())) {
        Ok(stream) => stream,
        Err(why) => {
            return Ended { at: Instant::now(), bytes, failure: Some(why), at_boundary: false };
        }
    };
    let fetched = client::fetch(&mut stream, object, load.stall, |record| {
        match last {
            None => drop(begun.fetch_add(1, Ordering::Relaxed)),
            Some(last) => {
                let gap = record.at.saturating_duration_since(last);
                gaps.lock().unwrap_or_else(PoisonError::into_inner).note(gap);
            }
        }
        last = Some(record.at);
        bytes += record.body;
    })
    .await;
    let at_boundary = stream.get_ref().is_between_records();
    Ended { at: Instant::now(), bytes, failure: fetched.err(), at_boundary }
}

/// Waits for all of them.
pub async fn join(drips: &mut JoinSet<Ended>) -> Vec<Ended> {
    let mut ends = Vec::new();
    while let Some(end) = drips.join_next().await {
        let lost = |error: tokio::task::JoinError| Ended {
            at: Instant::now(),
            bytes: 0,
            failure: Some(error.to_string()),
            at_boundary: false,
        };
        ends.push(end.unwrap_or_else(lost));
    }
    ends
}
