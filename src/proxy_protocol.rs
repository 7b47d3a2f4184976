//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt). Before anything else, TLS included,
//! a load balancer sends a header that says whose connection it passes on.
//!
//! Invariants: a header is accepted only from a configured network, and a connection from there must begin
//! with one. No byte after the header is read, and never more than [`V1_MAX`] or 16 + [`V2_MAX`] bytes.
//!
//! This file must not know what comes after the header, nor who limits the time.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::networks::Networks;

/// The longest header of version 1, its CRLF included ("107 chars" in the specification).
pub const V1_MAX: usize = 107;

/// The most bytes of addresses and TLVs that a header of version 2 may announce. AWS sends some 80;
/// with the certificate details of an outer TLS a few hundred.
pub const V2_MAX: usize = 4096;

/// The fixed part of a version 2 header: signature, version, family and length.
const V2_FIXED: usize = 16;

/// How a version 1 header begins; version 2's counterpart is [`v2::PROTOCOL_PREFIX`].
const V1_PREFIX: &[u8] = b"PROXY ";

/// Whose headers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The networks of the load balancers.
    pub from: Networks,
}

impl Trusted {
    /// Whether a connection from that address must begin with a header.
    #[must_use]
    pub fn has(&self, peer: IpAddr) -> bool {
        self.from.contains(peer)
    }
}

