//! What is remembered of one request.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use log::warn;
use pingora::prelude::*;

use crate::drip::stream::Feed;
use crate::drip::{self, Progress};
use crate::http1::DetachedBody;
use crate::lifecycle::{Active, Lifecycle};
use crate::metrics::Metrics;
use crate::spool;
use crate::tls::record::{ChunkSize, Offer};
use crate::transfers::{BodySource, Download, End, Kind, Live, LiveTransfer, Transfer};
use crate::valve::Valve;

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
    pub client: Option<SocketAddr>,
    /// The request's method.
    pub method: Method,
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

    /// Notes that a response begins.
    pub fn begin(
        &mut self,
        status: StatusCode,
        total: Option<u64>,
        progress: Arc<Progress>,
        transfers: &Live,
    ) {
        let source = match &self.spooled {
            Some(_) => BodySource::Spool,
            None if self.target.is_empty() => BodySource::Own,
            None => BodySource::Direct,
        };
        let download = Download {
            method: self.method.clone(),
            key: self.key.clone(),
            profile: self.served.profile.clone(),
            source,
            offer: self.served.offer,
            progress: Arc::clone(&progress),
        };
        let transfer = Transfer::new(self.client, Kind::Download(download))
            .class(self.served.settings.class.clone())
            .total(total);
        transfer.answered(status);
        self.drip = Some(Drip { transfer: transfers.begin(transfer), progress });
    }

    /// Notes how the response ended.
    pub fn end(&mut self, e: Option<&Error>) {
        let Some(Drip { mut transfer, progress }) = self.drip.take() else { return };
        transfer.set_end(match e.map(Error::esource) {
            None => End::Done,
            Some(_) if progress.source_failed() => End::Upstream,
            Some(ErrorSource::Downstream) => End::Client,
            Some(_) if progress.client_gone() => End::Client,
            Some(_) => End::Upstream,
        });
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

/// What a process counts and lists, and whether it takes clients. A clone is the same state.
#[derive(Clone)]
pub struct ProcessState {
    /// The metrics.
    pub metrics: Metrics,
    /// Ready, draining or gone; a drain waits for every response.
    pub lifecycle: Lifecycle,
    /// The downloads, uploads and tunnels that run.
    pub transfers: Live,
}

impl ProcessState {
    /// A process that is not ready yet, with nothing counted or listed.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Metrics::new();
        let transfers = Live::new(metrics.clone());
        Self { metrics, lifecycle: Lifecycle::new(), transfers }
    }
}

impl Default for ProcessState {
    fn default() -> Self {
        Self::new()
    }
}

/// All that is remembered of a request whose body still drips.
struct Detached {
    drip: Drip,
    /// Keeps a drain waiting. Dropped after `drip`, so that the log line is written in time.
    _active: Option<Active>,
    closes: bool,
}

impl DetachedBody for Detached {
    /// Notes how the body ended.
    fn end(mut self: Box<Self>, sent: &io::Result<()>) -> bool {
        let Drip { transfer, progress } = &mut self.drip;
        transfer.set_end(match sent {
            Ok(()) => End::Done,
            Err(e) if progress.source_failed() => {
                warn!(key = transfer.name(); "closing the client's connection short: {e}");
                End::Upstream
            }
            Err(_) => End::Client,
        });
        sent.is_ok() && !self.closes
    }
}

/// A response under way. Dropped without [`Context::end`] only when a drain cuts it.
struct Drip {
    transfer: LiveTransfer,
    progress: Arc<Progress>,
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
