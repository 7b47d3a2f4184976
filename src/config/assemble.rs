//! Reads the sections in their order, and warns of what only several of them together show.

use std::net::SocketAddr;

use super::Config;
use super::claims::Claims;
use super::class_uses::ClassUses;
use super::drip::drip;
use super::env::Environment;
use super::forward_proxy::forward_proxy;
use super::limits::limits;
use super::listen::{Listener, listeners};
use super::log::log;
use super::profiles::profiles;
use super::reader::Reader;
use super::reports::{admin, health};
use super::s3::s3;
use super::section::Section;
use super::server::{Server, server};
use super::shaping::shaping;
use super::spool::spool;
use super::uploads::uploads;
use super::upstream::upstream;
use crate::profile::{Profile, Profiles};

/// Reads the whole tree. If the reader has kept an error, the result is None or must not be used.
pub(super) fn config(mut root: Section<'_>, env: &Environment) -> Option<Config> {
    let (mut claims, mut uses) = (Claims::default(), ClassUses::default());
    let listen = listeners(&mut root, env, &mut claims);
    let needed = !listen.is_empty() || !root.holds(&["forward_proxy"]);
    let s3 = s3(root.section("s3"), needed);
    let (drip, trusted_header) = drip(root.section("drip"), &mut uses);
    let profiles = profiles(&mut root, &drip, trusted_header, &listen, &mut uses);
    warn_of_record_sizes(root.reader, &listen, &profiles);
    let admin = admin(&mut root, &mut claims);
    let health = health(&mut root, &mut claims);
    let forward_proxy = forward_proxy(&mut root, &mut claims, &mut uses);
    let spool = spool(root.section("spool"));
    let uploads = uploads(root.section("uploads"), &mut uses);
    let shaping = shaping(root.section("shaping"));
    let upstream = upstream(root.section("upstream"));
    let limits = limits(root.section("limits"));
    let log = log(root.section("log"));
    let Server { threads, drain, upgrade } = server(root.section("server"));
    uses.check(root.reader, &shaping);
    root.finish(&[]);
    Some(Config {
        listen,
        s3,
        drip,
        profiles,
        spool,
        uploads,
        shaping: shaping.into_settings(),
        forward_proxy,
        upstream,
        limits,
        admin,
        health,
        log,
        threads,
        drain,
        upgrade,
        warnings: Vec::new(),
    })
}

/// Reads `admin.addr` and `health.addr` alone.
pub(super) fn report_addresses(mut root: Section<'_>) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let mut claims = Claims::default();
    (admin(&mut root, &mut claims), health(&mut root, &mut claims))
}

/// Warns of each certificate message that does not fit one record of a profile, because some devices
/// cannot reassemble it; and of each profile that is chosen too late to limit the handshake's records.
fn warn_of_record_sizes(reader: &Reader, listen: &[Listener], profiles: &Profiles) {
    let all = || profiles.list.iter().chain([&profiles.default]);
    for (at, listener) in listen.iter().enumerate() {
        let here = |profile: &&Profile| {
            let criteria = &profile.criteria;
            criteria.listener.is_none_or(|l| l == listener.addr) && !criteria.needs_request()
        };
        for identity in listener.tls.iter().flat_map(|tls| &tls.identities) {
            let message = identity.certificate_message();
            for profile in all().filter(here) {
                let cap = profile.drip.chunk_size.bytes();
                let name = profile.criteria.server_name.as_deref();
                if message > cap && name.is_none_or(|name| identity.is_for(name)) {
                    reader.warn(format!(
                        "listen[{at}].tls: the certificate message has {message} bytes and the records of \
                         profile {} have {cap}: it is cut, which mbedTLS 2.28 and embedded-tls cannot take; \
                         a shorter chain (ECDSA P-256) may fit",
                        profile.name
                    ));
                }
            }
        }
    }
    for (at, profile) in profiles.list.iter().enumerate() {
        let smaller = profile.drip.chunk_size < profiles.default.drip.chunk_size;
        if smaller && profile.criteria.needs_request() && listen.iter().any(|l| l.tls.is_some()) {
            reader.warn(format!(
                "profiles[{at}]: {} is known by its key or headers, after the handshake, whose records may have {} \
                 bytes; match it by sni, listener or client if its devices cannot take them",
                profile.name, profiles.default.drip.chunk_size
            ));
        }
    }
}
