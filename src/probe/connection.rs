//! One connection: TCP, TLS as the offer says, one GET, and as much of the answer as the bounds
//! allow. The only file of the probe that touches the network.
//!
//! Every wait ends at a deadline, and the server's certificate is verified before a byte of HTTP
//! is sent. Sockets block: connections come one after the other, so that none disturbs the pace of
//! another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::ssl::{
    self, ErrorCode, ExtensionContext, HandshakeError, Ssl, SslAlert, SslContext,
    SslContextBuilder, SslMethod, SslRef, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509VerifyResult};
use url::Host;

use super::offer::{Limit, Offer, Version};
use super::seen::{Chain, Connection, End, Handshake, Head, Response, Seen};
use super::tap::Tap;
use super::target::Target;
use super::{Bounds, ProbeError};

/// How long a TCP connection, a TLS handshake and the first byte of an answer may take each. A
/// device on a slow link is more patient; a person at a terminal is not.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server has to close a connection after `Connection: close` and a whole response.
const TO_CLOSE: Duration = Duration::from_secs(2);

/// Bytes of a response head, as most servers have it.
const HEAD_LIMIT: usize = 64 * 1024;

/// One read takes the largest record there is (RFC 8446 §5.1).
const LARGEST_RECORD: usize = 16 * 1024;

/// Key exchange groups of small devices. ML-KEM, which OpenSSL would add, they do not have.
const GROUPS: &str = "X25519:P-256:P-384";

/// TLS 1.3 suites: the one that every device has first.
const SUITES_TLS13: &str =
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";

/// TLS 1.2 suites: what devices offer first, then whatever else a server may need.
const SUITES: &str =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:HIGH:!aNULL:!PSK:!SRP";

/// Whom to ask, and whom to trust.
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
    /// What makes further connections pointless: a certificate that is not trusted, or an OpenSSL
    /// that refuses a setting.
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
        let mut ssl = self.ssl(offer)?;
        let tap = Tap::attach(&mut ssl, offer.version)?;
        let stream = Timed { tcp, deadline: Instant::now() + PATIENCE };
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
        let chain = chain(stream.ssl());
        let response = self
            .exchange(&mut stream, &tap, bounds)
            .map(|(head, end)| Response::of(&tap.log(), offer.version, cipher, head, end));
        // Only now, because tickets come after the handshake.
        let handshake = Handshake::of(&tap.log(), offer, cipher, chain);
        Ok(Connection { offer, outcome: Ok(Seen { handshake, response }) })
    }

    fn ssl(&self, offer: Offer) -> Result<Ssl, ErrorStack> {
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        let version = match offer.version {
            Version::Tls12 => SslVersion::TLS1_2,
            Version::Tls13 => SslVersion::TLS1_3,
        };
        context.set_min_proto_version(Some(version))?;
        context.set_max_proto_version(Some(version))?;
        context.set_cipher_list(SUITES)?;
        context.set_ciphersuites(SUITES_TLS13)?;
        context.set_groups_list(GROUPS)?;
        context.set_verify(SslVerifyMode::PEER);
        // A vendored OpenSSL does not know where the system keeps its certificates.
        let system = openssl_probe::probe();
        trust(&mut context, system.cert_file, system.cert_dir);
        for authority in self.authorities {
            context.cert_store_mut().add_cert(authority.clone())?;
        }
        if !self.authorities.is_empty() {
            // What the user names is trusted as it is, be it the server's own certificate.
            context.verify_param_mut().set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        }
        if let Some(Limit::RecordSizeLimit(value)) = offer.limit {
            offer_record_size_limit(&mut context, value)?;
        }

        let mut ssl = Ssl::new(&context.build())?;
        if let Some(Limit::MaxFragmentLength(length)) = offer.limit {
            offer_max_fragment_length(&mut ssl, length)?;
        }
        match self.target.host() {
            Host::Domain(name) => {
                ssl.set_hostname(name)?;
                ssl.param_mut().set_host(name)?;
            }
            Host::Ipv4(ip) => ssl.param_mut().set_ip((*ip).into())?,
            Host::Ipv6(ip) => ssl.param_mut().set_ip((*ip).into())?,
        }
        Ok(ssl)
    }

    /// Sends the request and reads the answer.
    fn exchange(
        &self,
        stream: &mut SslStream<Timed>,
        tap: &Tap,
        bounds: Bounds,
    ) -> Result<(Head, End), String> {
        stream.get_mut().deadline = Instant::now() + PATIENCE;
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
                Got::Data => {}
                Got::Nothing => return Err(in_words(&io::ErrorKind::TimedOut.into())),
                Got::CloseNotify | Got::Closed => return Err("the server closed".into()),
                Got::Broken(reason) => return Err(reason),
            }
        };
        stream.get_mut().deadline = Instant::now() + bounds.time;
        let end = loop {
            if head.ends(&received) {
                break End::Complete { close_notify: close_notify(stream, tap) };
            }
            if received.len() - head.length >= bounds.bytes {
                break End::Bounded;
            }
            match read(stream, tap, &mut received) {
                Got::Data => {}
                Got::Nothing => break End::Bounded,
                Got::CloseNotify if head.ends_with_connection() => {
                    break End::Complete { close_notify: Some(true) };
                }
                Got::Closed if head.ends_with_connection() => {
                    break End::Complete { close_notify: Some(false) };
                }
                Got::CloseNotify | Got::Closed => {
                    break End::Broken("the server closed before the end of the body".into());
                }
                Got::Broken(reason) => break End::Broken(reason),
            }
        };
        Ok((head, end))
    }
}

