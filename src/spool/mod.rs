//! The spool: S3 is read once, at full speed, into a private file, and every client drips from that
//! file, each request authorised by S3 itself.
//!
//! [`admission`] says which requests may touch it (pure). [`Spool::authorise`] asks S3, with the
//! request's own path and query, whether this client may have what it asks for; nothing serialises
//! clients. [`object`] is one version of an object, [`catalogue`] all of them and their budget,
//! [`mod@file`] where bytes are, `fill` the task that gets them, [`storage`] the face that pingora-cache's
//! hit path serves from.
//!
//! Invariants: no byte of a body, and no header, reaches a client whose request S3 has not
//! authorised; one fill per version however many ask; no reader gets the bytes of two versions.
//!
//! This room must not know how a body is paced, nor anything of the configuration file.

pub mod admission;
pub mod catalogue;
pub mod file;
mod fill;
pub mod object;
mod ranges;
pub mod storage;
mod trust;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_core::Error;
use pingora_core::protocols::http::conditional_filter::not_modified_filter;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::Semaphore;

use crate::metrics::SpoolMetrics;
use crate::s3::client::{Client, S3Response};
use crate::s3::headers;
use admission::{Bypass, ObjectName};
use catalogue::{Catalogue, Place};
use file::Directory;
use object::{Failure, Object, Reading, State};
use ranges::{Interest, Need};
use trust::Trust;

/// How often a request is authorised anew because the object changed, or its fill was given up,
/// between the check and the first byte.
const ROUNDS: u32 = 3;

/// Bytes of a refusal's body that are relayed. S3's error documents have a few hundred.
const MAX_REFUSAL: usize = 64 << 10;

/// How the spool is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of its files.
    pub dir: PathBuf,
    /// Bytes of all files together; 0 switches the spool off.
    pub max_bytes: u64,
    /// Bytes of one object; larger ones go direct.
    pub max_object: u64,
    /// Objects at a time, each of which takes a file descriptor.
    pub max_objects: usize,
    /// Fills at a time; more wait their turn.
    pub max_fills: usize,
    /// For how long an authorised request is not checked again; zero asks S3 every time.
    pub trust: Duration,
}

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
pub struct Ask<'a> {
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
    Serve(Served),
    /// It goes to S3 itself; the reason is a metric's label.
    Direct(&'static str),
    /// S3 has answered it, and the answer is relayed: a refusal, most of the time.
    Relay(Box<ResponseHeader>, Bytes),
    /// S3 cannot be asked.
    Failed(Box<Error>),
}

/// What an authorised client is served from.
#[derive(Debug)]
pub struct Served {
    /// The object, whose head is there.
    pub reading: Arc<Reading>,
    /// Whether it wants several ranges, which make one multipart body.
    pub multipart: bool,
}

/// What a check found.
enum Checked {
    /// Authorised: the object that was known is S3's.
    Unchanged(Arc<Object>),
    /// Authorised: S3 has this version. The head is the object's, as of a GET.
    Version { etag: HeaderValue, length: u64, head: Box<ResponseHeader> },
    /// All else.
    Ended(Verdict),
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

