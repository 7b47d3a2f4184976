//! Every key but `listen`: its type, its range, its default, and what it becomes.
//!
//! The keys of what this version does not have are named here too, so that they are refused as such
//! and never silently accepted.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use openssl::x509::X509;

use super::env::Environment;
use super::field::{Field, shown};
use super::listen::{Claims, Listener, listeners};
use super::profiles::{profiles, trusted_header};
use super::read::{Reader, Section};
use super::shaping::{ClassUses, shaping};
use super::tunnels;
use super::{Config, LogFormat, S3, Server, Uploads, Upstream};
use crate::drip;
use crate::header_pattern::HeaderPattern;
use crate::limits;
use crate::profile::{Profile, Profiles, TrustedHeader};
use crate::s3::endpoint::{Addressing, BucketName, Endpoint, EndpointError, HostKind, Region};
use crate::spool;
use crate::tls::record::ChunkSize;
use crate::units::ByteSize;

/// The longest wait between two records. S3 drops a download whose reader is silent for minutes,
/// so even this is beyond use; more is a slip of the unit.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(3600);
/// The shortest and the longest timeout towards S3. Zero would fail every request.
pub(super) const TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(24 * 3600));
/// The most connections; Linux gives one process no more file descriptors than that by default.
pub(super) const MAX_CONNECTIONS: usize = 1 << 20;
/// The longest request head: far beyond S3's own limit, far below what Pingora takes.
pub(super) const MAX_HEADER_BYTES: usize = 256 << 10;
/// The longest time that a drain may take.
const MAX_DRAIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest delays of a process: before it drains, before a successor accepts.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// The longest path of a socket: sun_path holds 108 bytes (unix(7)), and a temporary name beside it
/// is up to 12 longer.
const MAX_SOCKET: usize = 90;
/// The most worker threads; more than any machine has cores is a slip.
const MAX_THREADS: usize = 1024;
/// Where the spool is without any configuration.
const DEFAULT_SPOOL: &str = "/var/cache/dripline";
/// The most bytes of a spool or an object: an S3 object has 5 TiB at most, and 8 EiB is what a file
/// offset can count.
const MAX_SPOOL: u64 = 1 << 60;
/// The most objects, each of which takes a file descriptor.
const MAX_OBJECTS: usize = 1 << 20;
/// The most fills at a time.
const MAX_FILLS: usize = 1024;
/// The longest trust; S3's longest signature lasts a week.
const MAX_TRUST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where metrics and readiness are served without any configuration.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);

/// Reads the whole tree. None, or a result of no worth, if the reader kept an error.
pub(super) fn config(mut root: Section<'_>, env: &Environment) -> Option<Config> {
    let (mut claims, mut uses) = (Claims::default(), ClassUses::default());
    let listen = listeners(&mut root, env, &mut claims);
    let needed = !listen.is_empty() || !root.holds(&["forward_proxy"]);
    let s3 = s3(root.section("s3"), needed);
    let (drip, trusted_header) = drip(root.section("drip"), &mut uses);
    let profiles = profiles(&mut root, &drip, trusted_header, &listen, &mut uses);
    warn_of_chains(root.reader, &listen, &profiles);
    let admin = admin(&mut root, &mut claims);
    let health = health(&mut root, &mut claims);
    let forward_proxy = tunnels::forward_proxy(&mut root, &mut claims, &mut uses);
    let spool = spool(root.section("spool"));
    let uploads = uploads(root.section("uploads"), &mut uses);
    let shaping = shaping(root.section("shaping"));
    let upstream = upstream(root.section("upstream"));
    let limits = limits(root.section("limits"));
    let log = log(root.section("log"));
    let server = server(root.section("server"));
    uses.judge(root.reader, &shaping);
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
        server,
        warnings: Vec::new(),
    })
}

/// Reads `admin.addr` and `health.addr` alone.
pub(super) fn report_addresses(mut root: Section<'_>) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let mut claims = Claims::default();
    (admin(&mut root, &mut claims), health(&mut root, &mut claims))
}

