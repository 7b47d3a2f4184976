//! A TLS client that sees its own wire: the records as their headers announce them, with the time
//! of each one's last byte (RFC 8446 §5.1, RFC 5246 §6.2.1).

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslSession, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_openssl::SslStream;

/// One record that the server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The content type in the header: 20 change_cipher_spec, 21 alert, 22 handshake, 23
    /// application data (in TLS 1.3 whatever is encrypted).
    pub content_type: u8,
    /// Plaintext bytes.
    pub plaintext: usize,
    /// When its last byte arrived.
    pub at: Instant,
}

/// What a version and its AES-128-GCM suite add to the plaintext of an encrypted record.
fn overhead(version: SslVersion) -> usize {
    if version == SslVersion::TLS1_3 {
        1 + 16 // content type and tag (RFC 8446 §5.2)
    } else {
        8 + 16 // explicit nonce and tag (RFC 5288 §3)
    }
}

/// What was read, piece by piece, and when.
type Seen = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// What a client offers, and which certificates it trusts.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    /// The oldest and the newest version.
    pub versions: (SslVersion, SslVersion),
    /// The server name it asks for.
    pub server_name: Option<&'a str>,
    /// Signature algorithms in OpenSSL's notation; OpenSSL's own list by default.
    pub sigalgs: Option<&'a str>,
    /// Cipher suites of TLS 1.2, each with AES-128-GCM.
    pub ciphers: &'a str,
    /// The code of a max_fragment_length, 1 to 4.
    pub max_fragment_length: Option<u8>,
    /// Certificates to trust, PEM. Without them any server certificate is accepted.
    pub trust: Option<&'a [u8]>,
    /// The address it comes from.
    pub from: Option<IpAddr>,
    /// A connection whose last session it resumes.
    pub resume: Option<&'a Client>,
}

impl Default for Offer<'_> {
    /// Offers both versions, sends no server name and no extension about record sizes, and accepts any
    /// certificate.
    fn default() -> Self {
        Self {
            versions: (SslVersion::TLS1_2, SslVersion::TLS1_3),
            server_name: None,
            sigalgs: None,
            ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
            max_fragment_length: None,
            trust: None,
            from: None,
            resume: None,
        }
    }
}

unsafe extern "C" {
    fn SSL_set_tlsext_max_fragment_length(ssl: *mut openssl_sys::SSL, mode: u8) -> i32;
}

/// A connected client.
pub struct Client {
    /// Reads and writes plaintext.
    pub stream: SslStream<Tap>,
    context: SslContext,
    version: SslVersion,
    seen: Seen,
    sessions: Arc<Mutex<Vec<SslSession>>>,
}

impl Client {
    /// Connects, trusting `cert` alone, and completes the handshake.
    pub async fn connect(addr: SocketAddr, version: SslVersion, cert: &[u8]) -> Self {
        let offer = Offer {
            versions: (version, version),
            server_name: Some("localhost"),
            trust: Some(cert),
            ..Offer::default()
        };
        Self::offering(addr, &offer).await
    }

    /// Connects with that offer, and completes the handshake.
    pub async fn offering(addr: SocketAddr, offer: &Offer<'_>) -> Self {
        let sessions = offer.resume.map_or_else(Arc::default, |old| Arc::clone(&old.sessions));
        let context =
            offer.resume.map_or_else(|| context(offer, &sessions), |old| old.context.clone());
        let mut ssl = Ssl::new(&context).unwrap();
        if let Some(name) = offer.server_name {
            ssl.set_hostname(name).unwrap();
            ssl.param_mut().set_host(name).unwrap();
        }
        if let Some(code) = offer.max_fragment_length {
            let ssl = foreign_types_shared::ForeignType::as_ptr(&ssl);
            // SAFETY: the connection is alive, and the call takes no pointer but that.
            assert_eq!(unsafe { SSL_set_tlsext_max_fragment_length(ssl, code) }, 1);
        }
        if let Some(old) = offer.resume {
            let session = old.sessions().pop().expect("a session to resume");
            // SAFETY: it belongs to the same context.
            unsafe { ssl.set_session(&session) }.unwrap();
        }
        let socket =
            if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        if let Some(from) = offer.from {
            socket.bind(SocketAddr::new(from, 0)).unwrap();
        }
        let tcp = socket.connect(addr).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let seen = Seen::default();
        let tap = Tap { inner: tcp, seen: Arc::clone(&seen) };
        let mut stream = SslStream::new(ssl, tap).unwrap();
        Pin::new(&mut stream).connect().await.unwrap();
        let version = stream.ssl().version2().unwrap();
        Self { stream, context, version, seen, sessions }
    }

