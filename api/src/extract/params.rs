//! Path and query parameters as types.

use axum::{
    extract::{FromRequestParts, rejection::PathRejection},
    http::{Uri, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The most items of one page.
pub const MAX_LIMIT: u32 = 200;
/// The items of a page where none is asked for.
pub const DEFAULT_LIMIT: u32 = 50;
/// The furthest page by offset: beyond it a cursor is the way.
pub const MAX_OFFSET: u64 = 10_000;
/// The longest cursor.
const MAX_CURSOR_BYTES: usize = 1_024;

/// Parameters that belong to the conventions of the API and have extractors of their own.
pub(super) const CONVENTIONS: &[&str] = &[
    "limit",
    "cursor",
    "offset",
    "sort",
    "workspace_id",
    "min_position",
    "at",
    "at_position",
    "dry_run",
    "ticket",
];

/// Parameters of the path as a type.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.path().contains("%00") {
            return Err(Problem::invalid(
                "",
                "nul_character",
                "must not hold the character U+0000",
            ));
        }
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(path_refusal)
    }
}

fn path_refusal(rejection: PathRejection) -> Problem {
    use axum::extract::path::ErrorKind;
    let PathRejection::FailedToDeserializePathParams(failed) = rejection else {
        return Problem::broken();
    };
    let (key, detail) = match failed.into_kind() {
        ErrorKind::ParseErrorAtKey { key, value, expected_type } => {
            (key, format!("is not valid: {value:?} is not a {expected_type}"))
        }
        ErrorKind::DeserializeError { key, message, .. } => {
            (key, format!("is not valid: {message}"))
        }
        ErrorKind::ParseErrorAtIndex { index, value, expected_type } => {
            (index.to_string(), format!("is not valid: {value:?} is not a {expected_type}"))
        }
        ErrorKind::InvalidUtf8InPathParam { key } => (key, "is not UTF-8".to_owned()),
        other => (String::new(), format!("is not valid: {other}")),
    };
    let pointer = if key.is_empty() { key } else { format!("/{key}") };
    Problem::invalid(pointer, "invalid", detail)
}

/// Filters of the query as a type. Give it `deny_unknown_fields`, so that a misspelt filter is refused and not ignored; the
/// parameters of the conventions (limit, sort, workspace_id, …) are taken out before.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs = pairs(&parts.uri)?;
        let mut rest = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in &pairs {
            if !CONVENTIONS.contains(&name.as_str()) {
                rest.append_pair(name, value);
            }
        }
        let rest = rest.finish();
        let deserializer =
            serde_html_form::Deserializer::new(url::form_urlencoded::parse(rest.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let pointer = super::body::pointer(error.path());
            super::body::invalid(pointer, &error.inner().to_string())
        })
    }
}

/// All parameters of a query, decoded.
///
/// # Errors
/// 422 when one holds U+0000 or is not UTF-8: what it decodes to is not what was asked.
pub(crate) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let query = uri.query().unwrap_or("");
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    // What is not UTF-8 decodes to the replacement character: another text than was asked for.
    if let Some((name, _)) = pairs.iter().find(|(name, value)| holds(name, value, '\u{fffd}')) {
        return Err(Problem::invalid(format!("/{name}"), "not_utf8", "is not UTF-8"));
    }
    match pairs.iter().find(|(name, value)| holds(name, value, '\0')) {
        None => Ok(pairs),
        Some((name, _)) => Err(Problem::invalid(
            format!("/{}", name.replace('\0', "")),
            "nul_character",
            "must not hold the character U+0000",
        )),
    }
}

fn holds(name: &str, value: &str, character: char) -> bool {
    name.contains(character) || value.contains(character)
}

/// One parameter, as it came.
pub(super) fn raw(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?;
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// One parameter, decoded and read. Given twice it is refused: which of them was meant cannot be told.
///
/// # Errors
/// 422 with what `read` says.
pub(super) fn single<T>(
    uri: &Uri,
    name: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    let pairs = pairs(uri)?;
    let mut values = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid(format!("/{name}"), "repeated", "is given more than once"));
    }
    read(value).map(Some).map_err(|detail| Problem::invalid(format!("/{name}"), "invalid", detail))
}

/// In which order a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The name of the field.
    pub field: String,
    /// Whether the largest comes first.
    pub descending: bool,
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// How many items, 1 to 200.
    pub limit: u32,
    /// Where the page before ended; opaque, made by [`ListQuery`]'s answers.
    pub cursor: Option<String>,
    /// How many items to pass over, at most 10,000.
    pub offset: u64,
    /// In which order.
    pub sort: Option<Sort>,
}

