//! The spool: S3 is read once, at full speed, into a private file, and every client is served from
//! that file. S3 itself authorises each request.
//!
//! [`admission`] says which requests may be served from it (pure). [`Spool::authorise`] asks S3
//! (`check`), with the request's own path and query, whether this client may have what it asks for; no
//! client waits for another one's check. [`object`] is one version of an object, [`catalogue`] holds all
//! of them within a `budget`, [`mod@file`] holds their bytes, `fill` is the task that gets them from S3,
//! `ranges` says which ranges are worth that, `trust` remembers what S3 has authorised, and [`storage`]
//! is how pingora-cache's hit path gets at an object.
//!
//! Invariants: no byte of a body, and no header, reaches a client whose request S3 has not
//! authorised; one fill per version however many ask; no reader gets the bytes of two versions.
//!
//! This room must not know how a body is paced, nor anything of the configuration file.

pub mod admission;
mod budget;
pub mod catalogue;
mod check;
pub mod file;
mod fill;
pub mod object;
mod ranges;
pub mod settings;
pub mod storage;
mod trust;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use pingora_core::Error;
use pingora_core::protocols::http::conditional_filter::not_modified_filter;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::Semaphore;

use crate::metrics::SpoolMetrics;
use crate::s3::client::Client;
use admission::{Bypass, ObjectName};
use catalogue::{Catalogue, Place};
use check::Checked;
use file::Directory;
use object::{BodyReader, Failure, Object, State};
use ranges::{Interest, Need};
pub use settings::Settings;
use trust::Trust;

/// How often a request is authorised anew because the object changed, or its fill was given up,
/// between the check and the first byte.
const ROUNDS: u32 = 3;

/// The spool of one bucket.
pub struct Spool {
    settings: Settings,
    directory: Directory,
    catalogue: Catalogue,
    client: Client,
    slots: Semaphore,
    trust: Trust,
    interest: Interest,
    metrics: SpoolMetrics,
}

/// A request that may touch the spool.
#[derive(Debug)]
pub struct SpoolRequest<'a> {
    /// What it asks for.
    pub name: ObjectName,
    /// The client's request, a GET or HEAD.
    pub request: &'a RequestHeader,
    /// Path and query, as S3 gets them.
    pub target: &'a [u8],
    /// When its signature ends, if it has one.
    pub expires: Option<SystemTime>,
}

/// What becomes of a request.
pub enum Verdict {
    /// S3 has authorised it; it is served from here.
    Serve(Authorised),
    /// It goes to S3 itself; the reason is a metric's label.
    Direct(&'static str),
    /// S3 has answered it, and the answer is relayed. It is a refusal most of the time.
    Relay(Box<ResponseHeader>, Bytes),
    /// S3 cannot be asked.
    Failed(Box<Error>),
}

/// What an authorised client is served from.
#[derive(Debug)]
pub struct Authorised {
    /// The object, whose head is there.
    pub reader: Arc<BodyReader>,
    /// Whether it wants several ranges, which make one multipart body.
    pub multipart: bool,
}

impl Spool {
    /// A spool in an empty catalogue.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used.
    pub fn open(
        settings: Settings,
        client: Client,
        metrics: SpoolMetrics,
    ) -> io::Result<Arc<Self>> {
        let directory = Directory::open(&settings.dir)?;
        let catalogue = Catalogue::new(settings.max_bytes, settings.max_objects, metrics.clone());
        let slots = Semaphore::new(settings.max_fills);
        let trust = Trust::new(settings.trust);
        let interest = Interest::default();
        Ok(Arc::new(Self {
            settings,
            directory,
            catalogue,
            client,
            slots,
            trust,
            interest,
            metrics,
        }))
    }

    /// Has S3 authorise a request, and finds what to serve it from. When a GET is to be served, S3 has
    /// answered the object's fill.
    pub async fn authorise(self: &Arc<Self>, ask: &SpoolRequest<'_>) -> Verdict {
        let verdict = self.decide(ask).await;
        let result = match &verdict {
            Verdict::Serve(authorised) => match authorised.reader.object().state() {
                State::Complete => "hit",
                State::Failed(_) => "head",
                _ => "fill",
            },
            Verdict::Direct(reason) => {
                self.metrics.bypassed.with_label_values(&[*reason]).inc();
                "direct"
            }
            Verdict::Relay(..) => "relayed",
            Verdict::Failed(_) => "failed",
        };
        self.metrics.requests.with_label_values(&[result]).inc();
        verdict
    }

    /// Counts a request that may not touch the spool.
    pub fn bypassed(&self, bypass: &Bypass) {
        self.metrics.bypassed.with_label_values(&[bypass.as_str()]).inc();
        self.metrics.requests.with_label_values(&["direct"]).inc();
    }

