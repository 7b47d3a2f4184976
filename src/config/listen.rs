//! `listen`: the device listeners, and the two that exist by default.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::claims::Claims;
use super::env::Environment;
use super::field::Field;
use super::listener_tls::{ListenerTls, SharedIdentity, tls};
use super::reader::Reader;
use super::section::Section;
use crate::networks::Networks;
use crate::proxy_protocol::Trusted;

/// The address of the default TLS listener.
const DEFAULT_TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);
/// The address of the default plain HTTP listener.
const DEFAULT_PLAIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);

/// A device listener.
#[derive(Clone)]
pub struct Listener {
    /// IP address and port; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Its TLS; without it, plain HTTP.
    pub tls: Option<ListenerTls>,
    /// The senders whose connections begin with a PROXY protocol header; None: no header is expected.
    pub proxy_protocol: Option<Trusted>,
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

/// Reads `listen`, or makes the two default listeners. The list may be empty only beside a forward
/// proxy.
pub(super) fn listeners(
    root: &mut Section<'_>,
    env: &Environment,
    claims: &mut Claims,
) -> Vec<Listener> {
    let reader = root.reader;
    let mut shared = SharedIdentity::new(env, reader);
    let tunnels = root.holds(&["forward_proxy"]);
    let listeners = match root.take("listen") {
        // A source that could not be read may have set `listen`.
        None if root.reader.incomplete => Vec::new(),
        // A forward proxy needs no bucket, and a device listener without one serves nothing.
        None if tunnels && !root.holds(&["s3", "bucket"]) => Vec::new(),
        None => default_listeners(reader, &mut shared, claims),
        Some(list) => {
            let at = list.at.clone();
            let Some(items) = list.items() else {
                return Vec::new();
            };
            if items.is_empty() && !tunnels {
                reader.fail(
                    &at,
                    "nothing to listen on; write [{addr: \"0.0.0.0:8443\", tls: {}}] or remove the key",
                );
            }
            items.into_iter().filter_map(|item| listener(item, &mut shared, claims)).collect()
        }
    };
    shared.finish();
    listeners
}

/// The default listeners, with warnings about the self-signed certificate and the plain one.
fn default_listeners(
    reader: &Reader,
    shared: &mut SharedIdentity<'_>,
    claims: &mut Claims,
) -> Vec<Listener> {
    claims.claim_default("listen[0].addr", DEFAULT_TLS);
    claims.claim_default("listen[1].addr", DEFAULT_PLAIN);
    let tls = shared.tls("listen[0].tls", DEFAULT_TLS);
    reader.warn(format!(
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
            field.address().inspect(|addr| claims.claim(field.reader(), &field.at, *addr, ""))
        }
        None => {
            section
                .missing("addr", "missing; write an IP address and a port, such as 0.0.0.0:8443");
            None
        }
    };
    let tls = match section.take_any("tls") {
        None => Some(None),
        // Read as plain HTTP, an empty `tls:` would switch encryption off silently.
        Some(field) if field.is_null() => {
            field.fail("has no value; write {} for a certificate from the environment or a self-signed one, \
                 or remove the key for plain HTTP");
            None
        }
        Some(field) => tls(field, addr.unwrap_or(DEFAULT_TLS), shared).map(Some),
    };
    let proxy_protocol = section.take("proxy_protocol").and_then(proxy_protocol);
    section.finish(&[]);
    Some(Listener { proxy_protocol, ..Listener::at(addr?, tls?) })
}

/// Reads `proxy_protocol`; `off` is the same as no key.
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
            let from = field.networks();
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
