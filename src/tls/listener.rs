//! The TLS side of a listener: OpenSSL contexts whose connections send no record, the handshake's
//! included, above their limit.
//!
//! TLS 1.2 and 1.3 (small stacks speak one or the other), HTTP/1.1 only. The limit is the smallest
//! of the cap for that client and what it asks for by max_fragment_length (RFC 6066 §4) or
//! record_size_limit (RFC 8449). OpenSSL sends every handshake message in a record of its own, and
//! cuts only what does not fit.
//!
//! This file must not know of pacing or HTTP.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::Id;
use openssl::ssl::{
    AlpnError, ClientHelloResponse, ExtensionContext, NameType, SniError, Ssl, SslAcceptor,
    SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVersion, select_next_proto,
};

use super::hello::{self, Hello};
use super::identity::Identity;
use super::openssl_gaps as gaps;
use super::record::{ChunkSize, Fragments, Offer, RecordSizeLimit, RecordSizeLimitError};

/// Key exchange groups. A device offers one of these; ML-KEM, which OpenSSL would add, costs 6 KB of
/// memory for the whole life of a connection.
const GROUPS: &str = "X25519:P-256:P-384";

/// The only protocol offered by ALPN, in wire form (RFC 7301 §3.1). A client that names only others is
/// served too: none of the small stacks sends ALPN, and HTTP/1.1 is the default.
const HTTP_1_1: &[u8] = b"\x08http/1.1";

/// The beginning of every session id context, so that no session of another application is resumed
/// (RFC 5246 §F.1.4).
const SESSION_CONTEXT: &[u8] = b"dripline";

/// What is known of a client when the size of the handshake's records is decided.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address.
    pub address: Option<IpAddr>,
    /// The server name in its ClientHello, in lower case.
    pub server_name: Option<&'a str>,
}

/// Decides the cap of a connection before anything is sent.
pub type Cap = Arc<dyn Fn(Client<'_>) -> ChunkSize + Send + Sync>;

/// How a TLS listener behaves.
#[derive(Clone)]
pub struct Settings {
    /// The largest record for a client.
    pub cap: Cap,
    /// How many session tickets a TLS 1.3 client gets, 0 to 2; with 0 a TLS 1.2 client gets none
    /// either.
    pub tickets: u8,
    /// Whether to negotiate TLS 1.2 with a client that offers max_fragment_length and can speak it.
    /// mbedTLS 3.6 fails on the answer to the extension in TLS 1.3, which OpenSSL always sends.
    pub mfl_prefers_tls12: bool,
}

impl Settings {
    /// Bounds of `tickets`: 2 is OpenSSL's own default.
    pub const TICKETS: RangeInclusive<u8> = 0..=2;
    /// Tickets unless something else is said: a device resumes one connection at a time, and each
    /// ticket is one more record of some 250 bytes.
    pub const DEFAULT_TICKETS: u8 = 1;
    /// `mfl_prefers_tls12` unless something else is said.
    pub const DEFAULT_MFL_PREFERS_TLS12: bool = true;
}

/// What a connection asked for and was given; stored with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The cap of the listener, the server name or the client's profile, in bytes.
    pub cap: usize,
    /// What the client offered.
    pub offer: Offer,
}

impl Negotiated {
    /// The largest record to send, in plaintext bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.offer.limit(self.cap)
    }
}

static NEGOTIATED: LazyLock<Index<Ssl, Negotiated>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL gives out indices while there is memory"));
static SERVER_NAME: LazyLock<Index<Ssl, String>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL gives out indices while there is memory"));
static ADDRESS: LazyLock<Index<Ssl, IpAddr>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL gives out indices while there is memory"));

/// What a connection asked for and was given; None before its ClientHello.
#[must_use]
pub fn negotiated(ssl: &SslRef) -> Option<Negotiated> {
    ssl.ex_data(*NEGOTIATED).copied()
}

/// The server name in this connection's ClientHello, in lower case. OpenSSL itself would return the resumed
/// session's name in TLS 1.2, and none if no callback chose a certificate by name.
#[must_use]
pub fn server_name(ssl: &SslRef) -> Option<&str> {
    ssl.ex_data(*SERVER_NAME).map(String::as_str)
}

