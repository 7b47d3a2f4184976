//! One connection's requests, one after the other.
//!
//! Pingora's own loop would do, but it keeps a request's whole state, some 20 KB, for the hours that
//! its body may drip. Here the request is over for Pingora once the client's stream has taken the
//! promise of all that is left ([`PacedStream::is_dripping`]); what goes on is the stream and a
//! `Rest`, and Pingora sees the connection again when the next request may come.
//!
//! This file must not know what a request is about.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::Shutdown;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use super::DripProxy;
use super::context::Rest;
use crate::drip::stream::PacedStream;

/// How long a connection may be without a request, as with Pingora's own loop.
pub const IDLE: Duration = Duration::from_secs(60);

/// Serves requests until the connection ends.
pub async fn hold(
    proxy: &Arc<HttpProxy<DripProxy>>,
    stream: Box<PacedStream>,
    draining: &ShutdownWatch,
) {
    let (mut stream, mut settings) = (stream, None);
    loop {
        let served = proxy.process_new_http(session(stream, settings, draining), draining).await;
        let Some((reused, kept)) = served.map(|served| served.consume()) else { return };
        let Ok(reused) = reused.into_any().downcast::<PacedStream>() else { return };
        (stream, settings) = (reused, kept);
        let rest = settings.as_mut().and_then(HttpPersistentSettings::take_user_context);
        if let Some(Ok(rest)) = rest.map(|rest| rest.downcast::<Rest>()) {
            let sent = stream.drip_out().await;
            if !rest.end(&sent) || *draining.borrow() {
                return stream.shutdown().await;
            }
        }
    }
}

fn session(
    stream: Box<PacedStream>,
    settings: Option<HttpPersistentSettings>,
    draining: &ShutdownWatch,
) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    session.set_keepalive((!*draining.borrow()).then_some(IDLE.as_secs()));
    if let Some(settings) = settings {
        settings.apply_to_session(&mut session);
    }
    session
}
