//! Objects: a body reaches the client byte for byte as S3 stores it, and a request reaches S3 byte for
//! byte as the client signed it. The S3 here verifies every signature.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::time::{Duration, SystemTime};

use dripline::demo::origin::presign::{Presign, Style};
use dripline::demo::origin::{Origin, OriginOptions, Seen};
use dripline::tls::identity::Identity;
use http::Method;
use openssl::ssl::SslVersion;
use support::Dripline;
use support::fault::{FaultOrigin, Plan, pattern};
use support::http1::{self, Response, head};
use support::wire::Client;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const BOTH: [Style; 2] = [Style::Path, Style::Virtual];

/// What a device gets of an object by default.
const OBJECT_HEAD: [&str; 7] = [
    "accept-ranges",
    "connection",
    "content-length",
    "content-type",
    "date",
    "etag",
    "last-modified",
];

/// An S3 that wants signatures, and dripline before it.
struct Rig {
    origin: Origin,
    dripline: Dripline,
    style: Style,
}

async fn origin() -> Origin {
    let virtual_host_suffix = Some("s3.localhost".into());
    Origin::start(OriginOptions { virtual_host_suffix, ..OriginOptions::default() }).await.unwrap()
}

/// dripline in the addressing of `style`.
fn dripline(origin: &Origin, style: Style) -> support::Builder {
    let scheme = if origin.options().tls.is_some() { "https" } else { "http" };
    let port = origin.addr().port();
    let (addressing, host) = match style {
        Style::Path if scheme == "http" => ("path", "127.0.0.1"),
        Style::Path => ("path", "s3.localhost"),
        Style::Virtual => ("virtual", "s3.localhost"),
    };
    Dripline::in_front_of(&format!("{scheme}://{host}:{port}"), &origin.options().bucket)
        .set("DRIPLINE__S3__ADDRESSING", addressing)
}

impl Rig {
    async fn new(style: Style) -> Self {
        let origin = origin().await;
        let dripline = dripline(&origin, style).start().await;
        Self { origin, dripline, style }
    }

    async fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> String {
        self.origin.put(key, body.into(), "application/octet-stream").await.unwrap()
    }

    fn presign(&self, key: impl AsRef<[u8]>) -> Presign {
        self.origin.presign(key).style(self.style)
    }

    /// Asks dripline for what was signed, on a connection of its own.
    async fn ask(&self, method: &str, signed: &Presign, headers: &str) -> Response {
        http1::request(self.dripline.http, &head(method, file(signed).as_bytes(), headers)).await
    }

    async fn get(&self, signed: &Presign, headers: &str) -> Response {
        self.ask("GET", signed, headers).await
    }

