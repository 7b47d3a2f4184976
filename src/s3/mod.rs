//! What dripline knows of S3: where it is, which headers belong to it, and how to read a presigned URL.
//!
//! Everything here is about names and bytes. Nothing here opens a connection, keeps state or reads a
//! clock, and no signature is ever made or checked: that is S3's part.

pub mod endpoint;
pub mod headers;
pub mod presigned;
pub mod resolve;
pub mod settings;
