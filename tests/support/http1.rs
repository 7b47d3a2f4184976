//! A plain HTTP/1.1 client that sends exactly the bytes it is given.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// No test waits longer for one response.
const PATIENCE: Duration = Duration::from_secs(60);

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Name and value of each header, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub complete: bool,
    /// The head's length in bytes.
    pub head_length: usize,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request on a connection of its own.
pub async fn request(addr: SocketAddr, request: &[u8]) -> Response {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let method = request.split(|b| *b == b' ').next().unwrap();
    response(&mut stream, method == b"HEAD").await.expect("a response")
}

/// Gets a request target, with further header lines (each with its CRLF).
pub async fn get(addr: SocketAddr, target: impl AsRef<[u8]>, headers: &str) -> Response {
    request(addr, &head("GET", target.as_ref(), headers)).await
}

/// A request's head.
pub fn head(method: &str, target: &[u8], headers: &str) -> Vec<u8> {
    let mut head = format!("{method} ").into_bytes();
    head.extend_from_slice(target);
    head.extend_from_slice(
        format!(" HTTP/1.1\r\nHost: device.example\r\n{headers}\r\n").as_bytes(),
    );
    head
}

/// Reads one response, as much of it as comes. None if the connection ends before a head.
pub async fn response<S>(stream: &mut S, bodiless: bool) -> Option<Response>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::time::timeout(PATIENCE, read(stream, bodiless)).await.expect("a response in time")
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, bodiless: bool) -> Option<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < 65_536, "an endless head");
        head.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut response =
        Response { status, headers, body: Vec::new(), complete: true, head_length: head.len() };
    if bodiless || matches!(status, 204 | 304) {
        return Some(response);
    }
    response.complete = if response.header("transfer-encoding") == Some("chunked") {
        chunked(stream, &mut response.body).await.is_some()
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().unwrap();
        (&mut *stream).take(length as u64).read_to_end(&mut response.body).await.is_ok()
            && response.body.len() == length
    } else {
        stream.read_to_end(&mut response.body).await.is_ok()
    };
    Some(response)
}

async fn chunked<S: AsyncRead + Unpin>(stream: &mut S, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.ok()?);
        }
        let size = std::str::from_utf8(&line).ok()?.trim();
        let size = usize::from_str_radix(size.split(';').next()?, 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Some(());
        }
    }
}