/// Reads `s3`. None if it is wrong, or not there and not `needed`.
fn s3(mut section: Section<'_>, needed: bool) -> Option<S3> {
    let reader = section.reader;
    let bucket = section.take("bucket");
    let needed = needed || bucket.is_some();
    if bucket.is_none() && needed {
        section.missing("bucket", "missing; write the bucket's name here or in S3_BUCKET");
    }
    let bucket = bucket.and_then(|field| field.parse_text::<BucketName>());
    let errors = reader.error_count();
    let region = section.take("region").and_then(|field| field.parse_text::<Region>());
    let host_field = section.take("host");
    let host = host_field.as_ref().and_then(Field::parse::<HostKind>).unwrap_or_default();
    let addressing = section.take("addressing").and_then(|field| field.parse::<Addressing>());
    let addressing = addressing.unwrap_or_default();
    let url_field = section.take("endpoint");
    let url = url_field.as_ref().and_then(Field::text);
    let parsed = reader.error_count() == errors;
    if let (Some(host), Some(_)) = (&host_field, &url_field) {
        host.fail("s3.endpoint names the host already; remove one of the two");
    }

    // Without a bucket or a region, another one shows whether the rest fits together.
    let any_bucket = bucket.clone().or_else(|| "any-bucket".parse().ok());
    let endpoint = any_bucket.filter(|_| parsed).and_then(|any_bucket| {
        let build = |region: Option<&Region>| match &url {
            Some(url) => Endpoint::custom(url, &any_bucket, addressing),
            None => Endpoint::amazon(region, &any_bucket, host, addressing),
        };
        let mut endpoint = build(region.as_ref());
        if let Err(EndpointError::RegionNeeded(_)) = endpoint {
            if needed {
                let missing = "missing; write the bucket's region here or in AWS_REGION";
                section.missing("region", missing);
            }
            endpoint = build("us-east-1".parse().ok().as_ref());
        }
        endpoint.map_err(|error| reader.fail(error.key(), error.to_string())).ok()
    });
    let ca = section.take("ca").and_then(|field| ca_file(&field));
    let authorization = section.flag("authorization", false);
    section.finish(&[]);
    bucket.and(endpoint).map(|endpoint| S3 { endpoint, ca, authorization })
}

/// The path of a readable file that holds at least one PEM certificate.
fn ca_file(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    let pem = fs::read(&path)
        .map_err(|error| field.fail(format!("cannot read {}: {error}", path.display())))
        .ok()?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Some(path),
        _ => {
            field.fail(format!("{} holds no PEM certificate", path.display()));
            None
        }
    }
}

fn drip(mut section: Section<'_>, uses: &mut ClassUses) -> (drip::Settings, Option<TrustedHeader>) {
    let chunk_size = chunk_size(&mut section).unwrap_or_default();
    let wait = section.time("wait", Duration::from_millis(500), Duration::ZERO..=MAX_WAIT);
    let response_headers = response_headers(&mut section).unwrap_or_default();
    let class = uses.take(&mut section, "class");
    let trusted = section.take("trusted_header").and_then(trusted_header);
    section.finish(&[]);
    (drip::Settings { chunk_size, wait, response_headers, class }, trusted)
}

/// Takes `chunk_size` out, in `drip` or in a profile.
pub(super) fn chunk_size(section: &mut Section<'_>) -> Option<ChunkSize> {
    let field = section.take("chunk_size")?;
    let size = field.parse::<ByteSize>()?;
    ChunkSize::new(size.bytes()).map_err(|error| field.fail(error.to_string())).ok()
}

/// Takes `response_headers` out, in `drip` or in a profile.
pub(super) fn response_headers(section: &mut Section<'_>) -> Option<Vec<HeaderPattern>> {
    let patterns = section.take("response_headers").and_then(Field::items)?;
    Some(patterns.iter().filter_map(Field::parse_text::<HeaderPattern>).collect())
}

