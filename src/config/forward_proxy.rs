//! `forward_proxy`: its keys, their ranges and defaults.
//!
//! Invariants: without `clients` it listens on a loopback address only; no message quotes a password.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::claims::Claims;
use super::class_uses::ClassUses;
use super::field::{Field, shown};
use super::section::Section;
use crate::forward_proxy::allow::{Endpoint, Rules, Target};
use crate::forward_proxy::connect::User;
use crate::forward_proxy::ranges::Prefixes;
use crate::forward_proxy::{ClientClass, Limits, Settings};
use crate::networks::Networks;
use crate::s3::endpoint::BucketName;

/// Reads `forward_proxy`; None if it is switched off or wrong.
pub(super) fn forward_proxy(
    root: &mut Section<'_>,
    claims: &mut Claims,
    uses: &mut ClassUses,
) -> Option<Settings> {
    let field = root.take("forward_proxy").filter(|field| !field.is_off())?;
    let mut section = field.section();
    let addr = address(&mut section, claims);
    let clients = section.take("clients");
    if let Some(addr) = addr
        && clients.is_none()
        && !addr.ip().to_canonical().is_loopback()
    {
        let message = "missing; write the networks whose clients may use the proxy, such as [192.168.80.0/24]";
        section.missing("clients", message);
    }
    let clients = clients.map(|field| client_networks(field, "use the proxy")).unwrap_or_default();
    let users = section.take("users").map(users).unwrap_or_default();
    let rules = rules(&mut section);
    let resolve = section.take("resolve").map(resolve).unwrap_or_default();
    let ip_ranges = section.take("ip_ranges").and_then(ip_ranges);
    let class = uses.take(&mut section, "class");
    let classes = client_classes(&mut section, uses);
    let download_class = uses.take(&mut section, "download_class");
    if download_class.is_some() && class.is_none() && classes.is_empty() {
        section.missing("class", "missing; download_class is for what `class` is not to count");
    }
    let limits = limits(&mut section);
    section.finish(&[]);
    let addr = addr?;
    Some(Settings {
        addr,
        clients,
        users,
        rules,
        resolve,
        ip_ranges,
        class,
        classes,
        download_class,
        limits,
    })
}

/// Reads `classes`: the classes of certain clients.
fn client_classes(section: &mut Section<'_>, uses: &mut ClassUses) -> Vec<ClientClass> {
    let items = section.take("classes").and_then(Field::items).unwrap_or_default();
    let mut own = |item: Field<'_>| {
        let mut section = item.section();
        for (key, message) in [
            ("clients", "missing; write the networks whose tunnels the class is for"),
            ("class", "missing; write a class of shaping.classes"),
        ] {
            if !section.holds(&[key]) {
                section.missing(key, message);
            }
        }
        let clients =
            section.take("clients").map(|field| client_networks(field, "be counted here"));
        let class = uses.take(&mut section, "class");
        section.finish(&[]);
        Some(ClientClass { clients: clients?, class: class? })
    };
    items.into_iter().filter_map(&mut own).collect()
}

fn address(section: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    match section.take("addr") {
        Some(field) => {
            field.address().inspect(|addr| claims.claim(field.reader(), &field.at, *addr, ""))
        }
        None => {
            section
                .missing("addr", "missing; write an IP address and a port, such as 127.0.0.1:3128");
            None
        }
    }
}

/// Reads a list of networks, which must not be empty; `what` is what the clients may do.
fn client_networks(field: Field<'_>, what: &str) -> Networks {
    let (reader, at) = (field.reader(), field.at.clone());
    let errors = reader.error_count();
    let networks = field.networks();
    if networks.is_empty() && reader.error_count() == errors {
        reader.fail(&at, format!("is empty; nobody could {what}"));
    }
    networks
}

