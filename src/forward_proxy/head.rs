//! What is exchanged before a tunnel stands: the request and its answer, then the client's ClientHello, which
//! is held back until it is read. All of it within bounds of bytes and time.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::allow::{Target, TargetKind};
use super::connect::{self, authenticate};
use super::hello::Reader;
use super::refusal::Refusal;
use super::settings::{Limits, Settings};
use crate::http1::head::{HeadLimits, read_head};
use crate::http1::refusal::{ANSWER_TIMEOUT, RefusalResponse};

/// The room for a ClientHello at first, in bytes.
const ROOM: usize = 1024;

/// A request for a tunnel, from a known user to an allowed host.
pub(super) struct TunnelRequest {
    pub(super) target: Target,
    pub(super) kind: TargetKind,
    /// The user's name, if users are asked for one.
    pub(super) user: Option<Arc<str>>,
}

/// Reads the request and checks it. Returns also what came after its head.
pub(super) async fn read_request(
    client: &mut TcpStream,
    settings: &Settings,
) -> Result<(TunnelRequest, BytesMut), Refusal> {
    let limits = HeadLimits {
        bytes: settings.limits.header_bytes,
        time: settings.limits.header_timeout,
        idle: None,
        empty_lines: 0,
    };
    let head = read_head(client, BytesMut::new(), limits).await?;
    let request = connect::read(&head.bytes).map_err(Refusal::Request)?;
    let user = match &settings.users[..] {
        [] => None,
        users => Some(authenticate(users, request.authorization).ok_or(Refusal::Auth)?),
    };
    let target = request.target;
    let kind = settings.rules.check(&target);
    let kind = kind.map_err(|why| Refusal::Denied(target.clone(), why))?;
    let user = user.map(|user| user.name.clone());
    Ok((TunnelRequest { target, kind, user }, head.rest))
}

/// Tells the client that the tunnel stands.
pub(super) async fn confirm(client: &mut TcpStream) -> Result<(), Refusal> {
    let answer = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    let answered = timeout(ANSWER_TIMEOUT, answer).await;
    answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Refusal::Gone)
}

/// Reads the ClientHello, which must name the request's host. `early` came with the request. Returns all
/// bytes that came: they go on to the host.
pub(super) async fn read_hello(
    client: &mut TcpStream,
    request: &TunnelRequest,
    early: BytesMut,
    limits: Limits,
) -> Result<Vec<u8>, Refusal> {
    let mut reader = Reader::new(limits.hello_bytes);
    let read = async {
        let mut bytes = early;
        loop {
            let named = reader.push(&bytes).map_err(Refusal::Hello)?;
            if let Some(name) = named {
                return Ok::<_, Refusal>(name);
            }
            bytes.clear();
            bytes.reserve(ROOM);
            let read = client.read_buf(&mut bytes).await.map_err(Refusal::Gone)?;
            if read == 0 {
                return Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    };
    let name = timeout(limits.hello_timeout, read).await.map_err(|_| Refusal::HelloSlow)??;
    if name != request.target.host {
        return Err(Refusal::OtherName(request.target.clone(), name));
    }
    Ok(reader.into_bytes())
}

/// Refuses, and says why in the status line too: most tools show their users nothing else.
pub(super) async fn refuse(client: &mut TcpStream, status: StatusCode, refusal: &Refusal) {
    let (reason, headers) = (refusal.to_string(), refusal.header());
    let answer = RefusalResponse { status, reason: &reason, in_status_line: true, headers };
    answer.send(client).await;
}
