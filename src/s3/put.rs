//! Uploads to S3: a head, a body piece by piece, and an answer that may come at any time.
//!
//! Pingora's upstream path is not used: while it writes a body it reads no answer, so a refusal would
//! wait until the whole body was sent; and its timeouts run while a class holds a body back.
//!
//! Invariant: each upload has a connection of its own. S3 may close a pooled one at any moment, and a
//! body that was passed on cannot be sent again. This file must not know who sends a body, nor how fast.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::resolve::Resolver;
use super::upstream::Upstream;
use crate::shape::SocketOptions;

/// How many of S3's addresses are tried for one upload.
const TRIES: u32 = 3;

/// How long to wait for an answer once S3 takes no more of the body.
const EARLY_ANSWER: Duration = Duration::from_secs(2);

/// The longest answer, in bytes: an error is some 500.
const MAX_ANSWER: usize = 64 << 10;

/// Connects uploads to one bucket.
pub struct Putter {
    upstream: Upstream,
    resolver: Arc<Resolver>,
    connector: TransportConnector,
}

impl Putter {
    /// For that bucket. `conf` says where the system's certificates are.
    #[must_use]
    pub fn new(upstream: Upstream, resolver: Arc<Resolver>, conf: &ServerConf) -> Self {
        let connector = TransportConnector::new(Some(ConnectorOptions::from_server_conf(conf)));
        Self { upstream, resolver, connector }
    }

    /// Where uploads go.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// A connection for one upload.
    ///
    /// # Errors
    ///
    /// If none can be made in time. The error's source is the upstream.
    pub async fn connect(&self, options: SocketOptions) -> Result<Put> {
        let mut last = None;
        for _ in 0..TRIES {
            let (address, mut peer) = self.upstream.next_peer(&self.resolver).await?;
            peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(move |socket| {
                options.apply(socket).or_err(ErrorType::SocketError, "for a class")
            }));
            match self.connector.new_stream(&peer).await {
                Ok(stream) => {
                    let mut session = HttpSession::new(stream);
                    session.write_timeout = Some(self.upstream.settings.response_timeout);
                    return Ok(Put { session });
                }
                Err(e) => {
                    self.resolver.failed(address);
                    last = Some(e.into_up());
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::new_up(ErrorType::ConnectError)))
    }
}

/// One upload.
pub struct Put {
    session: HttpSession,
}

impl Put {
    /// Sends the head.
    ///
    /// # Errors
    ///
    /// If S3 does not take it in time.
    pub async fn begin(&mut self, head: Box<RequestHeader>) -> Result<()> {
        self.session.write_request_header(head).await.map_err(Error::into_up)?;
        Ok(())
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    ///
    /// If S3 does not take it in time. S3 may have [answered](Self::early_answer) all the same.
    pub async fn send(&mut self, piece: &[u8]) -> Result<()> {
        self.session.write_body(piece).await.map_err(Error::into_up)?;
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub async fn end(&mut self) -> Result<()> {
        self.session.finish_body().await.map_err(Error::into_up)?;
        Ok(())
    }

    /// The next response head, which may be an interim one (RFC 9110 §15.2). Has no timeout of
    /// its own, and may be cancelled without loss.
    ///
    /// # Errors
    ///
    /// If the connection ends, or if what comes is not a response.
    pub async fn answer(&mut self) -> Result<Box<ResponseHeader>> {
        self.session.read_resp_header_parts().await.map_err(Error::into_up)
    }

    /// What S3 has answered before it stopped taking the body, if it has.
    pub async fn early_answer(&mut self) -> Option<Box<ResponseHeader>> {
        let answer = async {
            loop {
                let head = self.answer().await.ok()?;
                if !head.status.is_informational() {
                    return Some(head);
                }
            }
        };
        tokio::time::timeout(EARLY_ANSWER, answer).await.ok().flatten()
    }

    /// The body of the answer.
    ///
    /// # Errors
    ///
    /// If the connection ends before it does, it does not come within `timeout`, or it is longer than
    /// any of S3's.
    pub async fn body(&mut self, timeout: Duration) -> Result<Bytes> {
        self.session.read_timeout = Some(timeout);
        let mut body = Vec::new();
        while let Some(piece) = self.session.read_body_bytes().await.map_err(Error::into_up)? {
            if body.len() + piece.len() > MAX_ANSWER {
                let context = format!("S3's answer has more than {MAX_ANSWER} bytes");
                return Err(Error::explain(ErrorType::ReadError, context).into_up());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    }
}