    async fn decide(self: &Arc<Self>, ask: &SpoolRequest<'_>) -> Verdict {
        let target: Arc<[u8]> = Arc::from(ask.target);
        for _ in 0..ROUNDS {
            let known = self.catalogue.find(&ask.name);
            if known.is_none() && self.interest.goes_direct(&ask.name, ask.request) {
                return Verdict::Direct("small_range");
            }
            let checked = match known {
                Some(object) if self.trusted(ask) => Checked::Unchanged(object),
                known => {
                    let checked = self.check(ask, known).await;
                    if !matches!(checked, Checked::Ended(_)) {
                        self.trust.add(ask.target, ask.expires);
                    }
                    checked
                }
            };
            let reader = match checked {
                Checked::Ended(verdict) => return verdict,
                Checked::Unchanged(object) => {
                    let Some(reader) = self.catalogue.read(&object, Arc::clone(&target)) else {
                        continue;
                    };
                    reader
                }
                Checked::Version { etag, length, head } => {
                    // A HEAD and a 304 need the object's head alone.
                    let not_modified = not_modified_filter(ask.request, &head);
                    if ask.request.method == Method::HEAD || not_modified {
                        let object = Object::head_only(ask.name.clone(), etag, length, *head);
                        let reader = Arc::new(Arc::new(object).read(target));
                        return Verdict::Serve(Authorised { reader, multipart: false });
                    }
                    let need = Need::of(ask.request, &head);
                    match self.find_or_fill(ask, need, &etag, length, &target) {
                        Ok(reader) => reader,
                        Err(reason) => return Verdict::Direct(reason),
                    }
                }
            };
            match self.established(&reader).await {
                Ok(()) => return serve(ask.request, reader),
                Err(Some(Failure::Changed | Failure::Abandoned)) => {}
                Err(Some(Failure::Unstorable)) => return Verdict::Direct("unstorable"),
                Err(Some(Failure::Disk)) => return Verdict::Direct("disk"),
                Err(Some(Failure::Upstream)) => return Verdict::Direct("upstream"),
                Err(None) => return Verdict::Direct("slow"),
            }
        }
        Verdict::Direct("changing")
    }

    /// Finds the object that S3 has just named, or makes it and starts its fill. The error is the reason
    /// to go direct, a metric's label.
    fn find_or_fill(
        self: &Arc<Self>,
        ask: &SpoolRequest<'_>,
        need: Need,
        etag: &HeaderValue,
        length: u64,
        target: &Arc<[u8]>,
    ) -> Result<BodyReader, &'static str> {
        if length == 0 {
            return Err("empty");
        }
        if length > self.settings.max_object {
            return Err("too_large");
        }
        if need == Need::Nothing {
            return Err("unsatisfiable");
        }
        let there = self.catalogue.find(&ask.name).is_some_and(|known| known.etag() == etag);
        if !there && !self.interest.is_worth(&ask.name, need, length) {
            return Err("small_range");
        }
        match self.catalogue.join(&ask.name, etag, length, Arc::clone(target)) {
            Place::Present(reader) => Ok(reader),
            Place::New(reader) => {
                self.interest.forget(&ask.name);
                if need.is_part_of(length) {
                    reader.object().persist();
                }
                tokio::spawn(Arc::clone(self).fill(Arc::clone(reader.object())));
                Ok(reader)
            }
            Place::Full => Err("full"),
        }
    }

    /// Waits for S3's answer to the fill, at most as long as for any answer of S3's. The error is `None`
    /// if it takes longer.
    async fn established(&self, reader: &BodyReader) -> Result<(), Option<Failure>> {
        let timeout = self.client.upstream().settings.response_timeout;
        match tokio::time::timeout(timeout, reader.established()).await {
            Ok(established) => established.map_err(Some),
            Err(_) => Err(None),
        }
    }

    /// Whether S3 has authorised this very request a short while ago. A request with conditions is always
    /// checked, since S3 evaluates them.
    fn trusted(&self, ask: &SpoolRequest<'_>) -> bool {
        let conditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
        let trusted = !conditions.iter().any(|name| ask.request.headers.contains_key(name))
            && self.trust.holds(ask.target);
        if trusted {
            self.metrics.checks.with_label_values(&["trusted"]).inc();
        }
        trusted
    }
}

/// Serves what is there or will be there soon; a range far ahead of the fill goes direct.
fn serve(request: &RequestHeader, reader: BodyReader) -> Verdict {
    let Some((head, _)) = reader.head() else { return Verdict::Direct("unstorable") };
    let need = Need::of(request, head);
    match need {
        Need::Nothing => return Verdict::Direct("unsatisfiable"),
        _ if need.is_ahead_of(reader.object()) => return Verdict::Direct("range_ahead"),
        _ => {}
    }
    let multipart = matches!(need, Need::Part { parts: 2.., .. });
    Verdict::Serve(Authorised { reader: Arc::new(reader), multipart })
}
