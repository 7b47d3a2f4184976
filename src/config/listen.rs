//! Listeners: addresses, what each proves itself with, and that no two want one address.
//!
//! Invariant: a [`Listener`] with TLS has a certificate and the key that fits it.

use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::env::{CERT_PEM, Environment, KEY_PEM};
use super::error::Where;
use super::field::Field;
use super::profiles::networks;
use super::read::{Reader, Section};
use crate::networks::Networks;
use crate::proxy_protocol::Trusted;
use crate::tls::identity::{Identity, IdentityError};

/// Where a TLS listener is without any configuration.
const DEFAULT_TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);
/// Where a plain HTTP listener is without any configuration.
const DEFAULT_PLAIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);

/// Session tickets for each TLS 1.3 client where nothing says otherwise: a device resumes one
/// connection at a time, and each ticket is one more record of some 250 bytes.
const DEFAULT_TICKETS: u8 = 1;
/// The most session tickets; OpenSSL's own default.
const MAX_TICKETS: u8 = 2;

/// A device listener.
#[derive(Clone)]
pub struct Listener {
    /// IP address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Its TLS; without it, plain HTTP.
    pub tls: Option<ListenerTls>,
    /// Whose connections begin with a PROXY protocol header; without it, nobody's may.
    pub proxy_protocol: Option<Trusted>,
}

/// The TLS of a listener.
#[derive(Clone)]
pub struct ListenerTls {
    /// What it proves itself with, at least one; the first serves clients that name no server.
    pub identities: Vec<Arc<Identity>>,
    /// The files that they were read from, certificate and key, in the same order; empty for an
    /// identity that is not from files.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Whether the identity was made when the configuration was read, for want of another.
    pub self_signed: bool,
    /// Session tickets for each TLS 1.3 client, 0 to 2.
    pub tickets: u8,
    /// TLS 1.2 for a client that offers max_fragment_length and can speak it.
    pub mfl_prefers_tls12: bool,
}

impl Listener {
    fn at(addr: SocketAddr, tls: Option<ListenerTls>) -> Self {
        Self { addr, tls, proxy_protocol: None }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.tls.as_ref().map(|_| "MASKED");
        f.debug_struct("Listener")
            .field("addr", &self.addr)
            .field("tls", &tls)
            .field("proxy_protocol", &self.proxy_protocol)
            .finish()
    }
}

/// Reads `listen`, or makes the two listeners that are there without it. Only beside a forward proxy may
/// there be none.
pub(super) fn listeners(
    root: &mut Section<'_>,
    env: &Environment,
    claims: &mut Claims,
) -> Vec<Listener> {
    let mut shared = SharedIdentity { env, reader: root.reader, made: None };
    let tunnels = root.holds(&["forward_proxy"]);
    let listeners = match root.take("listen") {
        // What the unread source says about `listen` is not known.
        None if root.reader.incomplete => Vec::new(),
        // A forward proxy alone needs no bucket, and devices nothing without one.
        None if tunnels && !root.holds(&["s3", "bucket"]) => Vec::new(),
        None => default_listeners(&mut shared, claims),
        Some(list) => {
            let at = list.at.clone();
            let Some(items) = list.items() else {
                return Vec::new();
            };
            if items.is_empty() && !tunnels {
                shared.reader.fail(
                    &at,
                    "nothing to listen on; write [{addr: \"0.0.0.0:8443\", tls: {}}] or remove the key",
                );
            }
            items.into_iter().filter_map(|item| listener(item, &mut shared, claims)).collect()
        }
    };
    if shared.made.is_none() && env.value(KEY_PEM).is_some() {
        let unused = format!("{CERT_PEM} and {KEY_PEM} are not used: no listener has `tls: {{}}`");
        root.reader.warn(unused);
    }
    listeners
}

/// What listens if nothing says otherwise, each with a warning where a device might not like it.
fn default_listeners(shared: &mut SharedIdentity<'_>, claims: &mut Claims) -> Vec<Listener> {
    claims.default("listen[0].addr", DEFAULT_TLS);
    claims.default("listen[1].addr", DEFAULT_PLAIN);
    let tls = shared.tls("listen[0].tls", DEFAULT_TLS);
    shared.reader.warn(format!(
        "listen[1]: {DEFAULT_PLAIN} serves plain HTTP, because `listen` is not set; \
         presigned URLs can be read on the way"
    ));
    let tls = tls.map(|tls| Listener::at(DEFAULT_TLS, Some(tls)));
    tls.into_iter().chain([Listener::at(DEFAULT_PLAIN, None)]).collect()
}

/// Reads one entry of `listen`. None if anything in it is wrong, which is reported.
fn listener(
    item: Field<'_>,
    shared: &mut SharedIdentity<'_>,
    claims: &mut Claims,
) -> Option<Listener> {
    let mut section = item.section();
    let addr = match section.take("addr") {
        Some(field) => {
            field.address().inspect(|addr| claims.claim(shared.reader, &field.at, *addr, ""))
        }
        None => {
            section
                .missing("addr", "missing; write an IP address and a port, such as 0.0.0.0:8443");
            None
        }
    };
    let tls = match section.take_any("tls") {
        None => Some(None),
        // Taken for plain HTTP, an emptied `tls:` would drop the encryption without a word.
        Some(field) if field.is_null() => {
            field.fail("has no value; write {} for a certificate from the environment or a self-signed one, \
                 or remove the key for plain HTTP");
            None
        }
        Some(field) => tls(field, addr, shared).map(Some),
    };
    let proxy_protocol = section.take("proxy_protocol").and_then(proxy_protocol);
    section.finish(&[]);
    Some(Listener { proxy_protocol, ..Listener::at(addr?, tls?) })
}

