//! Reading a presigned URL: the `/file/` URL to hand out in its place, or the settings that it needs.
//!
//! A presigned URL works through dripline exactly if dripline sends the host, path and query that it was
//! signed for.
//!
//! Invariant: the key's and the query's bytes go from the one URL into the other untouched, and no
//! message ever repeats the query, which holds the signature. This file must not know the configuration
//! file; it speaks of settings by their names. It verifies no signature and has no clock. For which method
//! a URL was signed cannot be read from it.
//!
//! ```
//! use dripline::s3::presigned::PresignedUrl;
//!
//! let url = "https://fw-store.s3.eu-west-1.amazonaws.com/a?X-Amz-Signature=0";
//! let settings = PresignedUrl::parse(url).unwrap().settings();
//! assert!(settings.contains(&("s3.bucket", "fw-store".to_owned())));
//! assert!(settings.contains(&("s3.region", "eu-west-1".to_owned())));
//! ```

use std::fmt;
use std::time::SystemTime;

use super::amazon::{self, Named};
use super::endpoint::{Addressing, Authority, BucketName, Endpoint, EndpointError, HostKind};
use super::expiry;
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
        let end = url[host..].find(['/', '?']).map_or(url.len(), |at| host + at);
        let authority = Authority::parse(&url[..end]).map_err(PresignedError::Url)?;
        let (path, query) = match url[end..].split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (&url[end..], None),
        };
        let path = path.strip_prefix('/').unwrap_or_default().to_owned();
        let parsed = Self { authority, path, query };

        let interpretations = parsed.interpretations(None);
        let first = interpretations.first().ok_or(PresignedError::NoObject)?;
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

    /// When the signature ended, if that was not after `now`. `None` as well for a URL that is not signed, or
    /// whose end cannot be read.
    pub fn expired(&self, now: SystemTime) -> Option<SystemTime> {
        let query = self.query_bytes()?;
        let value = |wanted: &str| {
            let mut parameters = parameters(query);
            let named = |name: &[u8]| name.eq_ignore_ascii_case(wanted.as_bytes());
            parameters.find(|(name, _)| named(name)).map(|(_, value)| value)
        };
        let end = match self.signature() {
            Signature::V4 => expiry::version_4(&value("X-Amz-Date")?, &value("X-Amz-Expires")?),
            Signature::V2 => expiry::version_2(&value("Expires")?),
            Signature::None => None,
        };
        end.filter(|end| *end <= now)
    }

    /// Headers besides `host` that the signature covers, in lower case. The client must send each with
    /// the signed value, or S3 answers 403. A version 2 signature does not say which it covers.
    pub fn headers(&self) -> Vec<String> {
        let signed = SignedHeaders::of(self.query_bytes(), None);
        signed.names().filter(|name| *name != "host").map(str::to_owned).collect()
    }

    /// Whether another interpretation of the URL is possible: at a host other than Amazon's, the bucket may
    /// stand in the host or in the path. Once s3.bucket is known, [`check`](Self::check) decides.
    pub fn is_ambiguous(&self) -> bool {
        let mut interpretations = self.interpretations(None);
        interpretations.retain(|interpretation| self.settings_of(interpretation).is_ok());
        interpretations.iter().any(|interpretation| *interpretation != interpretations[0])
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
        endpoint.target(&key, self.query_bytes()).map_err(|_| Mismatch::LeavesBucket)?;
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

    fn settings_for(&self, endpoint: Option<&Endpoint>) -> Settings {
        self.likeliest(endpoint).unwrap_or_default()
    }

    fn query_bytes(&self) -> Option<&[u8]> {
        self.query.as_deref().map(str::as_bytes)
    }

    /// The settings of the first interpretation that has any.
    fn likeliest(&self, endpoint: Option<&Endpoint>) -> Option<Settings> {
        self.interpretations(endpoint)
            .iter()
            .find_map(|interpretation| self.settings_of(interpretation).ok())
    }

    /// Where the bucket may stand in this URL, most likely first.
    fn interpretations(&self, endpoint: Option<&Endpoint>) -> Vec<Interpretation> {
        let host = &self.authority.host;
        if !self.authority.ip
            && let Some((service, amazon)) = amazon::recognise(host)
        {
            return match host.strip_suffix(service).and_then(|bucket| bucket.strip_suffix('.')) {
                Some(bucket) => self.in_host(bucket, amazon),
                None => self.in_path(amazon),
            }
            .into_iter()
            .collect();
        }

        let mut interpretations = Vec::new();
        if let Some(endpoint) = endpoint {
            let bucket = endpoint.bucket().as_str();
            let before_host = host.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('.'));
            let in_path = self
                .in_path(None)
                .filter(|interpretation| interpretation.bucket == *endpoint.bucket());
            // With the configured service below the bucket there is no doubt left; otherwise a
            // bucket in the path is likelier, since a host may share its first label by chance.
            if before_host == Some(endpoint.host()) {
                interpretations.extend(self.in_host(bucket, None));
            }
            interpretations.extend(in_path);
            if before_host.is_some() {
                interpretations.extend(self.in_host(bucket, None));
            }
        }
        // Most services have a label that says where their own name begins.
        let starts = [".s3.", ".s3-", ".s3express-"];
        if let Some(at) = starts.iter().filter_map(|label| host.rfind(label)).max() {
            interpretations.extend(self.in_host(&host[..at], None));
        }
        interpretations.extend(self.in_path(None));
        if let Some((bucket, _)) = host.split_once('.') {
            interpretations.extend(self.in_host(bucket, None));
        }
        interpretations
    }

    /// The interpretation with the bucket as the first segment of the path.
    fn in_path(&self, amazon: Named) -> Option<Interpretation> {
        let (bucket, key) = self.path.split_once('/')?;
        let bucket = bucket.parse().ok().filter(|_| !key.is_empty())?;
        Some(Interpretation { service: self.authority.clone(), bucket, path_style: true, amazon })
    }

    /// The interpretation with the bucket before the host.
    fn in_host(&self, bucket: &str, amazon: Named) -> Option<Interpretation> {
        let host = self.authority.host.strip_prefix(bucket)?.strip_prefix('.')?.to_owned();
        if self.authority.ip || self.path.is_empty() || host.is_empty() {
            return None;
        }
        let service = Authority { host, ..self.authority.clone() };
        Some(Interpretation { service, bucket: bucket.parse().ok()?, path_style: false, amazon })
    }

    /// The settings with which dripline sends this URL's host and path: by Amazon's names if they lead
    /// there, else by the service's URL. Each attempt is made with a real [`Endpoint`].
    fn settings_of(&self, interpretation: &Interpretation) -> Result<Settings, EndpointError> {
        let leads_here = |endpoint: &Endpoint| {
            endpoint.host_header() == self.host()
                && endpoint.is_path_style() == interpretation.path_style
        };
        let wanted = if interpretation.path_style { Addressing::Path } else { Addressing::Virtual };
        let mut settings = vec![("s3.bucket", interpretation.bucket.to_string())];

        if let Some((kind, region)) = &interpretation.amazon {
            let amazon = |addressing| {
                Endpoint::amazon(region.as_ref(), &interpretation.bucket, *kind, addressing)
                    .is_ok_and(|e| leads_here(&e))
            };
            if let Some(addressing) = [Addressing::Auto, wanted].into_iter().find(|a| amazon(*a)) {
                settings.extend(region.iter().map(|region| ("s3.region", region.to_string())));
                if *kind != HostKind::default() {
                    settings.push(("s3.host", kind.to_string()));
                }
                if addressing != Addressing::default() {
                    settings.push(("s3.addressing", addressing.to_string()));
                }
                return Ok(settings);
            }
        }

        let scheme = if self.authority.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", interpretation.service.header());
        Endpoint::custom(&url, &interpretation.bucket, wanted)?;
        settings.push(("s3.endpoint", url));
        if !interpretation.path_style {
            settings.push(("s3.addressing", wanted.to_string()));
        }
        Ok(settings)
    }
}

