//! Refuses requests to the API that a web page in an operator's browser may have sent. A page of any
//! site can send requests to loopback addresses, and a site whose name resolves to a loopback address
//! can also read the responses (DNS rebinding).
//!
//! Invariants: Host is a loopback name, a loopback address or the configured address. Origin, which
//! browsers add (RFC 6454 §7), names the same host and port.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, header};

/// Why a request is refused, as its sender is told; None if it is allowed.
pub(super) fn refusal(headers: &HeaderMap, configured: IpAddr) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Some("the API needs one Host header");
    };
    let Ok(host) = host.to_str() else { return Some("the Host header is not text") };
    if !is_own(host, configured) {
        return Some("Host must be localhost, a loopback address or the one in admin.addr");
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let same = |origin: &str| {
        let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        of.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let fits = origins.all(|origin| origin.to_str().is_ok_and(same));
    (!fits).then_some("requests of other sites' pages are refused: Origin must be the Host")
}

/// Whether a Host is this listener's. Any port will do: operators may reach it through a tunnel.
fn is_own(host: &str, configured: IpAddr) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback()
                || (address == configured.to_canonical() && !address.is_unspecified())
        }
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case("localhost."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn refused(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        refusal(&headers, "192.0.2.1".parse().unwrap()).is_some()
    }

    #[test]
    fn only_loopback_and_the_configured_address_are_hosts() {
        for host in [
            "localhost",
            "LocalHost:9100",
            "127.0.0.1:9100",
            "127.9.9.9",
            "[::1]:9100",
            "192.0.2.1:80",
        ] {
            assert!(!refused(host, None), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:9100",
            "192.0.2.2",
            "0.0.0.0",
            "[::ffff:192.0.2.2]",
            "evil@localhost",
            "localhost/evil.example",
            "[::1",
        ] {
            assert!(refused(host, None), "{host}");
        }
    }

    #[test]
    fn an_origin_must_be_the_host() {
        assert!(!refused("localhost:9100", Some("http://localhost:9100")));
        assert!(!refused("localhost", Some("https://localhost")));
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://localhost",
            "http://127.0.0.1:9100",
            "localhost:9100",
        ] {
            assert!(refused("localhost:9100", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn one_host_and_no_more() {
        let mut headers = HeaderMap::new();
        let own = "127.0.0.1".parse().unwrap();
        assert!(refusal(&headers, own).is_some());
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(refusal(&headers, own).is_none());
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(refusal(&headers, own).is_some());
    }
}
