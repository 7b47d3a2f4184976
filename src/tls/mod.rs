//! TLS as a small device needs it: [`identity`] is what the listener proves itself with,
//! [`listener`] caps the records, [`record`] is the arithmetic behind the caps.

pub mod identity;
pub mod listener;
pub mod record;
