//! What the demo's origin has received: connections and requests are counted, the last requests kept.
//!
//! Invariant: a connection counts as open from its accept to the moment its socket is dropped.
//!
//! It must not know how a request is answered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, Request, header};

use super::conditions::DECIDING_HEADERS;

/// Requests kept in [`Counters::last`]: enough for any one test, and a bound for a demo that runs
/// for days.
const LOG_LENGTH: usize = 64;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its request target, byte for byte.
    pub target: Vec<u8>,
    /// Its headers; names in lower case.
    pub headers: HeaderMap,
}

/// What an [`Origin`](super::Origin) has received so far. Requests count when they arrive, refused ones
/// too.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub connections_open: usize,
    /// Connections ever accepted.
    pub connections_total: usize,
    /// GET requests.
    pub gets: usize,
    /// HEAD requests.
    pub heads: usize,
    /// GET requests without a Range.
    pub full_gets: usize,
    /// GET requests with a Range.
    pub ranged_gets: usize,
    /// GET and HEAD requests with If-Match, If-None-Match, If-Modified-Since or
    /// If-Unmodified-Since.
    pub conditional: usize,
    /// Object bytes handed to connections; some may still be in the sockets' buffers.
    pub bytes_sent: u64,
    /// The last 64 requests, oldest first.
    pub last: Vec<Seen>,
}

/// The counting side of [`Counters`].
#[derive(Default)]
pub(super) struct Recorder {
    open: AtomicUsize,
    met: Mutex<(Counters, VecDeque<Seen>)>,
}

impl Recorder {
    /// Counts one more connection, open until the result is dropped.
    pub(super) fn open(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.met().0.connections_total += 1;
        OpenConnection(Arc::clone(self))
    }

    /// Counts a request that arrived.
    pub(super) fn record<B>(&self, request: &Request<B>) {
        let headers = request.headers();
        let target = request.uri().path_and_query().map_or("*", |target| target.as_str());
        let mut met = self.met();
        let (counters, log) = &mut *met;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if reads && DECIDING_HEADERS[1..].iter().any(|name| headers.contains_key(name)) {
            counters.conditional += 1;
        }
        match (request.method(), headers.contains_key(header::RANGE)) {
            (&Method::GET, false) => counters.full_gets += 1,
            (&Method::GET, true) => counters.ranged_gets += 1,
            (&Method::HEAD, _) => counters.heads += 1,
            _ => {}
        }
        counters.gets = counters.full_gets + counters.ranged_gets;
        if log.len() == LOG_LENGTH {
            log.pop_front();
        }
        let (method, target) = (request.method().clone(), target.as_bytes().to_vec());
        log.push_back(Seen { method, target, headers: headers.clone() });
    }

    /// The present state.
    pub(super) fn counters(&self, bytes_sent: u64) -> Counters {
        let (counters, log) = self.met().clone();
        let connections_open = self.open.load(Ordering::SeqCst);
        Counters { connections_open, bytes_sent, last: log.into(), ..counters }
    }

    fn met(&self) -> MutexGuard<'_, (Counters, VecDeque<Seen>)> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection.
pub(super) struct OpenConnection(Arc<Recorder>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
