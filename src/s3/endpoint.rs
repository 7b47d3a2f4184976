//! Where S3 is: the host to connect to, the Host header to send, and the request target of an object.
//!
//! Invariant: an [`Endpoint`] exists only if its parts fit together, so that host and path, for which a
//! presigned URL was signed, can be rebuilt from it exactly. Mistakes are found when it is made, and each
//! names the setting at fault ([`EndpointError::key`]).
//!
//! This file must not know how a connection is opened, and never changes a byte of a key or a query.
//!
//! ```
//! use dripline::route::ObjectKey;
//! use dripline::s3::endpoint::{Addressing, Endpoint};
//!
//! let bucket = "fw-store".parse().unwrap();
//! let endpoint = Endpoint::custom("http://127.0.0.1:9000", &bucket, Addressing::Auto).unwrap();
//! assert_eq!(endpoint.host_header(), "127.0.0.1:9000");
//! let key = ObjectKey::new(b"a%20b").unwrap();
//! assert_eq!(endpoint.target(&key, Some(b"versionId=1")).unwrap(), b"/fw-store/a%20b?versionId=1");
//! ```

use url::{Host, Url};

use super::amazon;
pub use super::settings::{Addressing, BucketName, EndpointError, HostKind, Region};
use crate::route::{ObjectKey, Refusal};

/// One bucket on one S3 service, with everything a request to it needs.
///
/// Amazon's own hosts are always reached over HTTPS on port 443. Amazon's partitions outside the
/// commercial and China regions have other domains: give those as a custom endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: Authority,
    host_header: String,
    bucket: BucketName,
    path_style: bool,
}

impl Endpoint {
    /// Amazon's host of the given kind.
    ///
    /// `region` is part of the regional, dual-stack and FIPS host names; the global and the
    /// accelerated host do without it. [`Addressing::Auto`] is virtual-hosted, and path style for a
    /// bucket with dots in its name.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] if the region is missing or has no host of that kind, if the bucket's name
    /// is not one of Amazon's, or if the addressing cannot work with this bucket or host.
    pub fn amazon(
        region: Option<&Region>,
        bucket: &BucketName,
        kind: HostKind,
        addressing: Addressing,
    ) -> Result<Self, EndpointError> {
        let service = amazon::host(region, kind)?;
        bucket.require_dns_compatible()?;
        if kind == HostKind::Accelerate {
            if bucket.has_dots() {
                return Err(EndpointError::DottedAccelerate(bucket.clone()));
            }
            if addressing == Addressing::Path {
                return Err(EndpointError::AcceleratePath);
            }
        }
        let path_style = match addressing {
            Addressing::Auto => bucket.has_dots(),
            Addressing::Virtual => false,
            Addressing::Path => true,
        };
        let authority = Authority { tls: true, host: service, port: 443, ip: false };
        Self::new(authority, bucket, path_style)
    }

    /// Any S3-compatible service by its URL: `http` or `https`, a host name or IP address (IPv6 in
    /// brackets) and an optional port, nothing else. [`Addressing::Auto`] is path style.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] if the URL is no such URL, or if the addressing is virtual and the bucket's
    /// name or the host cannot be part of one host name.
    pub fn custom(
        url: &str,
        bucket: &BucketName,
        addressing: Addressing,
    ) -> Result<Self, EndpointError> {
        let authority = Authority::parse(url).map_err(EndpointError::Url)?;
        // An IP address has no place in SNI (RFC 6066 §3), and OpenSSL would look for it among
        // the certificate's DNS names.
        if authority.tls && authority.ip {
            return Err(EndpointError::HttpsIp(authority.host));
        }
        Self::new(authority, bucket, addressing != Addressing::Virtual)
    }

    fn new(
        service: Authority,
        bucket: &BucketName,
        path_style: bool,
    ) -> Result<Self, EndpointError> {
        let mut authority = service;
        if !path_style {
            if authority.ip {
                return Err(EndpointError::VirtualIp(authority.host));
            }
            bucket.require_dns_compatible()?;
            if authority.tls && bucket.has_dots() {
                return Err(EndpointError::DottedVirtual {
                    bucket: bucket.clone(),
                    host: authority.host,
                });
            }
            authority.host = format!("{bucket}.{}", authority.host);
        }
        let host_header = authority.header();
        Ok(Self { authority, host_header, bucket: bucket.clone(), path_style })
    }

