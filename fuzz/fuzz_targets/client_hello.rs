//! A ClientHello is read the same however it is cut, within its bound, and to the name that another parser,
//! tls-parser, finds in it.
#![no_main]

use dripline::forward_proxy::hello::Reader;
use libfuzzer_sys::fuzz_target;
use tls_parser::{
    TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_client_hello_extensions,
    parse_tls_message_handshake,
};

/// The largest that is read.
const BOUND: usize = 2048;

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let whole = Reader::new(BOUND).push(data);
    let mut reader = Reader::new(BOUND);
    let (mut read, mut parts) = (0, Ok(None));
    for piece in data.chunks(usize::from(*cut).max(1)) {
        read += piece.len();
        parts = reader.push(piece);
        if parts != Ok(None) {
            break;
        }
    }
    // Cut input may exceed the bound earlier, or complete its message before later bytes exceed it.
    if data.len() < BOUND {
        assert_eq!(parts, whole);
    }
    let Ok(Some(name)) = parts else { return };
    assert_eq!(reader.into_bytes(), &data[..read]);
    // The records' contents, as far as they were read.
    let (mut rest, mut message) = (&data[..read], Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some((content, after)) = after.split_at_checked(length) else { break };
        message.extend_from_slice(content);
        rest = after;
        let complete = message.len() >= 4
            && message.len() - 4 == usize::from(message[1]) << 16
                | usize::from(message[2]) << 8
                | usize::from(message[3]);
        if complete {
            break;
        }
    }
    let Ok((_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) =
        parse_tls_message_handshake(&message)
    else {
        return;
    };
    let Ok((_, extensions)) = parse_tls_client_hello_extensions(hello.ext.unwrap_or_default())
    else {
        return;
    };
    let names = extensions.iter().filter_map(|extension| match extension {
        TlsExtension::SNI(names) => Some(names),
        _ => None,
    });
    for (_, other) in names.flatten() {
        let other = String::from_utf8_lossy(other).to_ascii_lowercase();
        assert_eq!(other.strip_suffix('.').unwrap_or(&other), name);
    }
});
