//! Requests to the whole router of a test, without a socket: its own database, its own clock.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use ledgerline_api::{clock::Clock, config::Config, identity::Identity};
use ledgerline_commands::Commands;
use serde_json::Value;
use tower::ServiceExt;

use super::app;

/// The product as one test sees it.
pub(crate) struct Client {
    router: Router,
    /// The time of this test: it stands until it is moved.
    pub(crate) clock: Clock,
    /// From where it asks; nothing is known of it where none is set.
    pub(crate) ip: Option<IpAddr>,
    /// Ends the background work and drops the database with the test.
    app: app::App,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    /// The JSON body; a string where it is none.
    pub(crate) body: Value,
}

impl Answer {
    /// A header, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// All values of a header.
    pub(crate) fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// A text of the body.
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }

    /// Demands a problem document of a kind.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: StatusCode, slug: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["type"], format!("/docs/problems/{slug}"), "{self:?}");
        assert_eq!(self.body["status"], status.as_u16());
        assert_eq!(self.body["correlation_id"], self.header("x-correlation-id"));
    }
}

impl Client {
    /// A product of its own.
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// One that is configured otherwise.
    pub(crate) async fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let app = app::App::start_with(change).await;
        Self {
            router: ledgerline_api::router::router(&app.state),
            clock: app.state.clock.clone(),
            ip: None,
            app,
        }
    }

    /// The database of this test.
    pub(crate) fn pool(&self) -> &sqlx::PgPool {
        &self.app.state.pool
    }

    /// What the product decides with.
    pub(crate) fn commands(&self) -> &Commands {
        &self.app.state.commands
    }

    /// Its accounts.
    pub(crate) fn identity(&self) -> &Identity {
        &self.app.state.identity
    }

    /// Takes the facts for the audit into the log.
    pub(crate) async fn record(&self) {
        let recorded = self.app.state.recorder.record(self.clock.now()).await;
        recorded.expect("the log takes them");
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.send(Method::GET, path, token, None, &[]).await
    }

    pub(crate) async fn delete(&self, path: &str, token: Option<&str>) -> Answer {
        self.send(Method::DELETE, path, token, None, &[]).await
    }

    pub(crate) async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        self.send(Method::POST, path, token, Some(body), &[]).await
    }

    /// Any request with a JSON body or none.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        headers: &[(&str, String)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(ip) = self.ip {
            request = request.extension(ConnectInfo(SocketAddr::new(ip, 1)));
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = match body {
            None => Body::empty(),
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(value.to_string())
            }
        };
        self.answer(request.body(body).unwrap()).await
    }

    /// A POST with whatever bytes.
    pub(crate) async fn send_raw(&self, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, content_type);
        self.answer(request.body(Body::from(body)).unwrap()).await
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }
}
