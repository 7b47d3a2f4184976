//! The tap on a TLS connection: OpenSSL's message callback, which reports each record header and each
//! handshake message as it is processed, decrypted ones of TLS 1.3 included.
//!
//! Invariant: the log contains what OpenSSL reported, in that order. This file must not know what it
//! means.

#![expect(
    unsafe_code,
    reason = "OpenSSL's message callback, which the openssl crate has no safe wrapper for"
)]

use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use foreign_types_shared::{ForeignType, ForeignTypeRef};
use libc::{c_int, c_void, size_t};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef};

use super::offer::Version;

/// Content types of records (RFC 8446 §5.1).
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Handshake message types (RFC 8446 §4).
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const ENCRYPTED_EXTENSIONS: u8 = 8;

// openssl/ssl3.h: what the callback calls a record header and TLS 1.3's inner content type.
const SSL3_RT_HEADER: c_int = 256;
const SSL3_RT_INNER_CONTENT_TYPE: c_int = 257;

/// A record that the server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// The content type; of an encrypted record of TLS 1.3, the one inside.
    pub(super) kind: u8,
    /// Bytes after the header, encrypted or not.
    pub(super) length: usize,
    /// Whether they are encrypted.
    pub(super) sealed: bool,
    /// Application data only: how many bytes it contained, and when they arrived.
    pub(super) content: Option<(usize, Instant)>,
}

/// A handshake message that the server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// Its type.
    pub(super) kind: u8,
    /// Its bytes, the four of its header included.
    pub(super) length: usize,
    /// The handshake records that had come when it was complete.
    pub(super) after: usize,
}

/// What the server sent so far, in order.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) records: Vec<Record>,
    pub(super) messages: Vec<Message>,
    /// The messages that may answer an extension, whole.
    pub(super) answers: Vec<Vec<u8>>,
}

impl Log {
    fn header(&mut self, version: Version, header: &[u8]) {
        let &[kind, _, _, high, low] = header else { return };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let sealed = match version {
            Version::Tls13 => kind == APPLICATION_DATA,
            Version::Tls12 => self.records.iter().any(|r| r.kind == CHANGE_CIPHER_SPEC),
        };
        self.records.push(Record { kind, length, sealed, content: None });
    }

    fn inner_type(&mut self, kind: &[u8]) {
        if let (Some(record), [kind]) = (self.records.last_mut(), kind) {
            record.kind = *kind;
        }
    }

    fn message(&mut self, message: &[u8]) {
        let Some(&kind) = message.first() else { return };
        let after = self.records.iter().filter(|record| record.kind == HANDSHAKE).count();
        self.messages.push(Message { kind, length: message.len(), after });
        if matches!(kind, SERVER_HELLO | ENCRYPTED_EXTENSIONS) {
            self.answers.push(message.to_vec());
        }
    }
}

/// A handle on the log of one connection.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    version: Version,
    log: Arc<Mutex<Log>>,
}

impl Tap {
    /// Listens to `ssl`, which is about to negotiate `version` and no other.
    pub(super) fn attach(ssl: &mut Ssl, version: Version) -> Result<Self, ErrorStack> {
        let tap = Self { version, log: Arc::default() };
        ssl.set_ex_data(index()?, tap.clone());
        // SAFETY: `ssl` is alive. The callback takes its data from the Ssl that it is called with, which
        // owns a handle of its own, so no pointer from here has to stay valid.
        unsafe { SSL_set_msg_callback(ssl.as_ptr(), Some(on_message)) };
        Ok(tap)
    }

    /// What was seen so far.
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the application data of the latest record was read: a read returns the contents of at
    /// most one record (SSL_read(3)), and a buffer of 16 KB is large enough for all of it.
    pub(super) fn read(&self, bytes: usize, at: Instant) {
        let mut log = self.log();
        let record = log.records.iter_mut().rfind(|record| record.kind == APPLICATION_DATA);
        if let Some(record) = record {
            record.content = Some((bytes, at));
        }
    }
}

/// Where an `Ssl` keeps its tap.
fn index() -> Result<Index<Ssl, Tap>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Tap>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    // Two threads at the same time would each create one, and use the first.
    let fresh = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| fresh))
}

type MessageCallback = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    *const c_void,
    size_t,
    *mut openssl_sys::SSL,
    *mut c_void,
);

unsafe extern "C" {
    // In libssl since 1.0 (SSL_set_msg_callback(3)); the openssl-sys crate does not name it.
    fn SSL_set_msg_callback(ssl: *mut openssl_sys::SSL, callback: Option<MessageCallback>);
}

/// Called by OpenSSL for every record header, inner content type and message, sent or received.
unsafe extern "C" fn on_message(
    sent: c_int,
    _version: c_int,
    content_type: c_int,
    bytes: *const c_void,
    length: size_t,
    ssl: *mut openssl_sys::SSL,
    _argument: *mut c_void,
) {
    if sent != 0 || bytes.is_null() || ssl.is_null() {
        return;
    }
    // SAFETY: OpenSSL calls this from within a call on `ssl`, which is therefore alive; the
    // reference is gone when this returns, and reads nothing but the tap, which nobody replaces.
    let ssl = unsafe { SslRef::from_ptr(ssl) };
    // SAFETY: OpenSSL hands over `length` readable bytes that stay as they are during this call.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) };
    let Some(tap) = index().ok().and_then(|index| ssl.ex_data(index)) else { return };
    let mut log = tap.log();
    match content_type {
        SSL3_RT_HEADER => log.header(tap.version, bytes),
        SSL3_RT_INNER_CONTENT_TYPE => log.inner_type(bytes),
        other if other == c_int::from(HANDSHAKE) => log.message(bytes),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_tls_1_2_change_cipher_spec_begins_encryption() {
        let mut log = Log::default();
        for kind in [22, 20, 22, 23] {
            log.header(Version::Tls12, &[kind, 3, 3, 1, 2]);
        }
        let sealed: Vec<bool> = log.records.iter().map(|record| record.sealed).collect();
        assert_eq!(sealed, [false, false, true, true]);
        assert_eq!(log.records[0].length, 258);
    }

    #[test]
    fn in_tls_1_3_the_type_is_inside() {
        let mut log = Log::default();
        log.header(Version::Tls13, &[22, 3, 3, 0, 9]);
        // The dummy between HelloRetryRequest and ServerHello (RFC 8446 §D.4) encrypts nothing.
        log.header(Version::Tls13, &[20, 3, 3, 0, 1]);
        log.header(Version::Tls13, &[22, 3, 3, 0, 9]);
        log.header(Version::Tls13, &[23, 3, 3, 0, 9]);
        log.inner_type(&[HANDSHAKE]);
        let kinds: Vec<_> = log.records.iter().map(|record| (record.kind, record.sealed)).collect();
        assert_eq!(kinds, [(22, false), (20, false), (22, false), (22, true)]);
    }
}
