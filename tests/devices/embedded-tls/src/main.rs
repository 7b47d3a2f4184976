//! embedded-tls 0.19, TLS 1.3 only: a client with a read buffer of 4224 bytes, which is a record of
//! 4096 bytes with its header, content type and tag, and some room.
//!
//!     embedded-tls HOST PORT CA.pem PATH [--tls13] [--mfl N]
//!
//! It verifies the server's certificate, its own verifier being a feature of the crate
//! (`rustpki`), and offers no extension about record sizes unless it is told to.

use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use embedded_io_adapters::std::FromStd;
use embedded_tls::CryptoRngCore;
use embedded_tls::blocking::{
    Aes128GcmSha256, Certificate, CryptoProvider, MaxFragmentLength, TlsConfig, TlsConnection,
    TlsContext, TlsError, TlsVerifier,
};
use embedded_tls::pki::CertVerifier;
use rand_core::OsRng;

/// Bytes of the buffer that every record must fit.
const READ_BUFFER: usize = 4224;

/// Bytes of the buffer for what is sent.
const WRITE_BUFFER: usize = 2048;

/// Bytes of a response head.
const HEAD_MAX: usize = 2048;

/// How long a silent server is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

struct Device<'a> {
    random: OsRng,
    verifier: CertVerifier<'a, Aes128GcmSha256, SystemTime, 2048>,
}

impl CryptoProvider for Device<'_> {
    type CipherSuite = Aes128GcmSha256;
    type Signature = [u8; 0];

    fn rng(&mut self) -> impl CryptoRngCore {
        &mut self.random
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Aes128GcmSha256>, TlsError> {
        Ok(&mut self.verifier)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, ca, path, options @ ..] = arguments.as_slice() else {
        eprintln!("usage: embedded-tls HOST PORT CA.pem PATH [--tls13] [--mfl N]");
        return ExitCode::from(2);
    };
    match fetch(host, port, ca, path, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("embedded-tls {reason}");
            ExitCode::FAILURE
        }
    }
}

fn fetch(host: &str, port: &str, ca: &str, path: &str, options: &[String]) -> Result<(), String> {
    let pem = std::fs::read_to_string(ca).map_err(|e| format!("{ca}: {e}"))?;
    let trusted = der(&pem).ok_or("no PEM certificate")?;
    let mut config = TlsConfig::new().with_server_name(host);
    config = match options {
        [] => config,
        [version] if version == "--tls13" => config,
        [option, bytes] if option == "--mfl" => config.with_max_fragment_length(mfl(bytes)?),
        _ => return Err(format!("cannot do {options:?}")),
    };

    let socket = dial(host, port)?;
    let (mut read_buffer, mut write_buffer) = ([0; READ_BUFFER], [0; WRITE_BUFFER]);
    let mut tls = TlsConnection::new(FromStd::new(socket), &mut read_buffer, &mut write_buffer);
    let device = Device { random: OsRng, verifier: CertVerifier::new(Certificate::X509(&trusted)) };
    tls.open(TlsContext::new(&config, device)).map_err(|e| format!("handshake: {e:?}"))?;

    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut unsent = request.as_bytes();
    while !unsent.is_empty() {
        let n = tls.write(unsent).map_err(|e| format!("write: {e:?}"))?;
        unsent = &unsent[n..];
    }
    tls.flush().map_err(|e| format!("flush: {e:?}"))?;

    let mut read = |piece: &mut [u8]| match tls.read(piece) {
        Ok(0) | Err(TlsError::ConnectionClosed) => Err("the stream ended".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("read: {e:?}")),
    };
    copy_body(&mut read)?;
    let _ = tls.close();
    Ok(())
}

/// Reads a response and copies its body to stdout: all that Content-Length announces.
fn copy_body(read: &mut impl FnMut(&mut [u8]) -> Result<usize, String>) -> Result<(), String> {
    let (mut piece, mut head) = ([0; 512], Vec::new());
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if head.len() > HEAD_MAX {
            return Err(format!("the response head has more than {HEAD_MAX} bytes"));
        }
        let n = read(&mut piece)?;
        head.extend_from_slice(&piece[..n]);
    };
    let begun = head.split_off(end + 4);
    let text = String::from_utf8_lossy(&head);
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(format!("the server answered: {}", text.lines().next().unwrap_or_default()));
    }
    let wanted: usize = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or("the server sent no Content-Length")?;

    let mut out = std::io::stdout().lock();
    let mut got = begun.len();
    out.write_all(&begun).map_err(|e| e.to_string())?;
    while got < wanted {
        let left = piece.len().min(wanted - got);
        let n = read(&mut piece[..left])
            .map_err(|reason| format!("{reason} after {got} of {wanted} bytes"))?;
        out.write_all(&piece[..n]).map_err(|e| e.to_string())?;
        got += n;
    }
    out.flush().map_err(|e| e.to_string())?;
    if got == wanted { Ok(()) } else { Err(format!("{got} bytes instead of {wanted}")) }
}

fn dial(host: &str, port: &str) -> Result<TcpStream, String> {
    use std::net::ToSocketAddrs;
    let addresses = format!("{host}:{port}").to_socket_addrs().map_err(|e| e.to_string())?;
    let address = addresses.into_iter().find(|a| a.is_ipv4()).ok_or("no IPv4 address")?;
    let socket = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    Ok(socket)
}

fn mfl(bytes: &str) -> Result<MaxFragmentLength, String> {
    match bytes {
        "512" => Ok(MaxFragmentLength::Bits9),
        "1024" => Ok(MaxFragmentLength::Bits10),
        "2048" => Ok(MaxFragmentLength::Bits11),
        "4096" => Ok(MaxFragmentLength::Bits12),
        _ => Err(format!("max_fragment_length cannot be {bytes}")),
    }
}

/// The first certificate of a PEM text (RFC 7468 §3, base64 of RFC 4648 §4).
fn der(pem: &str) -> Option<Vec<u8>> {
    let begin = "-----BEGIN CERTIFICATE-----";
    let text = pem.split_once(begin)?.1.split_once("-----END")?.0;
    let (mut bytes, mut bits, mut filled) = (Vec::new(), 0u32, 0);
    for symbol in text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        filled += 6;
        if filled >= 8 {
            filled -= 8;
            bytes.push((bits >> filled) as u8);
        }
    }
    Some(bytes)
}