/// Reads `proxy_protocol`; `off` is as if it were not there.
fn proxy_protocol(field: Field<'_>) -> Option<Trusted> {
    if field.is_off() {
        return None;
    }
    let reader = field.reader();
    let mut section = field.section();
    let at = section.path("from");
    let from = match section.take("from") {
        Some(field) => {
            let errors = reader.error_count();
            let from = networks(field);
            if from.is_empty() && reader.error_count() == errors {
                reader.fail(&at, "is empty; every connection would be refused");
            }
            from
        }
        None => {
            section.missing(
                "from",
                "missing; write the networks of the load balancers, such as [10.0.0.0/8]",
            );
            Networks::default()
        }
    };
    section.finish(&[]);
    Some(Trusted { from })
}

/// Reads `tls`. None if anything in it is wrong, which is reported.
fn tls(
    field: Field<'_>,
    addr: Option<SocketAddr>,
    shared: &mut SharedIdentity<'_>,
) -> Option<ListenerTls> {
    let at = field.at.clone();
    let is_map = field.is_map();
    let mut section = field.section();
    let certificates = section.take("certificates");
    let pair = pair(&mut section);
    let tickets = section.take("tickets").and_then(|field| {
        let tickets = field.scalar()?.parse().ok().filter(|tickets| *tickets <= MAX_TICKETS);
        if tickets.is_none() {
            field.fail(format!("must be a number of session tickets, 0 to {MAX_TICKETS}"));
        }
        tickets
    });
    let mfl_prefers_tls12 = section.flag("max_fragment_length_prefers_tls12", true);
    section.finish(&[]);
    let tls = match (certificates, pair) {
        (Some(field), Ok(None)) => several(field),
        (Some(field), _) => {
            field.fail("cannot stand beside cert and key; put those into the list");
            None
        }
        (None, Ok(Some(tls))) => Some(tls),
        (None, Ok(None)) if is_map => shared.tls(&at, addr.unwrap_or(DEFAULT_TLS)),
        (None, _) => None,
    };
    tls.map(|tls| ListenerTls {
        tickets: tickets.unwrap_or(DEFAULT_TICKETS),
        mfl_prefers_tls12,
        ..tls
    })
}

/// Takes `cert` and `key` out: neither, both, or an error, which is reported.
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

/// Reads `certificates`: pairs for several names, or for clients that take ECDSA or RSA.
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
            tickets: DEFAULT_TICKETS,
            mfl_prefers_tls12: true,
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

/// The one identity of all listeners that name no files: PEM text from the environment, else
/// self-signed. It is made when the first of them asks.
struct SharedIdentity<'a> {
    env: &'a Environment,
    reader: &'a Reader,
    made: Option<Option<Arc<Identity>>>,
}

impl SharedIdentity<'_> {
    /// The TLS of the listener whose `tls` is `at`. None if it cannot be, which is reported once.
    fn tls(&mut self, at: &str, addr: SocketAddr) -> Option<ListenerTls> {
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
            (Some(cert), Some(key)) => (lines(cert), lines(key)),
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
            self.reader.fail_from(&at, Where::Variable(name.to_owned()), error.to_string());
        };
        Identity::from_pem(cert.as_bytes(), key.as_bytes()).map_err(report).ok()
    }
}

/// PEM text with its lines apart. A container's env file holds one line for each variable, so
/// people write `\n` there.
fn lines(pem: &str) -> String {
    if pem.trim().contains('\n') { pem.to_owned() } else { pem.replace("\\n", "\n") }
}

/// The addresses that are spoken for, and by whom.
#[derive(Default)]
pub(super) struct Claims(Vec<(String, SocketAddr)>);

impl Claims {
    /// Takes `addr` for a listener that nobody configured. Those of this kind come first and are
    /// known not to collide.
    fn default(&mut self, at: &str, addr: SocketAddr) {
        self.0.push((format!("{at} ({addr}, the default)"), addr));
    }

    /// Takes `addr` for `at`, or reports who has it already; `otherwise` says what else to do.
    pub(super) fn claim(&mut self, reader: &Reader, at: &str, addr: SocketAddr, otherwise: &str) {
        if let Some((other, _)) = self.0.iter().find(|(_, taken)| collide(*taken, addr)) {
            reader.fail(at, format!("{addr} is taken by {other}; choose another port{otherwise}"));
        }
        self.0.push((format!("{at} ({addr})"), addr));
    }
}

/// Whether two sockets cannot both be bound. A wildcard takes its port on every address; the IPv6
/// one on the IPv4 addresses too, since Linux binds it for both.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers =
        |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
