//! What is said before a tunnel stands: the request and its answer, then the client's ClientHello, which is
//! held back until it is read. All of it within bounds of bytes and time.

use std::io;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect::{self, authenticate};
use super::hello::Reader;
use super::refusal::Refusal;
use super::{Agreed, Limits, Settings};
use crate::http1::head::{HeadLimits, read_head};
use crate::http1::refusal::{self, ANSWER_TIMEOUT};

/// The room for a ClientHello at first, in bytes.
const ROOM: usize = 1024;

/// Reads the request. Returns what was agreed on, and what came after the head.
pub(super) async fn agree(
    client: &mut TcpStream,
    settings: &Settings,
) -> Result<(Agreed, BytesMut), Refusal> {
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
    let kind = settings.rules.judge(&target);
    let kind = kind.map_err(|why| Refusal::Denied(target.clone(), why))?;
    let user = user.map(|user| user.name.clone());
    Ok((Agreed { target, kind, user }, head.rest))
}

/// Tells the client that the tunnel stands.
pub(super) async fn accept(client: &mut TcpStream) -> Result<(), Refusal> {
    let answer = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    let answered = timeout(ANSWER_TIMEOUT, answer).await;
    answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Refusal::Gone)
}

/// Reads the ClientHello, which must name `host`; `early` came with the request. Returns all that came.
pub(super) async fn hello(
    client: &mut TcpStream,
    agreed: &Agreed,
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
            received(client.read_buf(&mut bytes).await)?;
        }
    };
    let name = timeout(limits.hello_timeout, read).await.map_err(|_| Refusal::HelloSlow)??;
    if name != agreed.target.host {
        return Err(Refusal::OtherName(agreed.target.clone(), name));
    }
    Ok(reader.into_bytes())
}

/// Refuses, and says why in the status line too: most tools show their users nothing else.
pub(super) async fn refuse(client: &mut TcpStream, status: StatusCode, refusal: &Refusal) {
    let (reason, headers) = (refusal.to_string(), refusal.header());
    let answer = refusal::Refusal { status, reason: &reason, in_status_line: true, headers };
    answer.send(client).await;
}

/// At least one byte, or the client is gone.
fn received(read: io::Result<usize>) -> Result<(), Refusal> {
    match read {
        Ok(0) => Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(()),
        Err(e) => Err(Refusal::Gone(e)),
    }
}
