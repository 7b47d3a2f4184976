//! One connection: TCP, TLS as the offer says, one GET, and as much of the response as the bounds
//! allow. The only file of the probe that touches the network and reads a clock.
//!
//! Invariants: every wait ends at a deadline, and the server's certificate is verified before a byte of
//! HTTP is sent. Sockets block: connections are made one after the other, so that none disturbs the
//! pace of another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use openssl::ssl::{self, ErrorCode, HandshakeError, SslAlert, SslStream};
use openssl::x509::{X509, X509VerifyResult};

use super::offer::Offer;
use super::seen::{Connection, End, Handshake, Head, Response, Seen};
use super::tap::Tap;
use super::target::Target;
use super::{Bounds, ProbeError, client};

/// How long a TCP connection, a TLS handshake and the first byte of a response may take each. A device
/// on a slow link waits longer; a person at a terminal does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server has to close a connection after `Connection: close` and a whole response.
const TO_CLOSE: Duration = Duration::from_secs(2);

/// Largest response head, in bytes; as in most servers.
const HEAD_LIMIT: usize = 64 * 1024;

/// One read takes the largest record there is (RFC 8446 §5.1).
const LARGEST_RECORD: usize = 16 * 1024;

/// The server to connect to, and the authorities to trust.
pub(super) struct Dialer<'a> {
    pub(super) target: &'a Target,
    pub(super) address: SocketAddr,
    /// Authorities beside the system's.
    pub(super) authorities: &'a [X509],
}

impl Dialer<'_> {
    /// Makes one connection, on `tcp` if it is open already.
    ///
    /// # Errors
    ///
    /// If further connections are pointless: the certificate is not trusted, or OpenSSL refuses a setting.
    pub(super) fn probe(
        &self,
        tcp: Option<TcpStream>,
        offer: Offer,
        bounds: Bounds,
    ) -> Result<Connection, ProbeError> {
        let failed = |reason| Ok(Connection { offer, outcome: Err(reason) });
        let tcp = match tcp.map_or_else(|| connect(self.address), Ok) {
            Ok(tcp) => tcp,
            Err(e) => return failed(format!("cannot connect: {}", in_words(&e))),
        };
        let mut ssl = client::ssl(self.target, self.authorities, offer)?;
        let tap = Tap::attach(&mut ssl, offer.version)?;
        let stream = Timed { tcp, deadline: now() + PATIENCE };
        let mut stream = match ssl.connect(stream) {
            Ok(stream) => stream,
            Err(HandshakeError::SetupFailure(e)) => return Err(e.into()),
            Err(HandshakeError::Failure(failure) | HandshakeError::WouldBlock(failure)) => {
                let verified = failure.ssl().verify_result();
                if verified != X509VerifyResult::OK {
                    let (host, reason) = (self.target.host_name(), verified.error_string());
                    return Err(ProbeError::NotTrusted { host, reason: reason.to_owned() });
                }
                return failed(reason(failure.error()));
            }
        };
        let cipher = stream.ssl().current_cipher();
        let cipher = cipher.map_or("", |cipher| cipher.standard_name().unwrap_or(cipher.name()));
        let chain = client::chain(stream.ssl());
        let response = self
            .exchange(&mut stream, &tap, bounds)
            .map(|(head, end)| Response::of(&tap.log(), offer.version, cipher, head, end));
        // Not before, because session tickets follow the handshake.
        let handshake = Handshake::of(&tap.log(), offer, cipher, chain);
        Ok(Connection { offer, outcome: Ok(Seen { handshake, response }) })
    }

    /// Sends the request and reads the answer.
    fn exchange(
        &self,
        stream: &mut SslStream<Timed>,
        tap: &Tap,
        bounds: Bounds,
    ) -> Result<(Head, End), String> {
        stream.get_mut().deadline = now() + PATIENCE;
        stream.write_all(self.target.head().as_bytes()).map_err(|e| in_words(&e))?;
        let mut received = Vec::new();
        let head = loop {
            if let Some(head) = Head::parse(&received) {
                break head?;
            }
            if received.len() > HEAD_LIMIT {
                return Err(format!("no end of the head within {HEAD_LIMIT} bytes"));
            }
            match read(stream, tap, &mut received) {
                ReadOutcome::Data => {}
                ReadOutcome::Nothing => return Err(in_words(&io::ErrorKind::TimedOut.into())),
                ReadOutcome::CloseNotify | ReadOutcome::Closed => {
                    return Err("the server closed".into());
                }
                ReadOutcome::Broken(reason) => return Err(reason),
            }
        };
        stream.get_mut().deadline = now() + bounds.time;
        let end = loop {
            if head.ends(&received) {
                break End::Complete { close_notify: close_notify(stream, tap) };
            }
            if received.len() - head.length >= bounds.bytes {
                break End::Bounded;
            }
            match read(stream, tap, &mut received) {
                ReadOutcome::Data => {}
                ReadOutcome::Nothing => break End::Bounded,
                ReadOutcome::CloseNotify if head.ends_with_connection() => {
                    break End::Complete { close_notify: Some(true) };
                }
                ReadOutcome::Closed if head.ends_with_connection() => {
                    break End::Complete { close_notify: Some(false) };
                }
                ReadOutcome::CloseNotify | ReadOutcome::Closed => {
                    break End::Broken("the server closed before the end of the body".into());
                }
                ReadOutcome::Broken(reason) => break End::Broken(reason),
            }
        };
        Ok((head, end))
    }
}