/// Connects.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Adds the system's certificates; one place that cannot be read is no reason to stop, since
/// another, or an authority of the user's, may do.
fn trust(context: &mut SslContextBuilder, file: Option<PathBuf>, dirs: Vec<PathBuf>) {
    if let Some(file) = file {
        let _ = context.load_verify_locations(Some(&file), None);
    }
    for dir in dirs {
        let _ = context.load_verify_locations(None, Some(&dir));
    }
}

/// RFC 8449: no OpenSSL has it, so it goes out as a custom extension.
fn offer_record_size_limit(context: &mut SslContextBuilder, value: u16) -> Result<(), ErrorStack> {
    context.add_custom_ext(
        Limit::RecordSizeLimit(value).extension(),
        ExtensionContext::CLIENT_HELLO
            | ExtensionContext::TLS1_2_SERVER_HELLO
            | ExtensionContext::TLS1_3_ENCRYPTED_EXTENSIONS,
        move |_, _, _| Ok(Some(value.to_be_bytes())),
        // The answer is read off the message.
        |_, _, _, _| Ok(()),
    )
}

unsafe extern "C" {
    // In libssl since 1.1.1 (SSL_set_tlsext_max_fragment_length(3)); not in openssl-sys.
    fn SSL_set_tlsext_max_fragment_length(ssl: *mut openssl_sys::SSL, mode: u8) -> libc::c_int;
}

fn offer_max_fragment_length(ssl: &mut Ssl, length: u16) -> Result<(), ErrorStack> {
    use foreign_types_shared::ForeignType;
    // 512 is 1, 1024 is 2, 2048 is 3, 4096 is 4 (RFC 6066 §4).
    let code = u8::try_from((length / 512).ilog2() + 1).unwrap_or(0);
    // SAFETY: `ssl` is alive, and the call stores a byte in it.
    match unsafe { SSL_set_tlsext_max_fragment_length(ssl.as_ptr(), code) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

fn chain(ssl: &SslRef) -> Chain {
    let certificates = ssl.peer_cert_chain();
    let sizes: Vec<usize> = certificates
        .into_iter()
        .flatten()
        .map(|certificate| certificate.to_der().map_or(0, |der| der.len()))
        .collect();
    let key = ssl.peer_certificate().and_then(|leaf| leaf.public_key().ok());
    Chain {
        certificates: sizes.len(),
        bytes: sizes.iter().sum(),
        key: key.map_or_else(|| "unknown".into(), |key| key_name(&key)),
    }
}

fn key_name(key: &PKeyRef<Public>) -> String {
    match key.id() {
        Id::RSA => format!("RSA {}", key.bits()),
        Id::RSA_PSS => format!("RSA-PSS {}", key.bits()),
        Id::EC => format!("EC P-{}", key.bits()),
        Id::ED25519 => "Ed25519".into(),
        Id::ED448 => "Ed448".into(),
        _ => format!("{} bits", key.bits()),
    }
}

/// What one read brought.
enum Got {
    /// The contents of one record, appended.
    Data,
    /// Nothing until the deadline.
    Nothing,
    CloseNotify,
    /// The end of the connection without close_notify.
    Closed,
    Broken(String),
}

fn read(stream: &mut SslStream<Timed>, tap: &Tap, into: &mut Vec<u8>) -> Got {
    let mut buffer = [0; LARGEST_RECORD];
    let error = match stream.ssl_read(&mut buffer) {
        Ok(bytes) => {
            tap.read(bytes, Instant::now());
            into.extend_from_slice(&buffer[..bytes]);
            return Got::Data;
        }
        Err(error) => error,
    };
    match error.io_error().map(io::Error::kind) {
        _ if error.code() == ErrorCode::ZERO_RETURN => Got::CloseNotify,
        Some(io::ErrorKind::TimedOut) => Got::Nothing,
        _ if is_eof(&error) => Got::Closed,
        _ => Got::Broken(reason(&error)),
    }
}

/// Waits a little for the server to say that it is done.
fn close_notify(stream: &mut SslStream<Timed>, tap: &Tap) -> Option<bool> {
    stream.get_mut().deadline = Instant::now() + TO_CLOSE;
    let mut surplus = Vec::new();
    match read(stream, tap, &mut surplus) {
        Got::CloseNotify => Some(true),
        Got::Closed | Got::Broken(_) => Some(false),
        // Data behind the end of a response belongs to no response.
        Got::Data | Got::Nothing => None,
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
        let left = self.deadline.saturating_duration_since(Instant::now());
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
