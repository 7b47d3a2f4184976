//! Which objects are in the spool, and the budget that they share.
//!
//! Invariants: files never have more bytes reserved than the budget, and those of replaced objects that
//! are still read count too; what is read or filled is never evicted; readers come
//! and fills are abandoned under one lock, so no reader joins a fill that has just stopped.
//!
//! This file must not know files, S3 or HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use lru::LruCache;

use super::admission::ObjectName;
use super::budget::{Reservation, Reserved};
use super::object::{BodyReader, Failure, Object, State};
use crate::metrics::SpoolMetrics;

/// The objects by name. The least recently used is evicted first.
#[derive(Debug)]
pub struct Catalogue {
    max_bytes: u64,
    max_objects: usize,
    reserved: Reserved,
    objects: Mutex<LruCache<ObjectName, Arc<Object>>>,
    metrics: SpoolMetrics,
}

/// What an authorised client may read.
#[derive(Debug)]
pub enum Place {
    /// An object that is there or being filled.
    Present(BodyReader),
    /// A new object. The caller has to start its fill.
    New(BodyReader),
    /// Everything in the spool is being read or filled, and leaves no room.
    Full,
}

impl Catalogue {
    /// An empty catalogue.
    pub fn new(max_bytes: u64, max_objects: usize, metrics: SpoolMetrics) -> Self {
        let reserved = Reserved::new(metrics.clone());
        let objects = Mutex::new(LruCache::unbounded());
        Self { max_bytes, max_objects, reserved, objects, metrics }
    }

    /// The object of that name, if it is there or being filled.
    pub fn find(&self, name: &ObjectName) -> Option<Arc<Object>> {
        self.lock().get(name).cloned()
    }

    /// Lets an authorised client read what it was authorised for; `None` if that has failed since.
    pub fn read(&self, object: &Arc<Object>, target: Arc<[u8]>) -> Option<BodyReader> {
        let _lock = self.lock();
        let failed = matches!(object.state(), State::Failed(_));
        (!failed).then(|| object.read(target))
    }

    /// Lets an authorised client read the version that S3 has now. An older version leaves the catalogue;
    /// those that read it go on.
    pub fn join(
        &self,
        name: &ObjectName,
        etag: &HeaderValue,
        length: u64,
        target: Arc<[u8]>,
    ) -> Place {
        let mut objects = self.lock();
        if let Some(object) = objects.get(name) {
            let same = object.etag() == etag && object.length() == length;
            if same && !matches!(object.state(), State::Failed(_)) {
                return Place::Present(object.read(target));
            }
            objects.pop(name);
            self.metrics.objects.set(i64::try_from(objects.len()).unwrap_or(i64::MAX));
        }
        let Some(space) = self.make_room(&mut objects, length) else { return Place::Full };
        let object = Arc::new(Object::new(name.clone(), etag.clone(), length, space));
        let reader = object.read(target);
        objects.put(name.clone(), object);
        Place::New(reader)
    }

    /// Stops a fill that nobody reads; false if somebody does by now.
    pub fn abandon(&self, object: &Arc<Object>) -> bool {
        let mut objects = self.lock();
        let nobody = object.readers() == 0;
        if nobody {
            self.forget(&mut objects, object);
            object.fail(Failure::Abandoned);
        }
        nobody
    }

    /// Ends a fill that cannot go on, and its readers with it.
    pub fn fail(&self, object: &Arc<Object>, why: Failure) {
        let mut objects = self.lock();
        self.forget(&mut objects, object);
        object.fail(why);
    }

    fn forget(&self, objects: &mut LruCache<ObjectName, Arc<Object>>, object: &Arc<Object>) {
        if objects.peek(object.name()).is_some_and(|known| Arc::ptr_eq(known, object)) {
            objects.pop(object.name());
        }
        self.metrics.objects.set(i64::try_from(objects.len()).unwrap_or(i64::MAX));
    }

    /// Evicts what has to go for an object of `length` bytes, and reserves them; `None` if that cannot be
    /// done.
    fn make_room(
        &self,
        objects: &mut LruCache<ObjectName, Arc<Object>>,
        length: u64,
    ) -> Option<Reservation> {
        let idle = |object: &Object| object.readers() == 0 && object.state() == State::Complete;
        let enough = |used: u64, count: usize| {
            count < self.max_objects && used.saturating_add(length) <= self.max_bytes
        };
        // The oldest go first. None goes if all of them together would not do.
        let (mut used, mut count, mut going) = (self.reserved.bytes(), objects.len(), Vec::new());
        for (name, object) in objects.iter().rev() {
            if enough(used, count) {
                break;
            }
            if idle(object) {
                used = used.saturating_sub(object.length());
                count -= 1;
                going.push(name.clone());
            }
        }
        if !enough(used, count) {
            return None;
        }
        for name in &going {
            objects.pop(name);
            self.metrics.evictions.inc();
        }
        self.metrics.objects.set(i64::try_from(objects.len() + 1).unwrap_or(i64::MAX));
        Some(self.reserved.reserve(length))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<ObjectName, Arc<Object>>> {
        // Nothing panics while it is held.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn catalogue(max_bytes: u64, max_objects: usize) -> Catalogue {
        Catalogue::new(max_bytes, max_objects, Metrics::new().spool)
    }

    fn name(text: &str) -> ObjectName {
        let key = crate::route::ObjectKey::new(text.as_bytes()).unwrap();
        super::super::admission::admit(&http::Method::GET, &key, None, &http::HeaderMap::new())
            .unwrap()
    }

    fn etag(text: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("\"{text}\"")).unwrap()
    }