#[expect(clippy::disallowed_methods, reason = "a probe's waits end at deadlines of its own")]
fn now() -> Instant {
    Instant::now()
}

/// Connects.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// What one read returned.
enum ReadOutcome {
    /// The contents of one record, appended.
    Data,
    /// Nothing until the deadline.
    Nothing,
    CloseNotify,
    /// The end of the connection without close_notify.
    Closed,
    Broken(String),
}

fn read(stream: &mut SslStream<Timed>, tap: &Tap, into: &mut Vec<u8>) -> ReadOutcome {
    let mut buffer = [0; LARGEST_RECORD];
    let error = match stream.ssl_read(&mut buffer) {
        Ok(bytes) => {
            tap.read(bytes, now());
            into.extend_from_slice(&buffer[..bytes]);
            return ReadOutcome::Data;
        }
        Err(error) => error,
    };
    match error.io_error().map(io::Error::kind) {
        _ if error.code() == ErrorCode::ZERO_RETURN => ReadOutcome::CloseNotify,
        Some(io::ErrorKind::TimedOut) => ReadOutcome::Nothing,
        _ if is_eof(&error) => ReadOutcome::Closed,
        _ => ReadOutcome::Broken(reason(&error)),
    }
}

/// Waits a little for the server's close_notify.
fn close_notify(stream: &mut SslStream<Timed>, tap: &Tap) -> Option<bool> {
    stream.get_mut().deadline = now() + TO_CLOSE;
    let mut surplus = Vec::new();
    match read(stream, tap, &mut surplus) {
        ReadOutcome::CloseNotify => Some(true),
        ReadOutcome::Closed | ReadOutcome::Broken(_) => Some(false),
        // Data after the end of a response belongs to no response.
        ReadOutcome::Data | ReadOutcome::Nothing => None,
    }
}

/// A socket whose reads and writes end at a deadline.
#[derive(Debug)]
struct Timed {
    tcp: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A socket's time-out is reported as WouldBlock, which OpenSSL would take for a reason to retry.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        self.tcp.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        self.tcp.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// OpenSSL 3 reports the end of a connection without close_notify as an error of its own.
fn is_eof(error: &ssl::Error) -> bool {
    let in_stack = error.ssl_error().is_some_and(|stack| {
        stack.errors().iter().any(|e| e.reason() == Some("unexpected eof while reading"))
    });
    in_stack || (error.code() == ErrorCode::SYSCALL && error.io_error().is_none())
}

/// Why TLS failed: the server's alert if it sent one, else what OpenSSL did not like.
fn reason(error: &ssl::Error) -> String {
    if let Some(e) = error.io_error() {
        return in_words(e);
    }
    if is_eof(error) {
        return "the server closed the connection".into();
    }
    let Some(first) = error.ssl_error().and_then(|stack| stack.errors().first()) else {
        return error.to_string();
    };
    if let Some(alert) = SslAlert::from_reason_code(first.reason_code()) {
        return format!("the server's alert: {alert}");
    }
    match first.reason() {
        Some("wrong version number" | "http request" | "packet length too long") => {
            "what answers there is not TLS".into()
        }
        reason => reason.unwrap_or("TLS failed").to_owned(),
    }
}

/// An I/O error as people say it.
pub(super) fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("no answer within {} s", PATIENCE.as_secs()),
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "the server reset the connection".into(),
        io::ErrorKind::BrokenPipe => "the server closed the connection".into(),
        _ => error.to_string(),
    }
}
