//! Which hosts may be reached through CONNECT: Amazon's S3 by the pattern of its names, other stores by
//! their configured names, and the hosts where clients of S3 get their credentials.
//!
//! Pure. Invariant: what passes here is the name of an S3 endpoint, of Amazon's sign-in services, or one
//! that an operator wrote out. A bare `*.amazonaws.com` never passes: any account can have a host there.
//! [`address`] checks where a name leads.
//!
//! ```
//! use dripline::forward_proxy::allow::Rules;
//!
//! let rules = Rules::default();
//! assert!(rules.check(&"fw-store.s3.eu-west-1.amazonaws.com:443".parse().unwrap()).is_ok());
//! assert!(rules.check(&"example.com:443".parse().unwrap()).is_err());
//! ```

pub mod address;

use std::fmt;
use std::str::FromStr;

/// The only port of Amazon's endpoints.
const HTTPS: u16 = 443;

/// The longest host name, RFC 1035 §2.3.4 as text.
const MAX_HOST: usize = 253;

/// Where a client wants to go: a host name in lower case without the root's dot, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What is wrong with the target of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not `host:port` (RFC 9112 §3.2.3).
    #[error(
        "CONNECT asks for a host name and a port, such as bucket.s3.us-east-1.amazonaws.com:443"
    )]
    Malformed,
    /// An IP address in the place of a name.
    #[error("IP addresses are not served; name the S3 endpoint")]
    IpLiteral,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Malformed)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or(TargetError::Malformed)?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if host.starts_with('[') || looks_like_ip(&host) {
            return Err(TargetError::IpLiteral);
        }
        if !is_host_name(&host) {
            return Err(TargetError::Malformed);
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether the system's resolver would take the text for an address: an IPv6 one, or one of the many
/// spellings of IPv4 (inet_aton(3): `127.1`, `0x7f.0.0.1`, `2130706433`), all of which end in a number.
fn looks_like_ip(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let v6 =
        host.contains(':') && host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b));
    v6 || digits(last) || last.strip_prefix("0x").is_some_and(hex)
}

/// Labels of letters, digits, hyphens and underscores, each of 1 to 63 bytes.
fn is_host_name(host: &str) -> bool {
    let of_label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(of_label);
    host.len() <= MAX_HOST && host.split('.').all(label)
}

/// An endpoint beyond Amazon's own: `host:port`, or `*.suffix:port` for every name below the suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host, or what its name ends in.
    target: Target,
    wildcard: bool,
}

/// What is wrong with a configured endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not of either form.
    #[error(
        "is not an endpoint; write host:port, such as minio.example.net:9000, or *.suffix:port"
    )]
    Malformed,
    /// An address.
    #[error(
        "is an IP address, which TLS cannot name (RFC 6066 §3); write a name here and its address in resolve"
    )]
    IpLiteral,
    /// A suffix below which any customer can have a host.
    #[error(
        "would let clients reach hosts that are not S3; write a longer suffix, or the endpoints' names"
    )]
    TooWide,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let target: Target = rest.parse().map_err(|e| match e {
            TargetError::Malformed => EndpointError::Malformed,
            TargetError::IpLiteral => EndpointError::IpLiteral,
        })?;
        if wildcard && is_too_wide(&target.host) {
            return Err(EndpointError::TooWide);
        }
        Ok(Self { target, wildcard })
    }
}

/// A top-level domain, or a part of Amazon's that is not S3's alone.
fn is_too_wide(suffix: &str) -> bool {
    let is_s3 =
        |label: &str| label == "s3" || label.starts_with("s3-") || label.starts_with("vpce-");
    let amazon = ["amazonaws.com", "amazonaws.com.cn", "api.aws"].iter().any(|domain| {
        suffix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    !suffix.contains('.') || suffix == "com.cn" || (amazon && !suffix.split('.').any(is_s3))
}

impl Endpoint {
    fn is(&self, target: &Target) -> bool {
        let name = if self.wildcard {
            let label = target.host.strip_suffix(&self.target.host);
            label.is_some_and(|label| label.len() > 1 && label.ends_with('.'))
        } else {
            self.target.host == target.host
        };
        name && self.target.port == target.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.target)
    }
}

/// What is allowed beyond Amazon's S3 endpoints, and which of those are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Further endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The buckets whose virtual-hosted names may be reached; None for all of them. What a path-style
    /// request asks for is inside TLS and cannot be seen, so with a list the hosts without a bucket in
    /// their name are refused.
    pub buckets: Option<Vec<String>>,
    /// Whether STS, SSO and sign-in hosts may be reached.
    pub credentials: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { endpoints: Vec::new(), buckets: None, credentials: true }
    }
}

/// What an allowed target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// One of Amazon's S3 endpoints.
    S3,
    /// An endpoint of the configuration, by its exact name.
    Named,
    /// One below a suffix of the configuration.
    Suffix,
    /// A host where clients get credentials.
    Credentials,
}

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is none of the allowed hosts.
    #[error("it is not an S3 endpoint")]
    Host,
    /// It is one, at another port.
    #[error("only port 443 of it is served")]
    Port,
    /// The bucket is not on the list.
    #[error("its bucket is not among those that may be reached here")]
    Bucket,
    /// The list of buckets cannot be applied.
    #[error(
        "only virtual-hosted names (bucket.s3.region.amazonaws.com) can be told by their bucket"
    )]
    NoBucket,
}

