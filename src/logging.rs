//! One line per event on stderr: text, or JSON for machines. `RUST_LOG` chooses what is logged.
//!
//! Invariant: no line contains a secret. Pingora's own lines hold request targets, with their signatures, so
//! its lines below a warning are never written. This file must not know what is logged.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::SystemTime;

use env_logger::Env;
use env_logger::fmt::Formatter;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record};

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time LEVEL target message key=value …`
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

/// Not a way to write log lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format: write text or json")]
pub struct UnknownFormat(String);

/// Sets the process's logger. A second call changes nothing.
pub fn init(format: Format) {
    let mut builder = env_logger::Builder::from_env(Env::default().default_filter_or("info"));
    builder.format(move |out, record| match format {
        Format::Text => text(out, record),
        Format::Json => json(out, record),
    });
    let logger = builder.build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(Guarded(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// Drops Pingora's lines below a warning, whatever RUST_LOG asks for: they contain whole request
/// targets, and with them signatures. The access log reports clients that disconnect.
struct Guarded(env_logger::Logger);

impl Log for Guarded {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let leaks = metadata.target().starts_with("pingora") && metadata.level() > Level::Warn;
        !leaks && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let time = out.timestamp_millis();
    write!(out, "{time} {:<5} {} {}", record.level(), record.target(), record.args())?;
    let mut pairs = Pairs(|key: &str, value: &Value<'_>| {
        let value = value.to_string();
        // A key of the bucket may hold spaces and quotes: quoted values stay one field.
        if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=') {
            write!(out, " {key}={value:?}")
        } else {
            write!(out, " {key}={value}")
        }
    });
    visit(record, &mut pairs)?;
    writeln!(out)
}

#[expect(clippy::disallowed_methods, reason = "a log line has a time")]
fn json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut object = serde_json::Map::new();
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    object.insert("time".into(), time.into());
    object.insert("level".into(), record.level().as_str().into());
    object.insert("target".into(), record.target().into());
    object.insert("message".into(), record.args().to_string().into());
    let mut pairs = Pairs(|key: &str, value: &Value<'_>| {
        let value = match value.to_u64() {
            Some(number) => number.into(),
            None => value.to_string().into(),
        };
        object.insert(key.to_owned(), value);
        Ok(())
    });
    visit(record, &mut pairs)?;
    writeln!(out, "{}", serde_json::Value::Object(object))
}

fn visit<F>(record: &Record<'_>, pairs: &mut Pairs<F>) -> io::Result<()>
where
    F: FnMut(&str, &Value<'_>) -> io::Result<()>,
{
    record.key_values().visit(pairs).map_err(|e| io::Error::other(e.to_string()))
}

struct Pairs<F>(F);

impl<'kvs, F: FnMut(&str, &Value<'_>) -> io::Result<()>> VisitSource<'kvs> for Pairs<F> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        (self.0)(key.as_str(), &value).map_err(kv::Error::boxed)
    }
}
