//! What dripline knows of S3: where it is ([`endpoint`]), which of its addresses to use ([`resolve`]),
//! how to connect ([`upstream`]), which connections to use again ([`quiet`]), how a request to it is
//! built and by what it is authenticated ([`outgoing`]), how to send it a request of dripline's own
//! ([`client`]), how to read from it no faster than a drip needs ([`connect`]), how to send it an upload
//! ([`put`]), which headers pass ([`headers`]), how to read a presigned URL ([`presigned`]), and when a
//! presigned URL expires ([`expiry`]).
//!
//! No signature is made or checked here; S3 checks those of the clients. [`endpoint`], [`expiry`],
//! [`headers`], [`presigned`] and [`settings`] deal with names and bytes alone, without I/O, state or a
//! clock.

mod amazon;
pub mod client;
pub mod connect;
pub mod endpoint;
pub mod expiry;
pub mod headers;
pub mod outgoing;
pub mod presigned;
pub mod put;
pub mod quiet;
pub mod region_names;
pub mod resolve;
pub mod settings;
pub mod upstream;
