//! The fill: one task per object that reads it from S3 at full speed into its file, whichever clients
//! read meanwhile, and that resumes where S3 breaks it off.
//!
//! Invariants: every byte of a file comes from answers with one ETag (If-Match on every request);
//! the number of tries without progress is bounded; a query is only used after S3 has authorised it,
//! and not again after S3 refused it.
//!
//! This file must not know who reads.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use log::{info, warn};
use pingora_http::ResponseHeader;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Spool;
use super::check::{content_range, object_head};
use super::file::SpoolFile;
use super::object::{Failure, Object, State};
use crate::s3::client::S3Response;
use crate::s3::headers;

/// How often a fill is tried without a single new byte before it fails. With the pauses below that
/// is about half a minute, the time in which S3 itself or a link to it comes back.
const TRIES: u32 = 10;

/// The pause after the first try that failed; it doubles from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Bytes that are written at once, if S3 sends as many in a row: each write is a task for another thread,
/// which is too much for S3's small pieces.
const WRITE: usize = 128 << 10;

/// How long fewer bytes wait for more to come. It is short, since readers may be waiting for them.
const LINGER: Duration = Duration::from_millis(5);

/// Bytes that are collected while the disk is busy, at most.
const BATCH: usize = 1 << 20;

/// Why one try ended.
enum Stop {
    /// Try again: the connection failed, or S3 was busy.
    Again(String),
    /// S3 refuses this query by now. Another one may be known.
    Refused,
    /// Another try would be of no use.
    For(Failure),
}

impl Spool {
    /// Fills `object`, and forgets it if that fails.
    pub(super) async fn fill(self: Arc<Self>, object: Arc<Object>) {
        self.metrics.filling.inc();
        let end = match self.run_fill(&object).await {
            Ok(()) => "complete",
            Err(why) => {
                self.catalogue.fail(&object, why);
                match why {
                    Failure::Changed => "changed",
                    Failure::Abandoned => "abandoned",
                    Failure::Unstorable => "unstorable",
                    Failure::Disk => "disk",
                    Failure::Upstream => "upstream",
                }
            }
        };
        self.metrics.fills.with_label_values(&[end]).inc();
        self.metrics.filling.dec();
    }

    async fn run_fill(&self, object: &Arc<Object>) -> Result<(), Failure> {
        // The semaphore is closed only with the process.
        let _slot = tokio::select! {
            slot = self.slots.acquire() => slot.map_err(|_| Failure::Abandoned)?,
            () = self.until_abandoned(object) => return Err(Failure::Abandoned),
        };
        let mut file = Some(self.file(object).await?);
        let (mut tries, mut filled) = (0, 0);
        while object.state() != State::Complete {
            let stop = match object.ticket() {
                // A client that comes meanwhile may bring one.
                None => Err(Stop::Again("every authorised query is refused by now".into())),
                Some(ticket) => match self.attempt(object, &ticket, &mut file).await {
                    Err(Stop::Refused) => {
                        object.discard_ticket(&ticket);
                        continue;
                    }
                    ended => ended,
                },
            };
            if object.filled() > filled {
                (filled, tries) = (object.filled(), 0);
            }
            let why = match stop {
                Ok(()) => continue,
                Err(Stop::For(why)) => return Err(why),
                Err(Stop::Again(why)) => why,
                Err(Stop::Refused) => continue,
            };
            tries += 1;
            if tries == TRIES {
                let length = object.length();
                warn!("the fill of {:?} ends at {filled} of {length} bytes: {why}", object.name());
                return Err(Failure::Upstream);
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << (tries - 1)).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = self.until_abandoned(object) => return Err(Failure::Abandoned),
            }
        }
        Ok(())
    }

    /// The file, made on a thread that may block.
    async fn file(&self, object: &Object) -> Result<SpoolFile, Failure> {
        let (directory, length) = (self.directory.clone(), object.length());
        let made = tokio::task::spawn_blocking(move || SpoolFile::create(&directory, length));
        made.await.map_err(std::io::Error::other).flatten().map_err(|e| {
            self.disk_failed(&e);
            Failure::Disk
        })
    }

    /// One request, from the first missing byte on.
    async fn attempt(
        &self,
        object: &Arc<Object>,
        ticket: &[u8],
        file: &mut Option<SpoolFile>,
    ) -> Result<(), Stop> {
        let from = object.filled();
        let mut asked: Vec<(HeaderName, HeaderValue)> = vec![
            (header::IF_MATCH, object.etag().clone()),
            // A fill is one long response, after which no idle connection is to be kept.
            (header::CONNECTION, HeaderValue::from_static("close")),
        ];
        if file.is_none() {
            let range = HeaderValue::try_from(format!("bytes={from}-"));
            asked.push((header::RANGE, range.map_err(|e| Stop::Again(e.to_string()))?));
        }
        let authority = self.client.upstream().authority();
        let answer = tokio::select! {
            answer = self.client.get(ticket, authority, &asked) => answer,
            () = self.until_abandoned(object) => return Err(Stop::For(Failure::Abandoned)),
        };
        let mut answer = answer.map_err(|e| Stop::Again(e.to_string()))?;
        check_response(&answer, object, file.is_none().then_some(from))?;
        match file.take() {
            Some(file) => object.begin(stored(&answer), file),
            None => self.metrics.resumes.inc(),
        }
        self.read_body(object, &mut answer).await
    }

    /// Reads the body into the file. S3 is read while the disk writes, up to [`BATCH`] bytes ahead.
    #[expect(clippy::disallowed_methods, reason = "an idle fill has a deadline")]
    async fn read_body(&self, object: &Arc<Object>, answer: &mut S3Response) -> Result<(), Stop> {
        let mut collected = Vec::new();
        let mut writing: Option<JoinHandle<std::io::Result<()>>> = None;
        // When what is collected is written at the latest.
        let mut due = Instant::now();
        let ended = 'pieces: loop {
            // The future is kept until it has a piece, so that what it has read is not lost.
            let mut next = pin!(answer.piece());
            let piece = loop {
                tokio::select! {
                    piece = &mut next => break piece,
                    () = self.until_abandoned(object) => break 'pieces Err(Stop::For(Failure::Abandoned)),
                    () = sleep_until(due), if !collected.is_empty() => {
                        self.finish_write(writing.take()).await?;
                        writing = Some(write(object, std::mem::take(&mut collected)));
                    }
                }
            };
            match piece {
                Ok(Some(piece)) => {
                    self.metrics.s3_bytes.inc_by(piece.len() as u64);
                    if collected.is_empty() {
                        due = Instant::now() + LINGER;
                    }
                    collected.extend_from_slice(&piece);
                }
                Ok(None) => break Ok(()),
                Err(e) => break Err(Stop::Again(e.to_string())),
            }
            let busy = writing.as_ref().is_some_and(|writing| !writing.is_finished());
            if (!busy && collected.len() >= WRITE) || collected.len() >= BATCH {
                self.finish_write(writing.take()).await?;
                writing = Some(write(object, std::mem::take(&mut collected)));
            }
        };
        self.finish_write(writing.take()).await?;
        self.finish_write(Some(write(object, collected))).await?;
        ended
    }

    async fn finish_write(
        &self,
        writing: Option<JoinHandle<std::io::Result<()>>>,
    ) -> Result<(), Stop> {
        let Some(writing) = writing else { return Ok(()) };
        writing.await.map_err(std::io::Error::other).flatten().map_err(|e| {
            self.disk_failed(&e);
            Stop::For(Failure::Disk)
        })
    }

    /// Resolves when a fill is to stop, because nobody reads and less than half of the object is there. A
    /// fill that is over half done, or that began for a part, is finished for later clients.
    async fn until_abandoned(&self, object: &Arc<Object>) {
        loop {
            object.abandoned().await;
            if object.persists() {
                std::future::pending::<()>().await;
            }
            if self.catalogue.abandon(object) {
                return;
            }
        }
    }

    fn disk_failed(&self, e: &std::io::Error) {
        let directory = self.directory.path().display();
        warn!("spool.dir: {directory}: {e}; requests that need room go to S3 directly");
    }
}

