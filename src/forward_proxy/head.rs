//! What is said before a tunnel stands: the request and its answer, then the client's ClientHello, which is
//! held back until it is read. All of it within bounds of bytes and time.

use std::io;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use super::connect::{self, BadRequest, authenticate};
use super::hello::Reader;
use super::refusal::Refusal;
use super::{Agreed, Limits, Settings};
use crate::http1::framing::Scan;

/// The room for a head, and for a ClientHello, at first.
const ROOM: usize = 1024;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long and how much is still read of a client that was refused, so that what it has sent does not
/// reset the connection before it has read why.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 << 10);

/// Reads the request, and says what was agreed on.
pub(super) async fn agree(client: &mut TcpStream, settings: &Settings) -> Result<Agreed, Refusal> {
    let limits = settings.limits;
    let mut bytes = BytesMut::new();
    let read = async {
        let mut scan = Scan::default();
        loop {
            let end = scan
                .head(&bytes)
                .map_err(|defect| Refusal::Request(BadRequest::Malformed(defect)))?;
            match end {
                Some(end) if end <= limits.header_bytes => return Ok(end),
                None if bytes.len() < limits.header_bytes => {}
                _ => return Err(Refusal::HeadLarge),
            }
            bytes.reserve(ROOM);
            received(client.read_buf(&mut bytes).await)?;
        }
    };
    let read = timeout(limits.header_timeout, read).await;
    let end = read.map_err(|_| Refusal::HeadSlow { begun: !bytes.is_empty() })??;
    let request = connect::read(&bytes[..end]).map_err(Refusal::Request)?;
    let user = match &settings.users[..] {
        [] => None,
        users => Some(authenticate(users, request.authorization).ok_or(Refusal::Auth)?),
    };
    let target = request.target;
    let kind = settings.rules.judge(&target);
    let kind = kind.map_err(|why| Refusal::Denied(target.clone(), why))?;
    let user = user.map(|user| user.name.clone());
    Ok(Agreed { target, kind, user, early: bytes[end..].to_vec() })
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
    early: Vec<u8>,
    limits: Limits,
) -> Result<Vec<u8>, Refusal> {
    let mut reader = Reader::new(limits.hello_bytes);
    let read = async {
        let mut bytes = BytesMut::from(&early[..]);
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

/// Says no, and why, in the status line too: most tools show their users nothing else.
pub(super) async fn tell(client: &mut TcpStream, status: StatusCode, refusal: &Refusal) {
    let reason = refusal.to_string();
    let answer = format!(
        "HTTP/1.1 {status}: {reason}\r\nContent-Length: {}\r\nContent-Type: text/plain; charset=utf-8\r\n{}\
         Connection: close\r\n\r\n{reason}\n",
        reason.len() + 1,
        refusal.header(),
    );
    let told = async {
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await
    };
    if !matches!(timeout(ANSWER_TIMEOUT, told).await, Ok(Ok(()))) {
        return;
    }
    let (time, mut left) = LINGER;
    let drain = async {
        let mut space = [0; 1024];
        while let Ok(read @ 1..) = client.read(&mut space).await {
            let Some(rest) = left.checked_sub(read) else { break };
            left = rest;
        }
    };
    let _ = timeout(time, drain).await;
}

/// At least one byte, or the client is gone.
fn received(read: io::Result<usize>) -> Result<(), Refusal> {
    match read {
        Ok(0) => Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(()),
        Err(e) => Err(Refusal::Gone(e)),
    }
}
