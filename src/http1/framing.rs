//! Where one request ends and the next begins, decided on the bytes as they came. A proxy before dripline or
//! a server behind it must not be able to find another end (RFC 9112 §11.2).
//!
//! Pure. Stricter than the RFC wherever that lets a recipient repair a message: an ambiguous request is
//! refused, and its connection is closed. Heads are checked here, chunked bodies in [`chunks`]. This file must
//! not know what a request asks for.
//!
//! ```
//! use dripline::http1::framing::{Body, Scan, parse_head};
//!
//! let head = b"GET /file/a HTTP/1.1\r\nHost: a\r\n\r\n";
//! assert_eq!(Scan::default().head(head), Ok(Some(head.len())));
//! assert_eq!(parse_head(head), Ok(Body::None));
//!
//! let two_ends = b"PUT /file/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
//! assert!(parse_head(two_ends).is_err());
//! ```

pub mod chunks;

use std::fmt;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A TLS handshake instead of a request: the client takes the listener for one with TLS.
    Tls,
    /// A line that does not end in CRLF, or a CR within one (RFC 9112 §2.2).
    LineEnd,
    /// Not `method SP target SP HTTP/1.0` or `HTTP/1.1` (RFC 9112 §3).
    RequestLine,
    /// A field line without a name, or with a name that is no token, such as one with white space before the
    /// colon (RFC 9112 §5.1).
    FieldName,
    /// A control character in a value (RFC 9110 §5.5).
    FieldValue,
    /// A field that continues in the next line (RFC 9112 §5.2).
    Folding,
    /// No Host in HTTP/1.1, several, or one that is no host (RFC 9112 §3.2).
    Host,
    /// Content-Length that is no number, or several of them (RFC 9112 §6.3).
    ContentLength,
    /// Transfer-Encoding other than `chunked`, twice, or in HTTP/1.0 (RFC 9112 §6.1).
    TransferEncoding,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.3, rule 3).
    TwoLengths,
    /// A chunk whose size is no number, whose line is too long, or that does not end where its size
    /// says (RFC 9112 §7.1).
    Chunk,
    /// Fields after the last chunk (RFC 9112 §7.1.2): dripline does not pass them on.
    Trailer,
}

impl Defect {
    /// The metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::LineEnd => "line_end",
            Self::RequestLine => "request_line",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::Folding => "folding",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::TwoLengths => "two_lengths",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "a TLS handshake instead of a request: this listener speaks plain HTTP, so use http://",
            Self::LineEnd => "a line of the request does not end in CRLF",
            Self::RequestLine => "the request line is not one of HTTP/1.1",
            Self::FieldName => "a header has no valid name",
            Self::FieldValue => "a header's value holds a control character",
            Self::Folding => "a header goes on in the next line",
            Self::Host => "there must be one valid Host header",
            Self::ContentLength => "Content-Length must be one number",
            Self::TransferEncoding => "Transfer-Encoding must be chunked, in HTTP/1.1",
            Self::TwoLengths => "Content-Length and Transfer-Encoding exclude each other",
            Self::Chunk => "a chunk of the body is malformed",
            Self::Trailer => "trailers behind the body are not taken",
        })
    }
}

impl std::error::Error for Defect {}

/// How a connection of TLS begins: a record of the type handshake, of major version 3 (RFC 8446 §5.1).
/// No request begins so, since a method has no control characters.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// Where the body after a head ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After so many bytes, at least one.
    Length(u64),
    /// After the last of its [`chunks`].
    Chunked,
}

/// Finds the end of a head in bytes that come piece by piece.
#[derive(Debug, Default, Clone, Copy)]
pub struct Scan {
    /// How many bytes were looked at.
    seen: usize,
    /// Where the line at hand begins.
    line: usize,
}