    fn join(catalogue: &Catalogue, key: &str, version: &str, length: u64) -> Place {
        catalogue.join(&name(key), &etag(version), length, Arc::from(key.as_bytes()))
    }

    /// Joins as the first, and fills the object.
    fn fill(catalogue: &Catalogue, key: &str, length: u64) -> BodyReader {
        let Place::New(reader) = join(catalogue, key, "1", length) else {
            panic!("{key} is not new");
        };
        let parent = tempfile::tempdir().unwrap();
        let directory = crate::spool::file::Directory::open(parent.path()).unwrap();
        let file = crate::spool::file::SpoolFile::create(&directory, length).unwrap();
        let head = pingora_http::ResponseHeader::build(200, None).unwrap();
        reader.object().begin(head, file);
        reader.object().append(&vec![1; usize::try_from(length).unwrap()]).unwrap();
        reader
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let catalogue = catalogue(30, 100);
        drop(fill(&catalogue, "a", 10));
        drop(fill(&catalogue, "b", 10));
        drop(fill(&catalogue, "c", 10));
        assert!(catalogue.find(&name("a")).is_some(), "used again");
        drop(fill(&catalogue, "d", 10));
        assert!(catalogue.find(&name("b")).is_none());
        assert!(catalogue.find(&name("a")).is_some());
        assert!(catalogue.find(&name("c")).is_some());
        assert_eq!(catalogue.reserved.bytes(), 30);
        assert_eq!(catalogue.metrics.evictions.get(), 1);
    }

    #[test]
    fn what_is_read_or_filled_stays() {
        let catalogue = catalogue(30, 100);
        let read = fill(&catalogue, "read", 10);
        let Place::New(filled) = join(&catalogue, "filled", "1", 15) else { panic!() };
        drop(fill(&catalogue, "idle", 5));
        assert!(matches!(join(&catalogue, "new", "1", 6), Place::Full));
        assert!(catalogue.find(&name("idle")).is_some(), "it would have gone in vain");
        assert!(matches!(join(&catalogue, "new", "1", 5), Place::New(_)));
        assert!(catalogue.find(&name("idle")).is_none());
        drop(read);
        assert!(matches!(join(&catalogue, "newer", "1", 10), Place::New(_)));
        assert!(catalogue.find(&name("read")).is_none());
        assert!(catalogue.find(&name("filled")).is_some());
        drop(filled);
        assert!(matches!(join(&catalogue, "newest", "1", 1), Place::Full), "half filled");
    }

    #[test]
    fn another_version_replaces_the_first_whose_bytes_stay_counted_while_it_is_read() {
        let catalogue = catalogue(20, 100);
        let old = fill(&catalogue, "a", 10);
        let Place::New(new) = join(&catalogue, "a", "2", 10) else { panic!("not new") };
        assert_eq!(catalogue.find(&name("a")).unwrap().etag(), etag("2"));
        assert_eq!(old.object().etag(), etag("1"));
        assert_eq!(catalogue.reserved.bytes(), 20);
        assert!(matches!(join(&catalogue, "b", "1", 1), Place::Full));
        drop(old);
        assert_eq!(catalogue.reserved.bytes(), 10);
        assert!(matches!(join(&catalogue, "a", "2", 10), Place::Present(_)));
        drop(new);
    }

    #[test]
    fn a_fill_is_abandoned_only_without_readers_and_then_nobody_joins_it() {
        let catalogue = catalogue(20, 100);
        let Place::New(first) = join(&catalogue, "a", "1", 10) else { panic!() };
        let object = Arc::clone(first.object());
        let Place::Present(second) = join(&catalogue, "a", "1", 10) else { panic!() };
        drop(first);
        assert!(!catalogue.abandon(&object));
        drop(second);
        assert!(catalogue.abandon(&object));
        assert!(catalogue.read(&object, Arc::from(&b"a"[..])).is_none());
        assert!(matches!(join(&catalogue, "a", "1", 10), Place::New(_)));
    }

    #[test]
    fn the_number_of_objects_is_bounded_too() {
        let catalogue = catalogue(1000, 2);
        drop(fill(&catalogue, "a", 1));
        drop(fill(&catalogue, "b", 1));
        drop(fill(&catalogue, "c", 1));
        assert!(catalogue.find(&name("a")).is_none());
        assert_eq!(catalogue.lock().len(), 2);
        assert!(matches!(join(&catalogue, "huge", "1", 1001), Place::Full));
        assert_eq!(catalogue.lock().len(), 2, "nothing went for what can never fit");
    }
}
