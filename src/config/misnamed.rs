//! Environment variables that look like dripline's but are not read: an unknown `DRIPLINE_*` is an
//! error, another tool's name for a key is a warning.
//!
//! Invariant: no value is ever printed.

use serde_yaml::Mapping;

use super::env::{CERT_PEM, Environment, KEY_PEM, PREFIX};
use super::error::Origin;
use super::reader::Reader;

/// Names that other tools use or that users mistype, the key that is meant, and the right name.
const NEAR: [(&str, [&str; 2], &str); 15] = [
    ("S3_BUCKET_NAME", ["s3", "bucket"], "S3_BUCKET"),
    ("AWS_S3_BUCKET", ["s3", "bucket"], "S3_BUCKET"),
    ("AWS_BUCKET", ["s3", "bucket"], "S3_BUCKET"),
    ("AWS_BUCKET_NAME", ["s3", "bucket"], "S3_BUCKET"),
    ("S3_REGION", ["s3", "region"], "AWS_REGION"),
    ("AWS_S3_REGION", ["s3", "region"], "AWS_REGION"),
    ("S3_ENDPOINT", ["s3", "endpoint"], "DRIPLINE__S3__ENDPOINT"),
    ("S3_ENDPOINT_URL", ["s3", "endpoint"], "DRIPLINE__S3__ENDPOINT"),
    ("AWS_ENDPOINT_URL", ["s3", "endpoint"], "DRIPLINE__S3__ENDPOINT"),
    ("AWS_ENDPOINT_URL_S3", ["s3", "endpoint"], "DRIPLINE__S3__ENDPOINT"),
    ("AWS_S3_ENDPOINT", ["s3", "endpoint"], "DRIPLINE__S3__ENDPOINT"),
    ("AWS_CA_BUNDLE", ["s3", "ca"], "DRIPLINE__S3__CA"),
    ("CHUNKSIZE", ["drip", "chunk_size"], "CHUNK_SIZE"),
    ("TLS_WAIT", ["drip", "wait"], "TLS_WAIT_TIME"),
    ("WAIT_TIME", ["drip", "wait"], "TLS_WAIT_TIME"),
];

/// Warns of each such name whose key has no value. Call it after the variables are laid over the file.
pub(super) fn warn_of_near_names(env: &Environment, tree: &Mapping, reader: &mut Reader) {
    for (name, [section, key], instead) in NEAR {
        let present = tree.get(section).and_then(|section| section.get(key));
        if env.value(name).is_none() || present.is_some_and(|value| !value.is_null()) {
            continue;
        }
        let at = format!("{section}.{key}");
        reader.warn(format!("{name} is not read; write {at}, or set {instead}"));
        reader.set_unread(at, name);
    }
}

/// Reports every unknown variable that begins with `DRIPLINE_`. Call it after all sections are read,
/// when all keys are known.
pub(super) fn refuse_unknown(env: &Environment, reader: &Reader) {
    let known = reader.known();
    for (name, value) in env.iter() {
        let own = name == CERT_PEM || name == KEY_PEM || name.starts_with(PREFIX);
        if !name.starts_with("DRIPLINE_") || own || is_service_link(name, value) {
            continue;
        }
        let keys = known.iter().filter(|path| !path.contains('['));
        let keys = keys.map(|path| format!("{PREFIX}{}", path.to_uppercase().replace('.', "__")));
        let message = match nearest(name, keys.chain([CERT_PEM.to_owned(), KEY_PEM.to_owned()])) {
            Some(near) => format!("unknown variable; did you mean {near}?"),
            None => "unknown variable; write DRIPLINE__S3__BUCKET for s3.bucket and so on, or \
                     remove it"
                .to_owned(),
        };
        reader.fail_from(name, Origin::File, message);
    }
}

/// Whether the variable is one that Kubernetes sets in every container beside a service whose name
/// begins with dripline (its documentation, "Accessing the Service": `DRIPLINE_SERVICE_HOST`,
/// `DRIPLINE_SERVICE_PORT[_NAME]`, `DRIPLINE_PORT`, `DRIPLINE_PORT_8443_TCP[_ADDR|_PORT|_PROTO]`). A
/// service may have a name with `port` in it, so the last `_PORT_` counts.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_link = |value: &str| {
        ["tcp://", "udp://", "sctp://"].iter().any(|protocol| value.starts_with(protocol))
    };
    let of_port = name.rsplit_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        let port = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|name| matches!(name, "TCP" | "UDP" | "SCTP"));
        let what = parts.next().is_none_or(|what| matches!(what, "ADDR" | "PORT" | "PROTO"));
        port && protocol && what && parts.next().is_none()
    });
    let of_service = name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_");
    of_service || of_port || (name.ends_with("_PORT") && is_link(value))
}

/// The candidate that is at most two edits away from `name`, underscores not counted.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let bare = |name: &str| name.replace('_', "").to_uppercase();
    let name = bare(name);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&name, &bare(&candidate)), candidate))
        .filter(|(edits, _)| *edits <= 2)
        .min()
        .map(|(_, candidate)| candidate)
}