impl Rules {
    /// Checks that `target` may be reached. Returns what it is.
    ///
    /// # Errors
    ///
    /// Why it may not be reached.
    pub fn check(&self, target: &Target) -> Result<TargetKind, Denied> {
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.is(target)) {
            return Ok(if endpoint.wildcard { TargetKind::Suffix } else { TargetKind::Named });
        }
        let kind = match amazon(&target.host) {
            Some(Amazon::Bucket(bucket)) => self.bucket(bucket)?,
            Some(Amazon::Service) if self.buckets.is_some() => return Err(Denied::NoBucket),
            Some(Amazon::Service) => TargetKind::S3,
            None if self.credentials && is_credentials(&target.host) => TargetKind::Credentials,
            None => return Err(Denied::Host),
        };
        if target.port == HTTPS { Ok(kind) } else { Err(Denied::Port) }
    }

    fn bucket(&self, bucket: &str) -> Result<TargetKind, Denied> {
        let listed = |buckets: &Vec<String>| buckets.iter().any(|listed| listed == bucket);
        if self.buckets.as_ref().is_none_or(listed) {
            Ok(TargetKind::S3)
        } else {
            Err(Denied::Bucket)
        }
    }
}

/// A host of Amazon S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amazon<'a> {
    /// With a bucket, or an access point, in its name.
    Bucket(&'a str),
    /// Without.
    Service,
}

/// Reads a host name from its right end, since a bucket's name may hold anything, `s3` included.
fn amazon(host: &str) -> Option<Amazon<'_>> {
    let (stem, china) = match host.strip_suffix(".amazonaws.com.cn") {
        Some(stem) => (stem, true),
        None => (host.strip_suffix(".amazonaws.com")?, false),
    };
    let region = |code: &str| is_region(code) && code.starts_with("cn-") == china;
    let (stem, last) = split_last(stem);
    let (front, service) = match (stem, last) {
        // [b.]s3.amazonaws.com: the global endpoint, which China does not have.
        (front, "s3") if !china => (front, "s3"),
        (front, "s3-accelerate") if !china => (Some(front?), "s3-accelerate"),
        (Some(stem), "dualstack") if !china => match split_last(stem) {
            (Some(front), "s3-accelerate") => (Some(front), "s3-accelerate"),
            _ => return None,
        },
        (Some(stem), code) if region(code) => match split_last(stem) {
            (Some(stem), "dualstack") => split_last(stem),
            split => split,
        },
        _ => return None,
    };
    match service {
        "s3" | "s3-fips" | "s3-accelerate" => {}
        "s3-accesspoint" | "s3-accesspoint-fips" if front.is_some() => {}
        zonal if zonal.strip_prefix("s3express-").is_some_and(is_zone) => {}
        _ => return None,
    }
    match front {
        None => Some(Amazon::Service),
        Some(bucket) => is_bucket(bucket).then_some(Amazon::Bucket(bucket)),
    }
}

/// What stands before the last label, if anything, and the last label.
fn split_last(name: &str) -> (Option<&str>, &str) {
    name.rsplit_once('.').map_or((None, name), |(front, last)| (Some(front), last))
}

/// `ap-southeast-2`, `us-gov-west-1`: words of letters with a number at the end.
fn is_region(code: &str) -> bool {
    let mut words = code.split('-').rev();
    let number = words.next().is_some_and(|n| is_all(n, |b| b.is_ascii_digit()));
    let words: Vec<&str> = words.collect();
    number && words.len() >= 2 && words.iter().all(|word| is_all(word, |b| b.is_ascii_lowercase()))
}

/// `usw2-az1`: an availability zone's id, as in the names of S3 Express.
fn is_zone(id: &str) -> bool {
    let Some((region, zone)) = id.split_once("-az") else { return false };
    is_all(region, |b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && is_all(zone, |b| b.is_ascii_digit())
}

/// The name of a bucket or an access point: at most 63 bytes in labels (which `is_host_name` has seen).
fn is_bucket(name: &str) -> bool {
    (1..=63).contains(&name.len())
}

fn is_all(text: &str, of: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(of)
}

/// The hosts of STS, IAM Identity Center (portal and OIDC) and sign-in, by botocore's endpoint rule
/// sets: HTTPS_PROXY leads there too, and without them no client with a role or SSO gets to S3.
fn is_credentials(host: &str) -> bool {
    // Global STS, and the hosts of `aws login`.
    if host == "sts.amazonaws.com" {
        return true;
    }
    const SIGN_IN: [&str; 4] = [
        ".signin.aws.amazon.com",
        ".oauth.signin.aws",
        ".signin.amazonaws.cn",
        ".signin.amazonaws-us-gov.com",
    ];
    if let Some(region) = SIGN_IN.iter().find_map(|suffix| host.strip_suffix(suffix)) {
        return is_region(region);
    }
    const DOMAINS: [(&str, bool); 4] = [
        (".amazonaws.com", false),
        (".amazonaws.com.cn", true),
        (".api.aws", false),
        (".api.amazonwebservices.com.cn", true),
    ];
    let stem = |(domain, china): &(&str, bool)| Some((host.strip_suffix(domain)?, *china));
    let Some((stem, china)) = DOMAINS.iter().find_map(stem) else { return false };
    let (Some(service), region) = split_last(stem) else { return false };
    let service = service.strip_suffix("-fips").unwrap_or(service);
    is_region(region)
        && region.starts_with("cn-") == china
        && matches!(service, "sts" | "portal.sso" | "oidc" | "signin")
}

#[cfg(test)]
mod tests;