    /// Has S3 authorise a request, and finds what to serve it from. A GET that is served has an
    /// object whose fill S3 has answered.
    pub async fn authorise(self: &Arc<Self>, ask: &Ask<'_>) -> Verdict {
        let verdict = self.decide(ask).await;
        let result = match &verdict {
            Verdict::Serve(served) => match served.reading.object().state() {
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

    async fn decide(self: &Arc<Self>, ask: &Ask<'_>) -> Verdict {
        let target: Arc<[u8]> = Arc::from(ask.target);
        for _ in 0..ROUNDS {
            let known = self.catalogue.find(&ask.name);
            if known.is_none() && self.interest.too_small(&ask.name, ask.request) {
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
            let reading = match checked {
                Checked::Ended(verdict) => return verdict,
                Checked::Unchanged(object) => {
                    let Some(reading) = self.catalogue.read(&object, Arc::clone(&target)) else {
                        continue;
                    };
                    reading
                }
                Checked::Version { etag, length, head } => {
                    // Neither needs more of the object than its head.
                    let not_modified = not_modified_filter(ask.request, &head);
                    if ask.request.method == Method::HEAD || not_modified {
                        let object = Object::head_only(ask.name.clone(), etag, length, *head);
                        let reading = Arc::new(Arc::new(object).read(target));
                        return Verdict::Serve(Served { reading, multipart: false });
                    }
                    let need = Need::of(ask.request, &head);
                    match self.enter(ask, need, &etag, length, &target) {
                        Ok(reading) => reading,
                        Err(reason) => return Verdict::Direct(reason),
                    }
                }
            };
            match self.established(&reading).await {
                Ok(()) => return serve(ask.request, reading),
                Err(Some(Failure::Changed | Failure::Abandoned)) => {}
                Err(Some(Failure::Unstorable)) => return Verdict::Direct("unstorable"),
                Err(Some(Failure::Disk)) => return Verdict::Direct("disk"),
                Err(Some(Failure::Upstream)) => return Verdict::Direct("upstream"),
                Err(None) => return Verdict::Direct("slow"),
            }
        }
        Verdict::Direct("changing")
    }

    /// Finds or makes the place of an object that S3 has just named.
    fn enter(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        need: Need,
        etag: &HeaderValue,
        length: u64,
        target: &Arc<[u8]>,
    ) -> Result<Reading, &'static str> {
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
            Place::Present(reading) => Ok(reading),
            Place::New(reading) => {
                self.interest.satisfied(&ask.name);
                if need.is_part_of(length) {
                    reading.object().persist();
                }
                tokio::spawn(Arc::clone(self).fill(Arc::clone(reading.object())));
                Ok(reading)
            }
            Place::Full => Err("full"),
        }
    }

    /// Waits for S3's answer to the fill, as long as a client waits for S3 in general.
    async fn established(&self, reading: &Reading) -> Result<(), Option<Failure>> {
        let timeout = self.client.upstream().response_timeout;
        match tokio::time::timeout(timeout, reading.established()).await {
            Ok(established) => established.map_err(Some),
            Err(_) => Err(None),
        }
    }

    /// Whether S3 has authorised this very request a short while ago. Conditions are S3's to judge.
    fn trusted(&self, ask: &Ask<'_>) -> bool {
        let conditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
        let trusted = !conditions.iter().any(|name| ask.request.headers.contains_key(name))
            && self.trust.holds(ask.target);
        if trusted {
            self.metrics.checks.with_label_values(&["trusted"]).inc();
        }
        trusted
    }

    /// Asks S3 for the first byte, unless it is the version that is known. The range keeps the
    /// answer small when it is not; an If-None-Match goes first (RFC 9110 §13.2.2).
    #[expect(clippy::disallowed_methods, reason = "the time that S3 takes is measured")]
    async fn check(&self, ask: &Ask<'_>, known: Option<Arc<Object>>) -> Checked {
        let mut headers: Vec<(HeaderName, HeaderValue)> =
            vec![(header::RANGE, HeaderValue::from_static("bytes=0-0"))];
        if let Some(known) = &known {
            headers.push((header::IF_NONE_MATCH, known.etag().clone()));
        }
        for name in [header::IF_MATCH, header::IF_UNMODIFIED_SINCE] {
            if let Some(value) = ask.request.headers.get(&name) {
                headers.push((name, value.clone()));
            }
        }
        let began = Instant::now();
        let authority = self.client.upstream().authority();
        let mut answer = self.client.get(ask.target, authority, &headers).await;
        let empty = answer.as_ref().is_ok_and(|a| a.status() == StatusCode::RANGE_NOT_SATISFIABLE);
        if empty && ask.request.method == Method::HEAD {
            // No byte can be had of it, so all of it costs nothing, and brings its head.
            answer = self.client.get(ask.target, authority, &headers[1..]).await;
        }
        self.metrics.check_seconds.observe(began.elapsed().as_secs_f64());
        let checked = match answer {
            Ok(answer) => self.judge(ask, known, answer).await,
            Err(e) => Checked::Ended(Verdict::Failed(e)),
        };
        let result = match &checked {
            Checked::Unchanged(_) => "unchanged",
            Checked::Version { .. } => "version",
            Checked::Ended(Verdict::Relay(..)) => "refused",
            Checked::Ended(Verdict::Direct(_)) => "direct",
            Checked::Ended(_) => "failed",
        };
        self.metrics.checks.with_label_values(&[result]).inc();
        checked
    }

    async fn judge(
        &self,
        ask: &Ask<'_>,
        known: Option<Arc<Object>>,
        mut answer: S3Response,
    ) -> Checked {
        let status = answer.status();
        let etag = answer.header(header::ETAG).cloned();
        match status {
            StatusCode::NOT_MODIFIED => {
                self.client.release(answer).await;
                match known {
                    Some(object) => Checked::Unchanged(object),
                    None => Checked::Ended(Verdict::Direct("unstorable")),
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => {
                let length = if status == StatusCode::OK {
                    number(answer.header(header::CONTENT_LENGTH))
                } else {
                    let range = answer.header(header::CONTENT_RANGE);
                    range.and_then(content_range).map(|(_, length)| length)
                };
                let head = object_head(answer.head());
                // The one byte, so that the connection can be used again; a whole body is dropped.
                if status == StatusCode::PARTIAL_CONTENT && answer.body(1).await.is_ok() {
                    self.client.release(answer).await;
                }
                version(known, etag, length, head)
            }
            // Of an empty object no byte can be had: authorised, and not worth a file.
            StatusCode::RANGE_NOT_SATISFIABLE => Checked::Ended(Verdict::Direct("empty")),
            // What was signed may be the HEAD.
            StatusCode::FORBIDDEN if ask.request.method == Method::HEAD => {
                Checked::Ended(Verdict::Direct("head"))
            }
            _ => {
                let head = answer.head().cloned().map(Box::new);
                match (answer.body(MAX_REFUSAL).await, head) {
                    (Ok(body), Some(head)) => {
                        self.client.release(answer).await;
                        Checked::Ended(Verdict::Relay(head, body))
                    }
                    (Err(e), _) => Checked::Ended(Verdict::Failed(e)),
                    (Ok(_), None) => Checked::Ended(Verdict::Direct("unstorable")),
                }
            }
        }
    }
}

/// Serves what is there or comes soon.
fn serve(request: &RequestHeader, reading: Reading) -> Verdict {
    let Some((head, _)) = reading.head() else { return Verdict::Direct("unstorable") };
    let need = Need::of(request, head);
    match need {
        Need::Nothing => return Verdict::Direct("unsatisfiable"),
        _ if need.is_ahead_of(reading.object()) => return Verdict::Direct("range_ahead"),
        _ => {}
    }
    let multipart = matches!(need, Need::Part { parts: 2.., .. });
    Verdict::Serve(Served { reading: Arc::new(reading), multipart })
}

/// An authorised answer of S3 as the version that it names.
fn version(
    known: Option<Arc<Object>>,
    etag: Option<HeaderValue>,
    length: Option<u64>,
    mut head: ResponseHeader,
) -> Checked {
    let (Some(etag), Some(length)) = (etag, length) else {
        return Checked::Ended(Verdict::Direct("unstorable"));
    };
    let customer_key = |name: &HeaderName| headers::is_customer_key(name.as_str());
    if head.headers.keys().any(customer_key) {
        return Checked::Ended(Verdict::Direct("sse_c"));
    }
    // S3 that ignores If-None-Match says the same in another way.
    if let Some(object) = known.filter(|object| object.etag() == etag && object.length() == length)
    {
        return Checked::Unchanged(object);
    }
    if head.insert_header(header::CONTENT_LENGTH, length).is_err() {
        return Checked::Ended(Verdict::Direct("unstorable"));
    }
    Checked::Version { etag, length, head: Box::new(head) }
}

/// What of an answer to a GET describes the object, as the head of a 200.
fn object_head(answer: Option<&ResponseHeader>) -> ResponseHeader {
    const OF_THE_ANSWER: [&str; 8] = [
        "date",
        "server",
        "age",
        "via",
        "content-range",
        "x-amz-request-id",
        "x-amz-id-2",
        "x-amz-cf-id",
    ];
    let mut head = ResponseHeader::build(StatusCode::OK, Some(16)).expect("200 is a status");
    for (name, value) in answer.into_iter().flat_map(|answer| answer.headers.iter()) {
        if !OF_THE_ANSWER.contains(&name.as_str()) && !headers::hop_by_hop(name.as_str(), &[]) {
            // Both were in a header map before.
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
    head
}

/// First byte and whole length of a single range.
fn content_range(value: &HeaderValue) -> Option<(u64, u64)> {
    headers::content_range(value.as_bytes())
}

fn number(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}
