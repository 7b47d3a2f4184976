//! Reads a ClientHello (RFC 8446 §4.1.2) before OpenSSL acts on it: the server name, the limit that the
//! client asks for, and whether it can speak TLS 1.2.
//!
//! Everything read here comes from the network: what does not parse counts as absent, and OpenSSL, which
//! reads it afterwards, refuses the handshake with the right alert. This file must not know what is
//! decided by it.

use openssl::ssl::{SslRef, SslVersion};

use super::openssl_gaps as gaps;
use super::record::MaxFragmentLength;

const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server name, in lower case.
    pub server_name: Option<String>,
    /// The record limit that the client asks for.
    pub max_fragment_length: Option<MaxFragmentLength>,
    /// Whether the client can speak TLS 1.2.
    pub speaks_tls12: bool,
}

/// Reads the ClientHello that is being processed. To be called only from the ClientHello callback.
pub fn read(ssl: &mut SslRef) -> Hello {
    let server_name = gaps::client_hello_extension(ssl, SERVER_NAME).and_then(server_name);
    let mfl = gaps::client_hello_extension(ssl, MaxFragmentLength::TYPE);
    let max_fragment_length = mfl.and_then(MaxFragmentLength::parse);
    // Without supported_versions the client is one of TLS 1.2 or older (RFC 8446 §4.2.1).
    let names_tls12 = match gaps::client_hello_extension(ssl, SUPPORTED_VERSIONS) {
        Some(versions) => offers_version(versions, 0x0303),
        None => ssl.client_hello_legacy_version() == Some(SslVersion::TLS1_2),
    };
    let speaks_tls12 = names_tls12 && ssl.client_hello_ciphers().is_some_and(has_tls12_suite);
    Hello { server_name, max_fragment_length, speaks_tls12 }
}

/// The first host name of a server_name extension (RFC 6066 §3), in lower case.
#[must_use]
pub fn server_name(data: &[u8]) -> Option<String> {
    let (list, rest) = vector16(data)?;
    let (kind, list) = list.split_first()?;
    let (name, _) = vector16(list)?;
    let wanted = *kind == 0 && rest.is_empty() && !name.is_empty() && name.is_ascii();
    wanted.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Whether a supported_versions extension (RFC 8446 §4.2.1) has that version.
#[must_use]
pub fn offers_version(data: &[u8], version: u16) -> bool {
    let Some((length, versions)) = data.split_first() else { return false };
    usize::from(*length) == versions.len()
        && versions.chunks_exact(2).any(|v| u16::from_be_bytes([v[0], v[1]]) == version)
}

/// Whether one of the suites is accepted by this server in TLS 1.2: ECDHE with AES-GCM (RFC 5289) or
/// ChaCha20 (RFC 7905), all of which begin with one of two bytes.
#[must_use]
pub fn has_tls12_suite(suites: &[u8]) -> bool {
    suites.chunks_exact(2).any(|suite| matches!(suite[0], 0xc0 | 0xcc))
}

/// Splits off a vector that begins with its length in two bytes (RFC 8446 §3.4).
fn vector16(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_server_name_is_read_as_rfc_6066_writes_it() {
        assert_eq!(server_name(b"\x00\x07\x00\x00\x04A.io").as_deref(), Some("a.io"));
        for wrong in [
            &b""[..],
            b"\x00\x07",
            b"\x00\x07\x01\x00\x04a.io",     // another kind of name
            b"\x00\x08\x00\x00\x04a.io",     // the list is shorter than it says
            b"\x00\x07\x00\x00\x05a.io",     // the name is
            b"\x00\x03\x00\x00\x00",         // empty
            b"\x00\x07\x00\x00\x04a.io\x00", // something after the list
            b"\x00\x04\x00\x00\x01\xff",     // not ASCII
        ] {
            assert_eq!(server_name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn versions_are_found() {
        assert!(offers_version(&[4, 3, 4, 3, 3], 0x0303));
        assert!(!offers_version(&[2, 3, 4], 0x0303));
        assert!(!offers_version(&[4, 3, 4, 3], 0x0303));
        assert!(!offers_version(&[], 0x0303));
        assert!(!offers_version(&[3, 3, 3, 3], 0x0304));
    }

    #[test]
    fn a_list_of_tls13_suites_is_no_tls12() {
        assert!(has_tls12_suite(&[0x13, 0x01, 0xc0, 0x2b]));
        assert!(has_tls12_suite(&[0xcc, 0xa9]));
        assert!(!has_tls12_suite(&[0x13, 0x01, 0x13, 0x03, 0x00, 0xff, 0x5a, 0x5a, 0xc0]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = server_name(&data);
            let _ = offers_version(&data, 0x0303);
            let _ = has_tls12_suite(&data);
        }
    }
}
