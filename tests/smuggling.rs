//! Request smuggling: heads and bodies that two readers could frame in two ways, from RFC 9112 §11.2
//! and from public write-ups. Each is either refused, with the connection, or framed in exactly one
//! way; what S3 was asked tells which.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::Duration;

use support::Dripline;
use support::fault::{FaultOrigin, Plan};
use support::http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What must never be asked of S3 but where a case says so.
const NEXT: &str = "GET /file/next HTTP/1.1\r\nHost: a\r\n\r\n";

/// How a case must end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// These objects are served, and then the last word is 4xx and the end of the connection.
    Refused(&'static [&'static str]),
    /// These objects are served, and the connection stays or ends in good order.
    Served(&'static [&'static str]),
}
use End::{Refused, Served};

struct Case {
    name: String,
    wire: Vec<u8>,
    end: End,
}

fn case(name: &str, wire: impl AsRef<[u8]>, end: End) -> Case {
    Case { name: name.to_owned(), wire: wire.as_ref().to_vec(), end }
}

/// A GET with these header lines, what may be a body, and another request in it or behind it.
fn get(fields: &str, body: &str) -> String {
    format!("GET /file/first HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{NEXT}")
}

/// Content-Length and Transfer-Encoding, together and alone.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    let body = "0\r\n\r\n";
    for (name, fields, body) in [
        ("CL.TE", "Content-Length: 43\r\nTransfer-Encoding: chunked\r\n", body),
        ("CL.TE, zero", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", body),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", body),
        (
            "TE.CL, the request in a chunk",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "24\r\n",
        ),
        ("CL.TE, names in capitals", "CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: chunked\r\n", body),
        ("CL.CL, different", "Content-Length: 0\r\nContent-Length: 36\r\n", ""),
        ("CL.CL, different, the other way", "Content-Length: 36\r\nContent-Length: 0\r\n", ""),
        ("CL.CL, equal", "Content-Length: 0\r\nContent-Length: 0\r\n", ""),
        ("CL, a list", "Content-Length: 0, 36\r\n", ""),
        ("CL, a list of equals", "Content-Length: 0, 0\r\n", ""),
        ("CL with a plus", "Content-Length: +36\r\n", ""),
        ("CL below zero", "Content-Length: -1\r\n", ""),
        ("CL, minus zero", "Content-Length: -0\r\n", ""),
        ("CL in hexadecimal", "Content-Length: 0x24\r\n", ""),
        ("CL in octal, as some say", "Content-Length: 0o44\r\n", ""),
        ("CL with digits apart", "Content-Length: 3 6\r\n", ""),
        ("CL with an underscore", "Content-Length: 3_6\r\n", ""),
        ("CL, a fraction", "Content-Length: 36.0\r\n", ""),
        ("CL with an exponent", "Content-Length: 36e0\r\n", ""),
        ("CL, nothing", "Content-Length:\r\n", ""),
        ("CL beyond 2^64", "Content-Length: 18446744073709551616\r\n", ""),
        ("CL beyond 2^64 by a body", "Content-Length: 18446744073709551652\r\n", ""),
        ("CL in digits of another script", "Content-Length: \u{ff13}\u{ff16}\r\n", ""),
        ("CL with a NUL", "Content-Length: 36\0\r\n", ""),
        ("CL with a vertical tab", "Content-Length: \x0b36\r\n", ""),
        ("CL with a form feed behind", "Content-Length: 36\x0c\r\n", ""),
        ("CL in quotes", "Content-Length: \"36\"\r\n", ""),
        ("CL, a body", "Content-Length: 36\r\n", ""),
        ("CL with zeros before", "Content-Length: 000036\r\n", ""),
        ("CL larger than what comes", "Content-Length: 4000\r\n", ""),
    ] {
        cases.push(case(name, get(fields, body), Refused(&[])));
    }
    cases.push(case(
        "CL.0: no body, two requests",
        get("Content-Length: 0\r\n", ""),
        Served(&["first", "next"]),
    ));
    cases.push(case(
        "CL under another name is no CL",
        get("Content_Length: 36\r\nX-Content-Length: 36\r\n", ""),
        Served(&["first", "next"]),
    ));
    cases.push(case(
        "CL nominated by Connection stays a CL",
        get("Connection: Content-Length\r\nContent-Length: 36\r\n", ""),
        Refused(&[]),
    ));
    cases
}