    /// Whether S3 is reached over TLS.
    pub fn tls(&self) -> bool {
        self.authority.tls
    }

    /// The name to resolve, and to ask for in SNI and verify in the certificate: bucket included when
    /// virtual-hosted. An IPv6 address stands without brackets; an IP address is never sent as SNI
    /// (RFC 6066 §3).
    pub fn host(&self) -> &str {
        &self.authority.host
    }

    /// The TCP port to connect to.
    pub fn port(&self) -> u16 {
        self.authority.port
    }

    /// The value of the Host header, which is what signatures cover: [`host`](Self::host), with
    /// brackets around IPv6, and with the port when it is not the scheme's default (RFC 9110 §4.2.3).
    pub fn host_header(&self) -> &str {
        &self.host_header
    }

    /// The bucket's URL, to be shown: `https://b.s3.eu-west-1.amazonaws.com`, in path style
    /// `https://host/b`.
    pub fn bucket_url(&self) -> String {
        let scheme = if self.authority.tls { "https" } else { "http" };
        let path = if self.path_style { format!("/{}", self.bucket) } else { String::new() };
        format!("{scheme}://{}{path}", self.host_header)
    }

    /// The bucket that every key is looked up in.
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }

    /// Whether the bucket is the first segment of the path rather than the first part of the host.
    pub fn is_path_style(&self) -> bool {
        self.path_style
    }

    /// The request target to send: `/key`, in path style `/bucket/key`, then `?query` if there was
    /// a `?`. Key and query are copied byte for byte; `query` comes without its `?`.
    ///
    /// # Errors
    ///
    /// [`Refusal::LeavesBucket`] in path style for a key whose `..` segments could reach another
    /// bucket. In virtual-hosted style the bucket is in the host, where no path reaches it, so S3 gets
    /// the `..` as it is.
    pub fn target(&self, key: &ObjectKey<'_>, query: Option<&[u8]>) -> Result<Vec<u8>, Refusal> {
        if self.path_style && key.escapes_root() {
            return Err(Refusal::LeavesBucket);
        }
        let bucket = if self.path_style { self.bucket.as_str() } else { "" };
        let length = bucket.len() + key.as_bytes().len() + query.map_or(0, <[u8]>::len);
        let mut target = Vec::with_capacity(length + "//?".len());
        target.push(b'/');
        if self.path_style {
            target.extend_from_slice(bucket.as_bytes());
            target.push(b'/');
        }
        target.extend_from_slice(key.as_bytes());
        if let Some(query) = query {
            target.push(b'?');
            target.extend_from_slice(query);
        }
        Ok(target)
    }
}

/// Scheme, host and port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) ip: bool,
}

