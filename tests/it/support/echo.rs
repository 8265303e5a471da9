//! A server that gives back what it is sent, in every spelling in which servers do so.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{OriginalUri, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::any,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What it heard, and the last value of `x-token`.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    requests: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    elsewhere: Arc<Mutex<String>>,
    arrived: Arc<Notify>,
}

/// The server; it ends with the test's runtime.
pub(crate) struct Echo {
    /// `http://127.0.0.1:<port>`.
    pub(crate) base: String,
    heard: Heard,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let heard = Heard::default();
        let routes = Router::new()
            .route("/echo", any(echo))
            .route("/stored", any(stored))
            .route("/fail", any(fail))
            .route("/redirect", any(redirect))
            .route("/hang", any(hang))
            .with_state(heard.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { base, heard }
    }

    /// Where `/redirect` leads.
    pub(crate) fn redirects_to(&self, url: &str) {
        url.clone_into(&mut self.heard.elsewhere.lock().unwrap());
    }

    /// One header of all requests to a path.
    pub(crate) fn headers(&self, path: &str, name: &str) -> Vec<String> {
        let requests = self.heard.requests.lock().unwrap();
        let asked = requests.iter().filter(|(asked, _)| asked == path);
        asked.map(|(_, headers)| text(headers, name)).collect()
    }

    /// Waits for the next request.
    pub(crate) async fn arrived(&self) {
        self.heard.arrived.notified().await;
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

fn note(heard: &Heard, uri: &OriginalUri, headers: &HeaderMap) {
    let path = uri.path().to_owned();
    heard.requests.lock().unwrap().push((path, headers.clone()));
    heard.arrived.notify_one();
}

/// Everything it was sent, plain and encoded, with a lot around it.
fn everything(uri: &OriginalUri, headers: &HeaderMap, body: &Bytes) -> Value {
    let token = text(headers, "x-token");
    let body = String::from_utf8_lossy(body).into_owned();
    let percent: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
    json!({
        "url": uri.to_string(),
        "token": token,
        token.as_str(): "as a name",
        "in_text": format!("before {token} after {token}"),
        "percent": percent,
        "hex": token.bytes().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "json": json!({ "token": token }).to_string(),
        "body": body,
        "authorization": text(headers, "authorization"),
    })
}

async fn echo(
    State(heard): State<Heard>,
    uri: OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    note(&heard, &uri, &headers);
    let mut answer = everything(&uri, &headers, &body);
    if uri.query().is_some_and(|query| query.contains("large")) {
        answer["padding"] = "x".repeat(300 * 1024).into();
    }
    ([("x-echo", text(&headers, "x-token"))], Json(answer)).into_response()
}

/// What somebody else sent before.
async fn stored(State(heard): State<Heard>) -> Json<Value> {
    let requests = heard.requests.lock().unwrap();
    let sent: Vec<String> = requests.iter().map(|(_, headers)| text(headers, "x-token")).collect();
    Json(json!({ "sent": sent }))
}

async fn fail(
    State(heard): State<Heard>,
    uri: OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    note(&heard, &uri, &headers);
    (StatusCode::BAD_REQUEST, everything(&uri, &headers, &body).to_string()).into_response()
}

async fn redirect(State(heard): State<Heard>, uri: OriginalUri, headers: HeaderMap) -> Response {
    note(&heard, &uri, &headers);
    let to = heard.elsewhere.lock().unwrap().clone();
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
}

async fn hang(State(heard): State<Heard>, uri: OriginalUri, headers: HeaderMap) -> Response {
    note(&heard, &uri, &headers);
    std::future::pending().await
}
