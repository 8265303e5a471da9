//! The conventions that hold on all routes: which workspace, which version, which position, once or again.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::{HeaderMap, HeaderName, Method, header, request::Parts},
};
use chrono::{DateTime, Utc};
use ledgerline_commands::Seen;
use ledgerline_domain::id::WorkspaceId;
use ledgerline_store::{IdempotencyKey, Position, StreamVersion};
use uuid::Uuid;

use super::{Caller, params};
use crate::problem::Problem;

/// Selects the workspace of lists and creations.
pub const WORKSPACE: HeaderName = HeaderName::from_static("ledgerline-workspace");
/// The log position that an answer reflects.
pub const POSITION: HeaderName = HeaderName::from_static("ledgerline-position");
/// The log position that an answer must reflect at least.
pub const MIN_POSITION: HeaderName = HeaderName::from_static("ledgerline-min-position");
/// Names an intention, so that a repeat is told from a new one.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The hash of the plan that must still hold.
pub const IF_PLAN: HeaderName = HeaderName::from_static("if-plan");

/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;

fn header_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::malformed(format!("the header {name} is given more than once")));
    }
    let text = value
        .to_str()
        .map_err(|_| Problem::malformed(format!("the header {name} is not ASCII")))?;
    Ok(Some(text.trim().to_owned()))
}

/// The workspace that a request names, by header or `?workspace_id=`. For lists and creations only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceSelector(pub Option<WorkspaceId>);

impl WorkspaceSelector {
    /// The workspace: the one that is named, or the caller's default.
    #[must_use]
    pub fn or_default(self, caller: &Caller) -> WorkspaceId {
        self.0.unwrap_or_else(|| caller.default_workspace())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WorkspaceSelector {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let in_header = header_text(&parts.headers, &WORKSPACE)?
            .map(|text| {
                text.parse::<WorkspaceId>().map_err(|_| {
                    Problem::invalid(
                        "/Ledgerline-Workspace",
                        "invalid",
                        "is not the id of a workspace",
                    )
                })
            })
            .transpose()?;
        let in_query = params::single(&parts.uri, "workspace_id", |text| {
            text.parse::<WorkspaceId>().map_err(|_| "is not the id of a workspace".to_owned())
        })?;
        match (in_header, in_query) {
            (Some(header), Some(query)) if header != query => Err(Problem::not_found("workspace")),
            (header, query) => Ok(Self(header.or(query))),
        }
    }
}

/// The idempotency key of a write, with the method and path that it counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    key: Option<String>,
    method: Method,
    path: String,
}

impl Idempotency {
    /// The key as the log knows it: scoped to workspace, caller, method and path, with the hash of the body. None when the caller
    /// sent none. A write without a body has the hash of nothing (`Default`).
    #[must_use]
    pub fn scoped(
        &self,
        workspace: WorkspaceId,
        caller: &Caller,
        body_hash: [u8; 32],
    ) -> Option<IdempotencyKey> {
        self.key.as_ref().map(|key| IdempotencyKey {
            scope: format!("{workspace} {} {} {}", caller.user_id, self.method, self.path),
            key: key.clone(),
            body_hash,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Idempotency {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let key = header_text(&parts.headers, &IDEMPOTENCY_KEY)?;
        if let Some(key) = &key
            && !((1..=MAX_KEY_BYTES).contains(&key.len())
                && key.bytes().all(|b| (b' '..=b'~').contains(&b)))
        {
            return Err(Problem::invalid(
                "/Idempotency-Key",
                "invalid",
                "must be 1 to 255 printable ASCII characters",
            ));
        }
        // Nested routers see a shortened path; the key counts for the whole one.
        let path = OriginalUri::from_request_parts(parts, state).await.map_or_else(
            |never: Infallible| match never {},
            |OriginalUri(uri)| uri.path().to_owned(),
        );
        Ok(Self { key, method: parts.method.clone(), path })
    }
}

/// The versions that a write is conditional on (RFC 9110, 13.1.1): none where there is no condition, or it is `*`, which every
/// resource that exists meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfMatch(pub Option<Seen>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let values: Vec<_> = parts.headers.get_all(header::IF_MATCH).iter().collect();
        if values.is_empty() {
            return Ok(Self(None));
        }
        let wrong = || Problem::malformed("If-Match must be *, or ETags of ours such as \"12\"");
        let texts: Result<Vec<&str>, _> = values.iter().map(|value| value.to_str()).collect();
        let text = texts.map_err(|_| wrong())?.join(",");
        if text.trim() == "*" {
            return Ok(Self(None));
        }
        let tags = entity_tags(&text).ok_or_else(wrong)?;
        // A weak tag never matches here, and neither does one that we never gave.
        let strong = tags.iter().filter(|tag| !tag.weak);
        Ok(Self(Some(strong.filter_map(|tag| tag.text.parse().ok()).map(StreamVersion).collect())))
    }
}

/// An entity tag as it stands in a list.
struct EntityTag<'a> {
    weak: bool,
    text: &'a str,
}

