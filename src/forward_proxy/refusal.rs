//! Why there is no tunnel: the client's answer, if it gets one, and the metric's label.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use http::StatusCode;

use super::allow::address::Special;
use super::allow::{Denied, Target, TargetError};
use super::connect::BadRequest;
use super::hello::BadHello;
use crate::http1::head::NoHead;

/// Why a connection becomes no tunnel.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There are as many connections as there may be.
    Full,
    /// That client has as many as it may.
    PerClient,
    /// The client is in none of the networks.
    Network,
    /// The client is gone, before or after its request.
    Gone(io::Error),
    /// Nothing, or not all of a head, came in time.
    HeadSlow {
        /// Whether something came.
        begun: bool,
    },
    /// The head is too long.
    HeadLarge,
    /// The request is none for a tunnel.
    Request(BadRequest),
    /// The client has sent no name and password of a user.
    Auth,
    /// The host may not be reached.
    Denied(Target, Denied),
    /// The name does not resolve.
    Unresolved(Target, io::Error),
    /// The name leads to no address that may be used. With the first one that it leads to.
    Address(Target, IpAddr, Special),
    /// The name leads to no address of S3. With the first one that it leads to.
    NotS3(Target, IpAddr),
    /// No address answers. With the last one that was tried.
    Connect(SocketAddr, io::Error),
    /// No address answers in time.
    Slow(Duration),
    /// The ClientHello is not passed on.
    Hello(BadHello),
    /// It names another server.
    OtherName(Target, String),
    /// It did not come in time.
    HelloSlow,
}

impl From<NoHead> for Refusal {
    fn from(why: NoHead) -> Self {
        match why {
            NoHead::Gone(e) => Self::Gone(e),
            NoHead::Idle => Self::HeadSlow { begun: false },
            NoHead::Slow => Self::HeadSlow { begun: true },
            NoHead::Large => Self::HeadLarge,
            NoHead::Bad(defect) => Self::Request(BadRequest::Malformed(defect)),
        }
    }
}

impl Refusal {
    /// The metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::PerClient => "per_client",
            Self::Network => "network",
            Self::Gone(_) => "gone",
            Self::HeadSlow { .. } => "header_timeout",
            Self::HeadLarge => "header_bytes",
            Self::Request(BadRequest::Malformed(_) | BadRequest::Authorization) => "malformed",
            Self::Request(BadRequest::Absolute | BadRequest::Method) => "method",
            Self::Request(BadRequest::Body) => "body",
            Self::Request(BadRequest::Target(TargetError::Malformed)) => "target",
            Self::Request(BadRequest::Target(TargetError::IpLiteral)) => "ip_literal",
            Self::Auth => "auth",
            Self::Denied(_, Denied::Host) => "host",
            Self::Denied(_, Denied::Port) => "port",
            Self::Denied(_, Denied::Bucket | Denied::NoBucket) => "bucket",
            Self::Unresolved(..) => "resolve",
            Self::Address(..) => "address",
            Self::NotS3(..) => "ip_ranges",
            Self::Connect(..) => "connect",
            Self::Slow(_) => "connect_timeout",
            Self::Hello(BadHello::NotTls) => "not_tls",
            Self::Hello(BadHello::TooLong) => "hello_bytes",
            Self::Hello(BadHello::NoName) => "no_sni",
            Self::OtherName(..) => "sni",
            Self::HelloSlow => "hello_timeout",
        }
    }

    /// The answer's status; None if the client is gone, has sent nothing, or had the 200 already.
    pub(super) fn status(&self) -> Option<StatusCode> {
        Some(match self {
            Self::Gone(_) | Self::HeadSlow { begun: false } => return None,
            Self::Hello(_) | Self::OtherName(..) | Self::HelloSlow => return None,
            Self::Full | Self::PerClient => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadSlow { begun: true } => StatusCode::REQUEST_TIMEOUT,
            Self::HeadLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Request(BadRequest::Absolute | BadRequest::Method) => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            Self::Request(BadRequest::Target(TargetError::IpLiteral)) => StatusCode::FORBIDDEN,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Auth => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Network | Self::Denied(..) | Self::Address(..) | Self::NotS3(..) => {
                StatusCode::FORBIDDEN
            }
            Self::Unresolved(..) | Self::Connect(..) => StatusCode::BAD_GATEWAY,
            Self::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
        })
    }

    /// The header line that goes with the status, with its CRLF; empty if there is none.
    pub(super) fn header(&self) -> &'static str {
        match self {
            Self::Full | Self::PerClient => "Retry-After: 10\r\n",
            Self::Request(BadRequest::Absolute | BadRequest::Method) => "Allow: CONNECT\r\n",
            // Passwords may be any UTF-8 (RFC 7617 §2.1).
            Self::Auth => "Proxy-Authenticate: Basic realm=\"dripline\", charset=\"UTF-8\"\r\n",
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    /// One line; of what the client sent only what was parsed as a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many connections; try again later"),
            Self::PerClient => f.write_str("too many connections from this address"),
            Self::Network => f.write_str("this proxy does not serve your network"),
            Self::Gone(e) => write!(f, "the client is gone: {e}"),
            Self::HeadSlow { .. } => f.write_str("the request did not come in time"),
            Self::HeadLarge => f.write_str("the request's head is too long"),
            Self::Request(e) => e.fmt(f),
            Self::Auth => f.write_str("a name and a password are needed"),
            Self::Denied(target, why) => write!(f, "{target} is refused: {why}"),
            Self::Unresolved(target, e) => write!(f, "cannot resolve {}: {e}", target.host),
            Self::Address(target, ip, what) => {
                write!(f, "{} is refused: it leads to {ip}, which is {what}", target.host)
            }
            Self::NotS3(target, ip) => {
                write!(f, "{} is refused: it leads to {ip}, which is not S3's", target.host)
            }
            Self::Connect(addr, e) => write!(f, "cannot connect to {addr}: {e}"),
            Self::Slow(limit) => write!(f, "no connection within {limit:?}"),
            Self::Hello(e) => e.fmt(f),
            Self::OtherName(target, name) => {
                write!(f, "the ClientHello names {}, not {}", name.escape_debug(), target.host)
            }
            Self::HelloSlow => f.write_str("the ClientHello did not come in time"),
        }
    }
}