/// Says which certificate does not fit which profile's records, since some devices cannot take a
/// certificate message that is cut into several; and which profile cannot cap the handshake.
fn warn_of_chains(reader: &Reader, listen: &[Listener], profiles: &Profiles) {
    let all = || profiles.list.iter().chain([&profiles.default]);
    for (at, listener) in listen.iter().enumerate() {
        let here = |profile: &&Profile| {
            let matches = &profile.matches;
            matches.listener.is_none_or(|l| l == listener.addr) && !matches.asks_of_the_request()
        };
        for identity in listener.tls.iter().flat_map(|tls| &tls.identities) {
            let message = identity.certificate_message();
            for profile in all().filter(here) {
                let cap = profile.drip.chunk_size.bytes();
                let name = profile.matches.server_name.as_deref();
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
        if smaller
            && profile.matches.asks_of_the_request()
            && listen.iter().any(|l| l.tls.is_some())
        {
            reader.warn(format!(
                "profiles[{at}]: {} is known by its key or headers, after the handshake, whose records may have {} \
                 bytes; match it by sni, listener or client if its devices cannot take them",
                profile.name, profiles.default.drip.chunk_size
            ));
        }
    }
}

fn admin(root: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let field = root.take("admin");
    if field.as_ref().is_some_and(Field::is_off) {
        return None;
    }
    let at = root.path("admin.addr");
    let (addr, section) = match field {
        None => (Some(DEFAULT_ADMIN), None),
        Some(field) => {
            let mut section = field.section();
            let addr = section.take("addr").map_or(Some(DEFAULT_ADMIN), |field| field.address());
            (addr, Some(section))
        }
    };
    if let Some(addr) = addr {
        if !addr.ip().to_canonical().is_loopback() {
            let message = "is not a loopback address; elsewhere admin.token would be needed, which is not \
                           available in this version of dripline; write 127.0.0.1:9100";
            root.reader.fail(&at, format!("{addr} {message}"));
        }
        claims.claim(root.reader, &at, addr, ", or write `admin: off`");
    }
    if let Some(section) = section {
        section.finish(&["token"]);
    }
    addr
}

fn health(root: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let field = root.take("health").filter(|field| !field.is_off())?;
    let mut section = field.section();
    let addr = match section.take("addr") {
        Some(field) => {
            field.address().inspect(|addr| claims.claim(root.reader, &field.at, *addr, ""))
        }
        None => {
            section
                .missing("addr", "missing; write an IP address and a port, such as 0.0.0.0:9101");
            None
        }
    };
    section.finish(&[]);
    addr
}

/// The spool's settings; none if it is switched off.
fn spool(mut section: Section<'_>) -> Option<spool::Settings> {
    let dir = section.take("dir").and_then(|field| {
        let path = PathBuf::from(field.text()?);
        if !path.is_absolute() {
            field.fail(format!("{} is not an absolute path", path.display()));
        }
        Some(path)
    });
    let bytes = |bytes| ByteSize::new(bytes);
    let max_bytes = section.size("max_bytes", bytes(1 << 30), bytes(0)..=bytes(MAX_SPOOL));
    let max_object = section.size("max_object", bytes(512 << 20), bytes(1)..=bytes(MAX_SPOOL));
    let max_objects = section.number("max_objects", 4096, 1..=MAX_OBJECTS);
    let max_fills = section.number("max_fills", 16, 1..=MAX_FILLS);
    let trust = section.time("trust", Duration::ZERO, Duration::ZERO..=MAX_TRUST);
    section.finish(&[]);
    (max_bytes.bytes() > 0).then(|| spool::Settings {
        dir: dir.unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL)),
        max_bytes: max_bytes.bytes(),
        max_object: max_object.bytes(),
        max_objects,
        max_fills,
        trust,
    })
}

/// How uploads are taken; None if they are switched off.
fn uploads(mut section: Section<'_>, uses: &mut ClassUses) -> Option<Uploads> {
    let enabled = section.flag("enabled", false);
    let class = uses.take(&mut section, "class");
    section.finish(&[]);
    enabled.then_some(Uploads { class })
}

