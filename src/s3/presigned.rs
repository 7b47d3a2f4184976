//! Reading a presigned URL: the `/file/` URL to hand out in its place, or the settings that it needs.
//!
//! A presigned URL is bound to the host that it was signed for, so it works through dripline exactly if
//! dripline sends that host, and the same path and query behind it.
//!
//! Invariant: the key's and the query's bytes go from the one URL into the other untouched, and no
//! message ever repeats the query, which holds the signature. This file must not know the configuration
//! file; it speaks of settings by their names. It verifies no signature and knows no time, so it cannot
//! tell an expired URL, and for which method a URL was signed is in no URL to read.

use std::fmt;

use super::endpoint::{
    Addressing, Authority, BucketName, Endpoint, EndpointError, HostKind, Region,
};
use super::headers::{SignedHeaders, is_version_2, parameters};
use crate::route::{ObjectKey, breaks_request_line};

/// A URL of an object in S3, presigned or plain.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedUrl {
    authority: Authority,
    /// Everything between the slash after the host and the first `?`.
    path: String,
    /// Everything after the first `?`.
    query: Option<String>,
}

/// How a URL is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signature {
    /// Signature Version 4 (or 4A): `X-Amz-Signature` and its companions.
    V4,
    /// Signature Version 2: `AWSAccessKeyId`, `Signature` and `Expires`.
    V2,
    /// Not at all: good for public objects only.
    None,
}

impl PresignedUrl {
    /// Takes a URL apart. White space around it is left out.
    ///
    /// # Errors
    ///
    /// [`PresignedError`] if it is no such URL, names no object, or names one that no setting can reach.
    pub fn parse(url: &str) -> Result<Self, PresignedError> {
        let url = url.trim();
        if url.bytes().any(|b| breaks_request_line(&b)) {
            return Err(PresignedError::Blank);
        }
        if url.contains('#') {
            return Err(PresignedError::Fragment);
        }
        let host = url.find("://").map_or(0, |at| at + "://".len());
        let end = url[host..]
            .find(['/', '?'])
            .map_or(url.len(), |at| host + at);
        let authority = Authority::parse(&url[..end]).map_err(PresignedError::Url)?;
        let (path, query) = match url[end..].split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (&url[end..], None),
        };
        let path = path.strip_prefix('/').unwrap_or_default().to_owned();
        let parsed = Self {
            authority,
            path,
            query,
        };

