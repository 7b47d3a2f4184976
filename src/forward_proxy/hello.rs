//! The first bytes in a tunnel: a TLS ClientHello (RFC 8446 §4.1.2), assembled from its records, and the
//! server name in it (RFC 6066 §3).
//!
//! Pure. Invariants: [`Reader`] holds no more bytes than its bound. The name that it returns is the only one
//! in the message, so S3, which reads the message again, finds no other.

/// The longest record (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;

/// A record of this type holds handshake messages.
const HANDSHAKE: u8 = 22;

/// The handshake message that opens a connection.
const CLIENT_HELLO: u8 = 1;

/// The extension that names the server.
const SERVER_NAME: u16 = 0;

/// Why a tunnel's first bytes are not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// Something other than TLS, or TLS that no client writes.
    #[error("no TLS ClientHello came")]
    NotTls,
    /// More bytes than a ClientHello may have.
    #[error("the ClientHello is too long")]
    TooLong,
    /// It names no server.
    #[error("the ClientHello names no server (SNI)")]
    NoName,
}

/// Collects a ClientHello as it comes, in any number of pieces.
#[derive(Debug)]
pub struct Reader {
    /// All bytes that came: they go on to the server.
    raw: Vec<u8>,
    /// Where the first record begins that was not read yet.
    read: usize,
    /// The handshake message so far.
    message: Vec<u8>,
    bound: usize,
}

impl Reader {
    /// A reader for a ClientHello of at most `bound` bytes, with its records' headers.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { raw: Vec::new(), read: 0, message: Vec::new(), bound }
    }

    /// All bytes that came.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// Takes the next bytes. Returns the server's name, in lower case and without the root's dot, once the
    /// whole message is there.
    ///
    /// # Errors
    ///
    /// As soon as it is known that this is no ClientHello with a name.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<String>, BadHello> {
        self.raw.extend_from_slice(bytes);
        while let Some(message) = self.next_record()? {
            self.message.extend_from_slice(&message);
            let Some((kind, length)) = self.message.split_first() else { continue };
            if *kind != CLIENT_HELLO {
                return Err(BadHello::NotTls);
            }
            let Some((length, body)) = length.split_first_chunk::<3>() else { continue };
            let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            if length > self.bound {
                return Err(BadHello::TooLong);
            }
            if body.len() >= length {
                // No client sends a second message before the server's first.
                let alone = body.len() == length;
                return if alone { server_name(body).map(Some) } else { Err(BadHello::NotTls) };
            }
        }
        if self.raw.len() >= self.bound { Err(BadHello::TooLong) } else { Ok(None) }
    }

    /// The next record's content, if it is whole. Each byte of its header is checked as soon as it is there,
    /// so that a client of another protocol is refused at once.
    fn next_record(&mut self) -> Result<Option<Vec<u8>>, BadHello> {
        let rest = &self.raw[self.read..];
        // Type, version 3.x, length of two bytes.
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE)
            || rest.get(1).is_some_and(|major| *major != 3)
        {
            return Err(BadHello::NotTls);
        }
        let Some((header, rest)) = rest.split_first_chunk::<5>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_RECORD {
            return Err(BadHello::NotTls);
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        self.read += header.len() + length;
        Ok(Some(content.to_vec()))
    }
}

