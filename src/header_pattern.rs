//! A pattern of header names: one name, or every name with a prefix (`x-amz-meta-*`).
//!
//! Invariant: a [`HeaderPattern`] names at least one header and never all of them. This file must not
//! know which headers there are, nor what a pattern is used for.
//!
//! ```
//! use dripline::header_pattern::HeaderPattern;
//!
//! let pattern: HeaderPattern = "x-amz-meta-*".parse().unwrap();
//! assert!(pattern.matches("x-amz-meta-model") && !pattern.matches("etag"));
//! assert!("*".parse::<HeaderPattern>().is_err());
//! ```

use std::fmt;
use std::str::FromStr;

/// One header's exact name, or every name with a prefix (`x-amz-meta-*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderPattern {
    /// Lower case, without the `*`.
    name: String,
    prefix: bool,
}

impl HeaderPattern {
    /// Whether the pattern names this header; `name` is in lower case.
    pub fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

impl FromStr for HeaderPattern {
    type Err = HeaderPatternError;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        let (name, prefix) = match pattern.strip_suffix('*') {
            Some(name) => (name, true),
            None => (pattern, false),
        };
        if name.is_empty() {
            let everything = HeaderPatternError::Everything;
            return Err(if prefix { everything } else { HeaderPatternError::Empty });
        }
        if !name.bytes().all(is_token) || name.contains('*') {
            return Err(HeaderPatternError::Name(pattern.to_owned()));
        }
        Ok(Self { name: name.to_ascii_lowercase(), prefix })
    }
}

impl fmt::Display for HeaderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.prefix { "*" } else { "" })
    }
}

/// A character of a header's name (`tchar`, RFC 9110 §5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Why something is not a [`HeaderPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderPatternError {
    /// An empty string.
    #[error(
        "the header's name is empty: write one such as x-amz-version-id, or a prefix such as x-amz-meta-*"
    )]
    Empty,
    /// A bare `*`: a device's response head has to stay small.
    #[error("* alone would keep every header: write names, or a prefix such as x-amz-meta-*")]
    Everything,
    /// Characters that no header's name has.
    #[error(
        "{0:?} is not a header's name, nor a prefix with one * at its end, such as x-amz-meta-*"
    )]
    Name(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_read_and_shown_in_lower_case() {
        for (written, shown) in
            [("X-Amz-Meta-*", "x-amz-meta-*"), ("ETag", "etag"), ("x_odd!", "x_odd!")]
        {
            assert_eq!(written.parse::<HeaderPattern>().expect("a pattern").to_string(), shown);
        }
    }

    #[test]
    fn patterns_that_are_none_say_why() {
        let error =
            |pattern: &str| pattern.parse::<HeaderPattern>().expect_err("no pattern").to_string();
        assert_eq!(
            error(""),
            "the header's name is empty: write one such as x-amz-version-id, or a prefix such as x-amz-meta-*"
        );
        assert_eq!(
            error("*"),
            "* alone would keep every header: write names, or a prefix such as x-amz-meta-*"
        );
        for bad in ["x amz", "x-amz:", "*-meta", "x-*-y", "x-**", "größe"] {
            let expected = format!(
                "{bad:?} is not a header's name, nor a prefix with one * at its end, such as x-amz-meta-*"
            );
            assert_eq!(error(bad), expected);
        }
    }

    #[test]
    fn a_name_matches_itself_and_a_prefix_matches_what_begins_with_it() {
        let pattern = |pattern: &str| pattern.parse::<HeaderPattern>().expect("a pattern");
        assert!(pattern("ETag").matches("etag"));
        assert!(!pattern("ETag").matches("etags"));
        assert!(pattern("X-Amz-Meta-*").matches("x-amz-meta-a"));
        assert!(pattern("X-Amz-Meta-*").matches("x-amz-meta-"));
        assert!(!pattern("X-Amz-Meta-*").matches("x-amz-met"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(text in "[A-Za-z0-9!#$._-]{1,20}[*]?") {
            let pattern: HeaderPattern = text.parse().expect("a pattern");
            prop_assert_eq!(pattern.to_string().parse::<HeaderPattern>(), Ok(pattern));
        }
    }
}