/// Without path and query: a presigned URL is a secret while it lasts.
impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresignedUrl").field("host", &self.host()).finish_non_exhaustive()
    }
}

/// One way to tell bucket and service apart.
#[derive(Debug, PartialEq, Eq)]
struct Interpretation {
    /// Without the bucket.
    service: Authority,
    bucket: BucketName,
    path_style: bool,
    amazon: Named,
}

/// Names and values, in the order of the configuration file.
type Settings = Vec<(&'static str, String)>;

fn listed(settings: &[(&'static str, String)]) -> String {
    settings.iter().map(|(name, value)| format!("\n  {name}: {value}")).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20250101%2Fx&X-Amz-Date=20250101T000000Z\
                      &X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=c0ffee";
    const V2: &str = "AWSAccessKeyId=AKIA&Signature=c0ffee%3D&Expires=1735689600";

    fn url(url: &str) -> PresignedUrl {
        PresignedUrl::parse(url).expect("a presigned URL")
    }

    fn refused(url: &str) -> String {
        PresignedUrl::parse(url).expect_err("no presigned URL").to_string()
    }

    /// The endpoint that a configuration with these settings has.
    fn endpoint(settings: &[(&'static str, String)]) -> Result<Endpoint, EndpointError> {
        let value =
            |name| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        let bucket = value("s3.bucket").expect("a bucket").parse()?;
        let addressing = value("s3.addressing").unwrap_or("auto").parse()?;
        if let Some(url) = value("s3.endpoint") {
            return Endpoint::custom(url, &bucket, addressing);
        }
        let region = value("s3.region").map(str::parse).transpose()?;
        let kind = value("s3.host").unwrap_or("regional").parse()?;
        Endpoint::amazon(region.as_ref(), &bucket, kind, addressing)
    }

    fn configured(lines: &str) -> Endpoint {
        let settings: Vec<_> = lines.split(' ').filter_map(|line| line.split_once('=')).collect();
        let names = ["s3.bucket", "s3.region", "s3.host", "s3.endpoint", "s3.addressing"];
        let name = |name: &str| *names.iter().find(|n| n.ends_with(name)).expect("a setting");
        let settings: Vec<_> =
            settings.iter().map(|(n, value)| (name(n), (*value).to_owned())).collect();
        endpoint(&settings).expect("an endpoint")
    }

    fn shown(settings: &[(&'static str, String)]) -> String {
        settings
            .iter()
            .map(|(name, value)| {
                format!("{}={value}", name.strip_prefix("s3.").expect("an S3 setting"))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_settings_that_a_url_asks_for_make_it_work() {
        for (host, path, settings) in [
            // Amazon, by its settings.
            ("b-1.s3.us-west-2.amazonaws.com", "", "bucket=b-1 region=us-west-2"),
            ("b-1.S3.US-West-2.AmazonAWS.com:443", "", "bucket=b-1 region=us-west-2"),
            ("s3.us-west-2.amazonaws.com", "b-1/", "bucket=b-1 region=us-west-2 addressing=path"),
            ("s3.us-west-2.amazonaws.com", "b.1/", "bucket=b.1 region=us-west-2"),
            ("b-1.s3.amazonaws.com", "", "bucket=b-1 host=global"),
            ("s3.amazonaws.com", "b-1/", "bucket=b-1 host=global addressing=path"),
            ("s3.amazonaws.com", "b.1/", "bucket=b.1 host=global"),
            (
                "b-1.s3.dualstack.eu-west-1.amazonaws.com",
                "",
                "bucket=b-1 region=eu-west-1 host=dualstack",
            ),
            ("b-1.s3-fips.us-east-1.amazonaws.com", "", "bucket=b-1 region=us-east-1 host=fips"),
            ("b-1.s3-accelerate.amazonaws.com", "", "bucket=b-1 host=accelerate"),
            ("b-1.s3.cn-north-1.amazonaws.com.cn", "", "bucket=b-1 region=cn-north-1"),
            // Amazon, by a host that only s3.endpoint can name.
            (
                "b-1.s3-us-west-2.amazonaws.com",
                "",
                "bucket=b-1 endpoint=https://s3-us-west-2.amazonaws.com addressing=virtual",
            ),
            (
                "s3-us-west-2.amazonaws.com",
                "b.1/",
                "bucket=b.1 endpoint=https://s3-us-west-2.amazonaws.com",
            ),
            (
                "b-1.s3-accelerate.dualstack.amazonaws.com",
                "",
                "bucket=b-1 endpoint=https://s3-accelerate.dualstack.amazonaws.com addressing=virtual",
            ),
            (
                "s3-fips.dualstack.us-east-1.amazonaws.com",
                "b-1/",
                "bucket=b-1 endpoint=https://s3-fips.dualstack.us-east-1.amazonaws.com",
            ),
            (
                "s3.amazonaws.com",
                "Old_Bucket/",
                "bucket=Old_Bucket endpoint=https://s3.amazonaws.com",
            ),
            (
                "ap-1.s3-accesspoint.us-west-2.amazonaws.com",
                "",
                "bucket=ap-1 endpoint=https://s3-accesspoint.us-west-2.amazonaws.com addressing=virtual",
            ),
            (
                "b-1.s3.us-west-2.amazonaws.com:8443",
                "",
                "bucket=b-1 endpoint=https://s3.us-west-2.amazonaws.com:8443 addressing=virtual",
            ),
            // Other services.
            ("minio.example:9000", "b-1/", "bucket=b-1 endpoint=https://minio.example:9000"),
            (
                "b-1.s3.garage.example",
                "",
                "bucket=b-1 endpoint=https://s3.garage.example addressing=virtual",
            ),
            ("s3.garage.example", "b-1/", "bucket=b-1 endpoint=https://s3.garage.example"),
        ] {
            for query in [V4, V2] {
                let parsed = url(&format!("https://{host}/{path}dir/a%20b+%2F//é?{query}"));
                assert_eq!(shown(&parsed.settings()), settings);
                let endpoint = endpoint(&parsed.settings()).expect("an endpoint");
                assert_eq!(
                    parsed.check(&endpoint),
                    Ok(format!("/file/dir/a%20b+%2F//é?{query}")),
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn over_plain_http_the_scheme_is_kept_where_a_url_says_it() {
        let parsed = url("http://b.1.s3.lan:3900/key");
        assert_eq!(
            shown(&parsed.settings()),
            "bucket=b.1 endpoint=http://s3.lan:3900 addressing=virtual"
        );
        let parsed = url("http://b.s3-old.s3.lan/key");
        assert_eq!(
            shown(&parsed.settings()),
            "bucket=b.s3-old endpoint=http://s3.lan addressing=virtual"
        );
        let parsed = url("http://b-1.s3.us-west-2.amazonaws.com/key");
        assert_eq!(
            shown(&parsed.settings()),
            "bucket=b-1 region=us-west-2",
            "a signature covers no scheme"
        );
        assert_eq!(
            parsed.check(&configured("bucket=b-1 region=us-west-2")).as_deref(),
            Ok("/file/key")
        );
    }

    #[test]
    fn a_host_elsewhere_is_read_by_what_is_configured() {
        let parsed = url(&format!("http://photos.minio:9000/2025/cat.jpg?{V4}"));
        assert!(parsed.is_ambiguous());
        assert_eq!(shown(&parsed.settings()), "bucket=2025 endpoint=http://photos.minio:9000");
        for (known, settings) in [
            (
                "bucket=photos endpoint=http://minio:9000",
                "bucket=photos endpoint=http://minio:9000 addressing=virtual",
            ),
            (
                "bucket=photos host=global",
                "bucket=photos endpoint=http://minio:9000 addressing=virtual",
            ),
            ("bucket=2025 host=global", "bucket=2025 endpoint=http://photos.minio:9000"),
            ("bucket=other host=global", "bucket=2025 endpoint=http://photos.minio:9000"),
        ] {
            let Err(Mismatch::Host { settings: found, .. }) = parsed.check(&configured(known))
            else {
                panic!("{known} does not fit");
            };
            assert_eq!(shown(&found), settings, "{known}");
        }
        let fits = configured("bucket=photos endpoint=http://minio:9000 addressing=virtual");
        assert_eq!(parsed.check(&fits), Ok(format!("/file/2025/cat.jpg?{V4}")));
        let fits = configured("bucket=2025 endpoint=http://photos.minio:9000");
        assert_eq!(parsed.check(&fits), Ok(format!("/file/cat.jpg?{V4}")));

        // The bucket's name in both places: the configured service decides, else the path does.
        let parsed = url("http://photos.minio:9000/photos/cat.jpg");
        for (known, settings) in [
            (
                "bucket=photos endpoint=http://minio:9000",
                "bucket=photos endpoint=http://minio:9000 addressing=virtual",
            ),
            ("bucket=photos host=global", "bucket=photos endpoint=http://photos.minio:9000"),
        ] {
            let Err(Mismatch::Host { settings: found, .. }) = parsed.check(&configured(known))
            else {
                panic!("{known} does not fit");
            };
            assert_eq!(shown(&found), settings, "{known}");
        }

        assert!(!url("https://photos.s3.us-west-2.amazonaws.com/a/b").is_ambiguous());
        assert!(!url("http://minio:9000/photos/cat.jpg").is_ambiguous());
        let single = url("http://photos.minio:9000/cat.jpg");
        assert!(!single.is_ambiguous(), "no bucket in this path");
        assert_eq!(
            shown(&single.settings()),
            "bucket=photos endpoint=http://minio:9000 addressing=virtual"
        );
    }

    #[test]
    fn the_query_stays_as_it_is() {
        let b = configured("bucket=b-1 host=global");
        for tail in
            ["key", "key?", "key?a?b", "key?x=%2F&x=+&&y", "/key", "key/", "a%3Fb", "../key"]
        {
            let parsed = url(&format!("  https://b-1.s3.amazonaws.com/{tail}\n"));
            assert_eq!(parsed.check(&b), Ok(format!("/file/{tail}")));
        }
    }

    #[test]
    fn the_signature_is_named() {
        let at = |query: &str| url(&format!("https://b-1.s3.amazonaws.com/key?{query}"));
        assert_eq!((at(V4).signature(), at(V4).headers()), (Signature::V4, vec![]));
        assert_eq!((at(V2).signature(), at(V2).headers()), (Signature::V2, vec![]));
        assert_eq!(at("versionId=1").signature(), Signature::None);
        assert_eq!(url("https://b-1.s3.amazonaws.com/key").signature(), Signature::None);
        let more = at("X-Amz-SignedHeaders=host%3Brange%3Bx-amz-request-payer&X-Amz-Signature=0");
        assert_eq!(more.headers(), ["range", "x-amz-request-payer"]);
    }

    #[test]
    fn a_host_that_does_not_fit_is_named_with_what_would() {
        let parsed = url(&format!("https://b-1.s3.amazonaws.com/key?{V4}"));
        assert_eq!(parsed.host(), "b-1.s3.amazonaws.com");
        let mismatch =
            parsed.check(&configured("bucket=b-1 region=us-east-1")).expect_err("another host");
        assert_eq!(
            mismatch.to_string(),
            "the URL was signed for the host b-1.s3.amazonaws.com, but dripline sends Host: \
             b-1.s3.us-east-1.amazonaws.com, so S3 would refuse it. It works with these settings, and s3.region, \
             s3.host, s3.endpoint and s3.addressing left out where they are not among them:\n  s3.bucket: b-1\n  \
             s3.host: global"
        );
    }

    #[test]
    fn a_bucket_that_does_not_fit_is_named_with_what_would() {
        let parsed = url(&format!("http://minio:9000/b-1/key?{V4}"));
        let sends = configured("bucket=b-2 endpoint=http://minio:9000");
        assert_eq!(
            parsed.check(&sends).expect_err("another bucket").to_string(),
            "the URL was signed for minio:9000/b-1, but dripline sends requests for minio:9000/b-2, so S3 would refuse \
             it. It works with these settings, and s3.region, s3.host, s3.endpoint and s3.addressing left out where \
             they are not among them:\n  s3.bucket: b-1\n  s3.endpoint: http://minio:9000"
        );
        // In virtual-hosted style another bucket is another host.
        let parsed = url("https://b-1.s3.amazonaws.com/key");
        let mismatch =
            parsed.check(&configured("bucket=b-2 host=global")).expect_err("another host");
        assert!(mismatch.to_string().contains("b-2.s3.amazonaws.com"));
    }

    #[test]
    fn a_key_that_dripline_would_refuse_is_no_match() {
        let path_style = configured("bucket=b-1 endpoint=http://minio");
        let mismatch =
            url("http://minio/b-1/../b-2/key").check(&path_style).expect_err("leaves the bucket");
        assert_eq!(
            mismatch.to_string(),
            "the URL's key has .. segments that would leave the bucket in path style; dripline does not serve it"
        );
        let bucket_alone = url("http://b-1.minio/b-1/");
        let endpoint = configured("bucket=b-1 endpoint=http://b-1.minio");
        let mismatch = bucket_alone.check(&endpoint).expect_err("no key");
        assert_eq!(
            mismatch.to_string(),
            "the URL names no object: a key is missing behind the bucket"
        );
    }

    #[test]
    fn what_is_no_presigned_url_says_why() {
        let scheme = "not a presigned URL: it must begin with https:// or http://";
        for bad in ["", "b-1.s3.amazonaws.com/key", "s3://b-1/key", "/file/key?X-Amz-Signature=0"] {
            assert_eq!(refused(bad), scheme, "{bad}");
        }
        assert_eq!(
            refused("https:///key"),
            "not a presigned URL: the host or the port in it is not a valid one"
        );
        assert_eq!(
            refused("https://me:secret@b-1.s3.amazonaws.com/key"),
            "not a presigned URL: leave user name and password out: requests are signed by the clients"
        );
        let broken = "not a presigned URL: there is a space or a control character in it; was it broken over two lines?";
        assert_eq!(refused("https://b-1.s3.amazonaws.com/a b"), broken);
        assert_eq!(refused("https://b-1.s3.amazonaws.com/a?X-Amz-\nDate=0"), broken);
        assert_eq!(
            refused("https://b-1.s3.amazonaws.com/a#b"),
            "not a presigned URL: there is a # in it, and no client sends what follows; in a key it is written %23"
        );
        let no_object = "the URL names no object: behind the host, or behind the bucket in the path, a key is missing";
        for bad in [
            "https://b-1.s3.amazonaws.com",
            "https://b-1.s3.amazonaws.com/",
            "https://b-1.s3.amazonaws.com?list-type=2",
            "https://s3.amazonaws.com/b-1",
            "https://s3.amazonaws.com/b-1/?list-type=2",
            "http://minio:9000/b-1",
            "http://192.0.2.1/b-1/",
        ] {
            assert_eq!(refused(bad), no_object, "{bad}");
        }
        assert_eq!(
            refused("https://b.1.s3.us-west-2.amazonaws.com/key"),
            "no setting makes this URL work: the wildcard certificate *.s3.us-west-2.amazonaws.com does not cover \
             b.1.s3.us-west-2.amazonaws.com because of the dots in the bucket's name; have the URL signed in path \
             style, for s3.us-west-2.amazonaws.com/b.1"
        );
        assert_eq!(
            refused("https://b_1.s3.amazonaws.com/key"),
            "no setting makes this URL work: \"b_1\" cannot be a bucket at Amazon S3 or in virtual-hosted addressing: \
             only lower-case letters, digits, dots and hyphens may be in it"
        );
    }

    #[test]
    fn the_signature_is_never_shown() {
        let parsed = url(&format!("https://b-1.s3.amazonaws.com/secret-key?{V4}"));
        assert_eq!(format!("{parsed:?}"), "PresignedUrl { host: \"b-1.s3.amazonaws.com\", .. }");
        for bad in [
            "ftp://h/k?X-Amz-Signature=c0ffee",
            "https://h:x/k?c0ffee",
            "https://h/?c0ffee",
            "https://h/k#c0ffee",
        ] {
            assert!(!refused(bad).contains("c0ffee"));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_settings_always_work(text in "(https?://)?([a-z0-9.:-]{1,20}\\.)?(s3[.-])?.{0,20}(/.{0,20}){0,2}") {
            if let Ok(parsed) = PresignedUrl::parse(&text) {
                let endpoint = endpoint(&parsed.settings()).expect("an endpoint");
                match parsed.check(&endpoint) {
                    Ok(path) => prop_assert!(text.trim().ends_with(path.strip_prefix("/file/").expect("a path"))),
                    Err(mismatch) => prop_assert_eq!(mismatch, Mismatch::LeavesBucket),
                }
            }
        }

        #[test]
        fn the_file_url_ends_as_the_presigned_one(key in "[!-\"$->@-~é]{1,40}", query in proptest::option::of("[!-\"$-~]{0,40}")) {
            let tail = query.map_or(key.clone(), |query| format!("{key}?{query}"));
            let parsed = url(&format!("https://b-1.s3.amazonaws.com/{tail}"));
            prop_assert_eq!(parsed.check(&configured("bucket=b-1 host=global")), Ok(format!("/file/{tail}")));
        }
    }

    #[test]
    fn an_expired_url_is_told_from_one_that_is_valid() {
        let seconds = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let host = "https://b-1.s3.us-west-2.amazonaws.com/k";
        let v4_end = 1_735_689_600 + 900;
        for (query, end) in [(V4, v4_end), (&*V4.to_lowercase(), 0), (V2, 1_735_689_600)] {
            let url = url(&format!("{host}?{query}"));
            if end == 0 {
                assert_eq!(url.expired(seconds(u64::from(u32::MAX))), None, "no date of S3's");
                continue;
            }
            assert_eq!(url.expired(seconds(end - 1)), None);
            assert_eq!(url.expired(seconds(end)), Some(seconds(end)));
        }
        for unsigned in [host.to_owned(), format!("{host}?Expires=1"), format!("{host}?a=b")] {
            assert_eq!(url(&unsigned).expired(seconds(v4_end)), None, "{unsigned}");
        }
    }
}