/// The name in a ClientHello's body.
fn server_name(body: &[u8]) -> Result<String, BadHello> {
    let extensions = extensions(body).ok_or(BadHello::NotTls)?;
    let mut rest = extensions;
    let mut name = None;
    while !rest.is_empty() {
        let (kind, data, after) = extension(rest).ok_or(BadHello::NotTls)?;
        if kind == SERVER_NAME && name.replace(data).is_some() {
            return Err(BadHello::NotTls);
        }
        rest = after;
    }
    let host = host_name(name.ok_or(BadHello::NoName)?).ok_or(BadHello::NotTls)?;
    let host = std::str::from_utf8(host).map_err(|_| BadHello::NotTls)?;
    Ok(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// The extensions; empty if there are none (TLS 1.2 allows that).
fn extensions(body: &[u8]) -> Option<&[u8]> {
    let (_version_and_random, rest) = body.split_at_checked(2 + 32)?;
    let (_session, rest) = vector8(rest)?;
    let (_suites, rest) = vector16(rest)?;
    let (_compression, rest) = vector8(rest)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let (extensions, rest) = vector16(rest)?;
    rest.is_empty().then_some(extensions)
}

/// The first extension's type and data, and what comes after it.
fn extension(list: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (kind, rest) = list.split_first_chunk::<2>()?;
    let (data, after) = vector16(rest)?;
    Some((u16::from_be_bytes(*kind), data, after))
}

/// The one host name of a server_name extension.
fn host_name(data: &[u8]) -> Option<&[u8]> {
    let (list, rest) = vector16(data)?;
    let (kind, list) = list.split_first()?;
    let (name, more) = vector16(list)?;
    let alone = *kind == 0 && rest.is_empty() && more.is_empty();
    (alone && !name.is_empty() && name.is_ascii()).then_some(name)
}

/// A vector with a length of one byte before it, and what comes after (RFC 8446 §3.4).
fn vector8(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// The same with two bytes.
fn vector16(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::ssl::{SslConnector, SslMethod, SslVersion};
    use proptest::prelude::*;
    use std::io::{self, Read, Write};

    /// What OpenSSL sends first.
    fn openssl(name: Option<&str>, newest: SslVersion) -> Vec<u8> {
        struct Sink(Vec<u8>);
        impl Read for Sink {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_max_proto_version(Some(newest)).unwrap();
        let mut configuration = builder.build().configure().unwrap();
        configuration.set_use_server_name_indication(name.is_some());
        let ssl = configuration.into_ssl(name.unwrap_or("a")).unwrap();
        let mut stream = openssl::ssl::SslStream::new(ssl, Sink(Vec::new())).unwrap();
        let _ = stream.connect();
        std::mem::take(&mut stream.get_mut().0)
    }

    /// The same message in records of `size` bytes.
    fn cut(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |piece: &[u8]| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&[22, 3, 1], &length[..], piece].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    fn read(bytes: &[u8]) -> Result<Option<String>, BadHello> {
        Reader::new(1 << 16).push(bytes)
    }

    #[test]
    fn openssls_hello_is_read_whole_and_in_any_pieces() {
        for newest in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let hello = openssl(Some("Bucket.S3.amazonaws.com"), newest);
            let name = Some("bucket.s3.amazonaws.com".to_owned());
            assert_eq!(read(&hello), Ok(name.clone()));
            for (size, piece) in [(1, 1), (1, 4096), (7, 3), (100, 1), (100, 64), (1000, 1500)] {
                let bytes = cut(&hello, size);
                let mut reader = Reader::new(1 << 16);
                let mut pieces = bytes.chunks(piece).map(|piece| reader.push(piece));
                let found = pieces.find(|found| *found != Ok(None));
                assert_eq!(found, Some(Ok(name.clone())), "records of {size}, pieces of {piece}");
                assert!(pieces.next().is_none(), "not before the last byte");
                assert_eq!(reader.into_bytes(), bytes);
            }
            let early = [&hello[..], b"\x14\x03\x03\x00\x01\x01"].concat();
            assert_eq!(read(&early), Ok(name), "what comes after may come at once");
        }
    }

    #[test]
    fn a_hello_without_a_name_is_told_apart_from_no_hello() {
        assert_eq!(read(&openssl(None, SslVersion::TLS1_3)), Err(BadHello::NoName));
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", b"\x16\x02", b"\x15\x03\x01", b"\0"]
        {
            assert_eq!(read(other), Err(BadHello::NotTls), "{}", other.escape_ascii());
        }
        // SSL 2.0's hello, an empty record, one that is too long, another message.
        for other in [
            &b"\x80\x2e\x01\x03\x01"[..],
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        ] {
            assert_eq!(read(other), Err(BadHello::NotTls), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_second_name_or_a_second_message_is_refused() {
        let hello = |extensions: &[u8]| {
            let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
            let fixed = [&[3, 3][..], &[0; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
            let body = [&fixed[..], &length(extensions.len()), extensions].concat();
            let message = [&[1, 0][..], &length(body.len()), &body].concat();
            (message.clone(), [&[22, 3, 1][..], &length(message.len()), &message].concat())
        };
        let name = b"\0\0\0\x06\0\x04\0\0\x01a";
        assert_eq!(read(&hello(name).1), Ok(Some("a".to_owned())));
        let twice = [&name[..], name].concat();
        assert_eq!(read(&hello(&twice).1), Err(BadHello::NotTls));
        let two = b"\0\0\0\x0a\0\x08\0\0\x01a\0\0\x01b";
        assert_eq!(read(&hello(two).1), Err(BadHello::NotTls));
        assert_eq!(read(&hello(b"\0\0\0\x05\0\x03\0\0\0").1), Err(BadHello::NotTls), "empty");
        assert_eq!(read(&hello(b"\0\0\0\x06\0\x04\x01\0\x01a").1), Err(BadHello::NotTls), "kind");
        assert_eq!(read(&hello(b"\0\x0a\0\x09\0").1), Err(BadHello::NotTls), "cut short");
        assert_eq!(read(&hello(b"").1), Err(BadHello::NoName));
        let (message, _) = hello(name);
        let both = [&message[..], &message].concat();
        let length = u16::try_from(both.len()).unwrap().to_be_bytes();
        assert_eq!(read(&[&[22, 3, 1][..], &length, &both].concat()), Err(BadHello::NotTls));
    }

    #[test]
    fn no_more_is_held_than_the_bound() {
        let hello = openssl(Some("a.example"), SslVersion::TLS1_3);
        let mut reader = Reader::new(64);
        assert_eq!(reader.push(&hello), Err(BadHello::TooLong));
        // Records of one byte each are six times the message.
        let (pieces, bound) = (cut(&hello, 1), hello.len() * 2);
        let mut reader = Reader::new(bound);
        assert_eq!(reader.push(&pieces[..bound - 1]), Ok(None));
        assert_eq!(reader.push(&pieces[bound - 1..bound]), Err(BadHello::TooLong));
        assert_eq!(
            Reader::new(1 << 14).push(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"),
            Err(BadHello::TooLong)
        );
    }

    proptest! {
        #[test]
        fn cuts_change_nothing_and_no_bytes_panic(
            start in 0_usize..3,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..200,
        ) {
            let bytes = [&b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03"[..start * 5], &bytes].concat();
            let (one, two) = bytes.split_at(at.min(bytes.len()));
            let mut reader = Reader::new(100);
            let parts = reader.push(one).and_then(|found| match found {
                None => reader.push(two),
                found => Ok(found),
            });
            let whole = Reader::new(100).push(&bytes);
            // Above the bound the two may find different faults first.
            if bytes.len() <= 100 {
                prop_assert_eq!(&parts, &whole);
            }
            prop_assert_eq!(parts.is_ok(), whole.is_ok());
        }
    }
}
