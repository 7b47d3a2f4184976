//! Stands in for the crate `libz-ng-sys`, whose C sources need cmake.
//!
//! pingora-core asks flate2 for zlib-ng on behalf of its compression module. dripline never turns
//! that module on (a signed object's bytes are nobody's to re-encode), so nothing of it runs; but
//! cmake would be the one tool that a fresh machine lacks. zlib has the same interface and a C
//! compiler is enough for it.
pub use libz_sys::*;