impl ListQuery {
    /// The order, when it is one of those that a list offers; the first of them, descending, when none is asked for.
    ///
    /// # Errors
    /// 422 when it is another.
    pub fn sort_among(
        &self,
        fields: &'static [&'static str],
    ) -> Result<(&'static str, bool), Problem> {
        let Some(sort) = &self.sort else {
            return Ok((fields.first().copied().unwrap_or(""), true));
        };
        let field = fields.iter().find(|field| **field == sort.field).ok_or_else(|| {
            Problem::invalid("/sort", "unknown", format!("must be one of {}", fields.join(", ")))
        })?;
        Ok((field, sort.descending))
    }

    fn read(uri: &Uri) -> Result<Self, Problem> {
        let limit = single(uri, "limit", |text| match text.parse::<u32>() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!("must be between 1 and {MAX_LIMIT}")),
        })?;
        let offset = single(uri, "offset", |text| match text.parse::<u64>() {
            Ok(offset) if offset <= MAX_OFFSET => Ok(offset),
            _ => Err(format!("must be between 0 and {MAX_OFFSET}; use cursor for more")),
        })?;
        let cursor = single(uri, "cursor", |text| {
            if text.is_empty() || text.len() > MAX_CURSOR_BYTES {
                return Err("is not a cursor of this list".to_owned());
            }
            Ok(text.to_owned())
        })?;
        if cursor.is_some() && offset.is_some() {
            return Err(Problem::invalid("/offset", "conflict", "cannot be given with cursor"));
        }
        let sort = single(uri, "sort", |text| {
            let field = text.strip_prefix('-').unwrap_or(text);
            if field.is_empty() || !field.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                return Err("must be a field, with - before it for descending".to_owned());
            }
            Ok(Sort { field: field.to_owned(), descending: text.starts_with('-') })
        })?;
        Ok(Self {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            cursor,
            offset: offset.unwrap_or(0),
            sort,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ListQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(&parts.uri)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn list(query: &str) -> Result<ListQuery, Problem> {
        ListQuery::read(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn a_page_is_bounded() {
        assert_eq!(list("").unwrap().limit, 50);
        assert_eq!(list("limit=200&offset=10&sort=-created_at").unwrap().limit, 200);
        let cases = [
            ("limit=0", "/limit"),
            ("limit=201", "/limit"),
            ("limit=x", "/limit"),
            ("limit=1&limit=2", "/limit"),
            ("offset=-1", "/offset"),
            ("offset=10001", "/offset"),
            ("cursor=", "/cursor"),
            ("cursor=a&offset=1", "/offset"),
            ("sort=-", "/sort"),
            ("sort=a;b", "/sort"),
            ("cursor=%00", "/cursor"),
            ("cursor=%ff", "/cursor"),
        ];
        for (query, pointer) in cases {
            let problem = list(query).unwrap_err();
            assert_eq!(problem.kind().status().as_u16(), 422, "{query}");
            assert_eq!(problem.errors()[0].pointer, pointer, "{query}");
        }
    }

    #[test]
    fn a_list_offers_its_own_orders() {
        let offered: &'static [&'static str] = &["created_at", "name"];
        assert_eq!(list("sort=name").unwrap().sort_among(offered).unwrap(), ("name", false));
        assert_eq!(list("").unwrap().sort_among(offered).unwrap(), ("created_at", true));
        assert!(list("sort=password").unwrap().sort_among(offered).is_err());
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Filters {
        tag: Vec<String>,
        version: Option<u32>,
    }

    async fn filters(query: &str) -> Result<Filters, Problem> {
        let request = axum::http::Request::get(format!("/x?{query}")).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        Query::from_request_parts(&mut parts, &()).await.map(|Query(filters)| filters)
    }

    #[tokio::test]
    async fn a_misspelt_filter_is_refused_and_conventions_are_not_filters() {
        let expected = Filters { tag: vec!["a b".to_owned(), "c".to_owned()], version: Some(3) };
        assert_eq!(filters("tag=a+b&tag=c&version=3&limit=5&sort=name").await.unwrap(), expected);
        assert_eq!(filters("").await.unwrap(), Filters::default());
        assert!(filters("tagg=a").await.is_err());
        assert_eq!(filters("version=x").await.unwrap_err().errors()[0].pointer, "/version");
        assert!(filters("tag=%00").await.is_err());
    }
}