/// Whether S3's answer continues the fill: the whole object, or its rest from byte `from` on.
fn check_response(answer: &S3Response, object: &Object, from: Option<u64>) -> Result<(), Stop> {
    let status = answer.status();
    let number = |name| answer.header(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let length = number(header::CONTENT_LENGTH);
    let same = answer.header(header::ETAG) == Some(object.etag());
    let customer_key = answer.head().is_some_and(|head| {
        head.headers.keys().any(|name| headers::is_customer_key(name.as_str()))
    });
    match (status, from) {
        (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) if customer_key => {
            Err(Stop::For(Failure::Unstorable))
        }
        (StatusCode::OK, None) if same && length == Some(object.length()) => Ok(()),
        (StatusCode::PARTIAL_CONTENT, Some(from)) if same => {
            let whole = Some((from, object.length()));
            let range = answer.header(header::CONTENT_RANGE).and_then(content_range);
            if range == whole && length == Some(object.length() - from) {
                Ok(())
            } else {
                Err(Stop::For(Failure::Unstorable))
            }
        }
        // Another version than the one that was authorised, or none at all.
        (StatusCode::OK | StatusCode::PARTIAL_CONTENT, _) if !same => {
            Err(Stop::For(Failure::Changed))
        }
        (StatusCode::PRECONDITION_FAILED | StatusCode::NOT_FOUND, _) => {
            Err(Stop::For(Failure::Changed))
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(Stop::Refused),
        (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => {
            Err(Stop::Again(format!("S3 answered {status}")))
        }
        _ if status.is_server_error() => Err(Stop::Again(format!("S3 answered {status}"))),
        _ => {
            info!("the object cannot be stored: S3 answered {status}");
            Err(Stop::For(Failure::Unstorable))
        }
    }
}

/// The head that is kept: what describes the object, and nothing of this one answer.
fn stored(answer: &S3Response) -> ResponseHeader {
    object_head(answer.head())
}

fn write(object: &Arc<Object>, bytes: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
    let object = Arc::clone(object);
    tokio::task::spawn_blocking(
        move || {
            if bytes.is_empty() { Ok(()) } else { object.append(&bytes) }
        },
    )
}

/// Between half of `pause` and all of it, so that many fills do not retry at the same moment.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half + half.mul_f64(fastrand::f64())
}