/// The entity tags of a list; none where it is no list of them.
fn entity_tags(text: &str) -> Option<Vec<EntityTag<'_>>> {
    let mut tags = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let weak = rest.strip_prefix("W/");
        let (tag, after) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        let sound = |byte: u8| byte == b'!' || (b'#'..=b'~').contains(&byte) || byte >= 0x80;
        if !tag.bytes().all(sound) {
            return None;
        }
        tags.push(EntityTag { weak: weak.is_some(), text: tag });
        // Empty elements of a list are passed over, as RFC 9110 asks of whoever reads one.
        let after = after.trim_start();
        rest = after.trim_start_matches([',', ' ', '\t']);
        match (rest.is_empty(), after.starts_with(',')) {
            (true, _) => return Some(tags),
            (false, true) => {}
            (false, false) => return None,
        }
    }
}

/// The `ETag` of a version.
#[must_use]
pub fn etag(version: StreamVersion) -> axum::http::HeaderValue {
    axum::http::HeaderValue::try_from(format!("\"{version}\""))
        .expect("a number in quotes is a header value")
}

/// The plan that a write is conditional on (`If-Plan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfPlan(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfPlan {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        header_text(&parts.headers, &IF_PLAN).map(Self)
    }
}

/// What a route that takes commands has beside the conventions.
const OF_COMMANDS: &[&str] = &["cancel_open"];

/// Whether only a plan is wanted (`?dry_run=true`). A parameter that no command has is refused: a misspelt dry run must not
/// become the real thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DryRun(pub bool);

impl<S: Send + Sync> FromRequestParts<S> for DryRun {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let given = params::pairs(&parts.uri)?;
        let known = |name: &str| params::CONVENTIONS.contains(&name) || OF_COMMANDS.contains(&name);
        if let Some((name, _)) = given.iter().find(|(name, _)| !known(name)) {
            let detail = "is not a parameter of this command; dry_run is one";
            return Err(Problem::invalid(format!("/{name}"), "unknown_field", detail));
        }
        let wanted = params::single(&parts.uri, "dry_run", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        })?;
        Ok(Self(wanted.unwrap_or(false)))
    }
}

/// A position as a caller writes it: `N`, or `<log_id>:<epoch>:N` to be refused by another log than the one it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionToken {
    /// The log and epoch it came from, where it says so.
    pub log: Option<(Uuid, i32)>,
    /// The position.
    pub position: Position,
}

impl PositionToken {
    /// Reads a position.
    ///
    /// # Errors
    /// What is wrong, for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be a position: a number, or <log>:<epoch>:<number>".to_owned();
        let parts: Vec<&str> = text.split(':').collect();
        let (log, number) = match parts.as_slice() {
            [number] => (None, *number),
            [log, epoch, number] => {
                let log = Uuid::try_parse(log).map_err(|_| wrong())?;
                (Some((log, epoch.parse().map_err(|_| wrong())?)), *number)
            }
            _ => return Err(wrong()),
        };
        match number.parse::<i64>() {
            Ok(position) if position >= 0 => Ok(Self { log, position: Position(position) }),
            _ => Err(wrong()),
        }
    }
}

/// The position that the answer must reflect at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinPosition(pub Option<PositionToken>);

impl<S: Send + Sync> FromRequestParts<S> for MinPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let in_header = header_text(&parts.headers, &MIN_POSITION)?
            .map(|text| {
                PositionToken::parse(&text).map_err(|detail| {
                    Problem::invalid("/Ledgerline-Min-Position", "invalid", detail)
                })
            })
            .transpose()?;
        let in_query = params::single(&parts.uri, "min_position", PositionToken::parse)?;
        Ok(Self(in_header.or(in_query)))
    }
}

