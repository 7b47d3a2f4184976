//! One object in the spool: a file that one fill writes and many readers read, also while it grows.
//!
//! Invariants: bytes below [`Object::filled`] never change; an object that has failed is not read any
//! more, so no reader gets the bytes of two versions. Authorised queries (tickets) are kept until the
//! object is complete, so that a fill can go on when the query that it began with has expired.
//!
//! This file must not know HTTP beyond a response head, and neither S3 nor the catalogue.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;
use pingora_http::ResponseHeader;
use tokio::sync::{Notify, watch};

use super::admission::ObjectName;
use super::budget::Reservation;
use super::file::SpoolFile;
use crate::drip::source::{Availability, Source};

/// How many authorised queries are kept for a fill.
const TICKETS: usize = 32;

/// Where an object's fill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// S3 has not answered the fill yet.
    Waiting,
    /// This many bytes are there.
    Filling(u64),
    /// All of them are.
    Complete,
    /// The fill ended early, and the object cannot be read any more.
    Failed(Failure),
}

/// Why a fill ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// S3 has another version, or none, by now.
    #[error("the object changed while it was fetched")]
    Changed,
    /// Nobody reads it any more.
    #[error("nobody reads it any more")]
    Abandoned,
    /// S3's answer is not one that may be stored.
    #[error("S3's answer cannot be stored")]
    Unstorable,
    /// The disk is full or fails.
    #[error("the spool's disk is full or fails")]
    Disk,
    /// S3 broke the fill more often than it is tried.
    #[error("S3 could not be read to the end")]
    Upstream,
}

/// What S3 said of an object when it began to send it.
#[derive(Debug)]
struct Content {
    /// S3's 200, hop-by-hop headers aside.
    head: ResponseHeader,
    /// None for an object of which only the head is known.
    file: Option<SpoolFile>,
    since: SystemTime,
}

/// One version of an object.
pub struct Object {
    name: ObjectName,
    etag: HeaderValue,
    length: u64,
    content: OnceLock<Content>,
    state: watch::Sender<State>,
    readers: AtomicUsize,
    /// Told when the last reader leaves.
    left: Notify,
    /// Its fill is finished even if nobody reads.
    persists: AtomicBool,
    tickets: Mutex<VecDeque<Arc<[u8]>>>,
    /// Dropped with the object, which gives its bytes back. None for an object without a file.
    _reservation: Option<Reservation>,
}

impl Object {
    /// An object to be filled, of at least one byte.
    pub(super) fn new(
        name: ObjectName,
        etag: HeaderValue,
        length: u64,
        reservation: Reservation,
    ) -> Self {
        Self {
            name,
            etag,
            length,
            content: OnceLock::new(),
            state: watch::Sender::new(State::Waiting),
            readers: AtomicUsize::new(0),
            left: Notify::new(),
            persists: AtomicBool::new(false),
            tickets: Mutex::default(),
            _reservation: Some(reservation),
        }
    }

    /// An object of which only the head is known and served.
    #[expect(clippy::disallowed_methods, reason = "an object's age is told to the cache")]
    pub(super) fn head_only(
        name: ObjectName,
        etag: HeaderValue,
        length: u64,
        head: ResponseHeader,
    ) -> Self {
        Self {
            name,
            etag,
            length,
            content: OnceLock::from(Content { head, file: None, since: SystemTime::now() }),
            state: watch::Sender::new(State::Failed(Failure::Abandoned)),
            readers: AtomicUsize::new(0),
            left: Notify::new(),
            persists: AtomicBool::new(false),
            tickets: Mutex::default(),
            _reservation: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// The version's ETag, as S3 writes it.
    pub fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where its fill stands.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Bytes that can be read.
    pub fn filled(&self) -> u64 {
        match self.state() {
            State::Filling(filled) => filled,
            State::Complete => self.length,
            State::Waiting | State::Failed(_) => 0,
        }
    }

    /// Readers and clients that wait to become one.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    /// Becomes a reader, whose request `target` S3 has authorised.
    pub(super) fn read(self: &Arc<Self>, target: Arc<[u8]>) -> BodyReader {
        self.readers.fetch_add(1, Ordering::AcqRel);
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state() != State::Complete && !tickets.contains(&target) {
            if tickets.len() == TICKETS {
                tickets.pop_front();
            }
            tickets.push_back(target);
        }
        drop(tickets);
        BodyReader { object: Arc::clone(self), start: AtomicU64::new(0) }
    }

    /// How many bytes are there, if that is `end` or all of them, or why they never will be; `None` while
    /// they are still to come.
    fn available(&self, end: u64, state: &State) -> Option<Result<u64, Failure>> {
        match state {
            State::Waiting => None,
            State::Filling(filled) => (*filled >= end.min(self.length)).then_some(Ok(*filled)),
            State::Complete => Some(Ok(self.length)),
            State::Failed(why) => Some(Err(*why)),
        }
    }

    async fn reached(&self, mut state: watch::Receiver<State>, end: u64) -> Result<u64, Failure> {
        let state = state.wait_for(|state| self.available(end, state).is_some()).await;
        state.ok().and_then(|state| self.available(end, &state)).unwrap_or(Err(Failure::Abandoned))
    }

    /// The newest query that S3 has authorised and not refused since.
    pub(super) fn ticket(&self) -> Option<Arc<[u8]>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).back().cloned()
    }

