//! What operators and load balancers ask: /healthz (the process is up), /readyz (new clients are
//! welcome), /metrics (Prometheus text).
//!
//! It reads states and counters; it must not know of S3, drips or the configuration file.

use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;

use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// The answers of one admin or health listener.
pub struct Admin {
    lifecycle: Lifecycle,
    /// None on a health listener, which anybody may reach.
    metrics: Option<Metrics>,
}

impl Admin {
    /// Everything, for a listener that only operators reach.
    #[must_use]
    pub fn new(lifecycle: Lifecycle, metrics: Metrics) -> Self {
        Self { lifecycle, metrics: Some(metrics) }
    }

    /// /healthz and /readyz alone.
    #[must_use]
    pub fn health(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, metrics: None }
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, Vec<u8>) {
        let text = |status, line: &str| (status, line.as_bytes().to_vec());
        match (path, &self.metrics) {
            _ if !matches!(*method, Method::GET | Method::HEAD) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n")
            }
            ("/healthz", _) => text(StatusCode::OK, "up\n"),
            ("/readyz", _) if self.lifecycle.is_ready() => text(StatusCode::OK, "ready\n"),
            ("/readyz", _) if self.lifecycle.is_draining() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            ("/readyz", _) => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            ("/metrics", Some(metrics)) => (StatusCode::OK, metrics.text()),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if self.lifecycle.is_handed_over() {
            // The next one is for the successor to answer.
            session.set_keepalive(None);
        }
        let request = session.req_header();
        let (status, body) = self.answer(&request.method, request.uri.path());
        let length = body.len().into();
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(admin: &Admin, path: &str) -> u16 {
        admin.answer(&Method::GET, path).0.as_u16()
    }

    #[tokio::test]
    async fn readiness_follows_the_lifecycle() {
        let lifecycle = Lifecycle::new();
        let admin = Admin::new(lifecycle.clone(), Metrics::new());
        assert_eq!((status(&admin, "/healthz"), status(&admin, "/readyz")), (200, 503));
        lifecycle.started();
        assert_eq!(status(&admin, "/readyz"), 200);
        lifecycle.drain(std::time::Duration::ZERO).await;
        assert_eq!((status(&admin, "/healthz"), status(&admin, "/readyz")), (200, 503));
    }

    #[test]
    fn a_health_listener_tells_no_more_than_health() {
        let admin = Admin::health(Lifecycle::new());
        assert_eq!(status(&admin, "/metrics"), 404);
        assert_eq!(status(&admin, "/"), 404);
        assert_eq!(admin.answer(&Method::POST, "/healthz").0, StatusCode::METHOD_NOT_ALLOWED);
    }
}