/// The server's side of one connection, for a client at that address.
///
/// # Errors
///
/// If OpenSSL has no memory.
pub fn connection(acceptor: &SslAcceptor, address: Option<IpAddr>) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(acceptor.context())?;
    if let Some(address) = address {
        ssl.set_ex_data(*ADDRESS, address);
    }
    Ok(ssl)
}

/// Builds the acceptor of one listener. The first identity is used for clients that name no server, or
/// one that no certificate is for. If there is a second identity with another key type, each client gets
/// the one that it can verify.
///
/// # Errors
///
/// If OpenSSL refuses a setting, which it does not with checked identities.
///
/// # Panics
///
/// If there is no identity.
pub fn acceptor(
    identities: &[Arc<Identity>],
    settings: &Settings,
) -> Result<SslAcceptor, ErrorStack> {
    let first = identities.first().expect("a TLS listener has an identity");
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    prepare(&mut builder, settings)?;
    install(&mut builder, &companions(first, identities, true))?;
    let mut named = Vec::new();
    for identity in identities {
        let mut context = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        prepare(&mut context, settings)?;
        install(&mut context, &companions(identity, identities, false))?;
        named.push((Arc::clone(identity), context.build().into_context()));
    }
    if identities.len() > 1 {
        choose_by_name(&mut builder, named);
    }
    Ok(builder.build())
}

/// Everything about a context but its certificates.
fn prepare(builder: &mut SslContextBuilder, settings: &Settings) -> Result<(), ErrorStack> {
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_groups_list(GROUPS)?;
    // A client that accepts both gets ECDSA, which is shorter and faster to verify. A client that lists
    // ChaCha20 first has no AES in hardware, and gets ChaCha20.
    builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::PRIORITIZE_CHACHA);
    builder.set_session_id_context(SESSION_CONTEXT)?;
    // Resumption works by tickets; a cache of sessions would only grow.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(settings.tickets.into())?;
    if settings.tickets == 0 {
        builder.set_options(SslOptions::NO_TICKET);
    }
    builder.set_alpn_select_callback(|_, offered| {
        select_next_proto(HTTP_1_1, offered).ok_or(AlpnError::NOACK)
    });
    let hello_settings = settings.clone();
    builder.set_client_hello_callback(move |ssl, _| {
        read_hello(ssl, &hello_settings)?;
        Ok(ClientHelloResponse::SUCCESS)
    });
    builder.add_custom_ext(
        RecordSizeLimit::TYPE,
        ExtensionContext::CLIENT_HELLO
            | ExtensionContext::TLS1_2_SERVER_HELLO
            | ExtensionContext::TLS1_3_ENCRYPTED_EXTENSIONS,
        |ssl, context, _| Ok(answer_record_size_limit(ssl, context)),
        |ssl, context, data, _| read_record_size_limit(ssl, context, data),
    )
}

/// Reads the ClientHello before OpenSSL does, and sets the limits of this connection.
fn read_hello(ssl: &mut SslRef, settings: &Settings) -> Result<(), ErrorStack> {
    let Hello { server_name, max_fragment_length, speaks_tls12 } = hello::read(ssl);
    let address = ssl.ex_data(*ADDRESS).copied();
    let cap = (settings.cap)(Client { address, server_name: server_name.as_deref() }).bytes();
    if let Some(name) = server_name {
        ssl.set_ex_data(*SERVER_NAME, name);
    }
    let offer = Offer { max_fragment_length, record_size_limit: None };
    limit(ssl, Negotiated { cap, offer })?;
    if let Some(mfl) = max_fragment_length {
        // A session stores its max_fragment_length and applies it again, so only a client that asks for
        // the same one may resume it.
        gaps::set_session_id_context(ssl, &[SESSION_CONTEXT, b"/mfl", &[mfl.code()]].concat())?;
        if speaks_tls12 && settings.mfl_prefers_tls12 {
            ssl.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        }
    }
    Ok(())
}

fn limit(ssl: &mut SslRef, negotiated: Negotiated) -> Result<(), ErrorStack> {
    gaps::set_fragments(ssl, Fragments::within(negotiated.limit()))?;
    ssl.set_ex_data(*NEGOTIATED, negotiated);
    Ok(())
}

