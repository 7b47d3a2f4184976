//! The environment: `DRIPLINE__A__B` for the key `a.b`, the five classic names, and TLS material
//! as PEM text.
//!
//! Invariant: for one key, `DRIPLINE__*` takes precedence over a classic name, and both over the file.
//! The process's environment is not read here; it is passed in. No message quotes PEM text.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::error::Origin;
use super::field::{is_off, shown};
use super::file::read_text;
use super::reader::Reader;
use super::sources::Sources;
use crate::units::{ByteSize, Wait};

/// The prefix of every variable that sets a key.
pub(super) const PREFIX: &str = "DRIPLINE__";
/// The certificate chain as PEM text.
pub(super) const CERT_PEM: &str = "DRIPLINE_TLS_CERT_PEM";
/// The private key as PEM text.
pub(super) const KEY_PEM: &str = "DRIPLINE_TLS_KEY_PEM";

/// A classic name, the key it sets, and how its value is written in the file. Where two names set
/// one key, the first that has a value counts.
type Classic = (&'static str, [&'static str; 2], fn(&str) -> Result<String, String>);
const CLASSIC: [Classic; 5] = [
    ("S3_BUCKET", ["s3", "bucket"], verbatim),
    ("AWS_REGION", ["s3", "region"], verbatim),
    ("AWS_DEFAULT_REGION", ["s3", "region"], verbatim),
    ("CHUNK_SIZE", ["drip", "chunk_size"], bare_bytes),
    ("TLS_WAIT_TIME", ["drip", "wait"], bare_milliseconds),
];

/// The variables that have a value. An empty one counts as unset.
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Merges the env file and the environment, which takes precedence.
    pub(super) fn gather(sources: &Sources, reader: &mut Reader) -> Self {
        let mut variables = BTreeMap::new();
        if let Some(path) = &sources.env_file {
            match read_text(path) {
                Ok(text) => parse_env_file(path, &text, &mut variables, reader),
                Err(error) => {
                    reader.incomplete = true;
                    reader.fail_from(&path.display().to_string(), Origin::File, error);
                }
            }
        }
        variables.extend(sources.env.iter().cloned());
        variables.retain(|_, value| !value.trim().is_empty());
        Self { variables }
    }

    /// A variable's value, if it has one.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Every variable that has a value, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets the keys of the file's tree that variables name.
    pub(super) fn overlay(&self, tree: &mut Mapping, reader: &mut Reader) {
        let mut named: Vec<(Vec<String>, &str, &str)> = self
            .variables
            .iter()
            .filter_map(|(name, value)| {
                let path = name.strip_prefix(PREFIX)?;
                Some((
                    path.split("__").map(str::to_lowercase).collect(),
                    name.as_str(),
                    value.as_str(),
                ))
            })
            .collect();
        // A whole map is set before single keys in it.
        named.sort_by_key(|(path, name, _)| (path.len(), *name));
        for (path, name, value) in named {
            overlay_one(tree, reader, &path, name, value);
        }
        for (name, path, convert) in CLASSIC {
            if let Some(value) = self.value(name) {
                overlay_classic(tree, reader, name, path, convert(value.trim()));
            }
        }
    }
}

/// Sets one key from a `DRIPLINE__*` variable.
fn overlay_one(tree: &mut Mapping, reader: &mut Reader, path: &[String], name: &str, value: &str) {
    let at = path.join(".");
    let from = Origin::Variable(name.to_owned());
    if path.iter().any(String::is_empty) {
        let message = "names no key; write DRIPLINE__S3__BUCKET for s3.bucket and so on";
        return reader.fail_from(name, Origin::File, message);
    }
    let value = match parse_value(value) {
        Ok(value) => value,
        Err(error) => return reader.fail_from(&at, from, format!("not valid YAML: {error}")),
    };
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    match place(tree, &keys, value) {
        Ok(()) => reader.set_origin(at, name),
        Err(depth) => {
            let (outer, variable) =
                (keys[..depth].join("."), keys[..depth].join("__").to_uppercase());
            let message = format!(
                "{outer} is not a map; set the whole of it, as YAML, in {PREFIX}{variable}"
            );
            reader.fail_from(&at, from, message);
        }
    }
}

