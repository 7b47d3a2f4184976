//! Reads a tree of YAML key by key.
//!
//! A [`Section`] hands out the keys that it is asked for; [`Section::finish`] reports what is left
//! over. A wrong value is reported at its key path and replaced by its default, so that reading
//! continues: the result may be used only if no error was kept.
//!
//! This file must not know any key.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::field::{Field, is_off, kind, shown};
use super::reader::Reader;
use crate::units::{ByteSize, Wait};

impl Reader {
    /// The top of a tree.
    pub(super) fn root(&self, map: Mapping) -> Section<'_> {
        Section::new(self, String::new(), Some(map))
    }
}

impl<'r> Field<'r> {
    /// The value as a section; if it is no map, an empty one.
    pub(super) fn section(self) -> Section<'r> {
        let (reader, at) = (self.reader(), self.at.clone());
        let map = match self.value {
            Value::Mapping(map) => Some(map),
            ref other => {
                self.fail(format!("must be a map of keys, not {}", kind(other)));
                None
            }
        };
        Section::new(reader, at, map)
    }
}

/// A map of keys.
#[must_use = "call finish(), which reports unknown keys"]
pub(super) struct Section<'r> {
    pub(super) reader: &'r Reader,
    at: String,
    map: Mapping,
    known: Vec<&'static str>,
    /// The value was no map. That is reported, and no key in it is reported as missing.
    broken: bool,
}

impl<'r> Section<'r> {
    /// The section at `at`. No map means that the value was none, which must have been reported.
    pub(super) fn new(reader: &'r Reader, at: String, map: Option<Mapping>) -> Self {
        let broken = map.is_none();
        Section { reader, at, map: map.unwrap_or_default(), known: Vec::new(), broken }
    }

    /// The path of `key` in this section.
    pub(super) fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// Whether `key` is there and not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Takes `key` out, if it is present; its value may be null.
    pub(super) fn take_any(&mut self, key: &'static str) -> Option<Field<'r>> {
        let at = self.path(key);
        self.reader.note_known(&at);
        self.known.push(key);
        let value = self.map.shift_remove(key)?;
        Some(Field::new(self.reader, at, value))
    }

    /// Takes `key` out, if it has a value. Null (`key:` with nothing after it) is no value.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'r>> {
        self.take_any(key).filter(|field| !field.is_null())
    }

    /// Whether `path`, one key for each level, has a value other than `off`. Takes nothing out.
    pub(super) fn holds(&self, path: &[&str]) -> bool {
        let first = path.first().and_then(|key| self.map.get(*key));
        let inner = path.iter().skip(1).fold(first, |value, key| value?.get(*key));
        inner.is_some_and(|value| !value.is_null() && !is_off(value))
    }

    /// Takes `key` out as a section, empty if it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r> {
        match self.take(key) {
            Some(field) => field.section(),
            None => Section::new(self.reader, self.path(key), Some(Mapping::new())),
        }
    }

    /// Takes `key` out as a size of `range` bytes.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: ByteSize,
        range: RangeInclusive<ByteSize>,
    ) -> ByteSize {
        self.ranged(key, default, range)
    }

    /// Takes `key` out as a time within `range`.
    pub(super) fn time(
        &mut self,
        key: &'static str,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        let range = Wait::new(*range.start())..=Wait::new(*range.end());
        self.ranged(key, Wait::new(default), range).duration()
    }

    /// Takes `key` out as a size of `range` bytes, all of it in memory.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let size = |bytes: usize| ByteSize::new(bytes as u64);
        let sizes = size(*range.start())..=size(*range.end());
        let size = self.ranged(key, size(default), sizes);
        // Within the range, so it fits.
        usize::try_from(size.bytes()).unwrap_or(default)
    }

    /// Takes `key` out as a whole number within `range`.
    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let Some(field) = self.take(key) else { return default };
        let Some(text) = field.scalar() else { return default };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            let (text, least, most) = (shown(&text), range.start(), range.end());
            field.fail(format!("`{text}` is not a number from {least} to {most}"));
            default
        })
    }

    /// Takes `key` out as a quantity within `range`.
    fn ranged<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr<Err: Display> + PartialOrd + Display,
    {
        let Some(field) = self.take(key) else {
            return default;
        };
        let Some(value) = field.parse::<T>() else {
            return default;
        };
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            let written = shown(&field.scalar().unwrap_or_default());
            field.fail(format!("`{written}` is out of range; write {least} to {most}"));
            return default;
        }
        value
    }

    /// Takes `key` out as true or false.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(field) = self.take(key) else {
            return default;
        };
        let Some(text) = field.scalar() else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            field.fail(format!("`{}` is not a switch; write true or false", shown(&text)));
            default
        })
    }

    /// Keeps an error for a missing key, unless the whole section is already reported.
    pub(super) fn missing(&self, key: &str, message: impl Into<String>) {
        if !self.broken {
            self.reader.missing(&self.path(key), message);
        }
    }

    /// Reports every key that was not taken: `unavailable` ones as such, others as unknown.
    pub(super) fn finish(self, unavailable: &[&'static str]) {
        for (key, _) in &self.map {
            let name = match key {
                Value::String(name) => name.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => "?".to_owned(),
            };
            let at = self.path(&name.escape_debug().to_string());
            if unavailable.contains(&name.as_str()) {
                self.reader.fail(&at, "not available in this version of dripline; remove it");
                continue;
            }
            let candidates = self.known.iter().chain(unavailable);
            let message = match nearest(&name, candidates) {
                Some(near) => format!("unknown key; did you mean {}?", self.path(near)),
                None => "unknown key; remove it".to_owned(),
            };
            self.reader.fail(&at, message);
        }
    }
}

/// The candidate that was probably meant by `name`: at most two edits away, with less than half of it
/// changed.
fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a &'static str>,
) -> Option<&'static str> {
    let name = name.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && edits * 2 < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}
