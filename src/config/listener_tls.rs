//! `listen[].tls`: a listener's certificates and keys, from files, from the environment, or made at
//! start.
//!
//! Invariant: a [`ListenerTls`] has at least one certificate, and for each the key that fits.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::env::{CERT_PEM, Environment, KEY_PEM};
use super::error::Origin;
use super::field::Field;
use super::reader::Reader;
use super::section::Section;
use crate::tls::identity::{Identity, IdentityError};
use crate::tls::listener::Settings;

/// The TLS of a listener.
#[derive(Clone)]
pub struct ListenerTls {
    /// Certificates with their keys, at least one; the first serves clients that send no server name.
    pub identities: Vec<Arc<Identity>>,
    /// The files that they were read from, certificate and key, in the same order; empty for an
    /// identity that is not from files.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Whether the certificate was made when the configuration was read, because none was configured.
    pub self_signed: bool,
    /// Session tickets for each TLS 1.3 client, 0 to 2.
    pub tickets: u8,
    /// TLS 1.2 for a client that offers max_fragment_length and can speak it.
    pub mfl_prefers_tls12: bool,
}

/// Reads `tls`. None if anything in it is wrong, which is reported.
pub(super) fn tls(
    field: Field<'_>,
    addr: SocketAddr,
    shared: &mut SharedIdentity<'_>,
) -> Option<ListenerTls> {
    let at = field.at.clone();
    let is_map = field.is_map();
    let mut section = field.section();
    let certificates = section.take("certificates");
    let pair = pair(&mut section);
    let tickets = section.take("tickets").and_then(|field| {
        let tickets =
            field.scalar()?.parse().ok().filter(|tickets| Settings::TICKETS.contains(tickets));
        if tickets.is_none() {
            let (least, most) = Settings::TICKETS.into_inner();
            field.fail(format!("must be a number of session tickets, {least} to {most}"));
        }
        tickets
    });
    let mfl_prefers_tls12 =
        section.flag("max_fragment_length_prefers_tls12", Settings::DEFAULT_MFL_PREFERS_TLS12);
    section.finish(&[]);
    let tls = match (certificates, pair) {
        (Some(field), Ok(None)) => several(field),
        (Some(field), _) => {
            field.fail("cannot stand beside cert and key; put those into the list");
            None
        }
        (None, Ok(Some(tls))) => Some(tls),
        (None, Ok(None)) if is_map => shared.tls(&at, addr),
        (None, _) => None,
    };
    tls.map(|tls| ListenerTls {
        tickets: tickets.unwrap_or(Settings::DEFAULT_TICKETS),
        mfl_prefers_tls12,
        ..tls
    })
}

/// Takes `cert` and `key` out: both, neither, or an error, which is reported.
fn pair(section: &mut Section<'_>) -> Result<Option<ListenerTls>, ()> {
    let missing = |section: &Section<'_>, key, message| {
        section.missing(key, message);
        Err(())
    };
    match (&section.take("cert"), &section.take("key")) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => from_files(cert, key).map(Some).ok_or(()),
        (Some(_), None) => missing(
            section,
            "key",
            "missing; write the path of the PEM file with the certificate's key",
        ),
        (None, Some(_)) => missing(
            section,
            "cert",
            "missing; write the path of the PEM file with the key's certificate",
        ),
    }
}

/// Reads `certificates`: pairs for several names, or for clients that verify ECDSA or RSA only.
fn several(field: Field<'_>) -> Option<ListenerTls> {
    let at = field.at.clone();
    let reader = field.reader();
    let items = field.items()?;
    if items.is_empty() {
        reader.fail(&at, "is empty; write [{cert: …, key: …}], or remove the key");
        return None;
    }
    let mut all = Vec::new();
    for item in items {
        let mut section = item.section();
        let one = pair(&mut section);
        if let Ok(None) = one {
            section.missing("cert", "missing; write the paths of a PEM certificate and its key");
        }
        section.finish(&[]);
        all.push(one.ok().flatten());
    }
    let all: Option<Vec<ListenerTls>> = all.into_iter().collect();
    let (identities, files): (Vec<_>, Vec<_>) =
        all?.into_iter().map(|one| (one.identities, one.files)).unzip();
    Some(ListenerTls { files: files.concat(), ..ListenerTls::with(identities.concat()) })
}

impl ListenerTls {
    /// One identity that is not from files.
    fn of(identity: Arc<Identity>) -> Self {
        Self::with(vec![identity])
    }

