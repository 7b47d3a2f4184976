//! A TCP relay that looks at the records passing through: what a server really sent to a client of
//! which only the exit code is known.
//!
//! Record headers are in the clear, so the size of an encrypted record's plaintext follows from
//! version and suite, which the ServerHello names (RFC 5246 §6.2.1 and §7.4.1.3, RFC 8446 §5.2 and
//! §4.1.3). Padding would be counted as plaintext.
//!
//! Invariant: nothing is changed on the way.
//!
//! It must not know keys, HTTP or dripline.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;

const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;

/// A relay in front of one server. Its port goes when it is dropped.
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    sent: Sent,
    accepting: JoinHandle<()>,
}

/// What the server sent, of each connection.
type Sent = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

impl Relay {
    /// Listens on a free port and passes everything on to `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, sent) = (listener.local_addr().unwrap(), Sent::default());
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&sent)));
        Self { addr, sent, accepting }
    }

    /// The port, as an argument.
    pub fn port(&self) -> String {
        self.addr.port().to_string()
    }

    /// Every connection so far, as far as the server spoke.
    pub fn conversations(&self) -> Vec<Conversation> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|bytes| Conversation::of(&bytes.lock().unwrap())).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, sent: Sent) {
    while let Ok((client, _)) = listener.accept().await {
        let bytes = Arc::default();
        sent.lock().unwrap().push(Arc::clone(&bytes));
        tokio::spawn(pass(client, server, bytes));
    }
}

async fn pass(client: TcpStream, server: SocketAddr, bytes: Arc<Mutex<Vec<u8>>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async move {
        let mut piece = vec![0; 32 * 1024];
        while let Ok(n @ 1..) = from_server.read(&mut piece).await {
            bytes.lock().unwrap().extend_from_slice(&piece[..n]);
            if to_client.write_all(&piece[..n]).await.is_err() {
                return;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}

/// One record of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The content type in its header.
    pub content_type: u8,
    /// Plaintext bytes.
    pub plaintext: usize,
}

/// What a server sent on one connection.
#[derive(Debug, Default)]
pub struct Conversation {
    /// 0x0303 or 0x0304; 0 without a ServerHello.
    pub version: u16,
    /// Whether it resumed a session.
    pub resumed: bool,
    /// Its complete records.
    pub records: Vec<Record>,
}

impl Conversation {
    fn of(bytes: &[u8]) -> Self {
        let mut read = Self::default();
        let (mut suite, mut clear, mut sealed, mut rest) = (0, Vec::new(), false, bytes);
        while let Some((&[content_type, _, _, high, low], after)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some((fragment, after)) = after.split_at_checked(length) else { break };
            rest = after;
            if content_type == HANDSHAKE && !sealed {
                clear.extend_from_slice(fragment);
                if let Some(hello) = Hello::in_messages(&clear) {
                    (read.version, suite) = (hello.version, hello.suite);
                }
            }
            sealed |= content_type == APPLICATION_DATA;
            let hidden = if sealed && content_type != CHANGE_CIPHER_SPEC {
                overhead(read.version, suite)
            } else {
                0
            };
            let plaintext = length.checked_sub(hidden).expect("a record with its overhead");
            read.records.push(Record { content_type, plaintext });
            // In TLS 1.3 this record means nothing (RFC 8446 §5).
            sealed |= content_type == CHANGE_CIPHER_SPEC && read.version < 0x0304;
        }
        read.resumed = match read.version {
            0 => false,
            0x0304 => Hello::in_messages(&clear).is_some_and(|hello| hello.pre_shared_key),
            _ => !messages(&clear).any(|(kind, _)| kind == CERTIFICATE),
        };
        read
    }

    /// The largest plaintext of all records.
    pub fn largest(&self) -> usize {
        self.records.iter().map(|record| record.plaintext).max().unwrap_or(0)
    }
}

/// What a suite adds to the plaintext of an encrypted record.
fn overhead(version: u16, suite: u16) -> usize {
    match (version, suite) {
        (0x0304, 0x1305) => 1 + 8,      // content type and short tag
        (0x0304, _) => 1 + 16,          // content type and tag (RFC 8446 §5.2)
        (_, 0xCCA8..=0xCCAA) => 16,     // tag (RFC 7905 §2)
        (_, 0xC0AE | 0xC0AF) => 8 + 8,  // explicit nonce and short tag (RFC 7251)
        (_, 0xC0AC | 0xC0AD) => 8 + 16, // explicit nonce and tag
        (_, 0xC02B | 0xC02C | 0xC02F | 0xC030) => 8 + 16, // the same (RFC 5288 §3)
        _ => panic!("suite {suite:#06x} of version {version:#06x}"),
    }
}

/// Complete handshake messages: type and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, a, b, c], after) = bytes.split_first_chunk()?;
        let (body, rest) = after.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)?;
        bytes = rest;
        Some((kind, body))
    })
}

/// What a ServerHello says.
struct Hello {
    version: u16,
    suite: u16,
    pre_shared_key: bool,
}

impl Hello {
    /// The last one, which follows a HelloRetryRequest if there was one.
    fn in_messages(bytes: &[u8]) -> Option<Self> {
        let (_, body) = messages(bytes).filter(|(kind, _)| *kind == SERVER_HELLO).last()?;
        let u16_at = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        // version, random, session id; then suite, compression, extensions
        let at = 2 + 32 + 1 + usize::from(*body.get(2 + 32)?);
        let mut hello = Self { version: u16_at(0)?, suite: u16_at(at)?, pre_shared_key: false };
        let mut at = at + 2 + 1 + 2;
        while let (Some(kind), Some(length)) = (u16_at(at), u16_at(at + 2)) {
            match kind {
                SUPPORTED_VERSIONS => hello.version = u16_at(at + 4)?,
                PRE_SHARED_KEY => hello.pre_shared_key = true,
                _ => {}
            }
            at += 4 + usize::from(length);
        }
        Some(hello)
    }
}