        let readings = parsed.readings(None);
        let first = readings.first().ok_or(PresignedError::NoObject)?;
        match parsed.settings_of(first) {
            Err(error) if parsed.likeliest(None).is_none() => Err(match error {
                EndpointError::DottedVirtual { bucket, host } => {
                    PresignedError::Dotted { bucket, host }
                }
                error => PresignedError::OutOfReach(error),
            }),
            _ => Ok(parsed),
        }
    }

    /// The host that the URL was signed for, as in a Host header.
    pub fn host(&self) -> String {
        self.authority.header()
    }

    /// How the URL is signed.
    pub fn signature(&self) -> Signature {
        let query = self.query_bytes().unwrap_or_default();
        if parameters(query).any(|(name, _)| name.eq_ignore_ascii_case(b"x-amz-signature")) {
            Signature::V4
        } else if is_version_2(query) {
            Signature::V2
        } else {
            Signature::None
        }
    }

    /// Headers besides `host` that the signature covers, in lower case. The client must send each with
    /// the signed value, or S3 answers 403. A version 2 signature does not say which it covers.
    pub fn headers(&self) -> Vec<String> {
        let signed = SignedHeaders::of(self.query_bytes(), None);
        signed
            .names()
            .filter(|name| *name != "host")
            .map(str::to_owned)
            .collect()
    }

    /// Whether another reading of the URL is possible: at a host other than Amazon's, the bucket may
    /// stand in the host or in the path. Once s3.bucket is known, [`check`](Self::check) decides.
    pub fn is_ambiguous(&self) -> bool {
        let mut readings = self.readings(None);
        readings.retain(|reading| self.settings_of(reading).is_ok());
        readings.iter().any(|reading| *reading != readings[0])
    }

    /// The path and query under which dripline serves this URL's object: `/file/<key>?<query>`.
    ///
    /// # Errors
    ///
    /// A [`Mismatch`] if a request for it would not reach S3 as it was signed.
    pub fn check(&self, endpoint: &Endpoint) -> Result<String, Mismatch> {
        if self.host() != endpoint.host_header() {
            return Err(Mismatch::Host {
                signed: self.host(),
                sent: endpoint.host_header().to_owned(),
                settings: self.settings_for(Some(endpoint)),
            });
        }
        let key = if endpoint.is_path_style() {
            let (bucket, key) = self.path.split_once('/').unwrap_or((&self.path, ""));
            if bucket != endpoint.bucket().as_str() {
                return Err(Mismatch::Bucket {
                    host: self.host(),
                    signed: bucket.to_owned(),
                    sent: endpoint.bucket().clone(),
                    settings: self.settings_for(Some(endpoint)),
                });
            }
            key
        } else {
            &self.path
        };
        let key = ObjectKey::new(key.as_bytes()).ok_or(Mismatch::NoObject)?;
        endpoint
            .target(&key, self.query_bytes())
            .map_err(|_| Mismatch::LeavesBucket)?;
        let key = &self.path[self.path.len() - key.as_bytes().len()..];
        Ok(match &self.query {
            Some(query) => format!("/file/{key}?{query}"),
            None => format!("/file/{key}"),
        })
    }

    /// The settings that the URL needs, for when nothing is configured: every setting it names, and all
    /// others that say where S3 is left out.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        self.settings_for(None)
    }

    fn settings_for(&self, endpoint: Option<&Endpoint>) -> Vec<(&'static str, String)> {
        self.likeliest(endpoint)
            .map(|settings| settings.0)
            .unwrap_or_default()
    }

    fn query_bytes(&self) -> Option<&[u8]> {
        self.query.as_deref().map(str::as_bytes)
    }

    /// The settings of the first reading that has any.
    fn likeliest(&self, endpoint: Option<&Endpoint>) -> Option<Settings> {
        self.readings(endpoint)
            .iter()
            .find_map(|reading| self.settings_of(reading).ok())
    }

    /// Where the bucket may stand in this URL, most likely first.
    fn readings(&self, endpoint: Option<&Endpoint>) -> Vec<Reading> {
        let host = &self.authority.host;
        if !self.authority.ip
            && let Some((service, amazon)) = amazon_service(host)
        {
            return match host
                .strip_suffix(service)
                .and_then(|bucket| bucket.strip_suffix('.'))
            {
                Some(bucket) => self.in_host(bucket, Some(amazon)),
                None => self.in_path(Some(amazon)),
            }
            .into_iter()
            .collect();
        }

        let mut readings = Vec::new();
        if let Some(endpoint) = endpoint {
            let bucket = endpoint.bucket().as_str();
            let before_host = host
                .strip_prefix(bucket)
                .and_then(|rest| rest.strip_prefix('.'));
            let in_path = self
                .in_path(None)
                .filter(|reading| reading.bucket == *endpoint.bucket());
            // With the configured service below the bucket there is no doubt left; otherwise a
            // bucket in the path is likelier, since a host may share its first label by chance.
            if before_host == Some(endpoint.host()) {
                readings.extend(self.in_host(bucket, None));
            }
            readings.extend(in_path);
            if before_host.is_some() {
                readings.extend(self.in_host(bucket, None));
            }
        }
        // Most services have a label that says where their own name begins.
        let starts = |label: &str| {
            label == "s3" || label.starts_with("s3-") || label.starts_with("s3express-")
        };
        let service = host
            .split('.')
            .rev()
            .position(starts)
            .map(|after| host.split('.').count() - 1 - after);
        if let Some(labels @ 1..) = service {
            readings.extend(self.in_host(&join(host.split('.').take(labels)), None));
        }
        readings.extend(self.in_path(None));
        if let Some((bucket, _)) = host.split_once('.') {
            readings.extend(self.in_host(bucket, None));
        }
        readings
    }

    /// The reading with the bucket as the first segment of the path.
    fn in_path(&self, amazon: Option<Named>) -> Option<Reading> {
        let (bucket, key) = self.path.split_once('/')?;
        let bucket = bucket.parse().ok().filter(|_| !key.is_empty())?;
        Some(Reading {
            service: self.authority.clone(),
            bucket,
            path_style: true,
            amazon: amazon.flatten(),
        })
    }

    /// The reading with the bucket before the host.
    fn in_host(&self, bucket: &str, amazon: Option<Named>) -> Option<Reading> {
        let host = self
            .authority
            .host
            .strip_prefix(bucket)?
            .strip_prefix('.')?
            .to_owned();
        if self.authority.ip || self.path.is_empty() || host.is_empty() {
            return None;
        }
        let service = Authority {
            host,
            ..self.authority.clone()
        };
        Some(Reading {
            service,
            bucket: bucket.parse().ok()?,
            path_style: false,
            amazon: amazon.flatten(),
        })
    }

    /// The settings with which dripline sends this URL's host and path: by Amazon's names if they lead
    /// there, else by the service's URL. Each attempt is made with a real [`Endpoint`].
    fn settings_of(&self, reading: &Reading) -> Result<Settings, EndpointError> {
        let leads_here = |endpoint: &Endpoint| {
            endpoint.host_header() == self.host() && endpoint.is_path_style() == reading.path_style
        };
        let wanted = if reading.path_style {
            Addressing::Path
        } else {
            Addressing::Virtual
        };
        let mut settings = vec![("s3.bucket", reading.bucket.to_string())];

        if let Some((kind, region)) = &reading.amazon {
            let amazon = |addressing| {
                Endpoint::amazon(region.as_ref(), &reading.bucket, *kind, addressing)
                    .is_ok_and(|e| leads_here(&e))
            };
            if let Some(addressing) = [Addressing::Auto, wanted].into_iter().find(|a| amazon(*a)) {
                settings.extend(
                    region
                        .iter()
                        .map(|region| ("s3.region", region.to_string())),
                );
                if *kind != HostKind::default() {
                    settings.push(("s3.host", kind.to_string()));
                }
                if addressing != Addressing::default() {
                    settings.push(("s3.addressing", addressing.to_string()));
                }
                return Ok(Settings(settings));
            }
        }

        let scheme = if self.authority.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", reading.service.header());
        Endpoint::custom(&url, &reading.bucket, wanted)?;
        settings.push(("s3.endpoint", url));
        if !reading.path_style {
            settings.push(("s3.addressing", wanted.to_string()));
        }
        Ok(Settings(settings))
    }
}