    /// The version that was agreed on.
    pub fn version(&self) -> SslVersion {
        self.version
    }

    /// The sessions that the server has given so far: in TLS 1.3 one for each ticket that was read.
    pub fn sessions(&self) -> Vec<SslSession> {
        self.sessions.lock().unwrap().clone()
    }

    /// The certificates that the server showed, leaf first, each in DER.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        let chain = self.stream.ssl().peer_cert_chain().expect("a chain");
        chain.iter().map(|cert| cert.to_der().unwrap()).collect()
    }

    /// Everything that was read, record headers included.
    pub fn received(&self) -> Vec<u8> {
        self.seen.lock().unwrap().iter().flat_map(|(_, piece)| piece.iter().copied()).collect()
    }

    /// Every complete record so far.
    pub fn records(&self) -> Vec<Record> {
        let seen = self.seen.lock().unwrap();
        let bytes: Vec<u8> = seen.iter().flat_map(|(_, piece)| piece.iter().copied()).collect();
        let mut arrivals = Vec::new(); // (end offset, time) of every piece
        for (at, piece) in seen.iter() {
            arrivals.push((arrivals.last().map_or(0, |(end, _)| *end) + piece.len(), *at));
        }
        let (mut records, mut offset, mut encrypted) = (Vec::new(), 0, false);
        while bytes.len() >= offset + 5 {
            let content_type = bytes[offset];
            let length = usize::from(u16::from_be_bytes([bytes[offset + 3], bytes[offset + 4]]));
            let end = offset + 5 + length;
            if end > bytes.len() {
                break;
            }
            // Encryption begins with type 23 in TLS 1.3, after change_cipher_spec in TLS 1.2.
            let sealed =
                if self.version == SslVersion::TLS1_3 { content_type == 23 } else { encrypted };
            let plaintext = length - if sealed { overhead(self.version) } else { 0 };
            let at = arrivals.iter().find(|(piece, _)| *piece >= end).unwrap().1;
            records.push(Record { content_type, plaintext, at });
            encrypted |= content_type == 20;
            offset = end;
        }
        records
    }

    /// The records that carried the last `bytes` bytes of application data, in order: those before
    /// them belong to the handshake and its tickets.
    pub fn application(&self, bytes: usize) -> Vec<Record> {
        let records = self.records();
        let (mut left, mut first) = (bytes, records.len());
        while left > 0 {
            first -= 1;
            let record = records[first];
            assert_eq!(record.content_type, 23);
            left = left.checked_sub(record.plaintext).expect("records that add up");
        }
        records[first..].to_vec()
    }
}

/// Everything about a client but the connection; `sessions` gets those that the server gives.
fn context(offer: &Offer<'_>, sessions: &Arc<Mutex<Vec<SslSession>>>) -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    context.set_min_proto_version(Some(offer.versions.0)).unwrap();
    context.set_max_proto_version(Some(offer.versions.1)).unwrap();
    context.set_ciphersuites("TLS_AES_128_GCM_SHA256").unwrap();
    context.set_cipher_list(offer.ciphers).unwrap();
    if let Some(sigalgs) = offer.sigalgs {
        context.set_sigalgs_list(sigalgs).unwrap();
    }
    context.set_verify(SslVerifyMode::NONE);
    if let Some(trust) = offer.trust {
        context.set_verify(SslVerifyMode::PEER);
        for certificate in X509::stack_from_pem(trust).unwrap() {
            context.cert_store_mut().add_cert(certificate).unwrap();
        }
    }
    let sessions = Arc::clone(sessions);
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    context.set_new_session_callback(move |_, session| sessions.lock().unwrap().push(session));
    context.build()
}

/// A socket that remembers what it read, and when.
pub struct Tap {
    inner: TcpStream,
    seen: Seen,
}

impl Tap {
    /// Makes the end of this connection an RST instead of a FIN.
    pub fn reset_on_close(&self) {
        socket2::SockRef::from(&self.inner).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.seen.lock().unwrap().push((Instant::now(), new.to_vec()));
        }
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
