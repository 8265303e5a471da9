//! The human pages: an overview, the full reference, and a page for every kind of problem.
//!
//! Rendered here from the OpenAPI document, without scripts and without anything from elsewhere, so they work offline and
//! under a policy that forbids both.

mod html;

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{
    app::AppState,
    extract::Path,
    problem::{Problem, ProblemKind},
};

const STYLESHEET: &str = include_str!("docs/style.css");

/// Nothing but our own stylesheet: no scripts, no frames, no forms, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The pages that do not change while a process runs, rendered when it starts.
#[derive(Debug)]
pub struct Documents {
    openapi: String,
    overview: String,
    reference: String,
    problems: String,
}

impl Documents {
    /// Renders the pages of an OpenAPI document.
    #[must_use]
    pub fn render(document: &utoipa::openapi::OpenApi) -> Self {
        let value = serde_json::to_value(document).unwrap_or_default();
        Self {
            openapi: value.to_string(),
            overview: html::overview(&value),
            reference: html::reference(&value),
            problems: html::problems(),
        }
    }
}

fn cached(kind: &'static str, body: String) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, body).into_response()
}

fn page(body: String) -> Response {
    cached("text/html; charset=utf-8", body)
}

/// This document (OpenAPI 3.1).
#[utoipa::path(get, path = "/openapi.json", tag = "operations", security(()), responses((status = 200, content_type = "application/json")))]
pub async fn openapi(State(state): State<AppState>) -> Response {
    cached("application/json", state.documents.openapi.clone())
}

/// All operations on one page, for people.
#[utoipa::path(get, path = "/docs", tag = "operations", security(()), responses((status = 200, content_type = "text/html")))]
pub async fn overview(State(state): State<AppState>) -> Response {
    page(state.documents.overview.clone())
}

/// The full reference with all shapes, for people.
#[utoipa::path(get, path = "/redoc", tag = "operations", security(()), responses((status = 200, content_type = "text/html")))]
pub async fn reference(State(state): State<AppState>) -> Response {
    page(state.documents.reference.clone())
}

/// All kinds of problems, for people.
#[utoipa::path(get, path = "/docs/problems", tag = "operations", security(()), responses((status = 200, content_type = "text/html")))]
pub async fn problems(State(state): State<AppState>) -> Response {
    page(state.documents.problems.clone())
}

/// What a kind of problem means and what to do. The `type` of every problem leads here.
#[utoipa::path(get, path = "/docs/problems/{slug}", tag = "operations", security(()), params(("slug" = String, Path)),
    responses((status = 200, content_type = "text/html")))]
pub async fn problem(Path(slug): Path<String>) -> Result<Response, Problem> {
    let kind = ProblemKind::ALL
        .iter()
        .find(|kind| kind.slug() == slug)
        .ok_or_else(|| Problem::not_found("page"))?;
    Ok(page(html::problem(*kind)))
}

/// The stylesheet of the pages.
#[utoipa::path(get, path = "/docs/style.css", tag = "operations", security(()), responses((status = 200, content_type = "text/css")))]
pub async fn stylesheet() -> Response {
    cached("text/css; charset=utf-8", STYLESHEET.to_owned())
}