/// Without path and query: a presigned URL is a secret while it lasts.
impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresignedUrl")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

/// What s3.host and s3.region call a host of Amazon's; `None` for one that they cannot name.
type Named = Option<(HostKind, Option<Region>)>;

/// One way to tell bucket and service apart.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    /// Without the bucket.
    service: Authority,
    bucket: BucketName,
    path_style: bool,
    amazon: Named,
}

/// Names and values, in the order of the configuration file.
struct Settings(Vec<(&'static str, String)>);

/// The part of a host that is Amazon's S3 service, and what the settings call it; `None` if the host is
/// not Amazon's S3. Read from the right, since a bucket's name may hold anything, `s3` included.
fn amazon_service(host: &str) -> Option<(&str, Named)> {
    let (stem, china) = match host.strip_suffix(".amazonaws.com.cn") {
        Some(stem) => (stem, true),
        None => (host.strip_suffix(".amazonaws.com")?, false),
    };
    let region = |code: &str| {
        code.parse::<Region>()
            .ok()
            .filter(|_| looks_like_region(code))
    };
    let labels: Vec<&str> = stem.split('.').collect();
    let (length, named) = match labels[..] {
        [.., "s3"] if !china => (1, Some((HostKind::Global, None))),
        [.., "s3-accelerate"] if !china => (1, Some((HostKind::Accelerate, None))),
        [.., "s3-accelerate", "dualstack"] if !china => (2, None),
        [.., "s3", "dualstack", code] => (3, Some((HostKind::DualStack, Some(region(code)?)))),
        [.., "s3-fips", "dualstack", code] => region(code).map(|_| (3, None))?,
        [.., "s3", code] => (2, Some((HostKind::Regional, Some(region(code)?)))),
        [.., "s3-fips", code] => (2, Some((HostKind::Fips, Some(region(code)?)))),
        // s3-us-west-2 and s3-external-1: older spellings that are still signed for.
        [.., legacy] => legacy
            .strip_prefix("s3-")
            .and_then(region)
            .map(|_| (1, None))?,
        [] => return None,
    };
    let service =
        join(labels[labels.len() - length..].iter().copied()).len() + host.len() - stem.len();
    Some((&host[host.len() - service..], named))
}

/// `ap-southeast-2`, but not `website-us-east-1`, which serves no signed requests.
fn looks_like_region(code: &str) -> bool {
    code.contains('-')
        && code.ends_with(|c: char| c.is_ascii_digit())
        && !code.starts_with("website-")
}

fn join<'a>(labels: impl Iterator<Item = &'a str>) -> String {
    labels.collect::<Vec<_>>().join(".")
}

fn listed(settings: &[(&'static str, String)]) -> String {
    settings
        .iter()
        .map(|(name, value)| format!("\n  {name}: {value}"))
        .collect()
}

/// Why something is not a URL of an object that dripline could serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PresignedError {
    /// Not a URL, or one with more in it than S3's have.
    #[error("not a presigned URL: {0}")]
    Url(&'static str),
    /// White space or a control character inside.
    #[error(
        "not a presigned URL: there is a space or a control character in it; was it broken over two lines?"
    )]
    Blank,
    /// A `#`, which no client sends on.
    #[error(
        "not a presigned URL: there is a # in it, and no client sends what follows; in a key it is written %23"
    )]
    Fragment,
    /// No bucket and key to be found.
    #[error(
        "the URL names no object: behind the host, or behind the bucket in the path, a key is missing"
    )]
    NoObject,
    /// HTTPS, and a bucket with dots before the service's host.
    #[error(
        "no setting makes this URL work: the wildcard certificate *.{host} does not cover {bucket}.{host} because \
         of the dots in the bucket's name; have the URL signed in path style, for {host}/{bucket}"
    )]
    Dotted {
        /// The bucket.
        bucket: BucketName,
        /// The service's host, without the bucket.
        host: String,
    },
    /// What stands before the service's host is no bucket that could be there.
    #[error("no setting makes this URL work: {0}")]
    OutOfReach(EndpointError),
}

