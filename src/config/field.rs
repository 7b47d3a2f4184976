//! One value of the YAML tree: the types that it can be read as, and how messages may quote it.
//!
//! Invariant: no message quotes PEM text, at any key.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use serde_yaml::Value;

use super::reader::Reader;
use crate::networks::{Networks, network};

/// A value and its key path.
pub(super) struct Field<'r> {
    reader: &'r Reader,
    pub(super) at: String,
    pub(super) value: Value,
}

impl<'r> Field<'r> {
    /// The value at `at`.
    pub(super) fn new(reader: &'r Reader, at: String, value: Value) -> Self {
        Self { reader, at, value }
    }

    /// The reader that keeps errors.
    pub(super) fn reader(&self) -> &'r Reader {
        self.reader
    }

    /// Keeps an error about this value.
    pub(super) fn fail(&self, message: impl Into<String>) {
        self.reader.fail(&self.at, message);
    }

    /// Whether the value is null: `key:` with nothing after it.
    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// Whether the value is a map.
    pub(super) fn is_map(&self) -> bool {
        self.value.is_mapping()
    }

    fn is_list(&self) -> bool {
        self.value.is_sequence()
    }

    /// Whether the value switches its key off: `off`, or false.
    pub(super) fn is_off(&self) -> bool {
        is_off(&self.value)
    }

    /// The value as the text that was written, if it is a single value.
    pub(super) fn scalar(&self) -> Option<String> {
        let text = match &self.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            other => {
                self.fail(format!("must be a single value, not {}", kind(other)));
                return None;
            }
        };
        if is_pem(&text) {
            self.fail("holds PEM text (MASKED); write the path of a file that holds it");
            return None;
        }
        Some(text)
    }

    /// The value as text. A number is refused: YAML may have changed it (`0x10` reads as 16).
    pub(super) fn text(&self) -> Option<String> {
        match &self.value {
            Value::Number(_) | Value::Bool(_) => {
                let value = self.scalar()?;
                self.fail(format!("must be text, not {}; write \"{value}\"", kind(&self.value)));
                None
            }
            _ => self.scalar(),
        }
    }

    /// The value parsed as a `T`, whose error becomes the message.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.converted(self.scalar()?)
    }

    /// The value, which must be text, parsed as a `T`.
    pub(super) fn parse_text<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.converted(self.text()?)
    }

    fn converted<T: FromStr<Err: Display>>(&self, text: String) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.fail(error.to_string())).ok()
    }

    /// The value as an IP address and a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let text = self.scalar()?;
        let address = text.parse().ok();
        if address.is_none() {
            let text = shown(&text);
            self.fail(format!(
                "`{text}` is not an IP address and a port; write one such as 127.0.0.1:8080 or [::1]:8080"
            ));
        }
        address
    }

    /// The value as a list, each element with its own path.
    pub(super) fn items(self) -> Option<Vec<Field<'r>>> {
        let Value::Sequence(items) = self.value else {
            self.fail(format!("must be a list, not {}", kind(&self.value)));
            return None;
        };
        let field =
            |(index, value)| Field::new(self.reader, format!("{}[{index}]", self.at), value);
        Some(items.into_iter().enumerate().map(field).collect())
    }

    /// The value as one network or a list of them; an address alone is a network of one.
    pub(super) fn networks(self) -> Networks {
        let fields = if self.is_list() { self.items().unwrap_or_default() } else { vec![self] };
        let parse = |field: &Field<'_>| {
            network(&field.text()?).map_err(|error| field.fail(error.to_string())).ok()
        };
        fields.iter().filter_map(parse).collect()
    }

    /// The value as a secret, which no message quotes.
    pub(super) fn secret(&self) -> Option<String> {
        match &self.value {
            Value::String(text) => Some(text.clone()),
            other => {
                self.fail(format!("must be text in quotes, not {}", kind(other)));
                None
            }
        }
    }

    /// The value as a map whose keys the user chooses, each value with its own path.
    pub(super) fn entries(self) -> Option<Vec<(String, Field<'r>)>> {
        let Value::Mapping(map) = self.value else {
            self.fail(format!("must be a map of names and values, not {}", kind(&self.value)));
            return None;
        };
        let entry = |(key, value): (Value, Value)| {
            let key = key.as_str().unwrap_or_default().to_owned();
            let at = format!("{}.{}", self.at, shown(&key));
            (key, Field::new(self.reader, at, value))
        };
        Some(map.into_iter().map(entry).collect())
    }
}

/// Whether a value in place of a section switches the section off.
pub(super) fn is_off(value: &Value) -> bool {
    matches!(value, Value::Bool(false))
        || value.as_str().is_some_and(|text| text == "off" || text == "false")
}

/// What a value is, in a user's words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a map",
        Value::Tagged(_) => "a tagged value",
    }
}

/// A value as messages may quote it: on one line, and never PEM text.
pub(super) fn shown(text: &str) -> String {
    if is_pem(text) { "MASKED".to_owned() } else { text.escape_debug().to_string() }
}

fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN")
}