/// Caps the records of a response, its head's included, at `bytes` or at the client's own limit if that
/// is smaller, and returns the cap. A request's profile may allow other records than the handshake's.
///
/// Only the task that serves the connection may call it, hence the crate's visibility: Pingora lends
/// the connection out by shared reference, so the type cannot say that nobody else uses it.
///
/// # Errors
///
/// If OpenSSL refuses, which it does not for a size that a record can have.
pub(crate) fn allow(ssl: &SslRef, bytes: usize) -> Result<usize, ErrorStack> {
    let limit = negotiated(ssl).map_or(bytes, |known| known.offer.limit(bytes));
    gaps::set_fragments_shared(ssl, Fragments::within(limit))?;
    Ok(limit)
}

fn read_record_size_limit(
    ssl: &mut SslRef,
    context: ExtensionContext,
    data: &[u8],
) -> Result<(), SslAlert> {
    if !context.contains(ExtensionContext::CLIENT_HELLO) {
        return Ok(());
    }
    let asked = RecordSizeLimit::parse(data).map_err(|e| match e {
        RecordSizeLimitError::Decode => SslAlert::DECODE_ERROR,
        RecordSizeLimitError::Illegal => SslAlert::ILLEGAL_PARAMETER,
    })?;
    // The version is chosen before extensions are read.
    let tls13 = ssl.version2() == Some(SslVersion::TLS1_3);
    let mut known = negotiated(ssl).ok_or(SslAlert::INTERNAL_ERROR)?;
    known.offer.record_size_limit = Some(asked.plaintext(tls13));
    limit(ssl, known).map_err(|_| SslAlert::INTERNAL_ERROR)
}

/// Called only if the client sent the extension. If it sent max_fragment_length too, OpenSSL answers
/// that one, and RFC 8449 §5 forbids answering both.
fn answer_record_size_limit(ssl: &SslRef, context: ExtensionContext) -> Option<[u8; 2]> {
    let offer = negotiated(ssl)?.offer;
    if offer.max_fragment_length.is_some() {
        return None;
    }
    let tls13 = context.contains(ExtensionContext::TLS1_3_ENCRYPTED_EXTENSIONS);
    Some(if tls13 { RecordSizeLimit::OURS_TLS13 } else { RecordSizeLimit::OURS_TLS12 })
}

/// The identity itself and one of each other key type: one for the same name or, for clients that name
/// no server, the first.
fn companions<'a>(
    of: &'a Arc<Identity>,
    all: &'a [Arc<Identity>],
    any_name: bool,
) -> Vec<&'a Identity> {
    let mut chosen: Vec<&Identity> = vec![of];
    for other in all {
        let new_type = chosen.iter().all(|known| known.key().id() != other.key().id());
        if new_type && (any_name || other.shares_a_name_with(of)) {
            chosen.push(other);
        }
    }
    chosen
}

fn install(builder: &mut SslContextBuilder, identities: &[&Identity]) -> Result<(), ErrorStack> {
    for identity in identities {
        debug_assert!(matches!(
            identity.key().id(),
            Id::EC | Id::RSA | Id::ED25519 | Id::ED448 | Id::RSA_PSS
        ));
        let (leaf, issuers) =
            identity.chain().split_first().expect("an Identity has a certificate");
        builder.set_certificate(leaf)?;
        builder.set_private_key(identity.key())?;
        for issuer in issuers {
            gaps::add_chain_cert(builder, issuer)?;
        }
    }
    Ok(())
}

fn choose_by_name(builder: &mut SslContextBuilder, named: Vec<(Arc<Identity>, SslContext)>) {
    builder.set_servername_callback(move |ssl, _| {
        let Some(name) = ssl.servername(NameType::HOST_NAME).map(str::to_ascii_lowercase) else {
            return Ok(());
        };
        let exact = named.iter().find(|(identity, _)| identity.names(&name));
        match exact.or_else(|| named.iter().find(|(identity, _)| identity.is_for(&name))) {
            Some((_, context)) => ssl.set_ssl_context(context).map_err(|_| SniError::ALERT_FATAL),
            // The default certificate may do for a device that does not check names.
            None => Ok(()),
        }
    });
}