/// Why a presigned URL does not work with an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Signed for another host.
    #[error(
        "the URL was signed for the host {signed}, but dripline sends Host: {sent}, so S3 would refuse it. It \
         works with these settings, and s3.region, s3.host, s3.endpoint and s3.addressing left out where they \
         are not among them:{}",
        listed(settings)
    )]
    Host {
        /// The host that the signature covers.
        signed: String,
        /// The Host header of the endpoint.
        sent: String,
        /// What would make it work, as [`PresignedUrl::settings`].
        settings: Vec<(&'static str, String)>,
    },
    /// Path style: the right host, but another bucket.
    #[error(
        "the URL was signed for {host}/{signed}, but dripline sends requests for {host}/{sent}, so S3 would refuse \
         it. It works with these settings, and s3.region, s3.host, s3.endpoint and s3.addressing left out where they \
         are not among them:{}",
        listed(settings)
    )]
    Bucket {
        /// The host of both.
        host: String,
        /// The first segment of the URL's path.
        signed: String,
        /// The endpoint's bucket.
        sent: BucketName,
        /// What would make it work, as [`PresignedUrl::settings`].
        settings: Vec<(&'static str, String)>,
    },
    /// The URL names the bucket alone.
    #[error("the URL names no object: a key is missing behind the bucket")]
    NoObject,
    /// Path style, and a key that dripline refuses.
    #[error(
        "the URL's key has .. segments that would leave the bucket in path style; dripline does not serve it"
    )]
    LeavesBucket,
}
