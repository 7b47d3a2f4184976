//! TLS as a small device needs it: [`identity`] is a certificate chain and its key, [`listener`] caps
//! the records, [`record`] is the arithmetic behind the caps, [`reload`] replaces certificates while
//! connections run, [`combined`] writes several records in one system call, [`failure`] says why a
//! handshake failed.
//!
//! Invariant: no record of a connection, the handshake's included, is longer than the listener's cap
//! and the client's own limit. This room must not know HTTP, the schedule or S3.

pub mod combined;
pub mod failure;
pub mod hello;
pub mod identity;
pub mod listener;
mod openssl_gaps;
pub mod record;
pub mod reload;