impl Scan {
    /// The length of the head that `bytes` begin with, its empty line included; None if its end is still to
    /// come. `bytes` must be those of the last call and what came after them.
    ///
    /// # Errors
    ///
    /// If a CR or LF stands alone: another reader might end a line there, or not. If it is TLS that begins.
    pub fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Defect> {
        if bytes.starts_with(&TLS_HANDSHAKE) {
            return Err(Defect::Tls);
        }
        while let Some(at) = bytes[self.seen..].iter().position(|b| matches!(b, b'\r' | b'\n')) {
            let at = self.seen + at;
            match (bytes[at], bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) => {}
                (b'\r', None) => {
                    self.seen = at;
                    return Ok(None);
                }
                _ => return Err(Defect::LineEnd),
            }
            self.seen = at + 2;
            if at == self.line {
                return Ok(Some(self.seen));
            }
            self.line = self.seen;
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// Checks a head, from its request line to its empty line. Returns where its body ends.
///
/// # Errors
///
/// The first defect.
pub fn parse_head(head: &[u8]) -> Result<Body, Defect> {
    // `Scan` has seen to it that CR and LF come in pairs, and that only the last line is empty.
    let mut lines =
        head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let http10 = request_line(lines.next().unwrap_or_default())?;
    let (mut hosts, mut lengths, mut encodings) = (0, 0, 0);
    let mut body = Body::None;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            check(hosts == 1 && is_host(value), Defect::Host)?;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            let length = (lengths == 1).then(|| length(value)).flatten();
            let length = length.ok_or(Defect::ContentLength)?;
            body = if length == 0 { Body::None } else { Body::Length(length) };
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
            let once = encodings == 1 && value == b"chunked";
            check(once && !http10, Defect::TransferEncoding)?;
            body = Body::Chunked;
        }
    }
    check(hosts == 1 || http10, Defect::Host)?;
    check(lengths == 0 || encodings == 0, Defect::TwoLengths)?;
    Ok(body)
}

fn check(right: bool, defect: Defect) -> Result<(), Defect> {
    if right { Ok(()) } else { Err(defect) }
}

/// Whether the request is one of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Defect> {
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version, more) = (words.next(), words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, more) else {
        return Err(Defect::RequestLine);
    };
    // Letters beyond ASCII are not of a URI (RFC 3986), but they cannot end a line or a word; the router
    // decides on them. Bytes that are no UTF-8 at all would be repaired by Pingora's parser.
    let plain = |target: &[u8]| {
        let text = std::str::from_utf8(target).unwrap_or_default();
        !text.is_empty() && !text.bytes().any(|b| b.is_ascii_control())
    };
    check(is_token(method) && plain(target), Defect::RequestLine)?;
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err(Defect::RequestLine),
    }
}

/// A field line's name and its value without the white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Defect> {
    check(!matches!(line[0], b' ' | b'\t'), Defect::Folding)?;
    let colon = line.iter().position(|b| *b == b':').ok_or(Defect::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    check(is_token(name), Defect::FieldName)?;
    let control = |b: &u8| b.is_ascii_control() && *b != b'\t';
    check(!value.iter().any(control), Defect::FieldValue)?;
    Ok((name, value.trim_ascii()))
}

/// RFC 9110 §5.6.2.
fn is_token(word: &[u8]) -> bool {
    let of_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !word.is_empty() && word.iter().all(of_token)
}

