//! Parses the request for a tunnel: CONNECT, with a host name and a port, and no body.
//!
//! Pure. Invariant: a [`Request`] holds a host name and a port, never an IP address. Whether the host may be
//! reached is decided in [`allow`](super::allow).
//!
//! ```
//! use dripline::forward_proxy::connect::read;
//!
//! let request = read(b"CONNECT s3.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
//! assert_eq!((&*request.target.host, request.target.port), ("s3.us-east-1.amazonaws.com", 443));
//! ```

use openssl::memcmp;
use openssl::sha::sha256;

use super::allow::{Target, TargetError};
use crate::http1::framing::{self, Defect};

/// A request for a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where to.
    pub target: Target,
    /// The value of Proxy-Authorization, if there is one.
    pub authorization: Option<&'a [u8]>,
}

/// Why a head is no request for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// It can be read in several ways, or in none.
    #[error("{0}")]
    Malformed(Defect),
    /// Another method, with a URL of another server.
    #[error("only CONNECT is served here, for https:// URLs of S3; http:// URLs are not fetched")]
    Absolute,
    /// Another method.
    #[error("only CONNECT is served here: this is a forward proxy for S3")]
    Method,
    /// A body. CONNECT has none (RFC 9110 §9.3.6), and its bytes would be taken for the tunnel's.
    #[error("CONNECT has no body")]
    Body,
    /// Two sets of credentials.
    #[error("there must be one Proxy-Authorization header")]
    Authorization,
    /// A target that is not a host name and a port.
    #[error("{0}")]
    Target(TargetError),
}

/// Parses a whole head, from its request line to its empty line. Its framing is checked here as well, so
/// that the result depends on nothing that a caller did before.
///
/// # Errors
///
/// If it is no request for a tunnel.
pub fn read(head: &[u8]) -> Result<Request<'_>, BadRequest> {
    framing::parse_head(head).map_err(BadRequest::Malformed)?;
    let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
    // The request line has three words: it was parsed.
    let mut words = lines.next().unwrap_or_default().split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != b"CONNECT" {
        let absolute = target.windows(3).any(|window| window == b"://");
        return Err(if absolute { BadRequest::Absolute } else { BadRequest::Method });
    }
    let mut authorization = None;
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding")
            || name.eq_ignore_ascii_case(b"content-length") && value.iter().any(|b| *b != b'0')
        {
            return Err(BadRequest::Body);
        }
        if name.eq_ignore_ascii_case(b"proxy-authorization")
            && authorization.replace(value).is_some()
        {
            return Err(BadRequest::Authorization);
        }
    }
    let target = std::str::from_utf8(target).map_err(|_| TargetError::Malformed);
    let target = target.and_then(str::parse).map_err(BadRequest::Target)?;
    Ok(Request { target, authorization })
}

/// A name and a password. Kept is a hash of the token that a client with both sends (RFC 7617 §2): so
/// comparing takes the same time whatever is sent, and nothing here can print the password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: std::sync::Arc<str>,
    token: [u8; 32],
}

impl User {
    /// The user of that name, which holds no colon, with that password.
    #[must_use]
    pub fn new(name: &str, password: &str) -> Self {
        let pair = format!("{name}:{password}");
        let token = openssl::base64::encode_block(pair.as_bytes());
        Self { name: name.into(), token: sha256(token.as_bytes()) }
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("token", &"MASKED").finish()
    }
}

/// The one of `users` whose credentials the value of Proxy-Authorization holds. All of them are compared,
/// in constant time.
#[must_use]
pub fn authenticate<'a>(users: &'a [User], authorization: Option<&[u8]>) -> Option<&'a User> {
    let (scheme, token) = authorization?.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let token = sha256(token.trim_ascii());
    users.iter().fold(None, |found, user| {
        let same = memcmp::eq(&user.token, &token);
        if same { Some(user) } else { found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "b.s3.us-east-1.amazonaws.com:443";

    #[test]
    fn a_connect_of_either_version_is_read() {
        for head in [
            format!("CONNECT {HOST} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            // Python up to 3.11.
            format!("CONNECT {HOST} HTTP/1.0\r\n\r\n"),
            format!("CONNECT {HOST} HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 0\r\n\r\n"),
        ] {
            let request = read(head.as_bytes()).unwrap();
            assert_eq!(request.target, HOST.parse().unwrap(), "{head}");
            assert_eq!(request.authorization, None);
        }
        let head = format!("CONNECT {HOST} HTTP/1.0\r\nproxy-AUTHORIZATION:  Basic YTpi \r\n\r\n");
        assert_eq!(read(head.as_bytes()).unwrap().authorization, Some(&b"Basic YTpi"[..]));
    }

    #[test]
    fn anything_else_is_refused_for_what_it_is() {
        let connect = |fields: &str| format!("CONNECT {HOST} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let line = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        for (head, error) in [
            (line("GET http://b.s3.amazonaws.com/k"), BadRequest::Absolute),
            (line("GET /"), BadRequest::Method),
            (line("connect a:443"), BadRequest::Method),
            (line("OPTIONS *"), BadRequest::Method),
            (connect("Content-Length: 5\r\n"), BadRequest::Body),
            (connect("Transfer-Encoding: chunked\r\n"), BadRequest::Body),
            (
                connect("Proxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpj\r\n"),
                BadRequest::Authorization,
            ),
            (line("CONNECT /"), BadRequest::Target(TargetError::Malformed)),
            (line("CONNECT b.s3.amazonaws.com"), BadRequest::Target(TargetError::Malformed)),
            (line("CONNECT 10.0.0.1:443"), BadRequest::Target(TargetError::IpLiteral)),
            (format!("CONNECT {HOST} HTTP/1.1\r\n\r\n"), BadRequest::Malformed(Defect::Host)),
            (
                connect("Content-Length: 0\r\nContent-Length: 0\r\n"),
                BadRequest::Malformed(Defect::ContentLength),
            ),
        ] {
            assert_eq!(read(head.as_bytes()), Err(error), "{head}");
        }
    }

    #[test]
    fn a_user_is_known_by_name_and_password_together() {
        let users = [User::new("ann", "s3cret:with colon"), User::new("bob", "pässwort")];
        let basic =
            |pair: &str| format!("Basic {}", openssl::base64::encode_block(pair.as_bytes()));
        let who = |value: &str| {
            authenticate(&users, Some(value.as_bytes())).map(|user| user.name.to_string())
        };
        assert_eq!(who(&basic("ann:s3cret:with colon")).as_deref(), Some("ann"));
        assert_eq!(who(&basic("bob:pässwort")).as_deref(), Some("bob"));
        assert_eq!(
            who(&basic("bob:pässwort").replace("Basic ", "bAsIc   ")).as_deref(),
            Some("bob")
        );
        for wrong in [
            basic("ann:pässwort"),
            basic("ann:"),
            basic("ann"),
            basic(":"),
            basic("ann:s3cret:with colon").replace("Basic", "Bearer"),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            String::new(),
        ] {
            assert_eq!(who(&wrong), None, "{wrong}");
        }
        assert_eq!(authenticate(&users, None), None);
        assert_eq!(authenticate(&[], Some(basic("ann:x").as_bytes())), None);
        assert!(!format!("{users:?}").contains("cret"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = authenticate(&[User::new("a", "b")], Some(&bytes));
        }
    }
}