impl Authority {
    /// From a URL that has nothing else in it. The error says why not and never repeats the URL,
    /// which may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        // The parser would also take `https:host` and `https:/host`.
        if !url.contains("://") {
            return Err("it must begin with https:// or http://");
        }
        let url = Url::parse(url).map_err(|_| "the host or the port in it is not a valid one")?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("it must begin with https:// or http://"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("leave user name and password out: requests are signed by the clients");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("leave out what follows ? or #");
        }
        if url.path() != "/" {
            return Err(
                "leave the path out: the bucket belongs in s3.bucket, and keys come from the clients",
            );
        }
        let port = url.port_or_known_default().filter(|port| *port != 0);
        let port = port.ok_or("port 0 cannot be connected to")?;
        let (host, ip) = match url.host() {
            Some(Host::Domain(name)) => (name.to_owned(), false),
            Some(Host::Ipv4(address)) => (address.to_string(), true),
            Some(Host::Ipv6(address)) => (address.to_string(), true),
            None => return Err("the host is missing"),
        };
        Ok(Self { tls, host, port, ip })
    }

    /// As in a Host header.
    pub(super) fn header(&self) -> String {
        let v6 = self.ip && self.host.contains(':');
        let host = if v6 { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Addressing::{Auto, Path, Virtual};
    use HostKind::{Accelerate, DualStack, Fips, Global, Regional};

    fn bucket(name: &str) -> BucketName {
        name.parse().expect("a bucket name")
    }

    fn amazon(
        region: &str,
        name: &str,
        kind: HostKind,
        addressing: Addressing,
    ) -> Result<Endpoint, EndpointError> {
        let region: Option<Region> =
            (!region.is_empty()).then(|| region.parse().expect("a region"));
        Endpoint::amazon(region.as_ref(), &bucket(name), kind, addressing)
    }

    fn custom(url: &str, name: &str, addressing: Addressing) -> Result<Endpoint, EndpointError> {
        Endpoint::custom(url, &bucket(name), addressing)
    }

    fn fails(result: Result<Endpoint, EndpointError>, key: &str, message: &str) {
        let error = result.expect_err("no endpoint");
        assert_eq!(error.to_string(), message);
        assert_eq!(error.key(), key);
    }

    fn target(endpoint: &Endpoint, key: &str, query: Option<&str>) -> Result<String, Refusal> {
        let key = ObjectKey::new(key.as_bytes()).expect("a key");
        let target = endpoint.target(&key, query.map(str::as_bytes))?;
        Ok(String::from_utf8(target).expect("text in, text out"))
    }

    #[test]
    fn amazons_hosts() {
        let sydney = "ap-southeast-2";
        for (region, kind, service) in [
            (sydney, Regional, "s3.ap-southeast-2.amazonaws.com"),
            ("us-east-1", Regional, "s3.us-east-1.amazonaws.com"),
            (sydney, Global, "s3.amazonaws.com"),
            ("", Global, "s3.amazonaws.com"),
            (sydney, DualStack, "s3.dualstack.ap-southeast-2.amazonaws.com"),
            ("us-gov-west-1", Fips, "s3-fips.us-gov-west-1.amazonaws.com"),
            (sydney, Accelerate, "s3-accelerate.amazonaws.com"),
            ("", Accelerate, "s3-accelerate.amazonaws.com"),
            ("cn-north-1", Regional, "s3.cn-north-1.amazonaws.com.cn"),
            ("cn-northwest-1", DualStack, "s3.dualstack.cn-northwest-1.amazonaws.com.cn"),
        ] {
            for (addressing, path_style) in [(Auto, false), (Virtual, false), (Path, true)] {
                if (kind, addressing) == (Accelerate, Path) {
                    continue;
                }
                let endpoint = amazon(region, "my-bucket", kind, addressing).expect("an endpoint");
                let host =
                    if path_style { service.to_owned() } else { format!("my-bucket.{service}") };
                assert_eq!(endpoint.host(), host);
                assert_eq!(endpoint.host_header(), host);
                assert_eq!((endpoint.tls(), endpoint.port()), (true, 443));
                assert_eq!(endpoint.is_path_style(), path_style);
                assert_eq!(endpoint.bucket().as_str(), "my-bucket");
            }
        }
    }

    #[test]
    fn a_bucket_with_dots_is_path_style_by_itself() {
        let endpoint = amazon("eu-west-1", "my.bucket", Regional, Auto).expect("an endpoint");
        assert!(endpoint.is_path_style());
        assert_eq!(endpoint.host(), "s3.eu-west-1.amazonaws.com");
        assert_eq!(target(&endpoint, "a", None).as_deref(), Ok("/my.bucket/a"));
    }

    #[test]
    fn amazons_errors() {
        for (kind, name) in [(Regional, "regional"), (DualStack, "dualstack"), (Fips, "fips")] {
            let message = format!(
                "the {name} host's name holds the region: set it, for example to ap-southeast-2"
            );
            fails(amazon("", "my-bucket", kind, Auto), "s3.region", &message);
        }
        for (kind, name) in [(Global, "global"), (Fips, "fips"), (Accelerate, "accelerate")] {
            let message = format!(
                "cn-north-1 has no {name} host, as no China region has: write regional or dualstack"
            );
            fails(amazon("cn-north-1", "my-bucket", kind, Auto), "s3.host", &message);
        }
        let message = "Transfer Acceleration does not serve a bucket with dots in its name (my.bucket): write regional";
        fails(amazon("", "my.bucket", Accelerate, Auto), "s3.host", message);
        let message = "Transfer Acceleration has no path style: write auto or virtual";
        fails(amazon("", "my-bucket", Accelerate, Path), "s3.addressing", message);
        let message = "the service's wildcard certificate, *.s3.amazonaws.com, does not cover \
                       my.bucket.s3.amazonaws.com because of the dots in the bucket's name: write auto or path";
        fails(amazon("", "my.bucket", Global, Virtual), "s3.addressing", message);
        let message = "\"My_Bucket\" cannot be a bucket at Amazon S3 or in virtual-hosted addressing: \
                       only lower-case letters, digits, dots and hyphens may be in it";
        fails(amazon("us-east-1", "My_Bucket", Regional, Path), "s3.bucket", message);
    }

    #[test]
    fn custom_endpoints() {
        for (url, tls, host, port, header) in [
            ("https://minio.example", true, "minio.example", 443, "minio.example"),
            ("https://MinIO.Example/", true, "minio.example", 443, "minio.example"),
            ("https://minio.example:443", true, "minio.example", 443, "minio.example"),
            ("https://minio.example:80", true, "minio.example", 80, "minio.example:80"),
            ("http://minio_1:9000", false, "minio_1", 9000, "minio_1:9000"),
            ("http://localhost", false, "localhost", 80, "localhost"),
            ("http://192.0.2.1:9000", false, "192.0.2.1", 9000, "192.0.2.1:9000"),
            ("http://[::1]:9000", false, "::1", 9000, "[::1]:9000"),
            ("http://[2001:db8::1]", false, "2001:db8::1", 80, "[2001:db8::1]"),
        ] {
            for addressing in [Auto, Path] {
                let endpoint = custom(url, "Old_Bucket", addressing).expect("an endpoint");
                assert_eq!(
                    (endpoint.tls(), endpoint.host(), endpoint.port()),
                    (tls, host, port),
                    "{url}"
                );
                assert_eq!(endpoint.host_header(), header, "{url}");
                assert!(endpoint.is_path_style());
                assert_eq!(target(&endpoint, "a", None).as_deref(), Ok("/Old_Bucket/a"));
            }
        }
        let endpoint =
            custom("http://s3.garage.localhost:3900", "my-bucket", Virtual).expect("an endpoint");
        assert_eq!(endpoint.host(), "my-bucket.s3.garage.localhost");
        assert_eq!(endpoint.host_header(), "my-bucket.s3.garage.localhost:3900");
        assert!(!endpoint.is_path_style());
        let endpoint = custom("http://s3.lan", "my.bucket", Virtual)
            .expect("no certificate, no trouble with dots");
        assert_eq!(endpoint.host(), "my.bucket.s3.lan");
    }

    #[test]
    fn custom_errors() {
        let url = "not a URL such as https://s3.example.com or http://192.0.2.1:9000: ";
        for (bad, why) in [
            ("", "it must begin with https:// or http://"),
            ("minio:9000", "it must begin with https:// or http://"),
            ("localhost", "it must begin with https:// or http://"),
            ("https:/minio", "it must begin with https:// or http://"),
            ("s3://bucket", "it must begin with https:// or http://"),
            ("https://", "the host or the port in it is not a valid one"),
            ("https://a b", "the host or the port in it is not a valid one"),
            ("https://h:99999", "the host or the port in it is not a valid one"),
            ("https://[::1", "the host or the port in it is not a valid one"),
            (
                "https://key:secret@h",
                "leave user name and password out: requests are signed by the clients",
            ),
            (
                "https://key@h",
                "leave user name and password out: requests are signed by the clients",
            ),
            ("https://h?x", "leave out what follows ? or #"),
            ("https://h/#x", "leave out what follows ? or #"),
            (
                "https://h/bucket",
                "leave the path out: the bucket belongs in s3.bucket, and keys come from the clients",
            ),
            ("https://h:0", "port 0 cannot be connected to"),
        ] {
            fails(custom(bad, "my-bucket", Auto), "s3.endpoint", &format!("{url}{why}"));
        }
        for (url, ip) in [("http://192.0.2.1:9000", "192.0.2.1"), ("http://[::1]", "::1")] {
            let message = format!(
                "a bucket's name cannot be put before an IP address ({ip}): write auto or path, or give the endpoint a name"
            );
            fails(custom(url, "my-bucket", Virtual), "s3.addressing", &message);
        }
        for (url, ip) in [("https://192.0.2.1:9000", "192.0.2.1"), ("https://[::1]", "::1")] {
            let message = format!(
                "https needs a host name, which the service's certificate is checked against, not an IP address ({ip})"
            );
            fails(custom(url, "my-bucket", Auto), "s3.endpoint", &message);
        }
        let message = "the service's wildcard certificate, *.minio.example, does not cover my.bucket.minio.example \
                       because of the dots in the bucket's name: write auto or path";
        fails(custom("https://minio.example", "my.bucket", Virtual), "s3.addressing", message);
        let message = "\"Old_Bucket\" cannot be a bucket at Amazon S3 or in virtual-hosted addressing: \
                       only lower-case letters, digits, dots and hyphens may be in it";
        fails(custom("https://minio.example", "Old_Bucket", Virtual), "s3.bucket", message);
    }

    #[test]
    fn targets() {
        let virtual_hosted = amazon("eu-west-1", "my-bucket", Regional, Auto).expect("an endpoint");
        let path_style = amazon("eu-west-1", "my-bucket", Regional, Path).expect("an endpoint");
        for (key, query, tail) in [
            ("a", None, "a"),
            ("a", Some(""), "a?"),
            ("a%20b+c%2B%2f//é", Some("x=1&x=&&y?z"), "a%20b+c%2B%2f//é?x=1&x=&&y?z"),
            ("/a/../b", Some("../.."), "/a/../b?../.."),
        ] {
            assert_eq!(target(&virtual_hosted, key, query), Ok(format!("/{tail}")));
            assert_eq!(target(&path_style, key, query), Ok(format!("/my-bucket/{tail}")));
        }
        for key in ["../other/secret", "%2e%2e%2fother/secret", "a/..%5c..\\other"] {
            assert_eq!(target(&virtual_hosted, key, None), Ok(format!("/{key}")), "S3's to judge");
            assert_eq!(target(&path_style, key, None), Err(Refusal::LeavesBucket));
        }
    }

    #[test]
    fn a_buckets_url_is_where_its_keys_are() {
        let virtual_hosted = amazon("eu-west-1", "my-bucket", Regional, Auto).expect("an endpoint");
        assert_eq!(virtual_hosted.bucket_url(), "https://my-bucket.s3.eu-west-1.amazonaws.com");
        let dotted = amazon("eu-west-1", "my.bucket", Regional, Auto).expect("an endpoint");
        assert_eq!(dotted.bucket_url(), "https://s3.eu-west-1.amazonaws.com/my.bucket");
        let own = custom("http://[::1]:9000", "b", Auto).expect("an endpoint");
        assert_eq!(own.bucket_url(), "http://[::1]:9000/b");
    }

    proptest! {
        #[test]
        fn targets_end_with_exactly_what_came(
            key in proptest::collection::vec(
                prop_oneof![9 => 0x21..=0x3eu8, 8 => 0x40..=0xffu8, 3 => Just(b'.'), 2 => Just(b'/')],
                1..80,
            ),
            query in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)),
        ) {
            let Some(key) = ObjectKey::new(&key) else { return Ok(()) };
            let mut tail = key.as_bytes().to_vec();
            if let Some(query) = &query {
                tail.push(b'?');
                tail.extend_from_slice(query);
            }
            for (addressing, start) in [(Virtual, "/"), (Path, "/my-bucket/")] {
                let endpoint = custom("http://s3.lan", "my-bucket", addressing).expect("an endpoint");
                match endpoint.target(&key, query.as_deref()) {
                    Ok(target) => prop_assert_eq!(target, [start.as_bytes(), &tail].concat()),
                    Err(refusal) => {
                        prop_assert_eq!(refusal, Refusal::LeavesBucket);
                        prop_assert!(addressing == Path && key.escapes_root());
                    }
                }
            }
        }

        #[test]
        fn a_custom_endpoint_never_panics(url in "(https?://)?.{0,40}") {
            for addressing in [Auto, Virtual] {
                let _ = custom(&url, "my-bucket", addressing);
            }
        }
    }
}
