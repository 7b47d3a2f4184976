//! What is remembered of one request, and the access log that comes of it: one line when the
//! response begins, one when it ends, however it ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use log::{info, warn};
use pingora::prelude::*;

use super::running::{Drips, Entry, Running};
use crate::drip::stream::Feed;
use crate::drip::{self, Progress};
use crate::http1::DetachedBody;
use crate::lifecycle::{Active, Lifecycle};
use crate::metrics::Metrics;
use crate::spool;
use crate::tls::record::{ChunkSize, Offer};
use crate::valve::Valve;

/// The log target of the access log.
pub const ACCESS: &str = "access";

/// A client that goes this soon after a record may have gone because of it.
const OVERRUN: Duration = Duration::from_secs(1);

/// How much of an error body is looked through for S3's error code: it comes in the first line or
/// two.
const SNIFF: usize = 1024;

/// How a client is served: what its profile, its headers and its TLS stack make together.
#[derive(Debug, Clone)]
pub struct Served {
    /// The profile's name.
    pub profile: String,
    /// Record size, wait and head.
    pub settings: drip::Settings,
    /// Several of the client's smaller records at a time.
    pub fill: bool,
    /// What the client asked for in its handshake.
    pub offer: Offer,
}

impl Default for Served {
    /// For what is answered before a profile is chosen.
    fn default() -> Self {
        let settings = drip::Settings {
            chunk_size: ChunkSize::default(),
            wait: Duration::ZERO,
            response_headers: Vec::new(),
            class: None,
        };
        Self { profile: String::new(), settings, fill: false, offer: Offer::default() }
    }
}

/// One request's memory.
#[derive(Default)]
pub struct Context {
    /// The client's address.
    pub client: Option<String>,
    /// The request's method.
    pub method: String,
    /// The key for logs, without the query.
    pub key: String,
    /// How the client is served.
    pub served: Served,
    /// The request target that S3 gets.
    pub target: Vec<u8>,
    /// What the client is told instead of the general reason for a failure.
    pub reason: Option<String>,
    /// Between S3 and the client, if S3 is to be read no faster than the client.
    pub valve: Option<Arc<Valve>>,
    /// What S3 has authorised and the spool serves.
    pub spooled: Option<spool::Served>,
    /// Addresses of S3 that could not be reached.
    pub tries: u32,
    /// The start of a 403's body, until the error code was found.
    sniff: Option<Vec<u8>>,
    drip: Option<Drip>,
    /// The drip that goes on when the request is over.
    rest: Mutex<Option<Box<Detached>>>,
    /// Keeps a drain waiting. Dropped after `drip`, so that the log line is written in time.
    pub active: Option<Active>,
}

impl Context {
    /// Where the client's stream gets the body from.
    pub fn feed(&self) -> Feed {
        match (&self.spooled, &self.valve) {
            (Some(served), _) => Feed::Source(Arc::clone(&served.reading) as _),
            (None, Some(valve)) => Feed::Valve(Arc::clone(valve)),
            (None, None) => Feed::Free,
        }
    }

    /// Notes that a response begins, and logs it.
    pub fn begin(
        &mut self,
        status: StatusCode,
        total: Option<u64>,
        progress: Arc<Progress>,
        board: &Board,
    ) {
        let running = Running {
            client: self.client.clone().unwrap_or_default(),
            method: self.method.clone(),
            key: self.key.clone(),
            status: status.as_u16(),
            total,
            began: Instant::now(),
            progress,
        };
        let source = match &self.spooled {
            Some(_) => "spool",
            None if self.target.is_empty() => "none",
            None => "direct",
        };
        info!(
            target: ACCESS,
            client = running.client.as_str(), method = running.method.as_str(),
            key = running.key.as_str(), status = running.status,
            profile = self.served.profile.as_str(), source = source;
            "begin"
        );
        board.metrics.drips.running.inc();
        board.metrics.responses.begun.with_label_values(&[status.as_str()]).inc();
        self.drip = Some(Drip {
            entry: board.drips.add(running),
            source,
            profile: self.served.profile.clone(),
            offer: self.served.offer,
            end: "drain",
            metrics: board.metrics.clone(),
        });
    }

    /// Notes how the response ended, and logs it.
    pub fn end(&mut self, e: Option<&Error>) {
        let Some(mut drip) = self.drip.take() else { return };
        drip.end = match e.map(Error::esource) {
            None => "done",
            Some(_) if drip.entry.progress.source_failed() => "upstream",
            Some(ErrorSource::Downstream) => "client",
            Some(_) if drip.entry.progress.client_gone() => "client",
            Some(_) => "upstream",
        };
    }

    /// Detaches the response: its body goes on without the request. `closes`: the connection ends
    /// with it.
    pub fn detach(&mut self, closes: bool) {
        let active = self.active.take();
        let drip = self.drip.take();
        self.rest =
            Mutex::new(drip.map(|drip| Box::new(Detached { drip, _active: active, closes })));
    }