/// The moment that a read asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Now.
    Now,
    /// A time (`?at=`).
    Time(DateTime<Utc>),
    /// A position (`?at_position=`).
    Position(PositionToken),
}

impl<S: Send + Sync> FromRequestParts<S> for AsOf {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let time = params::single(&parts.uri, "at", |text| {
            DateTime::parse_from_rfc3339(text)
                .map(|time| time.to_utc())
                .map_err(|_| "must be a time like 2026-11-21T13:30:00Z".to_owned())
        })?;
        let position = params::single(&parts.uri, "at_position", PositionToken::parse)?;
        match (time, position) {
            (None, None) => Ok(Self::Now),
            (Some(time), None) => Ok(Self::Time(time)),
            (None, Some(position)) => Ok(Self::Position(position)),
            (Some(_), Some(_)) => {
                Err(Problem::invalid("/at", "conflict", "cannot be given with at_position"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ProblemKind;

    async fn take<T: FromRequestParts<(), Rejection = Problem>>(
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<T, Problem> {
        let mut request = axum::http::Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        T::from_request_parts(&mut parts, &()).await
    }

    const A: &str = "0199a0c0-0000-7000-8000-000000000001";
    const B: &str = "0199a0c0-0000-7000-8000-000000000002";

    #[tokio::test]
    async fn two_different_workspaces_hide_both() {
        let uri = format!("/x?workspace_id={A}");
        let same = take::<WorkspaceSelector>(&uri, &[("ledgerline-workspace", A)]).await.unwrap();
        assert_eq!(same.0, Some(A.parse().unwrap()));
        let problem =
            take::<WorkspaceSelector>(&uri, &[("ledgerline-workspace", B)]).await.unwrap_err();
        assert_eq!(problem.kind(), ProblemKind::NotFound);
        assert!(take::<WorkspaceSelector>("/x?workspace_id=7", &[]).await.is_err());
    }

    #[tokio::test]
    async fn keys_are_printable_and_bounded() {
        assert!(take::<Idempotency>("/x", &[("idempotency-key", "order 7/a")]).await.is_ok());
        assert!(take::<Idempotency>("/x", &[]).await.unwrap().key.is_none());
        let long = "k".repeat(256);
        for bad in ["", "a\tb", &long] {
            assert!(take::<Idempotency>("/x", &[("idempotency-key", bad)]).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_etag_of_ours_is_a_version() {
        let of = |text: &'static str| async move {
            take::<IfMatch>("/x", &[("if-match", text)]).await.map(|IfMatch(seen)| seen)
        };
        let versions =
            |versions: &[i64]| Some(versions.iter().copied().map(StreamVersion).collect::<Seen>());
        assert_eq!(of("\"12\"").await.unwrap(), versions(&[12]));
        assert_eq!(of("\"3\", \"12\" ,,\"x,y\"").await.unwrap(), versions(&[3, 12]));
        assert_eq!(of("W/\"12\"").await.unwrap(), versions(&[]), "a weak tag matches nothing");
        assert_eq!(of("*").await.unwrap(), None);
        let twice = [("if-match", "\"1\""), ("if-match", "\"2\"")];
        assert_eq!(take::<IfMatch>("/x", &twice).await.unwrap().0, versions(&[1, 2]));
        assert_eq!(take::<IfMatch>("/x", &[]).await.unwrap().0, None);
        for wrong in ["12", "\"12", "\"1\" \"2\"", "", "*, \"1\"", "\"a b\""] {
            assert_eq!(
                of(wrong).await.unwrap_err().kind(),
                ProblemKind::MalformedRequest,
                "{wrong}"
            );
        }
        assert_eq!(etag(StreamVersion(12)), "\"12\"");
    }

    #[test]
    fn positions_may_name_their_log() {
        assert_eq!(PositionToken::parse("7").unwrap().position, Position(7));
        let named = PositionToken::parse(&format!("{A}:2:9")).unwrap();
        assert_eq!(
            named,
            PositionToken { log: Some((A.parse().unwrap(), 2)), position: Position(9) }
        );
        for bad in ["", "-1", "x", "1:2", "99999999999999999999", "a:1:2"] {
            assert!(PositionToken::parse(bad).is_err(), "{bad}");
        }
    }
}
