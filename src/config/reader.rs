//! Keeps every error and warning of one reading, instead of stopping at the first, and knows which
//! variable a value came from.
//!
//! This file knows key paths as text, but no key's name and no value.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::error::{ConfigError, ConfigErrors, Origin};

/// Collects errors and warnings, and knows which variable a value came from.
#[derive(Default)]
pub(super) struct Reader {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    /// Key path → the environment variable that set it.
    origins: BTreeMap<String, String>,
    /// Key path → a variable that looks as if it set it, and does not.
    unread: BTreeMap<String, String>,
    /// Set when a source could not be read completely: a missing key may be in the lost part.
    pub(super) incomplete: bool,
    /// Every key path that was asked for, list indices left out.
    known: RefCell<BTreeSet<String>>,
}

impl Reader {
    /// Keeps an error at the key path `at`, with the variable that `at` came from.
    pub(super) fn fail(&self, at: &str, message: impl Into<String>) {
        self.fail_from(at, self.origin(at), message);
    }

    /// Keeps an error whose origin the caller knows.
    pub(super) fn fail_from(&self, at: &str, source: Origin, message: impl Into<String>) {
        let error = ConfigError { at: at.to_owned(), source, message: message.into() };
        self.errors.borrow_mut().push(error);
    }

    /// Keeps an error about something that is missing, unless it may be in a source that could not be
    /// read.
    pub(super) fn missing(&self, at: &str, message: impl Into<String>) {
        if self.incomplete {
            return;
        }
        let mut message = message.into();
        if let Some(name) = self.unread.get(at) {
            message = format!("{message} ({name} is not read)");
        }
        self.fail_from(at, Origin::File, message);
    }

    /// How many errors there are so far.
    pub(super) fn error_count(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Keeps a warning.
    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Remembers that `variable` set the value at `at`.
    pub(super) fn set_origin(&mut self, at: String, variable: &str) {
        self.origins.insert(at, variable.to_owned());
    }

    /// Remembers that `variable` is set and is not what sets the value at `at`.
    pub(super) fn set_unread(&mut self, at: String, variable: &str) {
        self.unread.insert(at, variable.to_owned());
    }

    /// The variable that set `at`, or the section around it, or else something in it.
    pub(super) fn origin(&self, at: &str) -> Origin {
        let mut path = at;
        loop {
            if let Some(name) = self.origins.get(path) {
                return Origin::Variable(name.clone());
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
        let inside = format!("{at}.");
        match self.origins.range(inside.clone()..).next() {
            Some((path, name)) if path.starts_with(&inside) => Origin::Variable(name.clone()),
            _ => Origin::File,
        }
    }

    /// The warnings if there was no error, else the errors.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        match self.errors.into_inner() {
            errors if errors.is_empty() => Ok(self.warnings.into_inner()),
            errors => Err(ConfigErrors(errors)),
        }
    }

    /// Every key path that was asked for so far, list indices left out: `listen[].addr`.
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    pub(super) fn note_known(&self, at: &str) {
        let mut path = String::new();
        let mut inside = false;
        for c in at.chars() {
            inside = (inside || c == '[') && c != ']';
            if !inside || c == '[' {
                path.push(c);
            }
        }
        self.known.borrow_mut().insert(path);
    }
}