    /// The body that [`Self::detach`] detached, once.
    pub fn take_detached(&self) -> Option<Box<Box<dyn DetachedBody>>> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        rest.map(|rest| Box::new(rest as Box<dyn DetachedBody>))
    }

    /// Begins to look through an error body.
    pub fn watch_for_signature_error(&mut self, status: StatusCode) {
        self.sniff = (status == StatusCode::FORBIDDEN).then(Vec::new);
    }

    /// Whether this piece of the body completes S3's code for a signature that does not match.
    pub fn finds_signature_error(&mut self, body: &[u8]) -> bool {
        let Some(seen) = &mut self.sniff else { return false };
        seen.extend_from_slice(&body[..body.len().min(SNIFF - seen.len())]);
        let code = b"<Code>SignatureDoesNotMatch</Code>";
        let found = seen.windows(code.len()).any(|window| window == code);
        if found || seen.len() == SNIFF {
            self.sniff = None;
        }
        found
    }
}

/// Where responses are counted and listed.
#[derive(Clone)]
pub struct Board {
    /// The server's metrics.
    pub metrics: Metrics,
    /// The server's state; a drain waits for every response.
    pub lifecycle: Lifecycle,
    /// The responses under way.
    pub drips: Drips,
}

/// All that is remembered of a request whose body still drips.
struct Detached {
    drip: Drip,
    /// Keeps a drain waiting. Dropped after `drip`, so that the log line is written in time.
    _active: Option<Active>,
    closes: bool,
}

impl DetachedBody for Detached {
    /// Notes how the body ended, and logs it.
    fn end(mut self: Box<Self>, sent: &io::Result<()>) -> bool {
        self.drip.end = match sent {
            Ok(()) => "done",
            Err(e) if self.drip.entry.progress.source_failed() => {
                let key = self.drip.entry.key.as_str();
                warn!(key = key; "closing the client's connection short: {e}");
                "upstream"
            }
            Err(_) => "client",
        };
        sent.is_ok() && !self.closes
    }
}

/// A response under way. Dropped without [`Context::end`] only when a drain cuts it.
struct Drip {
    entry: Entry,
    source: &'static str,
    profile: String,
    offer: Offer,
    end: &'static str,
    metrics: Metrics,
}

impl Drip {
    /// A device whose buffer is smaller than a record says nothing, it goes: so it is told which
    /// record was the last.
    fn report_overrun(&self) {
        let Running { client, progress, .. } = &*self.entry;
        if self.end != "client" || progress.head() == 0 || progress.since_last() > OVERRUN {
            return;
        }
        let records = progress.records();
        let (which, what) = match records {
            0 => ("head", format!("the head of {} bytes", progress.head())),
            1 => ("first", format!("record 1 of {} bytes", progress.last_record())),
            _ => ("later", format!("record {records} of {} bytes", progress.last_record())),
        };
        self.metrics.drips.clients_gone.with_label_values(&[self.profile.as_str(), which]).inc();
        let offer = self.offer.to_string();
        info!(
            client = client.as_str(), profile = self.profile.as_str(), offer = offer.as_str();
            "client gone after {what}"
        );
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        self.report_overrun();
        let Running { client, method, key, status, began, progress, .. } = &*self.entry;
        self.metrics.drips.running.dec();
        self.metrics.drips.ended.with_label_values(&[self.end]).inc();
        if self.source == "spool" {
            self.metrics.spool.client_bytes.inc_by(progress.bytes());
        }
        info!(
            target: ACCESS,
            client = client.as_str(), method = method.as_str(), key = key.as_str(),
            status = *status, bytes = progress.bytes(), records = progress.records(),
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            profile = self.profile.as_str(), source = self.source, end = self.end;
            "end"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_code_is_found_across_pieces_and_not_beyond_the_bound() {
        let mut context = Context::default();
        assert!(!context.finds_signature_error(b"<Code>SignatureDoesNotMatch</Code>"));
        context.watch_for_signature_error(StatusCode::FORBIDDEN);
        assert!(!context.finds_signature_error(b"<?xml?><Error><Code>SignatureDoes"));
        assert!(context.finds_signature_error(b"NotMatch</Code><Message>"));
        assert!(!context.finds_signature_error(b"<Code>SignatureDoesNotMatch</Code>"));
        context.watch_for_signature_error(StatusCode::FORBIDDEN);
        assert!(!context.finds_signature_error(&[b'x'; 5000]));
        assert!(!context.finds_signature_error(b"<Code>SignatureDoesNotMatch</Code>"));
        context.watch_for_signature_error(StatusCode::OK);
        assert!(!context.finds_signature_error(b"<Code>SignatureDoesNotMatch</Code>"));
    }
}
