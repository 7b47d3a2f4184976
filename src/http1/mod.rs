//! What serves HTTP/1.1 on a connection.
//!
//! [`head`] reads request heads within bounds of size and time, and [`framing`] judges them; [`refusal`]
//! answers what is refused, and [`linger`] lets the client read that answer. These four work on any stream:
//! devices' listeners and the forward proxy use them. [`connection`] serves one device's connection,
//! request by request; [`stream`] is that connection as Pingora sees it.
//!
//! Invariant: a request whose framing is ambiguous is passed on to no server, and its connection is closed.
//!
//! This room must not know of S3, nor what a request asks for.

pub mod connection;
pub mod framing;
pub mod head;
pub mod linger;
pub mod refusal;
pub mod stream;

use std::io;

/// What is left of a request whose body still drips when Pingora is done with the request. It is handed
/// over as the connection's user context, as a `Box<dyn DetachedBody>`.
pub trait DetachedBody: Send + Sync {
    /// The body was sent, or not. Returns whether the connection is of further use.
    fn end(self: Box<Self>, sent: &io::Result<()>) -> bool;
}