/// TE.TE: the header is obscured so that one of two parsers ignores it.
fn encodings() -> Vec<Case> {
    let mut cases = Vec::new();
    for field in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding:\u{a0}chunked",
        "Transfer-Encoding:\t chunked \t",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: cow",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding\r\n : chunked",
        " Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\n\0: y",
        "Transfer-Encoding\0: chunked",
        "Transfer\u{1680}Encoding: chunked",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    ] {
        let name = format!("TE {}", field.escape_debug());
        cases.push(case(&name, get(&format!("{field}\r\n"), "0\r\n\r\n"), Refused(&[])));
    }
    let http10 = "GET /file/first HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    cases.push(case("TE in HTTP/1.0", format!("{http10}{NEXT}"), Refused(&[])));
    for name in ["Transfer_Encoding", "X-Transfer-Encoding", "TE", "Transfer-Encodin"] {
        let wire = get(&format!("{name}: chunked\r\n"), "");
        cases.push(case(&format!("{name} is no TE"), wire, Served(&["first", "next"])));
    }
    cases
}

/// Bodies: none is read here, so none may end somewhere.
fn chunks() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, body) in [
        ("a size beyond 2^64", "10000000000000000\r\n\r\n"),
        ("a size that wraps to zero", "100000000000000000000000000000000\r\n\r\n"),
        ("a size below zero", "-1\r\n\r\n"),
        ("a size with a plus", "+0\r\n\r\n"),
        ("a size with 0x", "0x0\r\n\r\n"),
        ("a size with an underscore", "0_0\r\n\r\n"),
        ("a size with blanks", " 0 \r\n\r\n"),
        ("no size", "\r\n\r\n"),
        ("a size that is a word", "zero\r\n\r\n"),
        ("an extension", "0;a=b\r\n\r\n"),
        ("an extension that ends in LF", "0;a\n\r\n"),
        ("an extension with a CR", "0;a\rb\r\n\r\n"),
        ("an extension in quotes over two lines", "0;a=\"\r\n\r\n\"\r\n\r\n"),
        ("a size that ends in LF", "0\n\n"),
        ("a size that ends in CR", "0\r\r"),
        ("data that ends in nothing", "1\r\naX\r\n0\r\n\r\n"),
        ("data that ends in LF", "1\r\na\n0\r\n\r\n"),
        ("a trailer", "0\r\nX: y\r\n\r\n"),
        ("a trailer that is a length", "0\r\nContent-Length: 36\r\n\r\n"),
        ("a trailer that is a host", "0\r\nHost: b\r\n\r\n"),
        ("a trailer that ends in LF", "0\r\nX: y\n\n"),
        ("a trailer without an end", "0\r\n"),
    ] {
        let wire = get("Transfer-Encoding: chunked\r\n", body);
        cases.push(case(&format!("chunks: {name}"), wire, Refused(&[])));
    }
    cases.push(case(
        "Expect with a body",
        get("Expect: 100-continue\r\nContent-Length: 36\r\n", ""),
        Refused(&[]),
    ));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE"] {
        let wire = get("Content-Length: 36\r\n", "").replacen("GET", method, 1);
        cases.push(case(&format!("{method} with a request for a body"), wire, Refused(&[])));
    }
    cases
}

