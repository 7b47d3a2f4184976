//! `dripline probe`: what a small device would meet at an HTTPS URL.
//!
//! It makes several connections, one after the other, as devices do ([`offer`]): with one TLS version,
//! offering nothing or one of the two extensions that ask for small records. Each connection sends one
//! GET; what it showed is in [`seen`], and [`report`] draws the conclusions. It works with any HTTPS
//! server and verifies certificates.
//!
//! A *buffer*, here and in every figure, is a device's memory for the plaintext of one record or one
//! handshake message (mbedTLS's `MBEDTLS_SSL_IN_CONTENT_LEN`). A body is read only up to a bound; larger
//! records after it are not seen.
//!
//! It must not know the server or its configuration: it is a client.

mod client;
mod connection;
mod hello;
mod http;
mod measure;
pub mod offer;
pub mod report;
pub mod seen;
mod table;
mod tap;
mod target;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::x509::X509;

use connection::Dialer;
use offer::{Offer, Version};
use seen::Connection;
use target::Target;

pub use report::{Misfit, Report};

/// How much of a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the body, as it stands on the wire.
    pub bytes: usize,
    /// Time from the head on.
    pub time: Duration,
}

/// The bound where nothing is offered, the case that counts: 16 of the largest records, or as many
/// ticks of half a second.
pub const BARE: Bounds = Bounds { bytes: 256 * 1024, time: Duration::from_secs(8) };

/// The bound where a limit is offered: ten connections that together shall not take a paced server
/// more than half a minute. 64 KB are 16 records of 4 KB.
pub const LIMITED: Bounds = Bounds { bytes: 64 * 1024, time: Duration::from_secs(3) };

/// What to probe.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// An `https` URL; it is fetched with GET.
    pub url: String,
    /// A PEM file of authorities, or of the server's own certificate, to trust beside the system's.
    pub ca: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The URL cannot be probed.
    #[error("not a URL to probe: {0}")]
    Url(String),
    /// The file of authorities cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The host has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address of the host takes a connection.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {host} is not trusted: {reason} (name a PEM file with --ca)")]
    NotTrusted {
        /// The host.
        host: String,
        /// OpenSSL's reason.
        reason: String,
    },
    /// No handshake was completed in either version.
    #[error("no TLS handshake with {address}: {reason}")]
    Handshake {
        /// The server.
        address: SocketAddr,
        /// Why, for each version.
        reason: String,
    },
    /// OpenSSL refused a setting.
    #[error("OpenSSL: {0}")]
    Tls(#[from] ErrorStack),
}

impl ProbeError {
    /// Whether the arguments are wrong, not the server or the network.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Url(_) | Self::Ca { .. })
    }
}

/// Probes a server; takes up to 50 s if it is paced.
///
/// # Errors
///
/// If no handshake succeeds; see [`ProbeError`].
pub fn run(options: &Options) -> Result<Report, ProbeError> {
    run_with(options, &mut |_| {})
}

/// As [`run`], and calls `before_each` before each connection is made.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(
    options: &Options,
    before_each: &mut dyn FnMut(Offer),
) -> Result<Report, ProbeError> {
    let target = Target::parse(&options.url)?;
    let authorities = match &options.ca {
        Some(path) => {
            authorities(path).map_err(|reason| ProbeError::Ca { path: path.clone(), reason })?
        }
        None => Vec::new(),
    };
    let (address, tcp) = first_connection(&target)?;
    let dialer = Dialer { target: &target, address, authorities: &authorities };

    let mut open = Some(tcp);
    let mut connections = Vec::new();
    for version in Version::ALL {
        before_each(Offer::bare(version));
        connections.push(dialer.probe(open.take(), Offer::bare(version), BARE)?);
    }
    let spoken: Vec<Version> = connections
        .iter()
        .filter(|connection| connection.outcome.is_ok())
        .map(|connection| connection.offer.version)
        .collect();
    if spoken.is_empty() {
        return Err(ProbeError::Handshake { address, reason: failures(&connections) });
    }
    for offer in spoken.into_iter().flat_map(Offer::limited) {
        before_each(offer);
        connections.push(dialer.probe(None, offer, LIMITED)?);
    }
    // The table's order: by version, nothing offered first.
    connections.sort_by_key(|connection| connection.offer.version);
    Ok(Report::new(target.to_string(), address, connections))
}

fn authorities(path: &PathBuf) -> Result<Vec<X509>, String> {
    let pem = std::fs::read(path).map_err(|e| e.to_string())?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("it holds no PEM certificate".into()),
    }
}

/// The first address of the host that takes a connection, so that all connections meet the same
/// server.
fn first_connection(target: &Target) -> Result<(SocketAddr, TcpStream), ProbeError> {
    let host = target.host_name();
    let resolved = (host.as_str(), target.port()).to_socket_addrs();
    let addresses =
        resolved.map_err(|source| ProbeError::Resolve { host: host.clone(), source })?;
    let mut last = None;
    for address in addresses {
        match connection::connect(address) {
            Ok(tcp) => return Ok((address, tcp)),
            Err(e) => last = Some((address, connection::in_words(&e))),
        }
    }
    Err(match last {
        Some((address, reason)) => ProbeError::Connect { address, reason },
        None => ProbeError::Resolve { host, source: io::ErrorKind::NotFound.into() },
    })
}

fn failures(connections: &[Connection]) -> String {
    let reasons = connections.iter().filter_map(|connection| {
        let reason = connection.outcome.as_ref().err()?;
        Some(format!("{}: {reason}", connection.offer.version))
    });
    reasons.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn error(url: &str) -> ProbeError {
        run(&Options { url: url.into(), ca: None }).unwrap_err()
    }

    #[test]
    fn arguments_are_told_from_the_way_there() {
        assert!(error("http://127.0.0.1/").is_usage());
        let ca = Some(PathBuf::from("/nonexistent/ca.pem"));
        let unusable = run(&Options { url: "https://127.0.0.1/".into(), ca }).unwrap_err();
        assert!(unusable.is_usage());
        assert!(unusable.to_string().starts_with("cannot use /nonexistent/ca.pem: No such file"));
    }

    #[test]
    fn nobody_there() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = error(&format!("https://127.0.0.1:{port}/"));
        assert!(!error.is_usage());
        let said = format!("cannot connect to 127.0.0.1:{port}: connection refused");
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn a_plain_http_port_is_named_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in Version::ALL {
                let (mut tcp, _) = listener.accept().unwrap();
                tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
                // Until the client is gone: closing with its hello unread would reset.
                let _ = io::copy(&mut tcp, &mut io::sink());
            }
        });
        let said = format!(
            "no TLS handshake with {address}: TLS 1.2: what answers there is not TLS; \
             TLS 1.3: what answers there is not TLS"
        );
        assert_eq!(error(&format!("https://{address}/")).to_string(), said);
        server.join().unwrap();
    }
}
