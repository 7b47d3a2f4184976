//! Which ranges are served from the spool, and which are cheaper at S3.
//!
//! An object that is not in the spool is fetched whole in three cases: for a request for all of it; for a
//! range of half of it or more that begins within [`REACH`]; and once the ranges that were asked for add
//! up to half of it, since some devices fetch block by block. Ranges of up to [`SMALL_RANGE`] bytes go
//! direct until then. While an object is being fetched, a range waits if it begins no more than [`REACH`]
//! bytes beyond what is there.
//!
//! This file must not know who asks.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{Method, header};
use lru::LruCache;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{RangeType, range_header_filter};

use super::admission::{ObjectName, SMALL_RANGE};
use super::object::{Object, State};
use crate::s3::headers;

/// How far ahead of a fill a range may begin, in bytes: what S3 sends in a second or less.
const REACH: u64 = 16 << 20;

/// After this many bytes of small ranges, all direct, an object's length is asked for.
const LENGTH_CHECK_BYTES: u64 = 4 * SMALL_RANGE;

/// Objects of which small ranges are counted.
const COUNTED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Ranges from this number on are ignored: what the library does when it serves them.
const MAX_RANGES: Option<usize> = Some(200);

/// What a request wants of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// All of it, or its head.
    Whole,
    /// So many bytes, the first of them at `start`, in `parts` ranges.
    Part { start: u64, bytes: u64, parts: usize },
    /// Nothing that it has: S3 answers 416.
    Nothing,
}

impl Need {
    /// What `request` wants of the object with that head: a 200 with its Content-Length.
    pub fn of(request: &RequestHeader, head: &ResponseHeader) -> Self {
        if request.method != Method::GET || !request.headers.contains_key(header::RANGE) {
            return Self::Whole;
        }
        match range_header_filter(request, &mut head.clone(), MAX_RANGES) {
            RangeType::None => Self::Whole,
            // A suffix of no bytes, which the library takes for one.
            RangeType::Single(range) if range.is_empty() => Self::Nothing,
            RangeType::Single(range) => {
                Self::Part { start: range.start as u64, bytes: range.len() as u64, parts: 1 }
            }
            RangeType::Multi(several) if several.ranges.iter().any(Range::is_empty) => {
                Self::Nothing
            }
            RangeType::Multi(several) => Self::Part {
                start: several.ranges.iter().map(|range| range.start).min().unwrap_or(0) as u64,
                bytes: several.ranges.iter().map(|range| range.len() as u64).sum(),
                parts: several.ranges.len(),
            },
            RangeType::Invalid => Self::Nothing,
        }
    }

    /// Whether a fill for it goes on without readers, since clients that read in parts come and go.
    pub fn is_part_of(&self, length: u64) -> bool {
        matches!(self, Self::Part { bytes, .. } if *bytes < length)
    }

    /// Whether it begins so far ahead of the fill that S3 is asked for it instead.
    pub fn is_ahead_of(&self, object: &Object) -> bool {
        let Self::Part { start, .. } = self else { return false };
        object.state() != State::Complete && *start > object.filled().saturating_add(REACH)
    }
}

/// How many bytes of which absent object were asked for in ranges, and the object's length once it
/// is known.
#[derive(Debug)]
pub struct Interest(Mutex<LruCache<ObjectName, (u64, Option<u64>)>>);

impl Default for Interest {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(COUNTED)))
    }
}

impl Interest {
    /// Whether a request for an absent object goes direct without a check. Counts its bytes.
    pub fn goes_direct(&self, name: &ObjectName, request: &RequestHeader) -> bool {
        let range = request.headers.get(header::RANGE).filter(|_| request.method == Method::GET);
        let length = range.and_then(|range| headers::range_length(range.as_bytes()));
        let Some(length) = length.filter(|length| *length <= SMALL_RANGE) else { return false };
        let mut counted = self.lock();
        let (asked, whole) = counted.get_or_insert_mut(name.clone(), || (0, None));
        *asked = asked.saturating_add(length);
        match whole {
            Some(whole) => !makes_half(*asked, *whole),
            None => *asked < LENGTH_CHECK_BYTES,
        }
    }

    /// Whether an absent object of `length` bytes is to be fetched for what is needed of it.
    pub fn is_worth(&self, name: &ObjectName, need: Need, length: u64) -> bool {
        let Need::Part { start, bytes, .. } = need else { return need == Need::Whole };
        // A large range far ahead would go direct even so. A small one may start the fetch for later ones.
        if start > REACH && bytes > SMALL_RANGE {
            return false;
        }
        let mut counted = self.lock();
        let (asked, whole) = counted.get_or_insert_mut(name.clone(), || (0, None));
        // Small ranges are counted in `goes_direct`.
        if bytes > SMALL_RANGE {
            *asked = asked.saturating_add(bytes);
        }
        *whole = Some(length);
        makes_half(bytes.max(*asked), length)
    }

