//! TLS as a small device needs it: [`identity`] is what the listener proves itself with,
//! [`listener`] caps the records, [`record`] is the arithmetic behind the caps, [`reload`] replaces
//! certificates while connections run.

pub mod combined;
pub mod hello;
pub mod identity;
pub mod listener;
mod openssl_gaps;
pub mod record;
pub mod reload;
