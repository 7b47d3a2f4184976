//! GET and HEAD of what may come from the spool: S3 is asked to authorise the request. After that the
//! object is served from the spool, S3's answer is relayed, or the request goes direct.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use pingora::prelude::*;
use pingora_cache::CacheKey;
use pingora_http::ResponseHeader;

use super::own_response::OwnResponse;
use super::response::trim;
use super::{Context, DripProxy};
use crate::spool::admission::ObjectName;
use crate::spool::storage::Hit;
use crate::spool::{Spool, SpoolRequest, Verdict};

impl DripProxy {
    /// Has S3 authorise a request. True if the client was answered with that; else it is served from
    /// the spool, if the context has something to serve, or goes direct.
    pub(super) async fn authorise(
        &self,
        spool: &Arc<Spool>,
        name: ObjectName,
        expires: Option<SystemTime>,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<bool> {
        let ask =
            SpoolRequest { name, request: session.req_header(), target: &ctx.s3.target, expires };
        match spool.authorise(&ask).await {
            Verdict::Serve(served) => {
                ctx.spooled = Some(served);
                // Else the context would hold a signature for hours that is not needed any more.
                ctx.s3.target = Vec::new();
            }
            Verdict::Direct(_) => {}
            Verdict::Failed(e) => return Err(e),
            Verdict::Relay(head, body) => {
                self.relay(session, ctx, *head, body).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The cache key that hands the authorised object to pingora-cache's look-up.
    pub(super) fn cache_key(ctx: &Context) -> Result<CacheKey> {
        let served = ctx.spooled.as_ref();
        let head = served.and_then(|served| served.reader.head());
        let (Some(served), Some((head, since))) = (served, head) else {
            return Error::e_explain(InternalError, "nothing was authorised");
        };
        let mut head = head.clone();
        trim(&mut head, &ctx.delivery.settings.response_headers);
        let reader = Arc::clone(&served.reader);
        Ok(Hit::new(reader, head, since, served.multipart).into_key())
    }

    /// Relays a response of S3's that was read whole.
    async fn relay(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut head: ResponseHeader,
        body: Bytes,
    ) -> Result<()> {
        self.accept_whole(&mut head, &body, ctx)?;
        self.response_filter(session, &mut head, ctx).await?;
        let bodiless = ctx.request.method == Method::HEAD;
        write_whole(session, head, (!bodiless).then_some(body)).await
    }

    /// Answers a request without S3.
    pub(super) async fn send_own(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        response: OwnResponse,
    ) -> Result<()> {
        let (head, body) = response.build()?;
        self.begin(session, ctx, &head);
        write_whole(session, head, Some(body)).await
    }
}

/// Writes a response whose stream is armed; None for one that has no body.
pub(super) async fn write_whole(
    session: &mut Session,
    head: ResponseHeader,
    body: Option<Bytes>,
) -> Result<()> {
    session.write_response_header(Box::new(head), body.is_none()).await?;
    match body {
        Some(body) => session.write_response_body(Some(body), true).await,
        None => Ok(()),
    }
}
