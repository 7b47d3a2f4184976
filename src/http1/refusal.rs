//! Refuses a connection: one whole response, the end of the sending side, and a moment in which the client
//! can read it.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::linger::Linger;

/// How long the client may take to be sent an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long, and how many bytes, a client that was refused is still read.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 << 10);

/// The last response of a connection.
#[derive(Debug, Clone, Copy)]
pub struct RefusalResponse<'a> {
    /// The status.
    pub status: StatusCode,
    /// Why, in one line: it becomes the body.
    pub reason: &'a str,
    /// Whether the reason stands in the status line as well.
    pub in_status_line: bool,
    /// Further header lines, each with its CRLF.
    pub headers: &'a str,
}

impl RefusalResponse<'_> {
    /// Sends the response and lingers. Returns whether it was sent in time; if not, the connection is left
    /// as it is.
    pub async fn send(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
        let sent = timeout(ANSWER_TIMEOUT, self.write(stream)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return false;
        }
        let mut linger = Linger::new(LINGER.0, LINGER.1);
        poll_fn(|cx| linger.poll(cx, stream)).await;
        true
    }

    async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(self.response().as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    }

    fn response(&self) -> String {
        let Self { status, reason, in_status_line, headers } = self;
        let (colon, phrase) = if *in_status_line { (": ", *reason) } else { ("", "") };
        format!(
            "HTTP/1.1 {status}{colon}{phrase}\r\nContent-Length: {}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n{headers}Connection: close\r\n\r\n{reason}\n",
            reason.len() + 1,
        )
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_whole_and_ends_the_connection() {
        let refusal = RefusalResponse {
            status: StatusCode::FORBIDDEN,
            reason: "not here",
            in_status_line: true,
            headers: "Allow: CONNECT\r\n",
        };
        let body = "Content-Length: 9\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Allow: CONNECT\r\nConnection: close\r\n\r\nnot here\n";
        for (in_status_line, line) in [(true, "403 Forbidden: not here"), (false, "403 Forbidden")]
        {
            let (mut client, mut server) = tokio::io::duplex(4096);
            let refusal = RefusalResponse { in_status_line, ..refusal };
            let mut answer = String::new();
            let (sent, read) =
                tokio::join!(refusal.send(&mut server), client.read_to_string(&mut answer));
            assert!(sent && read.is_ok());
            assert_eq!(answer, format!("HTTP/1.1 {line}\r\n{body}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_not_waited_for() {
        let (_client, mut server) = tokio::io::duplex(8);
        let refusal = RefusalResponse {
            status: StatusCode::BAD_REQUEST,
            reason: "no",
            in_status_line: false,
            headers: "",
        };
        let start = tokio::time::Instant::now();
        assert!(!refusal.send(&mut server).await);
        assert_eq!(start.elapsed(), ANSWER_TIMEOUT);
    }
}