    fn with(identities: Vec<Arc<Identity>>) -> Self {
        Self {
            identities,
            files: Vec::new(),
            self_signed: false,
            tickets: Settings::DEFAULT_TICKETS,
            mfl_prefers_tls12: Settings::DEFAULT_MFL_PREFERS_TLS12,
        }
    }
}

/// Reads a certificate chain and its key.
fn from_files(cert: &Field<'_>, key: &Field<'_>) -> Option<ListenerTls> {
    let (cert_path, key_path) = (cert.text().map(PathBuf::from), key.text().map(PathBuf::from));
    let (cert_path, key_path) = (cert_path?, key_path?);
    match Identity::from_files(&cert_path, &key_path) {
        Ok(identity) => Some(ListenerTls {
            files: vec![(cert_path, key_path)],
            ..ListenerTls::of(Arc::new(identity))
        }),
        Err(error) => {
            let in_key = is_about_key(&error);
            (if in_key { key } else { cert }).fail(error.to_string());
            // The certificate comes first; a key that is missing as well is reported with it.
            if !in_key && let Err(source) = File::open(&key_path) {
                key.fail(IdentityError::KeyFile { path: key_path, source }.to_string());
            }
            None
        }
    }
}

fn is_about_key(error: &IdentityError) -> bool {
    match error {
        IdentityError::CertFile { .. } | IdentityError::Cert(_) => false,
        IdentityError::KeyFile { .. } | IdentityError::Key(_) | IdentityError::Mismatch => true,
    }
}

/// The identity that all listeners without files share: PEM text from the environment, or else a
/// self-signed certificate. It is made when the first listener needs it.
pub(super) struct SharedIdentity<'a> {
    env: &'a Environment,
    reader: &'a Reader,
    made: Option<Option<Arc<Identity>>>,
}

impl<'a> SharedIdentity<'a> {
    pub(super) fn new(env: &'a Environment, reader: &'a Reader) -> Self {
        Self { env, reader, made: None }
    }

    /// Warns of PEM text in the environment that no listener uses.
    pub(super) fn finish(self) {
        if self.made.is_none() && self.env.value(KEY_PEM).is_some() {
            let unused = "are not used: no listener has `tls: {}`";
            self.reader.warn(format!("{CERT_PEM} and {KEY_PEM} {unused}"));
        }
    }

    /// The TLS of the listener whose `tls` is at `at`. None if it cannot be made, which is reported
    /// once.
    pub(super) fn tls(&mut self, at: &str, addr: SocketAddr) -> Option<ListenerTls> {
        let self_signed = self.env.value(CERT_PEM).or(self.env.value(KEY_PEM)).is_none();
        if self_signed {
            self.reader.warn(format!(
                "{at}: {addr} serves a self-signed certificate made at start, which no device trusts; \
                 name cert and key, or set {CERT_PEM} and {KEY_PEM}"
            ));
        }
        if self.made.is_none() {
            self.made = Some(self.make(at).map(Arc::new));
        }
        let identity = self.made.clone().flatten()?;
        Some(ListenerTls { self_signed, ..ListenerTls::of(identity) })
    }

    fn make(&self, at: &str) -> Option<Identity> {
        let (cert_at, key_at) = (format!("{at}.cert"), format!("{at}.key"));
        let (cert, key) = match (self.env.value(CERT_PEM), self.env.value(KEY_PEM)) {
            (Some(cert), Some(key)) => (unescape_newlines(cert), unescape_newlines(key)),
            (Some(_), None) => {
                self.reader
                    .missing(&key_at, format!("missing; {CERT_PEM} is set, so set {KEY_PEM} too"));
                return None;
            }
            (None, Some(_)) => {
                self.reader
                    .missing(&cert_at, format!("missing; {KEY_PEM} is set, so set {CERT_PEM} too"));
                return None;
            }
            (None, None) => {
                let made = Identity::self_signed(&["localhost"]);
                let report =
                    |error| self.reader.fail(at, format!("cannot make a certificate: {error}"));
                return made.map_err(report).ok();
            }
        };
        let report = |error: IdentityError| {
            let (at, name) =
                if is_about_key(&error) { (key_at, KEY_PEM) } else { (cert_at, CERT_PEM) };
            self.reader.fail_from(&at, Origin::Variable(name.to_owned()), error.to_string());
        };
        Identity::from_pem(cert.as_bytes(), key.as_bytes()).map_err(report).ok()
    }
}

/// PEM text with real line breaks. An env file holds one line for each variable, so people write `\n`
/// there.
fn unescape_newlines(pem: &str) -> String {
    if pem.trim().contains('\n') { pem.to_owned() } else { pem.replace("\\n", "\n") }
}