/// Reads `users`. An empty list is refused: it would admit everybody, where nobody may be meant.
fn users(field: Field<'_>) -> Vec<User> {
    let (reader, at) = (field.reader(), field.at.clone());
    let Some(items) = field.items() else { return Vec::new() };
    let most = Settings::MAX_USERS;
    if items.is_empty() || items.len() > most {
        reader.fail(&at, format!("must have 1 to {most} entries; remove the key to ask nobody"));
    }
    let mut users: Vec<User> = Vec::new();
    for item in items {
        let mut section = item.section();
        let (name, password) = (section.take("name"), section.take_any("password"));
        for (key, field) in [("name", &name), ("password", &password)] {
            if field.is_none() {
                section.missing(key, "missing");
            }
        }
        let text = name.as_ref().and_then(Field::text);
        let secret = password.as_ref().and_then(Field::secret);
        if let (Some(field), Some(name)) = (&name, &text) {
            if name.is_empty() || name.contains(|c: char| c == ':' || c.is_control()) {
                field.fail("must be a name without a colon (RFC 7617 §2)");
            } else if users.iter().any(|user| *user.name == **name) {
                field.fail(format!("`{}` is there twice", shown(name)));
            }
        }
        if let (Some(field), Some(secret)) = (&password, &secret)
            && secret.is_empty()
        {
            field.fail("must not be empty");
        }
        section.finish(&[]);
        if let (Some(name), Some(secret)) = (text, secret) {
            users.push(User::new(&name, &secret));
        }
    }
    users
}

fn rules(section: &mut Section<'_>) -> Rules {
    let endpoints = section.take("endpoints").and_then(Field::items).unwrap_or_default();
    let endpoint = |field: &Field<'_>| {
        let text = field.text()?;
        let parsed = text.parse::<Endpoint>();
        parsed.map_err(|e| field.fail(format!("`{}` {e}", shown(&text)))).ok()
    };
    let endpoints = endpoints.iter().filter_map(endpoint).collect();
    let buckets = section.take("buckets").and_then(Field::items).map(|items| {
        let name = |field: &Field<'_>| {
            let bucket = field.parse_text::<BucketName>()?;
            if !bucket.is_dns_compatible() {
                field.fail("cannot be part of a host name, by which alone a bucket is seen here");
            }
            Some(bucket.as_str().to_owned())
        };
        items.iter().filter_map(name).collect()
    });
    let credentials = section.take("unshaped").is_none_or(|field| {
        let text = field.scalar();
        match text.as_deref() {
            Some("aws-auth") => true,
            Some("none") => false,
            Some(other) => {
                field.fail(format!("`{}` is not known; write aws-auth or none", shown(other)));
                false
            }
            None => false,
        }
    });
    Rules { endpoints, buckets, credentials }
}

/// Reads `resolve`: a map of names to addresses with ports.
fn resolve(field: Field<'_>) -> BTreeMap<String, SocketAddr> {
    let mut resolve = BTreeMap::new();
    for (name, field) in field.entries().unwrap_or_default() {
        // A name is checked as part of a target; any port makes it one.
        let Ok(target) = format!("{name}:443").parse::<Target>() else {
            field.fail("does not stand at a host name");
            continue;
        };
        let Some(addr) = field.address() else { continue };
        if addr.port() == 0 || addr.ip().is_unspecified() {
            field.fail("is nothing to connect to");
        }
        resolve.insert(target.host, addr);
    }
    resolve
}

/// The path of an ip-ranges.json that can be read.
fn ip_ranges(field: Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    Prefixes::load(&path).map_err(|e| field.fail(e.to_string())).ok()?;
    Some(path)
}

fn limits(section: &mut Section<'_>) -> Limits {
    let default = Limits::default();
    let times = Limits::TIMEOUTS;
    Limits {
        connections: section.number("connections", default.connections, Limits::CONNECTIONS),
        per_client: section.number("per_client", default.per_client, Limits::PER_CLIENT),
        header_bytes: section.bytes("header_bytes", default.header_bytes, Limits::HEADER_BYTES),
        header_timeout: section.time("header_timeout", default.header_timeout, &times),
        hello_bytes: section.bytes("hello_bytes", default.hello_bytes, Limits::HELLO_BYTES),
        hello_timeout: section.time("hello_timeout", default.hello_timeout, &times),
        connect_timeout: section.time("connect_timeout", default.connect_timeout, &times),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, &times),
    }
}