/// A number of digits only, and no more of them than always fit a u64.
fn length(value: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether a value cannot be read as two hosts, or as a URL around one. dripline itself does not act on it.
/// Empty is allowed (RFC 9110 §7.2).
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|b| b.is_ascii_graphic() && !b",/\\@?#;\"<>".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict(head: &[u8]) -> Result<Body, Defect> {
        match Scan::default().head(head)? {
            Some(end) => parse_head(&head[..end]),
            None => panic!("no end: {}", head.escape_ascii()),
        }
    }

    #[test]
    fn ordinary_heads_pass() {
        for (body, head) in [
            (Body::None, &b"GET /file/a HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
            (Body::None, b"GET /file/a HTTP/1.1\r\nHost:a:8443\r\nX-Empty:\r\n\r\n"),
            (
                Body::None,
                b"GET /file/a HTTP/1.1\r\nhost: [::1]:8443 \t\r\nX: \xc3\xa9\t\"q, r\"\r\n\r\n",
            ),
            (Body::None, b"GET /file/a HTTP/1.0\r\n\r\n"),
            (Body::None, b"GET /file/\xc3\xa9%20'()?X=1&Y HTTP/1.1\r\nHost:\r\n\r\n"),
            (Body::None, b"HEAD http://a/file/a HTTP/1.1\r\nHost: a\r\n\r\n"),
            (Body::Length(12), b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0012\r\n\r\n"),
            (Body::None, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 00\r\n\r\n"),
            (Body::Chunked, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ] {
            assert_eq!(verdict(head), Ok(body), "{}", head.escape_ascii());
        }
    }

    #[test]
    fn ambiguous_heads_do_not() {
        let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n").into_bytes();
        let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
        for (defect, heads) in [
            (
                Defect::RequestLine,
                vec![
                    line("GET / http/1.1"),
                    line("GET / HTTP/1.2"),
                    line("GET / HTTP/2.0"),
                    line("GET / HTTP/1.1 "),
                    line("GET  / HTTP/1.1"),
                    line("GET /a b HTTP/1.1"),
                    line("GET\t/ HTTP/1.1"),
                    line("GET /a\tb HTTP/1.1"),
                    line("GET /a\0 HTTP/1.1"),
                    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
                    line("GET /"),
                    line(" GET / HTTP/1.1"),
                    line("G(T / HTTP/1.1"),
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                    b"\r\n".to_vec(),
                ],
            ),
            (
                Defect::LineEnd,
                vec![
                    b"GET / HTTP/1.1\nHost: a\n\n".to_vec(),
                    b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".to_vec(),
                    b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".to_vec(),
                    b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n".to_vec(),
                    b"GET / HTTP/1.1\r\nHost: a\r\n\n".to_vec(),
                ],
            ),
            (
                Defect::FieldName,
                vec![
                    get("Host: a\r\nX : y"),
                    get("Host: a\r\nX\t: y"),
                    get("Host: a\r\n: y"),
                    get("Host: a\r\nno colon"),
                    get("Host: a\r\nTransfer-Encoding\x0b: chunked"),
                    get("Host: a\r\nX\0: y"),
                ],
            ),
            (
                Defect::FieldValue,
                vec![get("Host: a\r\nX: a\0b"), get("Host: a\r\nX: \x7f"), get("Host: a\x0b")],
            ),
            (Defect::Folding, vec![get("Host: a\r\nX: a\r\n b"), get(" Host: a"), get("\tX: y")]),
            (
                Defect::Host,
                vec![
                    get("X: y"),
                    get("Host: a\r\nHost: a"),
                    get("Host: a\r\nhost: b"),
                    get("Host: a b"),
                    get("Host: a, b"),
                    get("Host: a/b"),
                    get("Host: x@a"),
                    b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(),
                ],
            ),
            (
                Defect::ContentLength,
                ["+1", "-1", "0x10", "1, 1", "1 1", "", "ten", "1.0", "18446744073709551616"]
                    .map(|length| get(&format!("Host: a\r\nContent-Length: {length}")))
                    .into_iter()
                    .chain([
                        get("Host: a\r\nContent-Length: 1\r\nContent-Length: 2"),
                        get("Host: a\r\nContent-Length: 1\r\ncontent-length: 1"),
                    ])
                    .collect(),
            ),
            (
                Defect::TransferEncoding,
                [
                    "xchunked",
                    "chunked, identity",
                    "identity",
                    "\"chunked\"",
                    "Chunked",
                    "",
                    "chunked,",
                ]
                .map(|coding| get(&format!("Host: a\r\nTransfer-Encoding: {coding}")))
                .into_iter()
                .chain([
                    get("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x"),
                    b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                ])
                .collect(),
            ),
            (
                Defect::TwoLengths,
                vec![
                    get("Host: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked"),
                    get("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4"),
                ],
            ),
        ] {
            for head in heads {
                assert_eq!(verdict(&head), Err(defect), "{}", head.escape_ascii());
            }
        }
    }

    #[test]
    fn tls_is_known_by_its_first_two_bytes() {
        let mut scan = Scan::default();
        assert_eq!(scan.head(b"\x16"), Ok(None));
        assert_eq!(scan.head(b"\x16\x03"), Err(Defect::Tls));
        assert_eq!(Scan::default().head(b"\x16\x03\x01\x02\n\x01"), Err(Defect::Tls));
        assert_eq!(Scan::default().head(b"\x16\x02\x01\n"), Err(Defect::LineEnd));
        assert_eq!(Scan::default().head(b"GET /\x16\x03 HTTP/1.1\r\n\r\n").unwrap(), Some(20));
    }

    proptest! {
        /// However the bytes are cut, the same end or the same defect is found.
        #[test]
        fn pieces_make_no_difference(
            bytes in proptest::collection::vec(proptest::sample::select(&b"a: \x16\x03\r\n\r\n\r\n"[..]), 0..40),
            cuts in proptest::collection::vec(0usize..40, 0..6),
        ) {
            let whole = Scan::default().head(&bytes);
            let mut scan = Scan::default();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let pieces = cuts.into_iter().map(|cut| scan.head(&bytes[..cut]));
            let first = pieces.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
            prop_assert_eq!(first, whole);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_head(&bytes);
            if let Ok(Some(end)) = Scan::default().head(&bytes) {
                prop_assert!(bytes[..end].ends_with(b"\r\n"));
                let _ = parse_head(&bytes[..end]);
            }
        }
    }
}
