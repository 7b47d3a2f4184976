//! Settings that are one word or one small number: what is counted, who counts as one, and priorities.

use std::fmt;
use std::str::FromStr;

/// A word in a configuration that is not one of those it can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {wanted}", text.escape_debug())]
pub struct WordError {
    text: String,
    wanted: &'static str,
}

impl WordError {
    /// `wanted` says what it should be, and what to write.
    pub(super) fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

/// What a byte costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Itself.
    #[default]
    Payload,
    /// Itself and its share of the Ethernet, IP and TCP headers around it: 1.046.
    Wire,
}

impl FromStr for Count {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "payload" => Ok(Self::Payload),
            "wire" => Ok(Self::Wire),
            _ => Err(WordError::new(text, "what can be counted; write payload or wire")),
        }
    }
}

/// Who counts as one when a class is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Classifier {
    /// A client's address, however many connections it opens.
    SrcAddress,
    /// A user's name; an address where there is none.
    User,
    /// Each connection.
    #[default]
    Connection,
}

impl FromStr for Classifier {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "src-address" => Ok(Self::SrcAddress),
            "user" => Ok(Self::User),
            "connection" => Ok(Self::Connection),
            _ => Err(WordError::new(text, "a classifier; write src-address, user or connection")),
        }
    }
}

/// Who is served first among classes that borrow: 1 to 8, 1 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Served first.
    pub const FIRST: Self = Self(1);
    /// Served last; the default, as in RouterOS.
    pub const LAST: Self = Self(8);
    /// How many priorities there are.
    pub(in crate::shape) const COUNT: usize = 8;

    /// A priority of 1 to 8; None beyond.
    #[must_use]
    pub const fn new(priority: u8) -> Option<Self> {
        if priority >= Self::FIRST.0 && priority <= Self::LAST.0 {
            Some(Self(priority))
        } else {
            None
        }
    }

    /// 1 to 8.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::LAST
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Priority {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let priority = text.parse().ok().and_then(Self::new);
        priority.ok_or_else(|| WordError::new(text, "a number from 1 (first) to 8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_what_to_write_instead() {
        assert_eq!("user".parse(), Ok(Classifier::User));
        assert_eq!("wire".parse(), Ok(Count::Wire));
        let error = |error: WordError| error.to_string();
        assert_eq!(
            "bytes".parse::<Count>().map_err(error),
            Err("`bytes` is not what can be counted; write payload or wire".to_owned())
        );
        assert_eq!(
            "dst-address".parse::<Classifier>().map_err(error),
            Err("`dst-address` is not a classifier; write src-address, user or connection"
                .to_owned())
        );
    }

    #[test]
    fn priorities_are_1_to_8() {
        assert_eq!("1".parse(), Ok(Priority::FIRST));
        assert_eq!("8".parse(), Ok(Priority::default()));
        for text in ["0", "9", "-1", "256", "", "high"] {
            let error = text.parse::<Priority>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is not a number from 1 (first) to 8"));
        }
    }
}
