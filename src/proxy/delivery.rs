//! How a client is served, and how its stream is told: the profile is chosen, and the response is
//! announced to the [`PacedStream`] that slices it and waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pingora::prelude::*;
use pingora::protocols::Ssl;
use pingora_http::ResponseHeader;

use super::context::Delivery;
use super::response::body_length;
use super::{Context, DripProxy};
use crate::drip::stream::PacedStream;
use crate::drip::{Pace, Progress};
use crate::http1::stream::HttpStream;
use crate::profile::Facts;
use crate::shape::{Flow, Owner};
use crate::tls::listener;

impl DripProxy {
    /// How this client is served, as far as its request tells; `key` is empty if it has none.
    pub(super) fn delivery(&self, session: &Session, key: &[u8]) -> Delivery {
        let stream = paced(session);
        let ssl = stream.and_then(Ssl::get_ssl);
        let facts = Facts {
            listener: stream.and_then(PacedStream::listener),
            client: client(session).map(|client| client.ip()),
            server_name: ssl.and_then(listener::server_name),
            request: Some((key, &session.req_header().headers)),
        };
        let profiles = self.profiles.load();
        let profile = profiles.choose(&facts);
        Delivery {
            profile: profile.name.clone(),
            settings: profiles.schedule(profile, &facts),
            fill: profile.fill,
            offer: ssl.and_then(listener::negotiated).map(|n| n.offer).unwrap_or_default(),
        }
    }

    /// Announces a response to the client's stream, which paces it from then on; counts, lists and logs
    /// it.
    pub(super) fn begin(&self, session: &Session, ctx: &mut Context, head: &ResponseHeader) {
        let (progress, length) = self.arm(session, ctx, head);
        ctx.begin(head.status, length, progress, &self.state.transfers);
    }

    /// Announces a response to the client's stream. Returns what counts it, and its body's length.
    pub(super) fn arm(
        &self,
        session: &Session,
        ctx: &Context,
        head: &ResponseHeader,
    ) -> (Arc<Progress>, Option<u64>) {
        let drips = &self.state.metrics.drips;
        let progress = Progress::new(drips.body_bytes.clone(), drips.body_records.clone());
        let progress = Arc::new(progress);
        let length = body_length(&session.req_header().method, head);
        if let Some(stream) = paced(session) {
            let Delivery { settings, fill, .. } = &ctx.delivery;
            let chunk = settings.chunk_size.bytes();
            let limit = stream.get_ssl().map_or(chunk, |ssl| {
                let known = || listener::negotiated(ssl).map_or(chunk, |n| n.limit());
                listener::allow(ssl, chunk).unwrap_or_else(|_| known())
            });
            let pace = Pace::new(settings, limit, *fill);
            stream.arm(pace, length, progress.clone(), ctx.feed());
            if let Some(flow) =
                settings.class.as_deref().and_then(|class| self.flow(session, class))
            {
                stream.wait_for_class(flow);
            }
        }
        (progress, length)
    }

    /// This client's flow in that class; None if the tree has no such class.
    pub(super) fn flow(&self, session: &Session, class: &str) -> Option<Flow> {
        let client = client(session).map_or(Ipv4Addr::UNSPECIFIED.into(), |client| client.ip());
        self.shaper.as_ref()?.register_flow(class, &Owner { client, user: None })
    }
}

/// The client's address.
pub(super) fn client(session: &Session) -> Option<SocketAddr> {
    session.client_addr()?.as_inet().copied()
}

/// The client's paced stream under Pingora's session.
pub(super) fn paced(session: &Session) -> Option<&PacedStream> {
    http_stream(session).map(HttpStream::paced)
}

/// The HTTP/1 stream under Pingora's session, which limits what is read of the client.
pub(super) fn http_stream(session: &Session) -> Option<&HttpStream> {
    (**session.as_downstream().stream()?).as_any().downcast_ref::<HttpStream>()
}
