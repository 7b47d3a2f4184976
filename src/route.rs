//! `/file/<key>`: from the raw request target to an object key and a query string.
//!
//! Invariant: the bytes of the key and of the query go out exactly as they came in. A presigned URL's
//! signature covers them, so nothing is decoded, normalised or re-encoded, not even to an equivalent
//! form. Where a decision needs the decoded form ([`ObjectKey::escapes_root`]), it is made on a copy.
//!
//! This file must not know which bucket or host the key belongs to, nor anything of connections:
//! it is a function from bytes to bytes.
//!
//! ```
//! use dripline::route::route;
//! use http::Method;
//!
//! let route = route(&Method::GET, b"/file/a%20b?versionId=1", false).unwrap();
//! assert_eq!(route.key.as_bytes(), b"a%20b");
//! assert_eq!(route.query, Some(&b"versionId=1"[..]));
//! ```

use std::fmt;

use http::{Method, StatusCode};

/// Where objects live in dripline's own URL space.
const PREFIX: &[u8] = b"/file";

/// How many times a careless server may percent-decode one path: once by the HTTP layer and once
/// more by the application on top of it.
const DECODINGS: usize = 2;

/// Reads a request line's method and target.
///
/// `target` is the raw request target of an HTTP/1.x request line, in origin form or in absolute
/// form (RFC 9112 §3.2.1 and §3.2.2; a client that believes it talks to a proxy sends the latter,
/// and its authority is ignored). The key is everything after `/file/` up to the first `?`, and the
/// query everything after that `?`.
///
/// # Errors
///
/// A [`Refusal`], which says how to answer. A path outside `/file/` is not found, whatever the method;
/// the method is checked for objects only. PUT is allowed only with `uploads`.
pub fn route<'a>(method: &Method, target: &'a [u8], uploads: bool) -> Result<Route<'a>, Refusal> {
    if target.iter().any(breaks_request_line) {
        return Err(Refusal::Malformed);
    }
    let (path, query) = split_query(origin_form(target));
    let key = match path.strip_prefix(PREFIX) {
        Some([] | [b'/']) => return Err(Refusal::EmptyKey),
        Some([b'/', key @ ..]) => ObjectKey(key),
        _ => return Err(Refusal::NotFound),
    };
    let put = uploads && method == Method::PUT;
    if method != Method::GET && method != Method::HEAD && !put {
        return Err(Refusal::MethodNotAllowed { uploads });
    }
    Ok(Route { key, query })
}

/// An object that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The object's key, still percent-encoded.
    pub key: ObjectKey<'a>,
    /// The bytes after the first `?`, still percent-encoded. `Some(b"")` when the `?` was there and
    /// nothing followed it, which a signature may tell from `None`.
    pub query: Option<&'a [u8]>,
}

/// Why a request is answered by dripline itself and never reaches S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.reason())]
pub enum Refusal {
    /// A path outside `/file/`.
    NotFound,
    /// `/file` or `/file/` with nothing after it: in a bucket's URL space that would list objects.
    EmptyKey,
    /// An object, but neither GET nor HEAD, nor PUT with `uploads`. The answer carries
    /// [`Refusal::allow`] (RFC 9110 §15.5.6).
    MethodNotAllowed {
        /// Whether PUT would have been allowed.
        uploads: bool,
    },
    /// A space or control character inside the target. That is not one request line (RFC 9112 §3), and
    /// if it were passed on it could become two.
    Malformed,
    /// Path style only: the key's `..` segments would lead into another bucket.
    LeavesBucket,
}

impl Refusal {
    /// The status to answer with: 400, 404 or 405.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::EmptyKey => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed | Self::LeavesBucket => StatusCode::BAD_REQUEST,
        }
    }

    /// The methods that would be allowed, if the request was refused for its method.
    pub fn allow(self) -> Option<&'static str> {
        match self {
            Self::MethodNotAllowed { uploads: false } => Some("GET, HEAD"),
            Self::MethodNotAllowed { uploads: true } => Some("GET, HEAD, PUT"),
            _ => None,
        }
    }

    /// One plain line for the client, without a line end.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "not found: objects are at /file/<key>",
            Self::EmptyKey => "not found: the object's key is missing after /file/",
            Self::MethodNotAllowed { uploads: false } => {
                "method not allowed: objects answer GET and HEAD"
            }
            Self::MethodNotAllowed { uploads: true } => {
                "method not allowed: objects answer GET, HEAD and PUT"
            }
            Self::Malformed => "bad request: a space or control character in the request target",
            Self::LeavesBucket => "bad request: the key's .. segments would leave the bucket",
        }
    }
}

/// An S3 object key as it stands in a request target: raw, percent-encoded, at least one byte,
/// without `?`, spaces and control characters. All other rules, such as the limit of 1,024 bytes, are left to
/// S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectKey<'a>(&'a [u8]);