/// Why there is no valid header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with other bytes.
    #[error("no PROXY header")]
    Missing,
    /// It is longer than it may be.
    #[error("a PROXY header of more than {0} bytes")]
    TooLong(usize),
    /// It is no valid header of version 1.
    #[error("bad PROXY header: {0}")]
    V1(#[from] v1::BinaryParseError),
    /// It is no valid header of version 2.
    #[error("bad PROXY header: {0}")]
    V2(#[from] v2::ParseError),
    /// The connection broke or ended.
    #[error("while reading a PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header that a connection begins with, and not a byte more. Returns the client's address; None if
/// the header says that the connection is the sender's own (LOCAL, UNKNOWN) or has no IP address.
///
/// # Errors
///
/// If something else comes, or the connection ends.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut head = Vec::new();
    if begin(from, &mut head).await? { finish(from, head).await } else { Err(HeaderError::Missing) }
}

/// Skips a header if there is one. If there is none, returns the bytes that were read; they belong to what
/// follows.
///
/// # Errors
///
/// If a header begins and is not valid, or the connection breaks.
pub async fn skip(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, HeaderError> {
    let mut head = Vec::new();
    match begin(from, &mut head).await {
        Ok(true) => finish(from, head).await.map(|_| Vec::new()),
        Ok(false) => Ok(head),
        // The next reader sees the end of the connection.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(head),
        Err(e) => Err(e.into()),
    }
}

/// Reads until it is clear whether this is a header's beginning; byte by byte, since the shortest
/// request may be shorter than a signature.
async fn begin(from: &mut (impl AsyncRead + Unpin), head: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        head.push(from.read_u8().await?);
        let is = |prefix: &[u8]| prefix.starts_with(head);
        if !is(V1_PREFIX) && !is(v2::PROTOCOL_PREFIX) {
            return Ok(false);
        }
        if head.len() == V1_PREFIX.len() && head == V1_PREFIX
            || head.len() == v2::PROTOCOL_PREFIX.len()
        {
            return Ok(true);
        }
    }
}

/// Reads the rest of a header that has begun.
async fn finish(
    from: &mut (impl AsyncRead + Unpin),
    mut head: Vec<u8>,
) -> Result<Option<SocketAddr>, HeaderError> {
    if head == V1_PREFIX {
        while !head.ends_with(b"\r\n") {
            if head.len() == V1_MAX {
                return Err(HeaderError::TooLong(V1_MAX));
            }
            head.push(from.read_u8().await?);
        }
        return parse(&head);
    }
    let begun = head.len();
    head.resize(V2_FIXED, 0);
    from.read_exact(&mut head[begun..]).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > V2_MAX {
        return Err(HeaderError::TooLong(V2_FIXED + V2_MAX));
    }
    head.resize(V2_FIXED + length, 0);
    from.read_exact(&mut head[V2_FIXED..]).await?;
    parse(&head)
}

/// The client's address in a complete header; None if the connection is the sender's own.
///
/// # Errors
///
/// If it is no header of version 1 or 2.
pub fn parse(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    if !header.starts_with(V1_PREFIX) {
        let header = v2::Header::try_from(header)?;
        return Ok(match (header.command, header.addresses) {
            (v2::Command::Local, _) => None,
            (_, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
            (_, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
            (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        });
    }
    // "the receiver must ignore anything presented before the CRLF" (§2.1), which the parser does
    // not for more than four words.
    if header.starts_with(b"PROXY UNKNOWN\r\n") || header.starts_with(b"PROXY UNKNOWN ") {
        return Ok(None);
    }
    Ok(match v1::Header::try_from(header)?.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A version 2 header with that command and family, and so many bytes of TLVs.
    fn binary(command: u8, family: u8, addresses: &[u8], tlvs: usize) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(addresses.len() + tlvs).unwrap().to_be_bytes());
        header.extend(addresses);
        if let Some(value) = tlvs.checked_sub(3) {
            header.push(0xea); // as AWS writes a VPC endpoint
            header.extend(u16::try_from(value).unwrap().to_be_bytes());
            header.extend(vec![1; value]);
        }
        header
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

    async fn read_of(bytes: &[u8]) -> (Result<Option<SocketAddr>, HeaderError>, Vec<u8>) {
        let mut rest = bytes;
        let read = read(&mut rest).await;
        (read, rest.to_vec())
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_what_follows() {
        let mut six = [0; 36];
        six[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        six[32..34].copy_from_slice(&12_345u16.to_be_bytes());
        let four = Some("192.0.2.7:12345");
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 443\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN a b c d e f g h\r\n".to_vec(), None),
            (binary(0x21, 0x11, &FOUR, 0), four),
            (binary(0x21, 0x11, &FOUR, 84), four),
            (binary(0x21, 0x11, &FOUR, V2_MAX - 12), four),
            (binary(0x21, 0x21, &six, 5), Some("[2001:db8::7]:12345")),
            (binary(0x20, 0x11, &FOUR, 0), None), // LOCAL
            (binary(0x20, 0x00, &[], 0), None),
            (binary(0x21, 0x00, &[], 0), None),
            (binary(0x21, 0x31, &[b'/'; 216], 0), None), // a UNIX socket
        ] {
            let wire = [&header[..], b"\r\nwhat follows"].concat();
            let (read, rest) = read_of(&wire).await;
            assert_eq!(read.unwrap(), expected.map(|a| a.parse().unwrap()), "{header:?}");
            assert_eq!(rest, b"\r\nwhat follows", "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let v1 = |text: &str| text.as_bytes().to_vec();
        for wrong in [
            v1("GET / HTTP/1.1\r\n\r\n"),
            v1("PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n"),
            v1("PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n"),
            v1("PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n"),
            v1("PROXY TCP4 2001:db8::7 ::1 1 2\r\n"),
            v1("PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n"),
            v1("PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n"),
            v1("PROXY UNKNOWNS\r\n"),
            v1("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n"),
            v1(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX))),
            vec![0x16, 0x03, 0x01, 0x02, 0x00], // a ClientHello
            binary(0x11, 0x11, &FOUR, 0),
            binary(0x2f, 0x11, &FOUR, 0),
            binary(0x21, 0x41, &FOUR, 0),
            binary(0x21, 0x11, &FOUR[..11], 0),
            binary(0x21, 0x11, &FOUR, V2_MAX - 11),
        ] {
            let (read, _) = read_of(&wrong).await;
            assert!(read.is_err(), "{wrong:?}: {read:?}");
        }
        let whole = binary(0x21, 0x11, &FOUR, 20);
        for end in 0..whole.len() {
            let (read, _) = read_of(&whole[..end]).await;
            assert!(matches!(read, Err(HeaderError::Io(_))), "{end}: {read:?}");
        }
    }

    #[tokio::test]
    async fn what_is_skipped_is_a_header_or_nothing() {
        for (wire, unread, rest) in [
            (&b"PROXY UNKNOWN\r\nGET /"[..], &b""[..], &b"GET /"[..]),
            (b"GET / HTTP/1.1", b"G", b"ET / HTTP/1.1"),
            (b"PROPFIND /", b"PROP", b"FIND /"),
            (b"\r\n\r\nGET", b"\r\n\r\nG", b"ET"),
            (b"PR", b"PR", b""),
        ] {
            let mut from = wire;
            assert_eq!(skip(&mut from).await.unwrap(), unread, "{wire:?}");
            assert_eq!(from, rest, "{wire:?}");
        }
        assert!(skip(&mut &b"PROXY nonsense\r\n"[..]).await.is_err());
    }

    #[test]
    fn networks_hold_addresses_in_either_form() {
        let trusted = Trusted { from: "10.0.0.0/8".parse().unwrap() };
        assert!(trusted.has("10.1.2.3".parse().unwrap()));
        assert!(trusted.has("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!trusted.has("11.0.0.1".parse().unwrap()));
        assert!(!trusted.has("::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&data);
            let _ = parse(&[v2::PROTOCOL_PREFIX, &data].concat());
            let _ = parse(&[V1_PREFIX, &data].concat());
        }
    }
}
