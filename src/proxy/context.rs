//! What is remembered of one request, in groups: what the client asked for, how it is served, what S3
//! is asked, and the response under way. The last outlives the request if its body still drips ([`Context::detach`]).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use log::warn;
use pingora::prelude::*;

use super::error_code::ErrorCodeSearch;
use crate::drip::stream::Feed;
use crate::drip::{self, Progress};
use crate::http1::DetachedBody;
use crate::lifecycle::Active;
use crate::spool;
use crate::tls::record::{ChunkSize, Offer};
use crate::transfers::{BodySource, Download, End, Kind, Live, LiveTransfer, Transfer};
use crate::valve::Valve;

/// One request's memory.
#[derive(Default)]
pub struct Context {
    /// What the client asked for.
    pub request: ClientRequest,
    /// How the client is served.
    pub delivery: Delivery,
    /// What S3 is asked.
    pub s3: S3Request,
    /// What the spool serves, after S3 has authorised it.
    pub spooled: Option<spool::Authorised>,
    drip: Option<Drip>,
    /// The body that goes on when the request is over.
    detached: Mutex<Option<Box<Detached>>>,
    /// Keeps a drain waiting. Dropped after `drip`, so that the log line is written in time.
    pub active: Option<Active>,
}

/// What the client asked for, for logs.
#[derive(Debug, Default)]
pub struct ClientRequest {
    /// The client's address.
    pub client: Option<SocketAddr>,
    /// The request's method.
    pub method: Method,
    /// The key, without the query.
    pub key: String,
}

/// How a client is served: what its profile, its headers and its TLS stack make together.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The profile's name.
    pub profile: String,
    /// Record size, wait and head.
    pub settings: drip::Settings,
    /// Several of the client's smaller records at a time.
    pub fill: bool,
    /// What the client asked for in its handshake.
    pub offer: Offer,
}

impl Default for Delivery {
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

impl Delivery {
    /// Whether bodies take longer than S3 needs to send them: they have a schedule or a class.
    pub(super) fn is_slow(&self) -> bool {
        !self.settings.wait.is_zero() || self.settings.class.is_some()
    }
}

/// A request to S3, and what came of it.
#[derive(Debug, Default)]
pub struct S3Request {
    /// Path and query; empty if S3 is not asked, or was asked and need not be again.
    pub target: Vec<u8>,
    /// Between S3 and the client, if S3 is to be read no faster than the client.
    pub valve: Option<Arc<Valve>>,
    /// Addresses of S3 that could not be reached.
    pub tries: u32,
    /// What the client is told instead of the general reason for a failure.
    pub failure: Option<String>,
    /// Looks through an error body.
    pub(super) error_code: ErrorCodeSearch,
}

impl Context {
    /// Where the client's stream gets the body from.
    pub fn feed(&self) -> Feed {
        match (&self.spooled, &self.s3.valve) {
            (Some(served), _) => Feed::Source(Arc::clone(&served.reader) as _),
            (None, Some(valve)) => Feed::Valve(Arc::clone(valve)),
            (None, None) => Feed::Free,
        }
    }

    /// Counts, lists and logs a response that begins.
    pub fn begin(
        &mut self,
        status: StatusCode,
        total: Option<u64>,
        progress: Arc<Progress>,
        transfers: &Live,
    ) {
        let source = match &self.spooled {
            Some(_) => BodySource::Spool,
            None if self.s3.target.is_empty() => BodySource::Own,
            None => BodySource::Direct,
        };
        let download = Download {
            method: self.request.method.clone(),
            key: self.request.key.clone(),
            profile: self.delivery.profile.clone(),
            source,
            offer: self.delivery.offer,
            progress: Arc::clone(&progress),
        };
        let transfer = Transfer::new(self.request.client, Kind::Download(download))
            .class(self.delivery.settings.class.clone())
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
        let detached = drip.map(|drip| Box::new(Detached { drip, _active: active, closes }));
        self.detached = Mutex::new(detached);
    }

    /// The body that [`Self::detach`] detached, once.
    pub fn take_detached(&self) -> Option<Box<Box<dyn DetachedBody>>> {
        let detached = self.detached.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached.map(|detached| Box::new(detached as Box<dyn DetachedBody>))
    }
}

/// A response under way. If it is dropped without an end, a drain has cut it.
struct Drip {
    transfer: LiveTransfer,
    progress: Arc<Progress>,
}

/// What is kept of a request whose body still drips.
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
                warn!(key = transfer.name(); "response cut short, closing the client's connection: {e}");
                End::Upstream
            }
            Err(_) => End::Client,
        });
        sent.is_ok() && !self.closes
    }
}