impl<'a> ObjectKey<'a> {
    /// A key from its percent-encoded bytes; `None` if they could not stand in a request target as
    /// a key: empty, or with `?`, a space or a control character in them.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let holds = |b: &u8| *b == b'?' || breaks_request_line(b);
        (!bytes.is_empty() && !bytes.iter().any(holds)).then_some(Self(bytes))
    }

    /// The bytes as the client sent them.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether dot segments could take a path that begins with this key above the place where the
    /// key begins, on a server that removes them (RFC 3986 §5.2.4).
    ///
    /// Servers differ in what they do first, so every plausible interpretation is tried, and one that
    /// escapes is enough: no decoding, one or two full percent-decodings, or a decoding of
    /// unreserved characters alone (RFC 3986 §6.2.2.2, what URL libraries do); with `\` as a
    /// separator and without. Amazon S3 itself does none of this: a key may hold `..` there, so
    /// this is asked in path style only.
    pub fn escapes_root(&self) -> bool {
        let mut interpretations = vec![self.0.to_vec()];
        let mut newest = 0;
        for _ in 0..DECODINGS {
            let end = interpretations.len();
            for at in newest..end {
                for whole in [true, false] {
                    let interpretation = decode(&interpretations[at], whole);
                    // Most keys hold no escapes, so most interpretations are equal.
                    if !interpretations.contains(&interpretation) {
                        interpretations.push(interpretation);
                    }
                }
            }
            newest = end;
        }
        interpretations.iter().any(|path| {
            climbs_out(path, |b| *b == b'/') || climbs_out(path, |b| matches!(b, b'/' | b'\\'))
        })
    }
}

/// For logs: invalid UTF-8 replaced, control characters escaped, so that a key stays on its line.
impl fmt::Display for ObjectKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(self.0).chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Bytes that end a request target or its line.
pub(crate) fn breaks_request_line(b: &u8) -> bool {
    *b == b' ' || b.is_ascii_control()
}

/// Path and query of a target in either form. What is neither (`*`, an authority) comes back
/// without a leading slash and so matches no path.
fn origin_form(target: &[u8]) -> &[u8] {
    let scheme = |name: &[u8]| {
        let (head, rest) = target.split_at_checked(name.len())?;
        head.eq_ignore_ascii_case(name).then_some(rest)
    };
    let Some(rest) = scheme(b"http://").or_else(|| scheme(b"https://")) else {
        return target;
    };
    // An empty host is invalid in both schemes (RFC 9110 §4.2.1); it matches no path either.
    match rest.iter().position(|b| matches!(b, b'/' | b'?')) {
        Some(end) if end > 0 => &rest[end..],
        _ => b"",
    }
}

/// Splits at the first `?`, the only one with a meaning.
fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|b| *b == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// One pass of percent-decoding: of every escape, or (`whole` false) of unreserved characters only.
fn decode(path: &[u8], whole: bool) -> Vec<u8> {
    let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if let (b'%', [high, low, after @ ..]) = (*first, tail)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            let byte = high << 4 | low;
            if whole || byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(byte);
                rest = after;
                continue;
            }
        }
        out.push(*first);
    }
    out
}

