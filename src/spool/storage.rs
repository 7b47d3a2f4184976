//! The storage that pingora-cache is given: its hit path serves what [`super::Spool`] has authorised.
//!
//! A lookup sees only the key, so the authorised [`Hit`] travels in the key's extensions, and a
//! lookup returns that one or nothing. Ranges, 304 and HEAD come from the library. Its own fill,
//! lock and revalidation are not used: they know nothing of who was authorised.
//!
//! A body is one promise ([`crate::drip::source`]): the client's stream reads the bytes when they are due
//! and there, so nothing of the object is in memory while a reader waits. Only the parts of a multipart
//! answer, which the library copies together, are read here.
//!
//! This file must not know how a client is authorised or an object filled.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::storage::{
    HandleHit, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{CacheKey, CacheMeta};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::object::BodyReader;
use crate::drip::source;

/// How long a hit counts as fresh. It serves one request, which S3 has authorised a moment ago.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a multipart part that are read at a time.
const PIECE: u64 = 4096;

/// The one instance. It finds nothing but the [`Hit`] in a request's own cache key.
pub static STORAGE: AuthorisedStorage = AuthorisedStorage;

/// One authorised request's object, on its way through pingora-cache.
#[derive(Clone)]
pub struct Hit {
    reader: Arc<BodyReader>,
    /// The head for this client. The lookup takes it.
    head: Arc<Mutex<Option<(ResponseHeader, SystemTime)>>>,
    /// Several ranges were asked for, whose bytes the library copies.
    copied: bool,
}

impl Hit {
    /// An authorised reading and the head that goes with it.
    #[must_use]
    pub fn new(
        reader: Arc<BodyReader>,
        head: ResponseHeader,
        since: SystemTime,
        copied: bool,
    ) -> Self {
        let head = Arc::new(Mutex::new(Some((head, since))));
        Self { reader, head, copied }
    }

    /// A cache key that carries it to the lookup.
    #[must_use]
    pub fn into_key(self) -> CacheKey {
        // The lookup goes by the extension alone, so the key needs no name.
        let mut key = CacheKey::new(Vec::new(), String::new());
        key.extensions.insert(self);
        key
    }
}

/// A storage that holds nothing itself: the authorised object comes with the request.
#[derive(Debug)]
pub struct AuthorisedStorage;

#[async_trait]
impl Storage for AuthorisedStorage {
    #[expect(clippy::disallowed_methods, reason = "pingora-cache wants an expiry")]
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(hit) = key.extensions.get::<Hit>() else { return Ok(None) };
        let head = hit.head.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((head, since)) = head else { return Ok(None) };
        let meta = CacheMeta::new(SystemTime::now() + FRESH, since, 0, 0, head);
        let end = hit.reader.object().length();
        let body = Body { reader: Arc::clone(&hit.reader), at: 0, end, copied: hit.copied };
        Ok(Some((meta, Box::new(body))))
    }

    async fn get_miss_handler(
        &'static self,
        _: &CacheKey,
        _: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        Error::e_explain(ErrorType::InternalError, "the spool is not filled this way")
    }

    async fn purge(
        &'static self,
        _: PurgeTarget<'_>,
        _: PurgeType,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(
        &'static self,
        _: &CacheKey,
        _: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<bool> {
        Ok(false)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// What a client reads of an object.
struct Body {
    reader: Arc<BodyReader>,
    /// Offset of the next byte.
    at: u64,
    end: u64,
    copied: bool,
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let left = self.end - self.at;
        let bytes = if self.copied {
            let length = left.min(PIECE);
            self.reader.reached(self.at + length).await.map_err(closed_short)?;
            let copy = self.reader.copy(self.at, usize::try_from(length).unwrap_or(0)).await;
            Bytes::from(copy.map_err(closed_short)?)
        } else {
            // The bytes may still be to come: the stream waits for them.
            source::promise(usize::try_from(left).unwrap_or(usize::MAX))
        };
        self.at += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

fn closed_short(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<Error> {
    Error::because(ErrorType::ReadError, "the object cannot be read on", e).into_up()
}

#[async_trait]
impl HandleHit for Body {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.next().await
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let length = self.reader.object().length();
        self.at = start as u64;
        self.end = end.map_or(length, |end| end as u64).min(length);
        self.reader.seek(self.at);
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}
