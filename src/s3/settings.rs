//! The values of the S3 settings: bucket, region, kind of host and addressing, and what can be wrong
//! with them.
//!
//! Invariant: a value of these types keeps its own rules. Whether several fit together is decided by
//! [`endpoint`](super::endpoint). This file must not know host names.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A bucket's name: 1 to 255 letters, digits, dots, hyphens and underscores.
///
/// That is what S3-compatible stores have ever allowed, and none of it needs escaping in a path.
/// Amazon S3 and virtual-hosted addressing ask for more: see
/// [`is_dns_compatible`](Self::is_dns_compatible), which the endpoint's constructors require there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketName(String);

impl BucketName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name keeps Amazon S3's rules for general purpose buckets and so can be part of a
    /// host name: 3 to 63 lower-case letters, digits, dots and hyphens, a letter or digit at both
    /// ends, no two dots side by side, not an IPv4 address.
    pub fn is_dns_compatible(&self) -> bool {
        self.dns_fault().is_none()
    }

    /// Whether the name has dots, which no wildcard certificate covers (RFC 9525 §6.3: a wildcard
    /// stands for one label).
    pub fn has_dots(&self) -> bool {
        self.0.contains('.')
    }

    pub(super) fn require_dns_compatible(&self) -> Result<(), EndpointError> {
        match self.dns_fault() {
            None => Ok(()),
            Some(why) => Err(EndpointError::BucketForHost { name: self.0.clone(), why }),
        }
    }

    fn dns_fault(&self) -> Option<&'static str> {
        let name = self.0.as_str();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let edge = |b: Option<&u8>| b.is_some_and(alphanumeric);
        let bytes = name.as_bytes();
        if !(3..=63).contains(&bytes.len()) {
            Some("it must have 3 to 63 characters")
        } else if !bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'-')) {
            Some("only lower-case letters, digits, dots and hyphens may be in it")
        } else if !edge(bytes.first()) || !edge(bytes.last()) {
            Some("it must begin and end with a letter or a digit")
        } else if name.contains("..") {
            Some("two dots must not stand side by side")
        } else if Ipv4Addr::from_str(name).is_ok() {
            Some("it must not look like an IPv4 address")
        } else {
            None
        }
    }
}

impl FromStr for BucketName {
    type Err = EndpointError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > 255 {
            "it has more than 255 characters"
        } else if !name.bytes().all(allowed) {
            "only letters, digits, dots, hyphens and underscores may be in it"
        } else if matches!(name, "." | "..") {
            "it is a dot segment, which paths give another meaning"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(EndpointError::Bucket { name: name.to_owned(), why })
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A region's code, such as `ap-southeast-2`: 1 to 40 lower-case letters, digits and hyphens. Which
/// regions exist is for Amazon to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Region(String);

impl Region {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = EndpointError;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=40).contains(&code.len()) && code.bytes().all(allowed) {
            Ok(Self(code.to_owned()))
        } else {
            Err(EndpointError::Region(code.to_owned()))
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of Amazon's host names for a bucket to use. Signatures are bound to it, so it must be the
/// one that the signing side uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HostKind {
    /// `s3.REGION.amazonaws.com`, what current SDKs sign for.
    #[default]
    Regional,
    /// `s3.amazonaws.com`, what older SDKs and boto3's defaults sign for.
    Global,
    /// `s3.dualstack.REGION.amazonaws.com`, over IPv6 too.
    DualStack,
    /// `s3-fips.REGION.amazonaws.com`.
    Fips,
    /// `s3-accelerate.amazonaws.com`: virtual-hosted only, and no dots in the bucket's name.
    Accelerate,
}

impl FromStr for HostKind {
    type Err = EndpointError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "regional" => Self::Regional,
            "global" => Self::Global,
            "dualstack" => Self::DualStack,
            "fips" => Self::Fips,
            "accelerate" => Self::Accelerate,
            _ => return Err(EndpointError::HostKind(name.to_owned())),
        })
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regional => "regional",
            Self::Global => "global",
            Self::DualStack => "dualstack",
            Self::Fips => "fips",
            Self::Accelerate => "accelerate",
        })
    }
}