/// Walks the segments of one interpretation: does a `..` ever meet depth 0? Empty segments add no depth,
/// since some servers merge slashes, and neither does what follows a `;`, which Java servers take off
/// before they look for dots. Both can only make the answer stricter.
fn climbs_out(path: &[u8], separator: impl Fn(&u8) -> bool) -> bool {
    let mut depth = 0usize;
    for segment in path.split(separator) {
        match segment.split(|b| *b == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(target: &[u8]) -> Result<Route<'_>, Refusal> {
        route(&Method::GET, target, false)
    }

    fn key(bytes: &[u8]) -> ObjectKey<'_> {
        ObjectKey::new(bytes).expect("a key")
    }

    #[test]
    fn keys_and_queries_come_back_byte_for_byte() {
        let long = [b'k'; 1024];
        let keys: [&[u8]; 12] = [
            b"a",
            b"a%20b+c%2Bd%2Fe%2fe",
            b"dir//file",
            b"/leading",
            b"trailing/",
            b"what%3Fnow",
            "grüße/日本.bin".as_bytes(),
            b"gr%C3%BC%c3%bcn",
            b"\xff\xfe",
            b"a#b;c=d&e@f:g",
            b"../up",
            &long,
        ];
        let queries: [Option<&[u8]>; 6] = [
            None,
            Some(b""),
            Some(b"versionId=1&versionId=1&&empty=&bare"),
            Some(b"X-Amz-Credential=AKIA%2F20250101%2fx&a=b+c%20d"),
            Some(b"a?b?c"),
            Some(b"response-content-type=%3F/../"),
        ];
        for key in keys {
            for query in queries {
                for start in ["/file/", "http://device.local:8080/file/", "HTTPS://h/file/"] {
                    let mut target = [start.as_bytes(), key].concat();
                    if let Some(query) = query {
                        target.push(b'?');
                        target.extend_from_slice(query);
                    }
                    let route = get(&target).expect("a route");
                    assert_eq!(route.key.as_bytes(), key);
                    assert_eq!(route.query, query);
                }
            }
        }
    }

    #[test]
    fn head_is_served_and_other_methods_are_not() {
        assert!(route(&Method::HEAD, b"/file/a", false).is_ok());
        assert!(route(&Method::PUT, b"/file/a", true).is_ok());
        assert_eq!(route(&Method::PUT, b"/file/", true), Err(Refusal::EmptyKey));
        let patched = Method::from_bytes(b"PURGE").expect("a method");
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS, patched] {
            for uploads in [false, true].into_iter().filter(|u| !u || method != Method::PUT) {
                let refusal = route(&method, b"/file/a", uploads).unwrap_err();
                assert_eq!(refusal, Refusal::MethodNotAllowed { uploads });
                assert_eq!(refusal.allow().unwrap().contains("PUT"), uploads);
                assert_eq!(route(&method, b"/file/", uploads), Err(Refusal::EmptyKey));
                assert_eq!(route(&method, b"/other", uploads), Err(Refusal::NotFound));
            }
        }
    }

    #[test]
    fn an_empty_key_is_refused_in_every_spelling() {
        for target in
            ["/file", "/file/", "/file?", "/file/?", "/file?list-type=2", "http://h/file/?x"]
        {
            assert_eq!(get(target.as_bytes()), Err(Refusal::EmptyKey), "{target}");
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        for target in [
            "",
            "/",
            "*",
            "/files/a",
            "/filea",
            "/File/a",
            "/%66ile/a",
            "//file/a",
            "/x/file/a",
            "file/a",
            "?/file/a",
            "device.local:443",
            "http://h",
            "http://h?/file/a",
            "http:///file/a",
            "http://",
            "ftp://h/file/a",
            "http:/file/a",
            "/healthz",
        ] {
            assert_eq!(get(target.as_bytes()), Err(Refusal::NotFound), "{target}");
        }
    }

    #[test]
    fn a_target_that_is_not_one_line_is_malformed() {
        for target in
            ["/file/a b", "/file/a\r\nHost: x", "/file/a?b\n", "/file/\0", "/file/\x7f", "/x\t"]
        {
            assert_eq!(get(target.as_bytes()), Err(Refusal::Malformed), "{target:?}");
        }
    }

    #[test]
    fn refusals_say_what_they_are() {
        for (refusal, status, reason) in [
            (Refusal::NotFound, 404, "not found: objects are at /file/<key>"),
            (Refusal::EmptyKey, 404, "not found: the object's key is missing after /file/"),
            (
                Refusal::MethodNotAllowed { uploads: false },
                405,
                "method not allowed: objects answer GET and HEAD",
            ),
            (
                Refusal::MethodNotAllowed { uploads: true },
                405,
                "method not allowed: objects answer GET, HEAD and PUT",
            ),
            (
                Refusal::Malformed,
                400,
                "bad request: a space or control character in the request target",
            ),
            (
                Refusal::LeavesBucket,
                400,
                "bad request: the key's .. segments would leave the bucket",
            ),
        ] {
            assert_eq!(refusal.status(), status);
            assert_eq!(refusal.reason(), reason);
            assert_eq!(refusal.to_string(), reason);
        }
    }

    #[test]
    fn a_key_is_what_can_stand_in_a_target() {
        for bytes in ["", "a?b", "a b", "a\n", "\x7f"] {
            assert_eq!(ObjectKey::new(bytes.as_bytes()), None, "{bytes:?}");
        }
        assert_eq!(key(b"a%3Fb").as_bytes(), b"a%3Fb");
    }

    #[test]
    fn a_key_is_shown_on_one_line() {
        assert_eq!(key(b"dir/a%20b").to_string(), "dir/a%20b");
        assert_eq!(key(b"a\xffb").to_string(), "a\u{fffd}b");
        assert_eq!(key("a\u{85}b".as_bytes()).to_string(), "a\\u{85}b");
        assert_eq!(ObjectKey(b"a\nb").to_string(), "a\\u{a}b");
    }

    #[test]
    fn keys_that_stay_inside() {
        for inside in [
            "a",
            "a/../b",
            "a/b/../../c",
            "a/./../b",
            "...",
            "a..b",
            "..a",
            "a..",
            ".",
            "./a",
            ".a/..",
            "a/%2e%2e/b",
            "%2e",
            "a/%252e%252e/b",
            "/a",
            "%",
            "%2",
            "%zz",
            "a%2fb/..",
            "....//x",
            // Escaped three times over: no server undoes that.
            "%25252e%25252e/x",
        ] {
            assert!(!key(inside.as_bytes()).escapes_root(), "{inside}");
        }
    }

    #[test]
    fn keys_that_could_leave() {
        for outside in [
            "..",
            "../b",
            "/../b",
            "//..",
            "./../b",
            "a/../../b",
            "a/b/../../../c",
            "a//../../b",
            "%2e%2e/b",
            "%2E./b",
            ".%2e/b",
            "a/%2e%2e/%2E%2E/b",
            "..%2fb",
            "a%2f..%2F..%2fb",
            "%252e%252e/b",
            "%252E%252e%252fb",
            "..%252fb",
            "%%32%65%%32%65/b",
            "..\\b",
            "a\\..\\..\\b",
            "..%5cb",
            "%2e%2e%5Cb",
            "..%255cb",
            // Interpretations differ on how deep the first segment is; the shallowest counts.
            "a%2fb/../..",
            "a%2fb/%2e%2e/%2e%2e",
            "a\\b/../..",
            "a%5cb/../..",
            "..;x/b",
            "%2e%2e;/b",
        ] {
            assert!(key(outside.as_bytes()).escapes_root(), "{outside}");
        }
    }

    /// An independent model: a key as a list of symbols, each with the number of decodings that
    /// uncover it. A server uncovers separators and dots up to some level each.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Symbol {
        Letter,
        Dot(u8),
        Slash(u8),
        Backslash(u8),
    }

    fn spelled(symbols: &[Symbol]) -> String {
        let spell = |symbol: &Symbol| match symbol {
            Symbol::Letter => "a",
            Symbol::Dot(level) => [".", "%2e", "%252E"][usize::from(*level)],
            Symbol::Slash(level) => ["/", "%2F", "%252f"][usize::from(*level)],
            Symbol::Backslash(level) => ["\\", "%5c", "%255C"][usize::from(*level)],
        };
        symbols.iter().map(spell).collect()
    }

    fn model(symbols: &[Symbol]) -> bool {
        // (separators, dots) uncovered: as sent, dots alone, decoded once, then dots alone, decoded twice.
        let levels = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)];
        levels.iter().any(|(slashes, dots)| {
            [false, true].iter().any(|backslash| {
                let text: String = symbols
                    .iter()
                    .map(|symbol| match symbol {
                        Symbol::Slash(level) if level <= slashes => '/',
                        Symbol::Backslash(level) if level <= slashes && *backslash => '/',
                        Symbol::Dot(level) if level <= dots => '.',
                        _ => 'a',
                    })
                    .collect();
                let mut stack = Vec::new();
                text.split('/').filter(|s| !matches!(*s, "" | ".")).any(|segment| {
                    if segment == ".." {
                        stack.pop().is_none()
                    } else {
                        stack.push(segment);
                        false
                    }
                })
            })
        })
    }

    fn symbol() -> impl Strategy<Value = Symbol> {
        prop_oneof![
            2 => Just(Symbol::Letter),
            5 => (0u8..3).prop_map(Symbol::Dot),
            3 => (0u8..3).prop_map(Symbol::Slash),
            1 => (0u8..3).prop_map(Symbol::Backslash),
        ]
    }

    /// Any byte that a request target may hold, but for `?`.
    fn key_byte() -> impl Strategy<Value = u8> {
        prop_oneof![0x21..=0x3eu8, 0x40..=0x7eu8, 0x80..=0xffu8]
    }

    fn key_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(key_byte(), 1..80)
    }

    fn query_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![9 => key_byte(), 1 => Just(b'?')];
        proptest::option::of(proptest::collection::vec(byte, 0..80))
    }

    proptest! {
        #[test]
        fn any_key_and_query_pass_untouched(key in key_bytes(), query in query_bytes()) {
            let mut target = [b"/file/", &key[..]].concat();
            if let Some(query) = &query {
                target.push(b'?');
                target.extend_from_slice(query);
            }
            let route = get(&target).expect("a route");
            prop_assert_eq!(route.key.as_bytes(), &key[..]);
            prop_assert_eq!(route.query, query.as_deref());
            prop_assert_eq!(ObjectKey::new(&key), Some(route.key));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = get(&bytes);
            let shown = ObjectKey(&bytes).to_string();
            prop_assert!(!shown.chars().any(char::is_control));
            let _ = ObjectKey(&bytes).escapes_root();
        }

        #[test]
        fn escaping_agrees_with_the_model(symbols in proptest::collection::vec(symbol(), 1..16)) {
            let text = spelled(&symbols);
            prop_assert_eq!(key(text.as_bytes()).escapes_root(), model(&symbols), "{}", text);
        }
    }
}
