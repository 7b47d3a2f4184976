//! The few calls of OpenSSL that the openssl crate does not offer, each as small as it can be.
//!
//! Invariant: a function that changes a connection takes it by `&mut`, since `SslRef` may be shared
//! between threads. The one exception, [`set_fragments_shared`], is visible in `tls` alone and says why
//! its use is sound. This file must not know what the sizes and bytes mean.

#![expect(unsafe_code, reason = "calls of OpenSSL that the openssl crate has no safe wrapper for")]

use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};
use std::ptr;

use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl::x509::X509Ref;
use openssl_sys::SSL;

use super::record::Fragments;

// openssl/ssl.h
const SSL_CTRL_SET_MAX_SEND_FRAGMENT: c_int = 52;
const SSL_CTRL_CHAIN_CERT: c_int = 89;
const SSL_CTRL_SET_SPLIT_SEND_FRAGMENT: c_int = 125;

unsafe extern "C" {
    fn SSL_ctrl(ssl: *mut SSL, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long;
    fn SSL_client_hello_get0_ext(
        ssl: *mut SSL,
        kind: c_uint,
        out: *mut *const c_uchar,
        length: *mut usize,
    ) -> c_int;
    fn SSL_set_session_id_context(ssl: *mut SSL, context: *const c_uchar, length: c_uint) -> c_int;
}

/// Sets the record sizes of a connection (SSL_set_max_send_fragment(3)). The maximum goes first:
/// OpenSSL refuses a split above it, and lowers the split with it.
pub(super) fn set_fragments(ssl: &mut SslRef, fragments: Fragments) -> Result<(), ErrorStack> {
    set_fragments_shared(ssl, fragments)
}

/// Does the same for a connection that can be borrowed only shared: Pingora lends out its streams, and
/// with them their `SslRef`, by `&`. Only the task that serves a connection may call it: the call writes
/// two integers of the connection that OpenSSL reads when it writes, and that task alone writes.
pub(super) fn set_fragments_shared(ssl: &SslRef, fragments: Fragments) -> Result<(), ErrorStack> {
    let steps = [
        (SSL_CTRL_SET_MAX_SEND_FRAGMENT, fragments.max_send),
        (SSL_CTRL_SET_SPLIT_SEND_FRAGMENT, fragments.split),
    ];
    for (command, bytes) in steps {
        let bytes = c_long::try_from(bytes).expect("a record has at most 16384 bytes");
        // SAFETY: the connection is alive while it is borrowed. Nothing else reads or writes the two
        // integers at the same time: the borrow is exclusive, or the caller is the connection's one
        // task. The commands take an integer and no pointer.
        if unsafe { SSL_ctrl(ptr_of(ssl), command, bytes, ptr::null_mut()) } != 1 {
            return Err(ErrorStack::get());
        }
    }
    Ok(())
}

/// An extension's data in the ClientHello that is being processed; None outside the ClientHello callback.
pub(super) fn client_hello_extension(ssl: &SslRef, kind: u16) -> Option<&[u8]> {
    let (mut data, mut length) = (ptr::null(), 0);
    // SAFETY: the connection is alive while it is borrowed; both out pointers are valid. OpenSSL
    // keeps the bytes for as long as the callback runs, and the borrow of `ssl` ends within it.
    unsafe {
        if SSL_client_hello_get0_ext(ptr_of(ssl), kind.into(), &mut data, &mut length) != 1 {
            return None;
        }
        if length == 0 { Some(&[]) } else { Some(std::slice::from_raw_parts(data, length)) }
    }
}

/// Sets which sessions the connection may resume: those with the same context, at most 32 bytes.
pub(super) fn set_session_id_context(ssl: &mut SslRef, context: &[u8]) -> Result<(), ErrorStack> {
    let length = c_uint::try_from(context.len()).expect("a context has at most 32 bytes");
    // SAFETY: the connection is alive and exclusively borrowed; OpenSSL copies the bytes.
    match unsafe { SSL_set_session_id_context(ptr_of(ssl), context.as_ptr(), length) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// Adds an issuer to the chain of the certificate that was set last.
pub(super) fn add_chain_cert(
    builder: &mut SslContextBuilder,
    cert: &X509Ref,
) -> Result<(), ErrorStack> {
    let cert = foreign_types_shared::ForeignTypeRef::as_ptr(cert);
    // SAFETY: the context is alive for as long as its builder; with 1 as the integer OpenSSL takes
    // a reference of its own to the certificate (SSL_CTX_add1_chain_cert(3)).
    let done =
        unsafe { openssl_sys::SSL_CTX_ctrl(builder.as_ptr(), SSL_CTRL_CHAIN_CERT, 1, cert.cast()) };
    if done == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

fn ptr_of(ssl: &SslRef) -> *mut SSL {
    foreign_types_shared::ForeignTypeRef::as_ptr(ssl)
}
