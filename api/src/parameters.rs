//! What may be asked of a read: exactly the parameters that the document names for it. One that it does not name is refused and not
//! ignored, because an answer to another question than the one that was asked looks like the answer to it: a misspelt filter shows
//! everything, and `?at=` where no past is kept shows the present.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use utoipa::openapi::{OpenApi, RefOr, path::ParameterIn};

use crate::{extract::params, problem::Problem, router::BASE_PATH};

/// What every read takes: the position that it must reflect, and the ticket of a browser that can't send a header.
const EVERYWHERE: &[&str] = &["min_position", "ticket"];

/// Where another server writes the query: what it adds of its own is not for us to refuse.
const WRITTEN_BY_OTHERS: &[&str] = &["/api/v1/auth/oidc/{provider}/callback"];

/// The query parameters of every read, by the path that the document gives it.
#[derive(Clone, Debug)]
pub struct Parameters(Arc<HashMap<String, HashSet<String>>>);

impl Parameters {
    /// Those that a document names.
    #[must_use]
    pub fn of(document: &OpenApi) -> Self {
        let ours = |path: &str| path.starts_with(BASE_PATH) && !WRITTEN_BY_OTHERS.contains(&path);
        let reads = document.paths.paths.iter().filter(|(path, _)| ours(path));
        let named = reads.filter_map(|(path, item)| {
            let own = item.get.as_ref()?.parameters.iter().flatten();
            let names = own
                .filter_map(|parameter| match parameter {
                    RefOr::T(parameter) => Some(parameter),
                    RefOr::Ref(_) => None,
                })
                .filter(|parameter| matches!(parameter.parameter_in, ParameterIn::Query))
                .map(|parameter| parameter.name.clone());
            Some((path.clone(), names.collect()))
        });
        Self(Arc::new(named.collect()))
    }

    /// The first parameter of a query that a read has not.
    fn unknown<'a>(&self, path: &str, given: &'a [(String, String)]) -> Option<&'a str> {
        let known = self.0.get(path)?;
        let mut names = given.iter().map(|(name, _)| name.as_str());
        names.find(|name| !known.contains(*name) && !EVERYWHERE.contains(name))
    }
}

/// Refuses a read with a parameter that it has not.
pub async fn demand_known(known: Parameters, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if request.method() == Method::GET
        && request.uri().query().is_some()
        && let Some(path) = path
    {
        let given = match params::pairs(request.uri()) {
            Ok(given) => given,
            Err(problem) => return problem.into_response(),
        };
        if let Some(name) = known.unknown(path, &given) {
            let detail = match name {
                "at" | "at_position" => "is not possible here: only the present is kept of this",
                _ => "is not a parameter of this read",
            };
            return Problem::invalid(format!("/{name}"), "unknown_field", detail).into_response();
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(path: &str, name: &str) -> Option<String> {
        let known = Parameters::of(&crate::router::openapi());
        let given = [(name.to_owned(), "1".to_owned())];
        known.unknown(path, &given).map(str::to_owned)
    }

    #[test]
    fn a_read_takes_what_the_document_names_and_nothing_else() {
        for (path, name) in [
            ("/api/v1/executions/{id}", "at"),
            ("/api/v1/executions/{id}", "at_position"),
            ("/api/v1/executions/{id}", "min_position"),
            ("/api/v1/executions", "limit"),
            ("/api/v1/executions", "workspace_id"),
            ("/api/v1/log/events", "workspace_id"),
            ("/api/v1/stream", "ticket"),
        ] {
            assert_eq!(unknown(path, name), None, "{path}?{name}");
        }
        for (path, name) in [
            ("/api/v1/executions/{id}", "limit"),
            ("/api/v1/executions/{id}/why", "at"),
            ("/api/v1/executions", "at_position"),
            ("/api/v1/auth/me", "zzz"),
        ] {
            assert_eq!(unknown(path, name).as_deref(), Some(name), "{path}?{name}");
        }
        assert_eq!(unknown("/health", "zzz"), None, "a probe may ask as it likes");
        let callback = "/api/v1/auth/oidc/{provider}/callback";
        assert_eq!(unknown(callback, "session_state"), None, "a provider adds what it likes");
    }
}