    /// Forgets the ranges of an object, which is being fetched now.
    pub fn forget(&self, name: &ObjectName) {
        self.lock().pop(name);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<ObjectName, (u64, Option<u64>)>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn makes_half(bytes: u64, whole: u64) -> bool {
    bytes >= whole / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(range: &str) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/k", None).unwrap();
        request.insert_header("range", range).unwrap();
        request
    }

    fn need(range: &str, length: u64) -> Need {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("content-length", length).unwrap();
        Need::of(&request(range), &head)
    }

    fn name() -> ObjectName {
        let key = crate::route::ObjectKey::new(b"k").unwrap();
        super::super::admission::admit(&Method::GET, &key, None, &http::HeaderMap::new()).unwrap()
    }

    #[test]
    fn what_is_needed_is_what_the_library_will_serve() {
        assert_eq!(need("bytes=0-99", 1000), Need::Part { start: 0, bytes: 100, parts: 1 });
        assert_eq!(need("bytes=-10", 1000), Need::Part { start: 990, bytes: 10, parts: 1 });
        assert_eq!(need("bytes=5-6,900-", 1000), Need::Part { start: 5, bytes: 102, parts: 2 });
        assert_eq!(need("bytes=1000-", 1000), Need::Nothing);
        assert_eq!(need("bytes=-0", 1000), Need::Nothing);
        assert_eq!(need("bytes=0-9,-0", 1000), Need::Nothing);
        let many =
            |n: u64| (0..n).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(",");
        assert_eq!(
            need(&format!("bytes={}", many(199)), 1000),
            Need::Part { start: 0, bytes: 199, parts: 199 }
        );
        assert_eq!(need(&format!("bytes={}", many(200)), 1000), Need::Whole);
        assert_eq!(need("lines=1-2", 1000), Need::Whole);
        let mut head = request("bytes=0-0");
        head.set_method(Method::HEAD);
        assert_eq!(Need::of(&head, &ResponseHeader::build(200, None).unwrap()), Need::Whole);
    }

    #[test]
    fn an_object_is_fetched_for_half_of_it_and_not_for_a_hundred_bytes() {
        let interest = Interest::default();
        let length = 10 << 20;
        assert!(interest.is_worth(&name(), Need::Whole, length));
        let part = |start, bytes| Need::Part { start, bytes, parts: 1 };
        assert!(!interest.is_worth(&name(), part(0, 100), length));
        assert!(interest.is_worth(&name(), part(0, 5 << 20), length));
        assert!(!interest.is_worth(&name(), part(REACH + 1, 1 << 30), 1 << 30), "too far in");
        // Block by block, an object whose half is beyond the reach is fetched too.
        let (large, interest) = (4 * REACH, Interest::default());
        let mut blocks = (0..large).step_by(1 << 16);
        let begun = blocks.find(|at| {
            let _ = interest.goes_direct(&name(), &request(&format!("bytes={at}-{}", at + 0xffff)));
            interest.is_worth(&name(), part(*at, 1 << 16), large)
        });
        assert_eq!(begun, Some(large / 2 - (1 << 16)));
        assert!(!interest.is_worth(&name(), Need::Nothing, length));
    }

    #[test]
    fn small_ranges_add_up() {
        let interest = Interest::default();
        let length = 1 << 20;
        let block = request("bytes=0-4095");
        let mut direct = 0;
        while interest.goes_direct(&name(), &block) {
            direct += 1;
        }
        assert_eq!(direct, LENGTH_CHECK_BYTES / 4096 - 1, "then its length is asked for");
        let part = Need::Part { start: 0, bytes: 4096, parts: 1 };
        assert!(!interest.is_worth(&name(), part, length));
        while interest.goes_direct(&name(), &block) {
            direct += 1;
        }
        assert_eq!(direct + 2, length / 2 / 4096, "one was checked, and the last one is");
        assert!(interest.is_worth(&name(), part, length));
        interest.forget(&name());
        assert!(interest.goes_direct(&name(), &block));
        assert!(!interest.goes_direct(&name(), &request("bytes=0-")), "of unknown length");
        assert!(!interest.goes_direct(&name(), &request("bytes=0-65536")), "more than small");
    }
}