    /// Makes the fill go on to its end even without readers.
    pub(super) fn persist(&self) {
        self.persists.store(true, Ordering::Release);
    }

    /// Whether the fill goes on without readers: that was asked for, or half of the object is there.
    pub(super) fn persists(&self) -> bool {
        self.persists.load(Ordering::Acquire) || self.filled() > self.length / 2
    }

    /// Forgets a query that S3 refuses by now.
    pub(super) fn discard_ticket(&self, ticket: &Arc<[u8]>) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|known| known != ticket);
    }

    /// S3's head has come, and the file is there. Only the first call counts.
    #[expect(clippy::disallowed_methods, reason = "an object's age is told to the cache")]
    pub(super) fn begin(&self, head: ResponseHeader, file: SpoolFile) {
        if self.content.set(Content { head, file: Some(file), since: SystemTime::now() }).is_ok() {
            self.state.send_replace(State::Filling(0));
        }
    }

    /// Writes the next bytes and makes them available to readers. Blocks. Bytes that come after the
    /// object has failed are dropped.
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let State::Filling(at) = self.state() else { return Ok(()) };
        self.file()?.write(at, bytes)?;
        let filled = at + bytes.len() as u64;
        let complete = filled >= self.length;
        self.state.send_if_modified(|state| {
            let goes_on = matches!(state, State::Filling(_));
            if goes_on {
                *state = if complete { State::Complete } else { State::Filling(filled) };
            }
            goes_on
        });
        if complete {
            self.tickets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(())
    }

    /// Ends the fill early; readers get an error.
    pub(super) fn fail(&self, why: Failure) {
        self.state.send_if_modified(|state| {
            let fails = *state != State::Complete;
            if fails {
                *state = State::Failed(why);
            }
            fails
        });
    }

    /// Resolves once nobody reads.
    pub(super) async fn abandoned(&self) {
        loop {
            let left = self.left.notified();
            if self.readers() == 0 {
                return;
            }
            left.await;
        }
    }

    fn file(&self) -> io::Result<&SpoolFile> {
        let content = self.content.get();
        let file = content.and_then(|content| content.file.as_ref());
        file.ok_or_else(|| io::Error::other("the object has no file"))
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("name", &self.name)
            .field("etag", &self.etag)
            .field("length", &self.length)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// One client's access to an object's body. While there is one, the object is not evicted.
#[derive(Debug)]
pub struct BodyReader {
    object: Arc<Object>,
    /// Where the client's body begins.
    start: AtomicU64,
}

impl BodyReader {
    /// The object that is read.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// S3's head and since when it holds. None before [`Self::established`].
    #[must_use]
    pub fn head(&self) -> Option<(&ResponseHeader, SystemTime)> {
        self.object.content.get().map(|content| (&content.head, content.since))
    }

    /// Waits until S3 has answered the fill.
    ///
    /// # Errors
    ///
    /// If the fill failed before.
    pub async fn established(&self) -> Result<(), Failure> {
        let mut state = self.object.state.subscribe();
        let state = state.wait_for(|state| *state != State::Waiting).await;
        match state.as_deref() {
            Ok(State::Failed(why)) => Err(*why),
            _ => Ok(()),
        }
    }

    /// Waits until `end` bytes are there, or all of them; returns how many are.
    ///
    /// # Errors
    ///
    /// If the fill failed.
    pub async fn reached(&self, end: u64) -> Result<u64, Failure> {
        // Most reads find the bytes there. A subscription, which costs a lock, is for the others.
        if let Some(available) = self.object.available(end, &self.object.state.borrow()) {
            return available;
        }
        self.object.reached(self.object.state.subscribe(), end).await
    }

    /// Sets where the client's body begins.
    pub fn seek(&self, start: u64) {
        self.start.store(start, Ordering::Relaxed);
    }

    /// A copy of `length` bytes at `offset`, read on a thread that may block.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub async fn copy(self: &Arc<Self>, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let reader = Arc::clone(self);
        let copy = move || {
            let mut buf = vec![0; length];
            reader.read(offset, &mut buf).map(|()| buf)
        };
        tokio::task::spawn_blocking(copy).await.map_err(io::Error::other)?
    }

    fn readable_file(&self) -> io::Result<&SpoolFile> {
        if let State::Failed(why) = self.object.state() {
            return Err(io::Error::other(why));
        }
        self.object.file()
    }
}

impl Source for BodyReader {
    fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    fn availability(&self, end: u64) -> Option<Availability> {
        if self.object.available(end, &self.object.state.borrow()).is_some() {
            return None;
        }
        let object = Arc::clone(&self.object);
        let state = object.state.subscribe();
        Some(Box::pin(async move {
            object.reached(state, end).await.map(|_| ()).map_err(io::Error::other)
        }))
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.readable_file()?.read_now(offset, buf)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.readable_file()?.read(offset, buf)
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        if self.object.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.object.left.notify_waiters();
        }
    }
}