/// Where the bucket's name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Addressing {
    /// Virtual-hosted at Amazon; path style for a bucket with dots, and on a custom endpoint.
    #[default]
    Auto,
    /// `https://BUCKET.host/key`.
    Virtual,
    /// `https://host/BUCKET/key`.
    Path,
}

impl FromStr for Addressing {
    type Err = EndpointError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "auto" => Self::Auto,
            "virtual" => Self::Virtual,
            "path" => Self::Path,
            _ => return Err(EndpointError::Addressing(name.to_owned())),
        })
    }
}

impl fmt::Display for Addressing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Virtual => "virtual",
            Self::Path => "path",
        })
    }
}

/// Why there is no such endpoint, and what would be right. The setting's name is not in the text but
/// in [`key`](Self::key), so that whoever reports it can say it as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a bucket name anywhere.
    #[error("{name:?} is not a bucket name: {why}")]
    Bucket {
        /// As it was written.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A bucket name, but not for Amazon S3 or virtual-hosted addressing.
    #[error("{name:?} cannot be a bucket at Amazon S3 or in virtual-hosted addressing: {why}")]
    BucketForHost {
        /// As it was written.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// Not a region's code.
    #[error("{0:?} is not a region: write its code, such as ap-southeast-2")]
    Region(String),
    /// A host name that holds the region, and no region.
    #[error("the {0} host's name holds the region: set it, for example to ap-southeast-2")]
    RegionNeeded(HostKind),
    /// Not a kind of host.
    #[error("{0:?} is not a kind of host: write regional, global, dualstack, fips or accelerate")]
    HostKind(String),
    /// A kind of host that the China regions do not have.
    #[error("{region} has no {kind} host, as no China region has: write regional or dualstack")]
    China {
        /// The kind asked for.
        kind: HostKind,
        /// The China region.
        region: Region,
    },
    /// Transfer Acceleration and a bucket with dots.
    #[error(
        "Transfer Acceleration does not serve a bucket with dots in its name ({0}): write regional"
    )]
    DottedAccelerate(BucketName),
    /// Not a way of addressing.
    #[error("{0:?} is not a way of addressing: write auto, virtual or path")]
    Addressing(String),
    /// Transfer Acceleration and path style.
    #[error("Transfer Acceleration has no path style: write auto or virtual")]
    AcceleratePath,
    /// HTTPS, virtual-hosted, and a bucket with dots.
    #[error(
        "the service's wildcard certificate, *.{host}, does not cover {bucket}.{host} because of the dots in the \
         bucket's name: write auto or path"
    )]
    DottedVirtual {
        /// The bucket.
        bucket: BucketName,
        /// The service's host, without the bucket.
        host: String,
    },
    /// Virtual-hosted below an IP address.
    #[error(
        "a bucket's name cannot be put before an IP address ({0}): write auto or path, or give the endpoint a name"
    )]
    VirtualIp(String),
    /// HTTPS to an IP address.
    #[error(
        "https needs a host name, which the service's certificate is checked against, not an IP address ({0})"
    )]
    HttpsIp(String),
    /// Not the URL of a service.
    #[error("not a URL such as https://s3.example.com or http://192.0.2.1:9000: {0}")]
    Url(&'static str),
}

