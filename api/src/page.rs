//! The first page: a few files that are part of the program, so that a person can work before anything else is installed.
//!
//! Each file has an `ETag`, so that a browser asks again and is told that nothing changed; after an upgrade it gets the new one.

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::{app::AppState, problem::Problem};

/// Our own scripts, styles and images, and our own API and sockets; nothing inline, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "page/"]
struct Files;

/// The routes of the page.
pub fn routes() -> Router<AppState> {
    Router::new().route("/", get(index)).route("/page/{file}", get(file))
}

async fn index(headers: HeaderMap) -> Result<Response, Problem> {
    answer("index.html", &headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let file = Files::get(name).ok_or_else(|| Problem::not_found("page"))?;
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]));
    let same = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag);
    let tag = HeaderValue::try_from(tag).expect("a hash in hex is a header value");
    let kept: [(HeaderName, HeaderValue); 3] = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    if same {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    let EmbeddedFile { data, .. } = file;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)))];
    Ok((kept, kind, data.into_owned()).into_response())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_type_and_is_not_sent_again() {
        for name in Files::iter() {
            let first = answer(&name, &HeaderMap::new()).unwrap();
            assert_ne!(first.headers()[header::CONTENT_TYPE], "application/octet-stream", "{name}");
            let mut known = HeaderMap::new();
            known.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
            assert_eq!(answer(&name, &known).unwrap().status(), StatusCode::NOT_MODIFIED);
        }
        assert!(answer("../Cargo.toml", &HeaderMap::new()).is_err());
    }
}
