//! What dripline knows of S3: where it is ([`endpoint`]), which of its addresses to use ([`resolve`]),
//! how to connect ([`upstream`]), which connections to use again ([`quiet`]), how a request to it is
//! built and who vouches for it ([`outgoing`]), how to ask it something of dripline's own ([`client`]), how to read from it no faster than a drip needs ([`connect`]), how to
//! send it an upload ([`put`]), which headers belong to it ([`headers`]), and how to read a presigned
//! URL ([`presigned`]).
//!
//! No signature is ever made or checked here: that is S3's part. [`endpoint`], [`headers`],
//! [`presigned`] and [`settings`] are about names and bytes alone, without I/O, state or a clock.

mod amazon;
pub mod client;
pub mod connect;
pub mod endpoint;
pub mod headers;
pub mod outgoing;
pub mod presigned;
pub mod put;
pub mod quiet;
pub mod region_names;
pub mod resolve;
pub mod settings;
pub mod upstream;
