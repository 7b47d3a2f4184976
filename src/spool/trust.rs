//! Which requests S3 has authorised a short while ago, for as long as the configuration trusts that.
//!
//! Invariant: nothing is trusted beyond the end of its own signature. This file must not know S3.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use openssl::sha::sha256;

/// How many requests are remembered. Each takes some 100 bytes, so all of them take a few MB.
const REMEMBERED: usize = 65_536;

/// What was authorised, by the digest of path and query, and until when that holds.
#[derive(Debug)]
pub struct Trust {
    lasts: Duration,
    until: Mutex<LruCache<[u8; 32], Instant>>,
}

impl Trust {
    /// Trust that `lasts` for this time; zero trusts nothing.
    pub fn new(lasts: Duration) -> Self {
        Self { lasts, until: Mutex::new(LruCache::unbounded()) }
    }

    /// Remembers a request, whose signature ends at `expires`. A signed request whose end is not known is
    /// not remembered.
    #[expect(clippy::disallowed_methods, reason = "an answer of S3 is trusted until a time")]
    pub fn add(&self, target: &[u8], expires: Option<SystemTime>) {
        let signed = target.windows(SIGNATURE.len()).any(|w| w.eq_ignore_ascii_case(SIGNATURE));
        let left = match expires {
            Some(expires) => expires.duration_since(SystemTime::now()).unwrap_or_default(),
            None if signed => Duration::ZERO,
            None => Duration::MAX,
        };
        let lasts = self.lasts.min(left);
        if lasts.is_zero() {
            return;
        }
        let until = Instant::now() + lasts;
        let mut remembered = self.lock();
        remembered.put(sha256(target), until);
        if remembered.len() > REMEMBERED {
            remembered.pop_lru();
        }
    }

    /// Whether this very request is to be trusted now.
    #[expect(clippy::disallowed_methods, reason = "an answer of S3 is trusted until a time")]
    pub fn holds(&self, target: &[u8]) -> bool {
        if self.lasts.is_zero() {
            return false;
        }
        self.lock().get(&sha256(target)).is_some_and(|until| Instant::now() < *until)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Instant>> {
        // Nothing panics while it is held.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of every signed query, of either version.
const SIGNATURE: &[u8] = b"signature=";

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;

    const SIGNED: &[u8] = b"/b/k?X-Amz-Signature=1";

    #[test]
    fn trust_ends_with_its_time_or_its_signature() {
        let none = Trust::new(Duration::ZERO);
        none.add(b"/b/k", None);
        assert!(!none.holds(b"/b/k"));

        let trust = Trust::new(Duration::from_secs(600));
        trust.add(b"/b/k", None);
        assert!(trust.holds(b"/b/k"));
        assert!(!trust.holds(b"/b/k?"), "another target");
        trust.add(SIGNED, None);
        assert!(!trust.holds(SIGNED), "of unknown end");
        let soon = SystemTime::now() + Duration::from_millis(300);
        trust.add(SIGNED, Some(soon));
        assert!(trust.holds(SIGNED));
        std::thread::sleep(Duration::from_millis(400));
        assert!(!trust.holds(SIGNED));
        trust.add(SIGNED, Some(soon));
        assert!(!trust.holds(SIGNED), "it has ended before");

        let short = Trust::new(Duration::from_millis(200));
        short.add(b"/b/k", None);
        assert!(short.holds(b"/b/k"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!short.holds(b"/b/k"));
    }
}
