//! A small device's side of TLS: one version, a device's groups and suites, one of the extensions that
//! ask for small records, and a verified server.
//!
//! It must not know HTTP, sockets or what the answers mean.

#![expect(unsafe_code, reason = "a call of OpenSSL that the openssl crate has no safe wrapper for")]

use std::path::PathBuf;

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::ssl::{
    ExtensionContext, Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use openssl::x509::verify::X509VerifyFlags;
use url::Host;

use super::offer::{Limit, Offer, Version};
use super::seen::Chain;
use super::target::Target;

/// Key exchange groups of small devices. ML-KEM, which OpenSSL would add, they do not have.
const GROUPS: &str = "X25519:P-256:P-384";

/// TLS 1.3 suites: the one that every device has first.
const SUITES_TLS13: &str =
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";

/// TLS 1.2 suites: what devices offer first, then whatever else a server may need.
const SUITES: &str =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:HIGH:!aNULL:!PSK:!SRP";

/// The client's side of a connection that makes that offer to that target. `authorities` are trusted
/// beside the system's.
///
/// # Errors
///
/// If OpenSSL refuses a setting.
pub(super) fn ssl(target: &Target, authorities: &[X509], offer: Offer) -> Result<Ssl, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    let version = match offer.version {
        Version::Tls12 => SslVersion::TLS1_2,
        Version::Tls13 => SslVersion::TLS1_3,
    };
    context.set_min_proto_version(Some(version))?;
    context.set_max_proto_version(Some(version))?;
    context.set_cipher_list(SUITES)?;
    context.set_ciphersuites(SUITES_TLS13)?;
    context.set_groups_list(GROUPS)?;
    context.set_verify(SslVerifyMode::PEER);
    // A vendored OpenSSL does not know where the system keeps its certificates.
    let system = openssl_probe::probe();
    trust(&mut context, system.cert_file, system.cert_dir);
    for authority in authorities {
        context.cert_store_mut().add_cert(authority.clone())?;
    }
    if !authorities.is_empty() {
        // What the user names is trusted as it is, be it the server's own certificate.
        context.verify_param_mut().set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    }
    if let Some(Limit::RecordSizeLimit(value)) = offer.limit {
        offer_record_size_limit(&mut context, value)?;
    }

    let mut ssl = Ssl::new(&context.build())?;
    if let Some(Limit::MaxFragmentLength(length)) = offer.limit {
        offer_max_fragment_length(&mut ssl, length)?;
    }
    match target.host() {
        Host::Domain(name) => {
            ssl.set_hostname(name)?;
            ssl.param_mut().set_host(name)?;
        }
        Host::Ipv4(ip) => ssl.param_mut().set_ip((*ip).into())?,
        Host::Ipv6(ip) => ssl.param_mut().set_ip((*ip).into())?,
    }
    Ok(ssl)
}

/// Adds the system's certificates. A place that cannot be read is skipped: another one, or an authority
/// that the user names, may be enough.
fn trust(context: &mut SslContextBuilder, file: Option<PathBuf>, dirs: Vec<PathBuf>) {
    if let Some(file) = file {
        let _ = context.load_verify_locations(Some(&file), None);
    }
    for dir in dirs {
        let _ = context.load_verify_locations(None, Some(&dir));
    }
}

/// Offers RFC 8449's extension. No OpenSSL implements it, so it is sent as a custom one.
fn offer_record_size_limit(context: &mut SslContextBuilder, value: u16) -> Result<(), ErrorStack> {
    context.add_custom_ext(
        Limit::RecordSizeLimit(value).extension(),
        ExtensionContext::CLIENT_HELLO
            | ExtensionContext::TLS1_2_SERVER_HELLO
            | ExtensionContext::TLS1_3_ENCRYPTED_EXTENSIONS,
        move |_, _, _| Ok(Some(value.to_be_bytes())),
        // The answer is read from the message, by the tap.
        |_, _, _, _| Ok(()),
    )
}

unsafe extern "C" {
    // In libssl since 1.1.1 (SSL_set_tlsext_max_fragment_length(3)); not in openssl-sys.
    fn SSL_set_tlsext_max_fragment_length(ssl: *mut openssl_sys::SSL, mode: u8) -> libc::c_int;
}

fn offer_max_fragment_length(ssl: &mut Ssl, length: u16) -> Result<(), ErrorStack> {
    use foreign_types_shared::ForeignType;
    // 512 is 1, 1024 is 2, 2048 is 3, 4096 is 4 (RFC 6066 §4).
    let code = u8::try_from((length / 512).ilog2() + 1).unwrap_or(0);
    // SAFETY: `ssl` is alive, and the call stores a byte in it.
    match unsafe { SSL_set_tlsext_max_fragment_length(ssl.as_ptr(), code) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// The certificates that the server sent.
pub(super) fn chain(ssl: &SslRef) -> Chain {
    let certificates = ssl.peer_cert_chain();
    let sizes: Vec<usize> = certificates
        .into_iter()
        .flatten()
        .map(|certificate| certificate.to_der().map_or(0, |der| der.len()))
        .collect();
    let key = ssl.peer_certificate().and_then(|leaf| leaf.public_key().ok());
    Chain {
        certificates: sizes.len(),
        bytes: sizes.iter().sum(),
        key: key.map_or_else(|| "unknown".into(), |key| key_name(&key)),
    }
}

fn key_name(key: &PKeyRef<Public>) -> String {
    match key.id() {
        Id::RSA => format!("RSA {}", key.bits()),
        Id::RSA_PSS => format!("RSA-PSS {}", key.bits()),
        Id::EC => format!("EC P-{}", key.bits()),
        Id::ED25519 => "Ed25519".into(),
        Id::ED448 => "Ed448".into(),
        _ => format!("{} bits", key.bits()),
    }
}
