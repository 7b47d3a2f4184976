//! HTTP for operators and load balancers: /healthz (the process is up), /readyz (new clients are
//! accepted), /metrics (Prometheus text), /api/classes (the class tree, JSON).
//!
//! It reads states and counters, and changes the rates of classes. Invariant: no page of another
//! site that an operator's browser has open can use the API (`guard`).
//!
//! This room must not know of S3, of drips or of the configuration file.

mod classes;
mod guard;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;

use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::shape::Shaper;

/// The most bytes of a request's body. A change of a class has about a hundred.
const MAX_BODY: usize = 4 << 10;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What one admin or health listener serves.
pub struct Admin {
    lifecycle: Lifecycle,
    /// None for a health listener, which clients other than operators may reach.
    operator: Option<Operator>,
}

/// What only operators may see and do.
struct Operator {
    metrics: Metrics,
    shaper: Option<Arc<Shaper>>,
    /// The listener's address: besides loopback, the one that a Host header may name.
    addr: IpAddr,
}

impl Admin {
    /// All endpoints, for a listener at `addr` that only operators reach.
    #[must_use]
    pub fn new(
        lifecycle: Lifecycle,
        metrics: Metrics,
        shaper: Option<Arc<Shaper>>,
        addr: IpAddr,
    ) -> Self {
        Self { lifecycle, operator: Some(Operator { metrics, shaper, addr }) }
    }

    /// Only /healthz and /readyz.
    #[must_use]
    pub fn health(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, operator: None }
    }

    fn answer(&self, method: &Method, path: &str) -> AdminResponse {
        match (path, &self.operator) {
            _ if !is_read(method) => AdminResponse::not_allowed("GET, HEAD"),
            ("/healthz", _) => AdminResponse::text(StatusCode::OK, "up\n"),
            ("/readyz", _) if self.lifecycle.is_ready() => {
                AdminResponse::text(StatusCode::OK, "ready\n")
            }
            ("/readyz", _) if self.lifecycle.is_draining() => {
                AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            ("/readyz", _) => AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            ("/metrics", Some(operator)) => {
                if let Some(shaper) = &operator.shaper {
                    shaper.update_metrics();
                }
                AdminResponse {
                    body: operator.metrics.text(),
                    ..AdminResponse::text(StatusCode::OK, "")
                }
            }
            _ => AdminResponse::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Answers a request below /api/; None for another path.
    async fn api(&self, session: &mut ServerSession) -> Option<AdminResponse> {
        let operator = self.operator.as_ref()?;
        let request = session.req_header();
        let (method, path) = (request.method.clone(), request.uri.path().to_owned());
        if !path.starts_with("/api/") {
            return None;
        }
        if let Some(reason) = guard::refusal(&request.headers, operator.addr) {
            session.set_keepalive(None);
            return Some(AdminResponse::error(StatusCode::FORBIDDEN, reason));
        }
        let body = match (is_read(&method), tokio::time::timeout(BODY_TIMEOUT, body(session)).await)
        {
            (true, _) => Ok(Vec::new()),
            (false, Ok(body)) => body,
            (false, Err(_)) => Err((StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        };
        let body = match body {
            Ok(body) => body,
            Err((status, reason)) => {
                session.set_keepalive(None);
                return Some(AdminResponse::error(status, reason));
            }
        };
        classes::answer(operator.shaper.as_deref(), &method, &path, &body)
    }
}

/// The whole body of a request, or what is wrong with it.
async fn body(session: &mut ServerSession) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    let mut body = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(None) => return Ok(body),
            Ok(Some(bytes)) if body.len() + bytes.len() > MAX_BODY => {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 4096 bytes"));
            }
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Err(_) => return Err((StatusCode::BAD_REQUEST, "the body cannot be read")),
        }
    }
}

/// Whether a method changes nothing.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// A response of an admin or health listener.
#[derive(Debug)]
struct AdminResponse {
    status: StatusCode,
    content_type: &'static str,
    /// The methods that are allowed (RFC 9110 §10.2.1), if the request's is not.
    allow: Option<&'static str>,
    body: Vec<u8>,
}

impl AdminResponse {
    fn text(status: StatusCode, text: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, allow: None, body: text.as_bytes().to_vec() }
    }

    fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        let body = format!("{value}\n").into_bytes();
        Self { status, content_type: "application/json", allow: None, body }
    }

    fn error(status: StatusCode, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": message }))
    }

    fn not_allowed(allow: &'static str) -> Self {
        let text = format!("only {allow}\n");
        let allow = Some(allow);
        Self { allow, ..Self::text(StatusCode::METHOD_NOT_ALLOWED, &text) }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if self.lifecycle.is_handed_over() {
            // The successor answers the next request.
            session.set_keepalive(None);
        }
        let answer = match self.api(session).await {
            Some(answer) => answer,
            None => {
                let request = session.req_header();
                self.answer(&request.method, request.uri.path())
            }
        };
        let length = answer.body.len().into();
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(allow) = answer.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(admin: &Admin, path: &str) -> u16 {
        admin.answer(&Method::GET, path).status.as_u16()
    }

    #[tokio::test]
    async fn readiness_follows_the_lifecycle() {
        let lifecycle = Lifecycle::new();
        let admin = Admin::new(lifecycle.clone(), Metrics::new(), None, [127, 0, 0, 1].into());
        assert_eq!((status(&admin, "/healthz"), status(&admin, "/readyz")), (200, 503));
        lifecycle.started();
        assert_eq!(status(&admin, "/readyz"), 200);
        lifecycle.drain(std::time::Duration::ZERO).await;
        assert_eq!((status(&admin, "/healthz"), status(&admin, "/readyz")), (200, 503));
    }

    #[test]
    fn a_health_listener_serves_health_alone() {
        let admin = Admin::health(Lifecycle::new());
        assert_eq!(status(&admin, "/metrics"), 404);
        assert_eq!(status(&admin, "/"), 404);
        assert_eq!(status(&admin, "/api/classes"), 404);
        let post = admin.answer(&Method::POST, "/healthz");
        assert_eq!((post.status.as_u16(), post.allow), (405, Some("GET, HEAD")));
    }
}
