//! The errors of a configuration, each with its key path and what would be right.
//!
//! Invariant: [`ConfigErrors`] is never empty, and a message never holds a secret's text.

use std::fmt;

/// All errors of one configuration, in the order in which they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// The errors; at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    /// One line for each error, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key's path (`listen[0].tls.cert`); for a file that does not parse, a place in it
    /// (`line 3 column 5`); for one that cannot be read, its path.
    pub at: String,
    /// Where the value came from.
    pub source: Origin,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)?;
        match &self.source {
            Origin::File => Ok(()),
            Origin::Variable(name) => write!(f, " (from {name})"),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file, or nowhere, if the value is missing.
    File,
    /// The environment variable of this name, from the environment or the env file.
    Variable(String),
}
