//! OpenSSL's errors for people: the reason alone, such as `no shared cipher`, without the numbers and
//! the names of functions and files that OpenSSL puts around it.
//!
//! Pure.

use std::io;

use openssl::error::ErrorStack;
use openssl::ssl::{self, ErrorCode, SslAlert};

/// The reason of the first error that has one.
#[must_use]
pub fn reason(stack: &ErrorStack) -> Option<&'static str> {
    stack.errors().iter().find_map(|error| error.reason())
}

/// Why a handshake with a client failed: its alert (RFC 8446 §6) if it sent one, else what became of
/// the connection, else OpenSSL's reason.
#[must_use]
pub fn handshake_failure(error: &ssl::Error) -> String {
    if let Some(error) = error.io_error() {
        return match error.kind() {
            io::ErrorKind::ConnectionReset => "the client reset the connection".into(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => CLOSED.into(),
            _ => error.to_string(),
        };
    }
    let Some(stack) = error.ssl_error().filter(|stack| !stack.errors().is_empty()) else {
        // OpenSSL reports the end of the connection as a system call that failed without an error.
        return match error.code() {
            ErrorCode::SYSCALL | ErrorCode::ZERO_RETURN => CLOSED.into(),
            _ => error.to_string(),
        };
    };
    let alert = stack.errors().iter().find_map(|e| SslAlert::from_reason_code(e.reason_code()));
    if let Some(alert) = alert {
        return format!("the client's alert: {alert}");
    }
    match reason(stack) {
        Some("unexpected eof while reading") => CLOSED.into(),
        Some(reason) => reason.into(),
        None => stack.to_string(),
    }
}

const CLOSED: &str = "the client closed the connection";

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;

    use openssl::ssl::{HandshakeError, SslConnector, SslMethod, SslVersion};

    use super::*;
    use crate::tls::identity::Identity;
    use crate::tls::listener::{Settings, acceptor};
    use crate::tls::record::ChunkSize;

    /// Why a handshake with that client failed.
    fn failure(client: impl FnOnce(UnixStream) + Send + 'static) -> String {
        let identity = Arc::new(Identity::self_signed(&["a.example"]).unwrap());
        let cap = Arc::new(|_: super::super::listener::Client<'_>| ChunkSize::default());
        let settings = Settings { cap, tickets: 1, mfl_prefers_tls12: true };
        let acceptor = acceptor(&[identity], &settings).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let client = thread::spawn(move || client(far));
        let failure = match acceptor.accept(near) {
            Err(HandshakeError::Failure(failed)) => handshake_failure(failed.error()),
            Err(other) => panic!("another failure: {other}"),
            Ok(_) => panic!("no failure"),
        };
        client.join().unwrap();
        failure
    }

    fn connector() -> openssl::ssl::SslConnectorBuilder {
        SslConnector::builder(SslMethod::tls_client()).unwrap()
    }

    #[test]
    fn a_failure_is_told_by_its_reason_alone() {
        let without_a_common_cipher = failure(|far| {
            let mut connector = connector();
            connector.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
            connector.set_cipher_list("AES128-SHA256").unwrap();
            connector.build().connect("a.example", far).unwrap_err();
        });
        assert_eq!(without_a_common_cipher, "no shared cipher");
        let without_trust = failure(|far| {
            connector().build().connect("a.example", far).unwrap_err();
        });
        assert_eq!(without_trust, "the client's alert: unknown CA");
    }

    #[test]
    fn a_client_that_leaves_is_told_as_such() {
        let leaves = |far: UnixStream| far.shutdown(Shutdown::Both).unwrap();
        assert_eq!(failure(leaves), "the client closed the connection");
        let plain = |mut far: UnixStream| far.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(failure(plain), "http request");
    }
}