/// Sets one key from a classic name, unless a variable has already set it.
fn overlay_classic(
    tree: &mut Mapping,
    reader: &mut Reader,
    name: &str,
    path: [&str; 2],
    value: Result<String, String>,
) {
    let at = path.join(".");
    let present = tree.get(path[0]).and_then(|section| section.get(path[1]));
    let present = present.filter(|value| !value.is_null());
    if present.is_some() && reader.origin(&at) != Origin::File {
        return;
    }
    let value = match value {
        Ok(value) => value,
        Err(message) => return reader.fail_from(&at, Origin::Variable(name.to_owned()), message),
    };
    if let Some(present) = present.and_then(plain_text)
        && !same(&present, &value)
    {
        let (value, present) = (shown(&value), shown(&present));
        reader.warn(format!("{at}: {name} ({value}) takes precedence over the file's {present}"));
    }
    // If the section is no map, its reader reports that.
    if place(tree, &path, Value::String(value)).is_ok() {
        reader.set_origin(at, name);
    }
}

/// Reads a variable's value: lists and maps as YAML, anything else as the text that it is, since
/// only the key's reader knows whether `123` is a number or a bucket's name.
fn parse_value(text: &str) -> Result<Value, serde_yaml::Error> {
    let text = text.trim();
    match serde_yaml::from_str(text) {
        Ok(Value::Number(_) | Value::Bool(_)) => Ok(Value::String(text.to_owned())),
        Ok(value) => Ok(value),
        // `[::1]:9100` begins like a list but is an address.
        Err(error) if text.starts_with('{') || text.starts_with("[{") || text.ends_with(']') => {
            Err(error)
        }
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// Sets `path` to `value` and adds the maps that are missing on the way. If a key on the way holds
/// something else than a map, the error is the number of keys down to it.
fn place(tree: &mut Mapping, path: &[&str], value: Value) -> Result<(), usize> {
    let mut map = tree;
    for (depth, key) in path.iter().enumerate() {
        let slot = map.entry(Value::String((*key).to_owned())).or_insert(Value::Null);
        if depth + 1 == path.len() {
            *slot = value;
            break;
        }
        if slot.is_null() || is_off(slot) {
            *slot = Value::Mapping(Mapping::new());
        }
        map = slot.as_mapping_mut().ok_or(depth + 1)?;
    }
    Ok(())
}

/// A single value's text.
fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Whether two texts mean one value: `4096` and `4KiB` do.
fn same(one: &str, other: &str) -> bool {
    let sizes = || Some(one.parse::<ByteSize>().ok()? == other.parse::<ByteSize>().ok()?);
    let waits = || Some(one.parse::<Wait>().ok()? == other.parse::<Wait>().ok()?);
    one == other || sizes() == Some(true) || waits() == Some(true)
}

fn verbatim(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// `CHUNK_SIZE` has always been a bare number of bytes.
fn bare_bytes(text: &str) -> Result<String, String> {
    bare(text).map(|bytes| bytes.to_string()).ok_or_else(|| {
        let text = shown(text);
        format!("`{text}` is not a number of bytes; write one without a unit, such as 4096")
    })
}

/// `TLS_WAIT_TIME` has always been a bare number of milliseconds.
fn bare_milliseconds(text: &str) -> Result<String, String> {
    bare(text).map(|millis| format!("{millis}ms")).ok_or_else(|| {
        let text = shown(text);
        format!("`{text}` is not a number of milliseconds; write one without a unit, such as 500")
    })
}

fn bare(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Parses `NAME=value` lines. A line with an error is named by its number, never quoted.
fn parse_env_file(
    path: &Path,
    text: &str,
    variables: &mut BTreeMap<String, String>,
    reader: &mut Reader,
) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = Cell::new(0);
    let lines = Lines { rest: text.as_bytes(), line: &[], read: &read };
    for item in dotenvy::from_read_iter(lines) {
        let error = match item {
            Ok((name, value)) => {
                variables.insert(name, value);
                continue;
            }
            Err(error) => error,
        };
        // An open quote includes the following lines; the error is in the first one.
        let length = match &error {
            dotenvy::Error::LineParse(lines, _) => lines.lines().count().max(1),
            _ => 1,
        };
        let at = format!("{} line {}", path.display(), read.get() + 1 - length);
        reader.incomplete = true;
        let message = "not NAME=value; quote a value that has spaces in it";
        reader.fail_from(&at, Origin::File, message);
    }
}

/// Returns one line for each read and counts them, because dotenvy does not report its position.
struct Lines<'a> {
    rest: &'a [u8],
    line: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.line.is_empty() && !self.rest.is_empty() {
            let newline = self.rest.iter().position(|b| *b == b'\n');
            let end = newline.map_or(self.rest.len(), |index| index + 1);
            (self.line, self.rest) = self.rest.split_at(end);
            self.read.set(self.read.get() + 1);
        }
        self.line.read(buffer)
    }
}
