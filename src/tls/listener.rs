//! The TLS side of a listener: an OpenSSL acceptor on which every record, the handshake's
//! included, is within the cap.
//!
//! TLS 1.2 and 1.3 (small stacks speak one or the other), HTTP/1.1 only. This file must not know
//! of pacing or HTTP.

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, SslAcceptor, SslContextBuilder, SslMethod, SslSessionCacheMode, SslVersion,
    select_next_proto,
};

use super::identity::Identity;
use super::record::Fragments;
use crate::drip::ChunkSize;

/// Key exchange groups. A device offers one of these; ML-KEM, which OpenSSL would add, costs 6 KB
/// a connection for as long as it lives.
const GROUPS: &str = "X25519:P-256:P-384";

/// The one protocol offered by ALPN, in wire form (RFC 7301 §3.1). A client that names others only
/// is served all the same: none of the small stacks sends ALPN, and HTTP/1.1 is the default.
const HTTP_1_1: &[u8] = b"\x08http/1.1";

/// Session ids must not be resumable in another application's context (RFC 5246 §F.1.4).
const SESSION_CONTEXT: &[u8] = b"dripline";

// openssl/ssl.h; the openssl crate has no names for these.
const SSL_CTRL_SET_MAX_SEND_FRAGMENT: libc::c_int = 52;
const SSL_CTRL_SET_SPLIT_SEND_FRAGMENT: libc::c_int = 125;

/// Builds the acceptor of one listener, on which no record is larger than `cap`.
///
/// # Errors
///
/// If OpenSSL refuses a setting; with a checked [`Identity`] and [`ChunkSize`] it does not.
pub fn acceptor(identity: &Identity, cap: ChunkSize) -> Result<SslAcceptor, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_groups_list(GROUPS)?;
    builder.set_session_id_context(SESSION_CONTEXT)?;
    // Tickets make resumption work without a cache; a cache of sessions would only grow.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_alpn_select_callback(|_, offered| {
        select_next_proto(HTTP_1_1, offered).ok_or(AlpnError::NOACK)
    });
    cap_records(&mut builder, Fragments::within(cap))?;

    let (leaf, issuers) = identity.chain().split_first().expect("an Identity has a certificate");
    builder.set_certificate(leaf)?;
    for issuer in issuers {
        builder.add_extra_chain_cert(issuer.clone())?;
    }
    builder.set_private_key(identity.key())?;
    Ok(builder.build())
}

fn cap_records(builder: &mut SslContextBuilder, fragments: Fragments) -> Result<(), ErrorStack> {
    let settings = [
        (SSL_CTRL_SET_MAX_SEND_FRAGMENT, fragments.max_send),
        (SSL_CTRL_SET_SPLIT_SEND_FRAGMENT, fragments.split),
    ];
    for (command, bytes) in settings {
        let bytes = libc::c_long::try_from(bytes).expect("a record has at most 16384 bytes");
        // SAFETY: the context is alive for as long as its builder; both commands take an integer
        // and no pointer (SSL_CTX_set_max_send_fragment(3)).
        let done = unsafe {
            openssl_sys::SSL_CTX_ctrl(builder.as_ptr(), command, bytes, std::ptr::null_mut())
        };
        if done != 1 {
            return Err(ErrorStack::get());
        }
    }
    Ok(())
}
