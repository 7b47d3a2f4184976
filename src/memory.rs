//! Gives memory back to the system after many drips (paced downloads) have ended.
//!
//! glibc keeps freed memory for later allocations, and gives it back by itself only if the heap's end
//! is free, which it hardly ever is among the small pieces of a thousand connections. A daemon that once
//! served a thousand drips at a time would keep their 150 MB for months. This file must not know what
//! a drip is; it is told how many there are.

use std::time::Duration;

/// How often the number of drips is read.
const EVERY: Duration = Duration::from_secs(2);

/// A peak of fewer drips, at some 150 KB each, is not worth a visit to every page of the heap.
const WORTH: usize = 50;

/// Watches the number of drips, and trims the heap once it has fallen to less than half of what it
/// was.
pub async fn give_back(count: impl Fn() -> usize) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut peak = 0;
    loop {
        ticks.tick().await;
        let now = count();
        if is_time(&mut peak, now) {
            // It visits every page of the heap, which takes too long for a thread that drips.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

fn is_time(peak: &mut usize, now: usize) -> bool {
    let fallen = *peak >= WORTH && now < *peak / 2;
    *peak = if fallen { now } else { now.max(*peak) };
    fallen
}

#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "malloc_trim(3), which the libc crate declares unsafe")
)]
fn trim() {
    // SAFETY: malloc_trim(3) has no preconditions and is thread-safe.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_trimmed_once_after_each_wave() {
        let mut peak = 0;
        let trimmed: Vec<bool> = [10, 3, 100, 60, 40, 30, 0, 0, 200, 99, 0, 0]
            .into_iter()
            .map(|now| is_time(&mut peak, now))
            .collect();
        let at: Vec<_> = trimmed.iter().enumerate().filter(|(_, t)| **t).map(|(i, _)| i).collect();
        assert_eq!(at, [4, 9, 10]);
    }
}
