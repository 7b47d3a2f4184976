//! What is probed: the parts of an `https` URL.
//!
//! Invariant: the path and query are sent byte for byte as they were given, since a presigned URL's
//! signature covers them; and the query, which may hold that signature, is never displayed.
//!
//! Pure: nothing is resolved here.

use std::fmt;

use url::{Host, Url};

use super::ProbeError;

/// The default port of `https`.
const HTTPS: u16 = 443;

/// A parsed URL.
#[derive(Debug, Clone)]
pub(super) struct Target {
    host: Host<String>,
    port: u16,
    request: String,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, ProbeError> {
        let error = |what: &str| ProbeError::Url(what.to_owned());
        // Characters that a URL parser silently drops or encodes cannot be sent byte for byte.
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(error("it holds a space, a control or a non-ASCII character"));
        }
        let url = Url::parse(text).map_err(|e| error(&format!("{e} (https://host/path)")))?;
        if url.scheme() != "https" {
            return Err(error(&format!("its scheme is {}, not https", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(error("a user name or password in it would not be sent"));
        }
        let host = url.host().ok_or_else(|| error("it names no host"))?.to_owned();
        let port = url.port().unwrap_or(HTTPS);
        Ok(Self { host, port, request: request_target(text) })
    }

    /// The name or address to resolve, verify and, if it is a name, send as SNI.
    pub(super) fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The same as a resolver takes it: an IPv6 address without brackets.
    pub(super) fn host_name(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The request head that every connection sends.
    pub(super) fn head(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: dripline-probe/{version}\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n",
            self.request,
            self.authority(),
        )
    }

    fn authority(&self) -> String {
        match self.port {
            HTTPS => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, query) = self
            .request
            .split_once('?')
            .map_or_else(|| (self.request.as_str(), ""), |(path, _)| (path, "?…"));
        write!(f, "https://{}{path}{query}", self.authority())
    }
}

/// Path and query as they stand in the URL.
fn request_target(url: &str) -> String {
    let after_scheme = url.split_once(':').map_or(url, |(_, rest)| rest).trim_start_matches('/');
    let target = after_scheme.find(['/', '?', '#']).map_or("", |at| &after_scheme[at..]);
    let target = target.split('#').next().unwrap_or_default();
    if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> String {
        Target::parse(url).unwrap().request
    }

    #[test]
    fn path_and_query_stay_as_they_are() {
        assert_eq!(
            request("https://h/a%20b/../c+d?X-Amz-Signature=1%2F2"),
            "/a%20b/../c+d?X-Amz-Signature=1%2F2"
        );
        assert_eq!(request("https://h"), "/");
        assert_eq!(request("https://h?a=b"), "/?a=b");
        assert_eq!(request("HTTPS://h:8443#top"), "/");
        assert_eq!(request("https://[::1]:8443/x#top"), "/x");
    }

    #[test]
    fn the_host_header_has_the_port_unless_it_is_the_default() {
        let head = |url: &str| Target::parse(url).unwrap().head();
        assert!(head("https://h:443/x").starts_with("GET /x HTTP/1.1\r\nHost: h\r\n"));
        assert!(head("https://h:8443/").contains("\r\nHost: h:8443\r\n"));
        assert!(head("https://[::1]:8443/").contains("\r\nHost: [::1]:8443\r\n"));
    }

    #[test]
    fn a_signature_is_not_for_the_report() {
        let target = Target::parse("https://h/fw.bin?X-Amz-Signature=secret").unwrap();
        assert_eq!(target.to_string(), "https://h/fw.bin?…");
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        let error = |url: &str| Target::parse(url).unwrap_err().to_string();
        assert_eq!(error("http://h/"), "not a URL to probe: its scheme is http, not https");
        assert_eq!(
            error("h/x"),
            "not a URL to probe: relative URL without a base (https://host/path)"
        );
        assert!(error("https://h/a b").contains("a space"));
        assert!(error("https://me:pw@h/").contains("password"));
    }
}