fn upstream(mut section: Section<'_>) -> Upstream {
    let default = Upstream::default();
    let range = TIMEOUTS.0..=TIMEOUTS.1;
    let buffers = ByteSize::new(4 << 10)..=ByteSize::new(16 << 20);
    let upstream = Upstream {
        connect_timeout: section.time("connect_timeout", default.connect_timeout, range.clone()),
        response_timeout: section.time("response_timeout", default.response_timeout, range.clone()),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, range),
        recv_buffer: section.size("recv_buffer", default.recv_buffer, buffers),
    };
    section.finish(&[]);
    upstream
}

fn limits(mut section: Section<'_>) -> limits::Settings {
    let default = limits::Settings::default();
    let range = || TIMEOUTS.0..=TIMEOUTS.1;
    let bytes = |bytes: usize| ByteSize::new(bytes as u64);
    let head = section.size(
        "header_bytes",
        bytes(default.header_bytes),
        bytes(1 << 10)..=bytes(MAX_HEADER_BYTES),
    );
    let requests = default.requests_per_connection as usize;
    let requests = section.number("requests_per_connection", requests, 1..=u32::MAX as usize);
    let limits = limits::Settings {
        connections: section.number("connections", default.connections, 1..=MAX_CONNECTIONS),
        per_client: section.number("per_client", default.per_client, 0..=MAX_CONNECTIONS),
        header_bytes: usize::try_from(head.bytes()).unwrap_or(MAX_HEADER_BYTES),
        header_timeout: section.time("header_timeout", default.header_timeout, range()),
        handshake_timeout: section.time("handshake_timeout", default.handshake_timeout, range()),
        send_timeout: section.time("send_timeout", default.send_timeout, range()),
        receive_timeout: section.time("receive_timeout", default.receive_timeout, range()),
        requests_per_connection: u32::try_from(requests).unwrap_or(u32::MAX),
        idle_timeout: section.time("idle_timeout", default.idle_timeout, range()),
    };
    section.finish(&[]);
    limits
}

fn log(mut section: Section<'_>) -> LogFormat {
    let format = section.take("format").and_then(|field| field.parse());
    section.finish(&[]);
    format.unwrap_or_default()
}

fn server(mut section: Section<'_>) -> Server {
    let default = Server::default();
    let threads = section.take("threads").and_then(|field| {
        let text = field.scalar()?;
        let threads = text.parse().ok().filter(|threads| *threads <= MAX_THREADS);
        if threads.is_none() {
            let text = shown(&text);
            field.fail(format!(
                "`{text}` is not a number of threads; write 0 (one per core) to {MAX_THREADS}"
            ));
        }
        threads
    });
    let drains = Duration::ZERO..=MAX_DRAIN;
    let server = Server {
        threads: threads.unwrap_or(default.threads),
        shutdown_delay: section.time(
            "shutdown_delay",
            default.shutdown_delay,
            Duration::ZERO..=MAX_DELAY,
        ),
        drain_timeout: section.time("drain_timeout", default.drain_timeout, drains.clone()),
        upgrade_drain_timeout: section.time(
            "upgrade_drain_timeout",
            default.upgrade_drain_timeout,
            drains,
        ),
        upgrade_timeout: section.time(
            "upgrade_timeout",
            default.upgrade_timeout,
            Duration::from_secs(1)..=MAX_DELAY,
        ),
        upgrade_sock: match section.take("upgrade_sock") {
            Some(field) if field.is_off() => None,
            Some(field) => socket_path(&field),
            None => default.upgrade_sock,
        },
    };
    section.finish(&[]);
    server
}

/// The path of a Unix socket.
fn socket_path(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    if !path.is_absolute() || path.file_name().is_none() || path.as_os_str().len() > MAX_SOCKET {
        field.fail(format!(
            "{} is not an absolute path of at most {MAX_SOCKET} bytes; write it out, or `off`",
            path.display()
        ));
    }
    Some(path)
}