    /// Asks S3 itself, as its own client would.
    async fn ask_s3(&self, method: &str, signed: &Presign, query: &str, headers: &str) -> Response {
        let (host, path) = (signed.host(), signed.path());
        let request = format!("{method} {path}?{query} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        http1::request(self.origin.addr(), request.as_bytes()).await
    }

    /// The last request that reached S3.
    fn last(&self) -> Seen {
        self.origin.counters().last.last().expect("a request").clone()
    }

    fn requests(&self) -> usize {
        self.origin.counters().last.len()
    }
}

/// The target at dripline for a presigned URL.
fn file(signed: &Presign) -> String {
    format!("/file/{}?{}", signed.escaped_key(), signed.signed_query())
}

/// An S3 error's code.
fn code(response: &Response) -> String {
    let text = response.text();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map(|(code, _)| code.to_owned()).unwrap_or_default()
}

fn names(response: &Response) -> Vec<&str> {
    let mut names: Vec<_> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_arrive_whole() {
    let rig = Rig::new(Style::Path).await;
    for size in [0, 1, 4095, 4096, 4097, (1 << 20) + 1] {
        let (wanted, key) = (pattern(size), format!("size/{size}"));
        let etag = rig.put(&key, wanted.clone()).await;
        let (get, asked) = (rig.presign(&key), rig.presign(&key).method(Method::HEAD));
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let mut client = Client::connect(rig.dripline.https, version, &rig.dripline.cert).await;
            // HEAD first: a body after it would be taken for the next response.
            for (method, signed) in [("HEAD", &asked), ("GET", &get)] {
                client.stream.write_all(&head(method, file(signed).as_bytes(), "")).await.unwrap();
                let response = http1::response(&mut client.stream, method == "HEAD").await.unwrap();
                assert_eq!((response.status, response.complete), (200, true), "{method} {size}");
                assert_eq!(response.header("content-length"), Some(size.to_string().as_str()));
                assert_eq!(response.header("etag"), Some(etag.as_str()));
                let expected = if method == "HEAD" { &[][..] } else { &wanted };
                assert!(response.body == expected, "{method} {size}: the body differs");
            }
        }
        let response = rig.get(&get, "").await;
        assert_eq!((response.status, response.complete), (200, true));
        assert!(response.body == wanted, "{size}: the body differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_arrive_at_every_edge() {
    const SIZE: usize = 3 * 4096 + 10;
    let rig = Rig::new(Style::Path).await;
    let wanted = pattern(SIZE);
    rig.put("fw.bin", wanted.clone()).await;
    rig.put("empty", "").await;
    let last = SIZE - 1;
    for (range, first, end) in [
        ("0-0".to_owned(), 0, 1),
        (format!("{last}-{last}"), last, SIZE),
        (format!("{last}-"), last, SIZE),
        ("-1".to_owned(), last, SIZE),
        (format!("-{SIZE}"), 0, SIZE),
        ("-999999".to_owned(), 0, SIZE),
        ("0-".to_owned(), 0, SIZE),
        (format!("0-{last}"), 0, SIZE),
        (format!("0-{}", SIZE + 4096), 0, SIZE),
        ("0-4094".to_owned(), 0, 4095),
        ("0-4095".to_owned(), 0, 4096),
        ("0-4096".to_owned(), 0, 4097),
        ("4095-4096".to_owned(), 4095, 4097),
        ("4096-8191".to_owned(), 4096, 8192),
        ("1-8192".to_owned(), 1, 8193),
    ] {
        let asked = format!("Range: bytes={range}\r\n");
        let response = rig.get(&rig.presign("fw.bin"), &asked).await;
        assert_eq!((response.status, response.complete), (206, true), "{range}");
        let content_range = format!("bytes {first}-{}/{SIZE}", end - 1);
        assert_eq!(response.header("content-range"), Some(content_range.as_str()), "{range}");
        assert!(response.body == wanted[first..end], "{range}: the body differs");
    }
    let whole = rig.get(&rig.presign("fw.bin"), "Range: bytes=0-0,5-9\r\n").await;
    assert_eq!(
        (whole.status, whole.body == wanted),
        (200, true),
        "several ranges are S3's to judge"
    );
    for (key, range) in [
        ("fw.bin", format!("{SIZE}-")),
        ("fw.bin", "999999-9999999".to_owned()),
        ("fw.bin", "-0".to_owned()),
        ("empty", "0-".to_owned()),
        ("empty", "0-0".to_owned()),
        ("empty", "-1".to_owned()),
    ] {
        let asked = format!("Range: bytes={range}\r\n");
        let response = rig.get(&rig.presign(key), &asked).await;
        assert_eq!((response.status, code(&response).as_str()), (416, "InvalidRange"), "{range}");
        let size = if key == "empty" { 0 } else { SIZE };
        assert_eq!(response.header("content-range"), Some(format!("bytes */{size}").as_str()));
    }
    let asked = rig.presign("fw.bin").method(Method::HEAD);
    let response = rig.ask("HEAD", &asked, "Range: bytes=1-4096\r\n").await;
    assert_eq!((response.status, response.header("content-length")), (206, Some("4096")));
}

/// The answers that are no object, each one as S3 itself gives it: status, body, and the headers
/// that belong to them.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_arrive_as_s3_sent_them() {
    for style in BOTH {
        let rig = Rig::new(style).await;
        let etag = rig.put("fw.bin", "secret").await;
        let signed = || rig.presign("fw.bin");
        let modified = rig.get(&signed(), "").await.header("last-modified").unwrap().to_owned();
        let yesterday = SystemTime::now() - Duration::from_secs(86_400);
        let old = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (what, signed, headers, status, expected) in [
            ("none match", signed(), format!("If-None-Match: {etag}"), 304, ""),
            ("not modified", signed(), format!("If-Modified-Since: {modified}"), 304, ""),
            ("no match", signed(), "If-Match: \"x\"".into(), 412, "PreconditionFailed"),
            (
                "modified",
                signed(),
                format!("If-Unmodified-Since: {old}"),
                412,
                "PreconditionFailed",
            ),
            ("range", signed(), "Range: bytes=6-".into(), 416, "InvalidRange"),
            ("expired", signed().at(yesterday), String::new(), 403, "AccessDenied"),
            (
                "another secret",
                signed().credentials(&rig.origin.options().access_key, "x"),
                String::new(),
                403,
                "SignatureDoesNotMatch",
            ),
            (
                "another user",
                signed().credentials("x", "x"),
                String::new(),
                403,
                "InvalidAccessKeyId",
            ),
            (
                "another host",
                signed().endpoint("http", style, "elsewhere"),
                String::new(),
                403,
                "SignatureDoesNotMatch",
            ),
            ("missing", rig.presign("missing"), String::new(), 404, "NoSuchKey"),
        ] {
            let headers = if headers.is_empty() { headers } else { headers + "\r\n" };
            let response = rig.get(&signed, &headers).await;
            assert_eq!((response.status, code(&response).as_str()), (status, expected), "{what}");
            assert!(response.complete && !response.text().contains("secret"), "{what}");
            // S3's own answer, asked at the host that dripline asks.
            let there = signed.clone().endpoint("http", style, &own_host(&rig));
            let own = rig.ask_s3("GET", &there, &signed.signed_query(), &headers).await;
            assert_eq!((response.status, response.text()), (own.status, own.text()), "{what}");
            for name in ["content-type", "content-range", "etag", "last-modified"] {
                assert_eq!(response.header(name), own.header(name), "{what}: {name}");
            }
        }
    }
}

fn own_host(rig: &Rig) -> String {
    match rig.style {
        Style::Path => rig.origin.addr().to_string(),
        Style::Virtual => format!("s3.localhost:{}", rig.origin.addr().port()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_was_tampered_with_is_refused() {
    for style in BOTH {
        let rig = Rig::new(style).await;
        rig.put("fw.bin", "secret").await;
        rig.put("fw.bim", "secret").await;
        let signed = rig.presign("fw.bin");
        let good = file(&signed);
        let signature = good.rsplit_once('=').unwrap().1;
        let flipped: String = signature.chars().map(|c| if c == 'a' { 'b' } else { 'a' }).collect();
        for (target, expected) in [
            (good.replace(signature, &flipped), "SignatureDoesNotMatch"),
            (good.replace("fw.bin", "fw.bim"), "SignatureDoesNotMatch"),
            (good.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"), "SignatureDoesNotMatch"),
            (format!("{good}&x=1"), "SignatureDoesNotMatch"),
            ("/file/fw.bin".into(), "AccessDenied"),
        ] {
            let response = http1::get(rig.dripline.http, &target, "").await;
            assert_eq!((response.status, code(&response).as_str()), (403, expected), "{target}");
            assert!(!response.text().contains("secret"));
        }
        assert_eq!(http1::get(rig.dripline.http, &good, "").await.text(), "secret");
        // Signed for one method, used with the other.
        assert_eq!(rig.ask("HEAD", &signed, "").await.status, 403);
        let asked = rig.presign("fw.bin").method(Method::HEAD);
        assert_eq!(rig.ask("HEAD", &asked, "").await.status, 200);
        let response = rig.get(&asked, "").await;
        assert_eq!((response.status, code(&response).as_str()), (403, "SignatureDoesNotMatch"));
    }
}

/// A presigned URL works for every key that S3 takes, and S3 sees the bytes that were signed.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_served_in_both_addressings() {
    let (long, wide) = ("k".repeat(1024), "é".repeat(512));
    let slashes = format!("{}k", "a/".repeat(511));
    let keys = [
        "plain.txt",
        "a b  c",
        "a+b",
        "a%2Bb",
        "a%2Fb",
        "a%20b",
        "100%",
        "a%zz",
        "ünï/日本/🚰",
        "/lead",
        "a//b",
        "a///",
        "//",
        "dir/",
        "q?x=1&y#z",
        "?",
        "a\\b",
        "<>`^{}|\"",
        "~!*'();:@&=$,[]",
        "file/file",
        ".",
        "...",
        "a/./b",
        "a/../b",
        "control\u{1}\u{7f}",
        long.as_str(),
        wide.as_str(),
        slashes.as_str(),
    ];
    // Keys whose dot segments only a bucket in the host lets through.
    let climbing = ["..", "../b", "../../x", "a/../../b", "./../b", "..\\b", "%2e%2e/b"];
    for style in BOTH {
        let rig = Rig::new(style).await;
        let climbing = climbing.iter().filter(|_| style == Style::Virtual);
        for key in keys.iter().chain(climbing) {
            rig.put(key, format!("the body of {key}")).await;
            let signed = rig.presign(key);
            let response = rig.get(&signed, "").await;
            assert_eq!(response.text(), format!("the body of {key}"), "{key}");
            assert_eq!(response.status, 200, "{key}");
            let target = String::from_utf8(rig.last().target).unwrap();
            assert_eq!(target, signed.target(), "{key}");
            assert_eq!(rig.last().headers["host"], signed.host());
        }
        let response = rig.get(&rig.presign("k".repeat(1025)), "").await;
        assert_eq!((response.status, code(&response).as_str()), (400, "KeyTooLongError"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_reach_s3_byte_for_byte() {
    for style in BOTH {
        let rig = Rig::new(style).await;
        rig.put("a b", "body").await;
        let signed = rig
            .presign("a b")
            .query("r", "b")
            .query("r", "a")
            .query("r", "b")
            .query("empty", "")
            .query("empty", "")
            .query("plus and space", "+ ")
            .query("response-content-type", "x/y; z=\"ü\"");
        // As it was signed, and in an order that the signature allows just as well.
        for query in
            [signed.signed_query(), signed.signed_query().replace("r=a&r=b&r=b", "r=b&r=a&r=b")]
        {
            let response = http1::get(rig.dripline.http, format!("/file/a%20b?{query}"), "").await;
            assert_eq!((response.status, response.text().as_str()), (200, "body"), "{query}");
            let target = String::from_utf8(rig.last().target).unwrap();
            assert_eq!(target, format!("{}?{query}", signed.path()));
        }
    }
}

/// Every character that a target may contain passes unchanged: those of RFC 3986, and others that
/// clients send in practice, provided that they are UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn odd_targets_reach_s3_byte_for_byte() {
    let s3 = FaultOrigin::start(Plan::ok(4)).await.unwrap();
    let dripline = Dripline::in_front_of(&format!("http://{}", s3.addr()), "samples").start().await;
    let targets = [
        "a?",
        "a??",
        "a?&&=&a&=b",
        "a?x=1&x=1&x=",
        "a?x=%zz&y=%2",
        "a?x=a+b&y=a%20b&z=a%2Bb&w=%c3%BC%FF",
        "a?x=a/../b",
        "a?{}|^\\`[]",
        "a\"{}|^\\[]",
        "a-._~!$&'()*+,;=:@z?-._~!$&'()*+,;=:@/?z",
        "%2F//a%2f%2F/",
        "%c3%BC%FF%00",
        "a%3Fb%23c?d%3Fe",
        "ünï/日本?ü=日",
    ];
    for target in targets {
        let asked = format!("/file/{target}");
        let response = http1::get(dripline.http, &asked, "").await;
        assert_eq!(response.status, 200, "{asked}");
        let seen = String::from_utf8(s3.requests().pop().unwrap()).unwrap();
        assert!(
            seen.starts_with(&format!("GET /samples/{target} HTTP/1.1\r\n")),
            "{asked}: {seen}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_for_an_object_never_reaches_s3() {
    let rig = Rig::new(Style::Path).await;
    rig.put("fw.bin", "body").await;
    let ask = async |request: Vec<u8>| http1::request(rig.dripline.http, &request).await;
    for target in ["/file/", "/file", "/file?x", "/file/?x", "/", "/other", "/files/a", "/fw.bin"] {
        for method in ["GET", "HEAD"] {
            let response = ask(head(method, target.as_bytes(), "")).await;
            assert_eq!((response.status, response.complete), (404, true), "{method} {target}");
            assert_eq!(response.text().lines().count(), usize::from(method == "GET"));
        }
    }
    for key in ["..", "../b", "../other/b", "a/../../b", "%2e%2e/b", "..%2fb", "%252e%252e/b"] {
        let response = ask(head("GET", format!("/file/{key}").as_bytes(), "")).await;
        assert_eq!(response.status, 400, "{key}");
        assert!(response.text().contains("leave the bucket"), "{}", response.text());
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let response = ask(head(method, b"/file/fw.bin", "Content-Length: 0\r\n")).await;
        assert_eq!((response.status, response.complete), (405, true), "{method}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"), "{method}");
    }
    for method in ["GET", "HEAD"] {
        let bodies = ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n0\r\n"];
        for body in bodies {
            let response = ask(head(method, b"/file/fw.bin", body)).await;
            assert_eq!((response.status, response.complete), (400, true), "{method} {body}");
        }
    }
    let upload = ask(head("PUT", b"/file/fw.bin", "Content-Length: 4\r\n\r\nbody")).await;
    assert_eq!(upload.status, 405);
    assert_eq!((rig.requests(), rig.origin.counters().connections_total), (0, 0));
}

/// The names of the headers that S3 was sent last, in order of the alphabet.
fn sent(seen: &Seen) -> Vec<&str> {
    let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_sees_only_the_headers_that_it_reads() {
    let rig = Rig::new(Style::Virtual).await;
    let etag = rig.put("fw.bin", "0123456789").await;
    let headers = format!(
        "Range: bytes=1-3\r\nIf-Match: {etag}\r\nIf-None-Match: \"x\"\r\n\
         If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\nIf-Unmodified-Since: x\r\n\
         If-Range: {etag}\r\nCookie: a=b\r\nUser-Agent: device/1\r\nX-Forwarded-For: 192.0.2.1\r\n\
         Forwarded: for=192.0.2.1\r\nX-Amz-Request-Payer: requester\r\nX-Amz-Meta-A: b\r\n\
         Authorization: Basic eDp5\r\nDate: now\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\
         Referer: x\r\nConnection: keep-alive, If-None-Match\r\nTE: trailers\r\n\
         Upgrade: h2c\r\nProxy-Authorization: x\r\nExpect: x\r\nX-Custom: y\r\n"
    );
    let response = rig.get(&rig.presign("fw.bin"), &headers).await;
    assert_eq!((response.status, response.text().as_str()), (206, "123"));
    let seen = rig.last();
    let wanted =
        ["host", "if-match", "if-modified-since", "if-range", "if-unmodified-since", "range"];
    assert_eq!(sent(&seen), wanted);
    assert_eq!(seen.headers["range"], "bytes=1-3");
    assert_eq!(seen.headers["if-match"], etag);
    rig.get(&rig.presign("fw.bin"), "If-None-Match: \"x\"\r\nIf-None-Match: \"y\"\r\n").await;
    let seen = rig.last();
    let both: Vec<_> = seen.headers.get_all("if-none-match").iter().collect();
    assert_eq!(both, ["\"x\"", "\"y\""]);
    // A header of S3's own passes when the signature covers it, and then the signature holds.
    let signed = rig.presign("fw.bin").header("x-amz-checksum-mode", "ENABLED");
    let signed = signed.header("x-amz-meta-q", "1").header("x-custom", "y");
    let headers =
        "X-Amz-Checksum-Mode: ENABLED\r\nX-Amz-Meta-Q: 1\r\nX-Amz-Meta-A: b\r\nX-Custom: y\r\n";
    assert_eq!(rig.get(&signed, headers).await.status, 200);
    let wanted = ["host", "x-amz-checksum-mode", "x-amz-meta-q", "x-custom"];
    assert_eq!(sent(&rig.last()), wanted);
    assert_eq!(rig.get(&signed, "").await.status, 403, "the signed headers were not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_signed_in_headers_work_where_that_is_allowed() {
    for style in BOTH {
        let origin = origin().await;
        let dripline = dripline(&origin, style);
        let dripline = dripline.set("DRIPLINE__S3__AUTHORIZATION", "true").start().await;
        let rig = Rig { origin, dripline, style };
        rig.put("a b", "secret").await;
        let signed = rig.presign("a b").query("response-content-type", "x/y");
        let (_, headers) = signed.authorization();
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let target = "/file/a%20b?response-content-type=x%2Fy";
        let response = http1::get(rig.dripline.http, target, &lines).await;
        assert_eq!((response.status, response.text().as_str()), (200, "secret"));
        assert_eq!(response.header("content-type"), Some("x/y"));
        let wanted = ["authorization", "host", "x-amz-content-sha256", "x-amz-date"];
        assert_eq!(sent(&rig.last()), wanted);
        let tampered = lines.replace("x-amz-date: 2", "x-amz-date: 3");
        assert_eq!(http1::get(rig.dripline.http, target, &tampered).await.status, 403);
        // Not allowed, which is the default: S3 sees a request without a signature.
        let rig = Rig { dripline: self::dripline(&rig.origin, style).start().await, ..rig };
        let response = http1::get(rig.dripline.http, target, &lines).await;
        assert_eq!((response.status, code(&response).as_str()), (403, "AccessDenied"));
        assert_eq!(sent(&rig.last()), ["host"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_holds_what_a_device_needs_and_no_more() {
    let rig = Rig::new(Style::Path).await;
    rig.put("fw.bin", pattern(10_000)).await;
    let response = rig.get(&rig.presign("fw.bin"), "").await;
    assert_eq!(names(&response), OBJECT_HEAD);
    assert!(response.head_length < 400, "{} bytes", response.head_length);
    let response = rig.get(&rig.presign("fw.bin"), "Range: bytes=1-5000\r\n").await;
    let mut wanted = OBJECT_HEAD.to_vec();
    wanted.push("content-range");
    wanted.sort_unstable();
    assert_eq!(names(&response), wanted);
    assert!(response.head_length < 400, "{} bytes", response.head_length);
    let response = rig.get(&rig.presign("missing"), "").await;
    assert_eq!(names(&response), ["connection", "content-type", "date", "transfer-encoding"]);
    let response = rig.get(&rig.presign("fw.bin"), "If-None-Match: *\r\n").await;
    assert_eq!(response.status, 304);
    assert_eq!(names(&response), ["connection", "date", "etag", "last-modified"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn further_headers_are_kept_by_configuration() {
    let plan = Plan::ok(10)
        .header("Content-Type", "application/octet-stream")
        .header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("x-amz-id-2", &"x".repeat(76))
        .header("x-amz-request-id", "0123456789ABCDEF")
        .header("x-amz-version-id", "v1")
        .header("x-amz-meta-model", "nrf91")
        .header("x-amz-meta-model", "twice")
        .header("x-amz-server-side-encryption", "AES256")
        .header("Cache-Control", "no-store")
        .header("Set-Cookie", "a=b")
        .header("Server", "AmazonS3");
    let s3 = FaultOrigin::start(plan).await.unwrap();
    let plain = || Dripline::in_front_of(&format!("http://{}", s3.addr()), "samples");
    let dripline = plain().start().await;
    let response = http1::get(dripline.http, "/file/a", "").await;
    assert_eq!(names(&response), OBJECT_HEAD);
    assert!(response.head_length < 400, "{} bytes", response.head_length);
    let patterns = "[x-amz-meta-*, x-amz-version-id]";
    let dripline = plain().set("DRIPLINE__DRIP__RESPONSE_HEADERS", patterns).start().await;
    let response = http1::get(dripline.http, "/file/a", "").await;
    let mut wanted = OBJECT_HEAD.to_vec();
    wanted.extend(["x-amz-meta-model", "x-amz-meta-model", "x-amz-version-id"]);
    assert_eq!(names(&response), wanted);
    assert_eq!(response.header("x-amz-version-id"), Some("v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_never_answered_in_chunks() {
    let rig = Rig::new(Style::Path).await;
    let wanted = pattern(10_000);
    rig.put("fw.bin", wanted.clone()).await;
    for connection in ["", "Connection: keep-alive\r\n"] {
        let ask = async |signed: Presign| {
            let request = format!("GET {} HTTP/1.0\r\n{connection}\r\n", file(&signed));
            http1::request(rig.dripline.http, request.as_bytes()).await
        };
        let response = ask(rig.presign("fw.bin")).await;
        assert_eq!(response.header("content-length"), Some("10000"));
        assert!(response.status == 200 && response.body == wanted, "the body differs");
        // S3's errors are chunked: without chunks the end of the connection ends them.
        let response = ask(rig.presign("missing")).await;
        assert_eq!((response.status, code(&response).as_str()), (404, "NoSuchKey"));
        assert_eq!(response.header("transfer-encoding"), None);
        assert!(response.body.starts_with(b"<?xml") && response.body.ends_with(b"</Error>"));
        assert_eq!(response.header("connection"), Some("close"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let rig = Rig::new(Style::Virtual).await;
    let wanted = pattern(5000);
    let etag = rig.put("fw.bin", wanted.clone()).await;
    let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
    let get = file(&rig.presign("fw.bin"));
    let asked = file(&rig.presign("fw.bin").method(Method::HEAD));
    let missing = file(&rig.presign("missing"));
    let none_match = format!("If-None-Match: {etag}\r\n");
    for round in 0..4 {
        for (method, target, headers, status, length) in [
            ("GET", get.as_str(), "", 200, 5000),
            ("HEAD", asked.as_str(), "", 200, 0),
            ("GET", get.as_str(), none_match.as_str(), 304, 0),
            ("GET", get.as_str(), "Range: bytes=9-18\r\n", 206, 10),
            ("GET", missing.as_str(), "", 404, usize::MAX),
        ] {
            stream.write_all(&head(method, target.as_bytes(), headers)).await.unwrap();
            let response = http1::response(&mut stream, method == "HEAD").await;
            let response = response.unwrap_or_else(|| panic!("{round}: closed before {status}"));
            assert_eq!((response.status, response.complete), (status, true), "{round}");
            assert!(length == usize::MAX || response.body.len() == length, "{round}: {status}");
        }
    }
    assert_eq!(rig.dripline.metric("dripline_connections_accepted_total"), 1);
    let counters = rig.origin.counters();
    assert_eq!((counters.gets, counters.heads), (16, 4));
    assert!(counters.connections_total <= 2, "{} connections", counters.connections_total);
}

/// dripline's own refusals leave the connection usable, whatever comes next on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_end_the_connection() {
    let rig = Rig::new(Style::Path).await;
    rig.put("fw.bin", "body").await;
    let good = file(&rig.presign("fw.bin"));
    let mut stream = TcpStream::connect(rig.dripline.http).await.unwrap();
    for _ in 0..3 {
        for (method, target, status) in [
            ("GET", "/other", 404),
            ("DELETE", "/file/fw.bin", 405),
            ("GET", "/file/../x", 400),
            ("HEAD", "/file/", 404),
            ("GET", good.as_str(), 200),
        ] {
            stream.write_all(&head(method, target.as_bytes(), "")).await.unwrap();
            let response = http1::response(&mut stream, method == "HEAD").await;
            assert_eq!(response.map(|r| (r.status, r.complete)), Some((status, true)), "{target}");
        }
    }
    assert_eq!(rig.dripline.metric("dripline_connections_accepted_total"), 1);
}

/// S3 behind TLS: the certificate is verified for the host name that includes the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn s3_is_verified_over_tls() {
    let identity = |names: &[&str]| Identity::self_signed(names).unwrap();
    let other = identity(&["s3.localhost", "samples.s3.localhost"]);
    let directory = tempfile::tempdir().unwrap();
    let ca = |name: &str, identity: &Identity| {
        let path = directory.path().join(name);
        std::fs::write(&path, identity.chain()[0].to_pem().unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (style, name) in [(Style::Path, "s3.localhost"), (Style::Virtual, "samples.s3.localhost")] {
        for (names, trusted, works) in [
            (&[name], true, true),
            (&[name], false, false),
            (&["elsewhere.localhost"], true, false),
        ] {
            let own = identity(names);
            let file_name = ca("ca.pem", if trusted { &own } else { &other });
            let options = OriginOptions {
                virtual_host_suffix: Some("s3.localhost".into()),
                tls: Some((own.chain().to_vec(), own.key().clone())),
                ..OriginOptions::default()
            };
            let origin = Origin::start(options).await.unwrap();
            let dripline =
                dripline(&origin, style).set("DRIPLINE__S3__CA", &file_name).start().await;
            let rig = Rig { origin, dripline, style };
            rig.put("a b", "body").await;
            let host = format!("s3.localhost:{}", rig.origin.addr().port());
            let signed = rig.presign("a b").endpoint("https", style, &host);
            let response = rig.get(&signed, "").await;
            let wanted = if works { (200, "body") } else { (502, "cannot connect to S3\n") };
            assert_eq!((response.status, response.text().as_str()), wanted, "{names:?} {trusted}");
        }
    }
}