/// Lines: where they end, what they begin with, what a name is.
fn lines() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, wire) in [
        ("LF alone everywhere", "GET /file/first HTTP/1.1\nHost: a\n\n"),
        ("LF after the request line", "GET /file/first HTTP/1.1\nHost: a\r\n\r\n"),
        ("LF after a header", "GET /file/first HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        ("LF for the empty line", "GET /file/first HTTP/1.1\r\nHost: a\r\n\n"),
        ("two LFs in a value", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: y\n\n"),
        ("CR in a value", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        ("CR for an empty line", "GET /file/first HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n"),
        ("CRs before a line's end", "GET /file/first HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("LF before the request line", "\nGET /file/first HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("NUL in a value", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("NUL in a name", "GET /file/first HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
        ("DEL in a value", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
        ("a backspace in a value", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: a\x08\r\n\r\n"),
        ("a folded header", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: y\r\n z: b\r\n\r\n"),
        ("a folded header by tab", "GET /file/first HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
        ("a fold after the request line", "GET /file/first HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("a line of blanks for the empty line", "GET /file/first HTTP/1.1\r\nHost: a\r\n \r\n\r\n"),
        ("a blank before the colon", "GET /file/first HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        ("no name", "GET /file/first HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
        ("no colon", "GET /file/first HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("a name in quotes", "GET /file/first HTTP/1.1\r\nHost: a\r\n\"X\": y\r\n\r\n"),
        ("TLS in plain HTTP", "\x16\x03\x01\x00\x10GET /file/first HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a name beyond ASCII", "GET /file/first HTTP/1.1\r\nHost: a\r\n\u{e9}: y\r\n\r\n"),
    ] {
        cases.push(case(name, format!("{wire}{NEXT}"), Refused(&[])));
    }
    cases.push(case("an empty line first", format!("\r\n{NEXT}"), Served(&["next"])));
    cases.push(case(
        "empty lines without end",
        format!("{}{NEXT}", "\r\n".repeat(3)),
        Refused(&[]),
    ));
    cases
}

/// The request line and the Host.
fn targets() -> Vec<Case> {
    let mut cases = Vec::new();
    for line in [
        "GET  /file/first HTTP/1.1",
        "GET /file/first  HTTP/1.1",
        "GET /file/first HTTP/1.1 ",
        " GET /file/first HTTP/1.1",
        "GET\t/file/first HTTP/1.1",
        "GET /file/first\tHTTP/1.1",
        "GET /file/first HTTP/1.1\x0b",
        "GET /file/fi rst HTTP/1.1",
        "GET /file/first HTTP/1.1 HTTP/1.1",
        "GET /file/first\0 HTTP/1.1",
        "GET /file/first\x7f HTTP/1.1",
        "GET /file/first",
        "GET /file/first ",
        "GET /file/first http/1.1",
        "GET /file/first HTTP/1.2",
        "GET /file/first HTTP/01.1",
        "GET /file/first HTTP/1.1x",
        "GET /file/first HTTP/1,1",
        "GET /file/first HTTP/0.9",
        "GET /file/first HTTP/2.0",
        "GET /file/first HTTPS/1.1",
        "GET HTTP/1.1",
        "G ET /file/first HTTP/1.1",
        "GET: /file/first HTTP/1.1",
        "\"GET\" /file/first HTTP/1.1",
        "\0GET /file/first HTTP/1.1",
        "GET http://b/file/first HTTP/1.1",
        "GET http://a@b/file/first HTTP/1.1",
        "GET http:///file/first HTTP/1.1",
        "GET http:\\\\a/file/first HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "TRACE /file/first HTTP/1.1",
    ] {
        let wire = format!("{line}\r\nHost: a\r\n\r\n");
        // A method or a target that nobody serves is answered and leaves no doubt where it ends.
        let end = if line.starts_with("TRACE") { Served(&["next"]) } else { Refused(&[]) };
        cases.push(case(&format!("line {}", line.escape_debug()), format!("{wire}{NEXT}"), end));
    }
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nhost: a\r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: a,b\r\n",
        "Host: a/file\r\n",
        "Host: x@a\r\n",
        "Host: a\tb\r\n",
        "Host: a#b\r\n",
        "Host : a\r\n",
    ] {
        let wire = format!("GET /file/first HTTP/1.1\r\n{hosts}\r\n{NEXT}");
        cases.push(case(&format!("hosts {}", hosts.escape_debug()), wire, Refused(&[])));
    }
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    cases.push(case("the preface of HTTP/2", preface, Refused(&[])));
    let upgrade = get(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "",
    );
    cases.push(case("an upgrade that nobody follows", upgrade, Served(&["first", "next"])));
    cases
}

/// Requests one after the other: what is wrong ends the connection where it stands, not before.
fn followers() -> Vec<Case> {
    let first = "GET /file/first HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = "GET /file/bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let close = "GET /file/first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let http10 = "GET /file/first HTTP/1.0\r\n\r\n";
    vec![
        case("two", format!("{first}{NEXT}"), Served(&["first", "next"])),
        case("three", format!("{first}{NEXT}{first}"), Served(&["first", "next", "first"])),
        case("a bad one first", format!("{bad}{first}"), Refused(&[])),
        case("a bad one behind", format!("{first}{bad}{NEXT}"), Refused(&["first"])),
        case("a bad one third", format!("{first}{first}{bad}{NEXT}"), Refused(&["first", "first"])),
        case("garbage behind", format!("{first}\0\0\r\n\r\n{NEXT}"), Refused(&["first"])),
        case("an LF behind", format!("{first}\n{NEXT}"), Refused(&["first"])),
        case("behind the last", format!("{close}{NEXT}"), Served(&["first"])),
        case("behind HTTP/1.0", format!("{http10}{NEXT}"), Served(&["first"])),
    ]
}

struct Rig {
    s3: FaultOrigin,
    dripline: Dripline,
}

impl Rig {
    async fn new() -> Self {
        let s3 = FaultOrigin::start(Plan::ok(10)).await.unwrap();
        let dripline = Dripline::in_front_of(&format!("http://{}", s3.addr()), "samples")
            .set("DRIPLINE__LIMITS", "{header_timeout: 400ms, idle_timeout: 400ms}")
            .start()
            .await;
        Self { s3, dripline }
    }

    /// What S3 was asked after the first `before` requests: the objects' names.
    fn asked(&self, before: usize) -> Vec<String> {
        let name = |head: &Vec<u8>| {
            let head = String::from_utf8_lossy(head).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default();
            target.strip_prefix("/samples/").unwrap_or(target).to_owned()
        };
        self.s3.requests()[before..].iter().map(name).collect()
    }

    /// Sends the bytes in pieces of that size, and reads until the connection ends. Returns the
    /// statuses.
    async fn exchange(&self, wire: &[u8], piece: usize) -> Vec<u16> {
        let mut stream = TcpStream::connect(self.dripline.http).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in wire.chunks(piece) {
            // Refused early, the rest may find nobody.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut statuses = Vec::new();
        let all = async {
            while let Some(response) = http1::response(&mut stream, false).await {
                assert!(response.complete);
                statuses.push(response.status);
            }
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert_eq!(rest, b"");
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("the connection ends");
        statuses
    }

    async fn assert(&self, case: &Case, piece: usize) -> Result<(), String> {
        let before = self.s3.requests().len();
        let statuses = self.exchange(&case.wire, piece).await;
        let asked = self.asked(before);
        let (served, refused) = match case.end {
            Refused(served) => (served, true),
            Served(served) => (served, false),
        };
        let good = statuses.iter().filter(|status| **status == 200).count();
        let last = statuses.last().copied().unwrap_or_default();
        let right = asked == served
            && good == served.len()
            && refused == (400..500).contains(&last)
            && (!refused || statuses.len() == good + 1);
        if right {
            Ok(())
        } else {
            Err(format!("{}: asked {asked:?}, answered {statuses:?}", case.name))
        }
    }
}

async fn assert_all(cases: Vec<Case>, least: usize) {
    assert!(cases.len() >= least, "{} cases", cases.len());
    let rig = Rig::new().await;
    let mut wrong = Vec::new();
    for case in &cases {
        for piece in [usize::MAX, 5] {
            wrong.extend(rig.assert(case, piece).await.err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_contradict() {
    assert_all(lengths(), 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_that_hide() {
    assert_all(encodings(), 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_end_twice() {
    assert_all(chunks(), 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_end_elsewhere() {
    assert_all(lines(), 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_with_two_meanings() {
    assert_all(targets(), 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_behind_requests() {
    assert_all(followers(), 9).await;
}
