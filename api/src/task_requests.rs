//! External workers over NATS: each request becomes one of the HTTP routes `/worker-tasks/…`, so that both ways in mean the same.
//!
//! A request goes through the same layers and the same handler as one over HTTP: its credential, its limits, its idempotency key, its
//! problems. Only what a worker needs of the headers is passed on, in both directions; a cookie is not, since no browser is here.
//! See `docs/worker-tasks-over-nats.md` for what workers send.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Method, Request, header},
    response::IntoResponse as _,
};
use bytes::Bytes;
use ledgerline_nats::{Nats, TaskCall, TaskRequest, TaskRequests};
use tower::ServiceExt as _;

use crate::{
    extract::{
        context::CORRELATION_ID,
        conventions::{IDEMPOTENCY_KEY, POSITION, WORKSPACE},
    },
    problem::Problem,
    roles::Stage,
    router::BASE_PATH,
};

/// What is passed on of a request.
static ASKED: [HeaderName; 5] = [
    header::AUTHORIZATION,
    IDEMPOTENCY_KEY,
    WORKSPACE,
    CORRELATION_ID,
    HeaderName::from_static("traceparent"),
];

/// What is passed on of an answer.
static ANSWERED: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::RETRY_AFTER, header::ETAG, POSITION, CORRELATION_ID];

/// The largest answer that is read: more than any route for workers gives, and than a message of NATS usually holds.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Answers requests until the stage stops, and then those that are under way.
pub(crate) fn serve(nats: Nats, routes: Router, stage: &Stage) {
    let (tasks, stop) = (stage.tasks.clone(), stage.stop.clone());
    stage.tasks.spawn(async move {
        let mut requests = match TaskRequests::listen(&nats).await {
            Ok(requests) => requests,
            Err(error) => return tracing::error!(%error, "workers are not heard over nats"),
        };
        // How many may be under way at once is the bound of the routes: one too many is answered at once that it is.
        while let Some(Some(request)) = stop.run_until_cancelled(requests.next()).await {
            tasks.spawn(answer(request, routes.clone()));
        }
    });
}

async fn answer(request: TaskRequest, routes: Router) {
    let response = match of_http(&request) {
        Some(asked) => match routes.oneshot(asked).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => Problem::not_found("subject").into_response(),
    };
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ANSWER_BYTES).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the answer to a worker has no body");
        Bytes::new()
    });
    let headers = ANSWERED.iter().filter_map(|name| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some((name.as_str(), value))
    });
    let headers: Vec<(&str, &str)> = headers.collect();
    request.answer(parts.status.as_u16(), &headers, body).await;
}

/// The request as the route takes it; none for a subject that no route stands for.
fn of_http(request: &TaskRequest) -> Option<Request<Body>> {
    let path = match request.call.as_ref()? {
        TaskCall::Poll => format!("{BASE_PATH}/worker-tasks/poll"),
        TaskCall::Report { verb, task } => {
            format!("{BASE_PATH}/worker-tasks/{task}/{}", verb.as_str())
        }
    };
    let mut asked = Request::new(Body::from(request.body.clone()));
    *asked.method_mut() = Method::POST;
    // Ids and hexadecimal digits alone: the subject was parsed.
    *asked.uri_mut() = path.parse().ok()?;
    let headers = asked.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &request.headers {
        let known = ASKED.iter().find(|known| name.eq_ignore_ascii_case(known.as_str()));
        if let (Some(name), Ok(value)) = (known, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    Some(asked)
}
