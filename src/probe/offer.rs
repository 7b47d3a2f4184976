//! What a probing client offers: one TLS version, and possibly a limit on the records that it accepts.
//!
//! Pure. A device never offers several limits, so each is tried on a separate connection.

use std::fmt;

/// A protocol version; a connection offers exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2, RFC 5246: what BearSSL, mbedTLS 2.28 and LTE modems speak.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

impl Version {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    /// `1.2` or `1.3`.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS {}", self.number())
    }
}

/// A limit that the client announces, in bytes as it stands in the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// RFC 6066 §4; 512, 1024, 2048 or 4096.
    MaxFragmentLength(u16),
    /// RFC 8449 §4; 64 or more.
    RecordSizeLimit(u16),
}

impl Limit {
    /// The extension's name in the registry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxFragmentLength(_) => "max_fragment_length",
            Self::RecordSizeLimit(_) => "record_size_limit",
        }
    }

    /// The extension's number in the registry.
    #[must_use]
    pub const fn extension(self) -> u16 {
        match self {
            Self::MaxFragmentLength(_) => 1,
            Self::RecordSizeLimit(_) => 28,
        }
    }

    /// The value offered.
    #[must_use]
    pub const fn value(self) -> u16 {
        match self {
            Self::MaxFragmentLength(value) | Self::RecordSizeLimit(value) => value,
        }
    }

    /// The largest content, in bytes, that it allows a record. In TLS 1.3 a
    /// `record_size_limit` counts the content-type byte as well (RFC 8449 §4).
    #[must_use]
    pub const fn content(self, version: Version) -> usize {
        match (self, version) {
            (Self::RecordSizeLimit(value), Version::Tls13) => value as usize - 1,
            _ => self.value() as usize,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.value())
    }
}

/// What one connection offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The one version.
    pub version: Version,
    /// The limit; most small stacks offer none by default.
    pub limit: Option<Limit>,
}

/// The limits tried in TLS 1.2: every `max_fragment_length`, and two sizes between which the
/// `record_size_limit` of small devices lies.
const LIMITS_TLS12: [Limit; 6] = [
    Limit::MaxFragmentLength(512),
    Limit::MaxFragmentLength(1024),
    Limit::MaxFragmentLength(2048),
    Limit::MaxFragmentLength(4096),
    Limit::RecordSizeLimit(1024),
    Limit::RecordSizeLimit(4096),
];

/// The limits tried in TLS 1.3. Few devices offer the older extension there, so only its smallest and
/// largest values are tried.
const LIMITS_TLS13: [Limit; 4] = [
    Limit::MaxFragmentLength(512),
    Limit::MaxFragmentLength(4096),
    Limit::RecordSizeLimit(1024),
    Limit::RecordSizeLimit(4096),
];

impl Offer {
    /// A version and nothing else.
    #[must_use]
    pub const fn bare(version: Version) -> Self {
        Self { version, limit: None }
    }

    /// The offers of a version that come with a limit, in the order of the table.
    pub fn limited(version: Version) -> impl Iterator<Item = Self> {
        let limits = match version {
            Version::Tls12 => LIMITS_TLS12.as_slice(),
            Version::Tls13 => LIMITS_TLS13.as_slice(),
        };
        limits.iter().map(move |limit| Self { version, limit: Some(*limit) })
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            None => write!(f, "{}, nothing offered", self.version),
            Some(limit) => write!(f, "{}, {limit}", self.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_size_limit_counts_the_content_type_in_tls_1_3_only() {
        let content = |limit: Limit| Version::ALL.map(|version| limit.content(version));
        assert_eq!(content(Limit::RecordSizeLimit(1024)), [1024, 1023]);
        assert_eq!(content(Limit::MaxFragmentLength(1024)), [1024, 1024]);
    }

    #[test]
    fn offers_name_themselves() {
        let named: Vec<String> =
            Version::ALL.into_iter().flat_map(Offer::limited).map(|o| o.to_string()).collect();
        assert_eq!(named.len(), 10);
        assert_eq!(named[0], "TLS 1.2, max_fragment_length 512");
        assert_eq!(named[9], "TLS 1.3, record_size_limit 4096");
        assert_eq!(Offer::bare(Version::Tls13).to_string(), "TLS 1.3, nothing offered");
    }
}