impl EndpointError {
    /// The configuration key at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Bucket { .. } | Self::BucketForHost { .. } => "s3.bucket",
            Self::Region(_) | Self::RegionNeeded(_) => "s3.region",
            Self::HostKind(_) | Self::China { .. } | Self::DottedAccelerate(_) => "s3.host",
            Self::Addressing(_)
            | Self::AcceleratePath
            | Self::DottedVirtual { .. }
            | Self::VirtualIp(_) => "s3.addressing",
            Self::HttpsIp(_) | Self::Url(_) => "s3.endpoint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str) -> BucketName {
        name.parse().expect("a bucket name")
    }

    #[test]
    fn bucket_names_that_amazon_takes() {
        let long = "b".repeat(63);
        let names = [
            "abc",
            "my-bucket",
            "my.bucket.example.com",
            "0-9",
            "a.b",
            "1.2.3",
            "256.1.1.1",
            &long,
            "a-s3alias",
        ];
        for name in names {
            assert!(bucket(name).is_dns_compatible(), "{name}");
            assert_eq!(bucket(name).to_string(), name);
            assert_eq!(bucket(name).as_str(), name);
            assert_eq!(bucket(name).has_dots(), name.contains('.'));
        }
    }

    #[test]
    fn bucket_names_for_older_stores_only() {
        let long = "b".repeat(64);
        let longest = "b".repeat(255);
        for (name, why) in [
            ("ab", "it must have 3 to 63 characters"),
            (&*long, "it must have 3 to 63 characters"),
            (&*longest, "it must have 3 to 63 characters"),
            ("My-Bucket", "only lower-case letters, digits, dots and hyphens may be in it"),
            ("my_bucket", "only lower-case letters, digits, dots and hyphens may be in it"),
            ("-bucket", "it must begin and end with a letter or a digit"),
            ("bucket.", "it must begin and end with a letter or a digit"),
            ("my..bucket", "two dots must not stand side by side"),
            ("192.0.2.1", "it must not look like an IPv4 address"),
        ] {
            assert!(!bucket(name).is_dns_compatible(), "{name}");
            let error = bucket(name).require_dns_compatible().expect_err("not for a host");
            let expected = format!(
                "{name:?} cannot be a bucket at Amazon S3 or in virtual-hosted addressing: {why}"
            );
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.key(), "s3.bucket");
        }
    }

    #[test]
    fn names_that_are_no_buckets_anywhere() {
        let long = "b".repeat(256);
        for (name, why) in [
            ("", "it is empty"),
            (&*long, "it has more than 255 characters"),
            ("a/b", "only letters, digits, dots, hyphens and underscores may be in it"),
            ("a b", "only letters, digits, dots, hyphens and underscores may be in it"),
            ("a%2eb", "only letters, digits, dots, hyphens and underscores may be in it"),
            ("grün", "only letters, digits, dots, hyphens and underscores may be in it"),
            (".", "it is a dot segment, which paths give another meaning"),
            ("..", "it is a dot segment, which paths give another meaning"),
        ] {
            let error = name.parse::<BucketName>().expect_err("no bucket");
            assert_eq!(error.to_string(), format!("{name:?} is not a bucket name: {why}"));
            assert_eq!(error.key(), "s3.bucket");
        }
    }

    #[test]
    fn regions() {
        for code in ["ap-southeast-2", "us-gov-west-1", "auto", "garage"] {
            assert_eq!(code.parse::<Region>().expect("a region").as_str(), code);
        }
        let long = "r".repeat(41);
        for code in ["", "US-EAST-1", "us east", "us_east", "eu.west", &long] {
            let error = code.parse::<Region>().expect_err("no region");
            let expected =
                format!("{code:?} is not a region: write its code, such as ap-southeast-2");
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.key(), "s3.region");
        }
    }

    #[test]
    fn kinds_of_host_and_addressing_are_read_as_they_are_shown() {
        use HostKind::{Accelerate, DualStack, Fips, Global, Regional};
        for kind in [Regional, Global, DualStack, Fips, Accelerate] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for addressing in [Addressing::Auto, Addressing::Virtual, Addressing::Path] {
            assert_eq!(addressing.to_string().parse(), Ok(addressing));
        }
        let error = "Global".parse::<HostKind>().expect_err("no kind");
        assert_eq!(
            error.to_string(),
            "\"Global\" is not a kind of host: write regional, global, dualstack, fips or accelerate"
        );
        assert_eq!(error.key(), "s3.host");
        let error = "subdomain".parse::<Addressing>().expect_err("no addressing");
        assert_eq!(
            error.to_string(),
            "\"subdomain\" is not a way of addressing: write auto, virtual or path"
        );
        assert_eq!(error.key(), "s3.addressing");
        assert_eq!((HostKind::default(), Addressing::default()), (Regional, Addressing::Auto));
    }
}
