//! The origin over real sockets, next to what S3 does.

#![expect(clippy::disallowed_methods, reason = "tests measure time")]

use super::*;
use openssl::ssl::{SslConnector, SslVerifyMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Keys that S3 takes and that something on the way is likely to change.
const AWKWARD: [&str; 16] = [
    "plain.txt",
    "a b",
    "a+b",
    "a%2Fb",
    "a%zz",
    "q?x=1&y#z",
    "ünï/日本",
    "/lead",
    "a//b",
    "a/../b",
    "..",
    "../../x",
    "dir/",
    "a\\b",
    "<>`^{}|\"",
    "~!*'();:@&=$,[]",
];

/// Status and everything that was sent, over one connection.
async fn exchange(
    origin: &Origin,
    method: &str,
    signed: &Presign,
    target: &str,
    more: &str,
) -> (u16, String) {
    let host = signed.host();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    let tcp = TcpStream::connect(origin.addr()).await.unwrap();
    let answer = if origin.options().tls.is_some() {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        let ssl = connector.build().configure().unwrap().into_ssl("localhost").unwrap();
        let mut tls = SslStream::new(ssl, tcp).unwrap();
        Pin::new(&mut tls).connect().await.unwrap();
        converse(tls, &request).await
    } else {
        converse(tcp, &request).await
    };
    (answer[9..12].parse().unwrap(), answer)
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(origin: &Origin, signed: &Presign, more: &str) -> (u16, String) {
    exchange(origin, "GET", signed, &signed.target(), more).await
}

async fn virtual_origin() -> Origin {
    let virtual_host_suffix = Some("s3.localhost".into());
    Origin::start(OriginOptions { virtual_host_suffix, ..Default::default() }).await.unwrap()
}

#[tokio::test]
async fn every_key_is_served_in_both_styles() {
    let origin = virtual_origin().await;
    let (long, wide) = ("k".repeat(1024), "é".repeat(512));
    for key in AWKWARD.into_iter().chain([long.as_str(), wide.as_str()]) {
        origin.put(key, key.to_owned(), "text/plain").await.unwrap();
        for style in [Style::Path, Style::Virtual] {
            let signed = origin.presign(key).style(style);
            // Names repeated in any order, an empty value and an override are signed too.
            let signed = signed
                .query("r", "b")
                .query("r", "a")
                .query("e", "")
                .query("response-content-type", "x/y z");
            let (status, answer) = get(&origin, &signed, "").await;
            assert_eq!(
                (status, answer.ends_with(&format!("\r\n\r\n{key}"))),
                (200, true),
                "{key} {answer}"
            );
            assert!(answer.contains("content-type: x/y z\r\n"), "{answer}");
            let swapped = signed.target().replace("r=a&r=b", "r=b&r=a");
            assert_eq!(exchange(&origin, "GET", &signed, &swapped, "").await.0, 200, "{key}");
        }
    }
    let (status, answer) = get(&origin, &origin.presign("k".repeat(1025)), "").await;
    assert_eq!((status, answer.contains("KeyTooLongError")), (400, true), "{answer}");
    let (status, answer) = get(&origin, &origin.presign(b"\xff"), "").await;
    assert_eq!((status, answer.contains("InvalidURI")), (400, true), "{answer}");
}

#[tokio::test]
async fn what_is_not_signed_right_is_refused() {
    let origin = virtual_origin().await;
    origin.put("a", "secret", "text/plain").await.unwrap();
    let good = origin.presign("a");
    let refused = |(status, answer): (u16, String), code: &str| {
        assert_eq!(
            (status, answer.contains(code), answer.contains("secret")),
            (403, true, false),
            "{answer}"
        );
    };
    refused(
        get(&origin, &origin.presign("a").credentials("AKIDEXAMPLE", "no"), "").await,
        "SignatureDoesNotMatch",
    );
    refused(
        get(&origin, &origin.presign("a").credentials("nobody", "no"), "").await,
        "InvalidAccessKeyId",
    );
    let yesterday = SystemTime::now() - Duration::from_secs(86400);
    refused(get(&origin, &origin.presign("a").at(yesterday), "").await, "Request has expired");
    refused(exchange(&origin, "GET", &good, &good.path(), "").await, "AccessDenied");
    refused(
        exchange(&origin, "GET", &good, &(good.target() + "&x=1"), "").await,
        "SignatureDoesNotMatch",
    );
    refused(
        exchange(&origin, "GET", &good, &good.target().replace("/a?", "/b?"), "").await,
        "SignatureDoesNotMatch",
    );
    refused(get(&origin, &good, "x-amz-checksum-mode: ENABLED\r\n").await, "not signed");
    let elsewhere = origin.presign("a").endpoint("http", Style::Path, "elsewhere");
    refused(
        exchange(&origin, "GET", &elsewhere, &good.target(), "").await,
        "SignatureDoesNotMatch",
    );
    assert_eq!(exchange(&origin, "HEAD", &good, &good.target(), "").await.0, 403);
    // The same things done right.
    let head = origin.presign("a").method(http::Method::HEAD);
    assert_eq!(exchange(&origin, "HEAD", &head, &head.target(), "").await.0, 200);
    let with_header = origin.presign("a").header("x-amz-checksum-mode", "ENABLED");
    assert_eq!(get(&origin, &with_header, "x-amz-checksum-mode: ENABLED\r\n").await.0, 200);
    let (target, headers) = good.authorization();
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    assert_eq!(exchange(&origin, "GET", &good, &target, &lines).await.0, 200);
    let (status, answer) = get(&origin, &good, &lines).await;
    assert_eq!((status, answer.contains("Only one auth mechanism")), (400, true), "{answer}");
}

#[tokio::test]
async fn a_public_origin_needs_no_signature_to_read() {
    let origin = Origin::start(OriginOptions { public: true, ..Default::default() }).await.unwrap();
    origin.put("a", "body", "text/plain").await.unwrap();
    let plain = origin.presign("a");
    assert_eq!(exchange(&origin, "GET", &plain, &plain.path(), "").await.0, 200);
    assert_eq!(exchange(&origin, "HEAD", &plain, &plain.path(), "").await.0, 200);
    assert_eq!(exchange(&origin, "DELETE", &plain, &plain.path(), "").await.0, 403);
    assert_eq!(exchange(&origin, "GET", &plain, "/samples/", "").await.0, 403);
    assert_eq!(get(&origin, &plain.credentials("AKIDEXAMPLE", "no"), "").await.0, 403);
}

#[tokio::test]
async fn conditions_and_ranges_are_those_of_s3() {
    let origin = virtual_origin().await;
    let etag = origin.put("ten", "0123456789", "text/plain").await.unwrap();
    origin.put("none", "", "text/plain").await.unwrap();
    for (key, asked, status, part) in [
        ("ten", String::new(), 200, "\r\n\r\n0123456789"),
        ("ten", "Range: bytes=2-4\r\n".into(), 206, "content-range: bytes 2-4/10\r\n"),
        ("ten", "Range: bytes=2-4\r\n".into(), 206, "\r\n\r\n234"),
        ("ten", "Range: bytes=-3\r\n".into(), 206, "\r\n\r\n789"),
        ("ten", "Range: bytes=-30\r\n".into(), 206, "\r\n\r\n0123456789"),
        ("ten", "Range: bytes=0-1,3-4\r\n".into(), 200, "\r\n\r\n0123456789"),
        ("ten", "Range: bytes=10-\r\n".into(), 416, "content-range: bytes */10\r\n"),
        ("none", String::new(), 200, "content-length: 0\r\n"),
        ("none", "Range: bytes=0-0\r\n".into(), 416, "<Code>InvalidRange</Code>"),
        ("ten", format!("If-None-Match: {etag}\r\n"), 304, &format!("etag: {etag}\r\n")),
        ("ten", format!("If-None-Match: {etag}\r\n"), 304, "last-modified: "),
        ("ten", "If-None-Match: \"x\", \"y\"\r\n".into(), 200, "\r\n\r\n0123456789"),
        (
            "ten",
            "If-Match: \"x\"\r\nRange: bytes=0-0\r\n".into(),
            412,
            "<Code>PreconditionFailed</Code>",
        ),
        ("ten", format!("If-Match: {etag}\r\nRange: bytes=0-0\r\n"), 206, "\r\n\r\n0"),
        ("missing", "If-Match: \"x\"\r\n".into(), 404, "<Code>NoSuchKey</Code>"),
    ] {
        let (met, answer) = get(&origin, &origin.presign(key), &asked).await;
        assert_eq!((met, answer.contains(part)), (status, true), "{asked}{part}{answer}");
        assert!(status != 304 || answer.ends_with("\r\n\r\n"), "{answer}");
        let head = origin.presign(key).method(http::Method::HEAD);
        let (met, answer) = exchange(&origin, "HEAD", &head, &head.target(), &asked).await;
        assert_eq!((met, answer.ends_with("\r\n\r\n")), (status, true), "{asked}{answer}");
    }
    let counters = origin.counters();
    assert_eq!((counters.gets, counters.heads), (15, 15));
    assert_eq!((counters.full_gets, counters.ranged_gets, counters.conditional), (6, 9, 12));
    assert_eq!(counters.last.len(), 30);
    assert!(counters.last[0].target.starts_with(b"/samples/ten?X-Amz-"), "{:?}", counters.last[0]);
}

#[tokio::test]
async fn stops_closes_and_goes_on_at_the_same_port() {
    let origin = virtual_origin().await;
    origin.put("a", "body", "text/plain").await.unwrap();
    let mut idle = TcpStream::connect(origin.addr()).await.unwrap();
    assert_eq!(get(&origin, &origin.presign("a"), "").await.0, 200);
    // The server closes the second connection a little after the client saw its end.
    for _ in 0..100 {
        if origin.counters().connections_open == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let counters = origin.counters();
    assert_eq!((counters.connections_open, counters.connections_total), (1, 2));
    origin.stop().await;
    assert_eq!(origin.counters().connections_open, 0);
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(origin.addr()).await.is_err());
    origin.resume().await.unwrap();
    assert_eq!(get(&origin, &origin.presign("a"), "").await.0, 200);
}

#[tokio::test]
async fn speaks_tls_and_leaves_no_files() {
    let key = PKey::from_ec_key(p256()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    let now = openssl::asn1::Asn1Time::days_from_now(0).unwrap();
    let later = openssl::asn1::Asn1Time::days_from_now(1).unwrap();
    certificate.set_not_before(&now).unwrap();
    certificate.set_not_after(&later).unwrap();
    certificate.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
    let tls = Some((vec![certificate.build()], key));
    let origin = Origin::start(OriginOptions { tls, ..Default::default() }).await.unwrap();
    // More than one piece, and not a multiple of one.
    let body = "0123456789".repeat(12_345);
    origin.put("a", body.clone(), "text/plain").await.unwrap();
    let (status, answer) = get(&origin, &origin.presign("a"), "").await;
    assert_eq!((status, answer.ends_with(&body)), (200, true));
    assert_eq!(origin.counters().bytes_sent, 123_450);
    let files = origin._files.path().to_owned();
    assert!(files.is_dir());
    drop(origin);
    assert!(!files.exists());
}

fn p256() -> openssl::ec::EcKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    openssl::ec::EcKey::generate(&group).unwrap()
}
