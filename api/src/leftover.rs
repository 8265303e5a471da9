//! The rest of a body that nobody read.
//!
//! A refusal often stands before the body is read: it is too large, or the caller is nobody. A connection that is closed with unread
//! bytes in it is reset, and the reset may overtake the answer. So what is left is read and thrown away first, within bounds.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;

use crate::{
    app::AppState,
    problem::{Problem, ProblemKind},
};

/// How much is read of what nobody wants: more than any honest mistake, and no more than a second of a fast line.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// How long it may take: a slow sender must not hold the connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bodies up to this size lie in the connection's buffers, and reading them costs nothing worth saving: they are left alone.
const SMALL_BYTES: u64 = 16 * 1024;

/// Answers, and reads what was left of a large body before the answer is sent.
pub(crate) async fn read_leftover(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(header::EXPECT) {
        // It has sent nothing yet, and sends nothing once it is refused; to read any of it would be to ask for all.
        let most = state.config.http.body_limit_bytes as u64;
        let is_too_large = request.body().size_hint().lower() > most;
        return match is_too_large {
            true => Problem::new(ProblemKind::BodyTooLarge, "the body is over the limit of 10 MB")
                .into_response(),
            false => next.run(request).await,
        };
    }
    if !is_worth_it(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let home: Home = Arc::default();
    let lent = Lent { body, home: Arc::clone(&home) };
    let response = next.run(Request::from_parts(parts, Body::new(lent))).await;
    let left = home.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(left) = left
        && response.status().as_u16() >= 400
        && tokio::time::timeout(PATIENCE, throw_away(left)).await.is_err()
    {
        tracing::debug!("a body that nobody wants comes too slowly to be read to its end");
    }
    response
}

fn is_worth_it(request: &Request) -> bool {
    match request.body().size_hint().exact() {
        Some(bytes) => bytes > SMALL_BYTES,
        None => !request.body().is_end_stream(),
    }
}

async fn throw_away(body: Body) {
    let mut read = 0;
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        read += piece.len();
        if read > MAX_BYTES {
            return;
        }
    }
}

type Home = Arc<Mutex<Option<Body>>>;

/// A body that comes home when whoever reads it lets go of it.
struct Lent {
    body: Body,
    home: Home,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
