//! Every way in which a request can fail, as RFC 9457 `application/problem+json`.
//!
//! One list, [`ProblemKind`], gives each failure its stable `type`, title and status; what went wrong this time is the `detail`,
//! written for the caller. Causes that are for us go to the log once, where the error is turned into a [`Problem`], and never out.
//!
//! To add one: a line in `problem_kinds!` and its page `docs/problems/<slug>.md` (without the page this does not compile).

use std::borrow::Cow;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ledgerline_commands::error::{CommandError, LoadError};
use ledgerline_store::{AppendError, Position, StoreError};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

/// Where the pages of the problems are served. A problem's `type` is this with its slug.
pub const PROBLEM_PAGES: &str = "/docs/problems/";

/// The media type of every problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

macro_rules! problem_kinds {
    ($($(#[$doc:meta])* $kind:ident = $slug:literal, $status:ident, $title:literal;)*) => {
        /// What kind of failure: the part that is stable, so that a program can act on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $kind,)*
        }

        impl ProblemKind {
            /// All kinds, in order of status.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The last part of its `type`, and the name of its page.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$kind => $slug,)* }
            }

            /// The stable URI reference that names it.
            #[must_use]
            pub const fn type_uri(self) -> &'static str {
                match self { $(Self::$kind => concat!("/docs/problems/", $slug),)* }
            }

            /// A short summary that does not change from case to case.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// Its page, in Markdown.
            #[must_use]
            pub const fn page(self) -> &'static str {
                match self { $(Self::$kind => include_str!(concat!("../../docs/problems/", $slug, ".md")),)* }
            }
        }
    };
}

problem_kinds! {
    /// The request cannot be read at all: not JSON, a header or a cursor that is not one.
    MalformedRequest = "malformed-request", BAD_REQUEST, "The request cannot be read";
    /// No token, or one that is not good (any more).
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "Not signed in";
    /// Address or password is wrong; which of them is not said.
    WrongCredentials = "wrong-credentials", UNAUTHORIZED, "Wrong address or password";
    /// The first factor was right, and the account has a second one; `challenge` stands for the first.
    SecondFactorRequired = "second-factor-required", UNAUTHORIZED, "A second factor is needed";
    /// Known, but not allowed.
    Forbidden = "forbidden", FORBIDDEN, "Not allowed";
    /// A browser's cookie came with a request that another site may have caused.
    CrossSiteRequest = "cross-site-request", FORBIDDEN, "Refused because it may come from another site";
    /// Absent, or hidden from the caller.
    NotFound = "not-found", NOT_FOUND, "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// A rule of the domain refuses; `rule` names it.
    RuleRefused = "rule-refused", CONFLICT, "A rule refuses this";
    /// Somebody else changed the same thing again and again while this was decided.
    ConcurrentChange = "concurrent-change", CONFLICT, "Somebody else changed it at the same time";
    /// The email address belongs to an account already.
    AddressTaken = "address-taken", CONFLICT, "The address is taken";
    /// `If-Match` names another version than the current one.
    StaleVersion = "stale-version", PRECONDITION_FAILED, "It has changed since it was read";
    /// What would be done is no longer what the plan said.
    PlanChanged = "plan-changed", PRECONDITION_FAILED, "The plan no longer holds";
    /// The body is over the limit.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is not announced as JSON.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// A value is not valid; `errors` says which.
    InvalidValue = "invalid-value", UNPROCESSABLE_ENTITY, "A value is not valid";
    /// A connection was tried out and does not work; `rule` names the step.
    ConnectionFailed = "connection-failed", UNPROCESSABLE_ENTITY, "The connection does not work";
    /// The idempotency key was used with another body.
    KeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The idempotency key was used with another request";
    /// The position asked for is after the end of the log, or of another log.
    PositionUnknown = "position-unknown", UNPROCESSABLE_ENTITY, "The log has no such position";
    /// Too many tries; `Retry-After` says when the next one is allowed.
    TooManyRequests = "too-many-requests", TOO_MANY_REQUESTS, "Too many requests";
    /// The caller asked more often than a rate limit allows; `Retry-After` says when its next window begins.
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, "Asked too often";
    /// A limit has no slot free and does not queue, or too many runs wait already.
    QueueFull = "queue-full", TOO_MANY_REQUESTS, "The queue is full";
    /// A fault of ours.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something broke";
    /// More work than can be taken in.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Overloaded";
    /// Something that is needed (the database, the disk) is away.
    DependencyAway = "dependency-away", SERVICE_UNAVAILABLE, "A dependency is away";
    /// The read rows did not reach the position that was asked for in time.
    NotYetVisible = "not-yet-visible", SERVICE_UNAVAILABLE, "Not yet visible";
    /// A webhook, or the intake of its workflow, is paused.
    WebhookPaused = "webhook-paused", SERVICE_UNAVAILABLE, "The webhook is paused";
    /// It took too long.
    TimedOut = "timed-out", SERVICE_UNAVAILABLE, "It took too long";
}

/// What is wrong with one value of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) to the value in the body; for a parameter, `/` and its name; empty for the whole body.
    #[schema(example = "/nodes/3/config/url")]
    pub pointer: String,
    /// What is wrong, for programs.
    #[schema(example = "out_of_range")]
    pub code: String,
    /// What is wrong, for people.
    #[schema(example = "must be between 1 and 200")]
    pub detail: String,
}

impl FieldError {
    /// One value and what is wrong with it.
    pub fn new(
        pointer: impl Into<String>,
        code: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self { pointer: pointer.into(), code: code.into(), detail: detail.into() }
    }
}

/// One failure of one request.
///
/// Build it with the constructors and `with_*`; returning it from a handler answers it. The correlation id and the path are
/// filled in by the outermost layer ([`crate::app`]), so that no handler has to carry them.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {}", .0.kind.title(), .0.detail)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    rule: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    challenge: Option<Challenge>,
    retry_after_s: Option<u64>,
    restart_position: Option<Position>,
}

/// What a sign-in goes on with.
#[derive(Clone, Debug)]
struct Challenge {
    secret: SecretString,
    expires_in: i64,
}

/// A problem as it goes over the wire (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// Names the kind of problem, and is where its page is.
    #[schema(example = "/docs/problems/invalid-value")]
    pub r#type: &'a str,
    /// The kind in a few words, the same every time.
    #[schema(example = "A value is not valid")]
    pub title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What went wrong this time.
    pub detail: &'a str,
    /// The path that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<&'a str>,
    /// Under which id the request is found in logs, traces and events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<&'a str>,
    /// The rule of the domain that refuses, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// What is wrong with which value.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    pub errors: &'a [FieldError],
    /// Where to begin again, for a reader whose position is of another log or of an epoch before a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub restart_position: Option<Position>,
    /// What a sign-in goes on with that needs a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<&'a str>,
    /// For how many seconds the challenge is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
}

impl Problem {
    /// A problem of a kind, with what went wrong this time, written for the caller.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = match kind {
            ProblemKind::Overloaded
            | ProblemKind::NotYetVisible
            | ProblemKind::ConcurrentChange => Some(1),
            ProblemKind::DependencyAway | ProblemKind::TimedOut => Some(5),
            _ => None,
        };
        Self(Box::new(Parts {
            kind,
            detail: detail.into(),
            rule: None,
            errors: Vec::new(),
            challenge: None,
            retry_after_s,
            restart_position: None,
        }))
    }

    /// 400: the request cannot be read.
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::MalformedRequest, detail)
    }

    /// 401: no token, or one that is not good (any more).
    pub fn unauthenticated(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::Unauthenticated, detail)
    }

    /// 401: the first factor was right, and a second one is needed with this challenge.
    #[must_use]
    pub fn second_factor_required(challenge: &SecretString, expires_in: i64) -> Self {
        let detail = "a code of the second factor is needed; send it with the challenge";
        let mut problem = Self::new(ProblemKind::SecondFactorRequired, detail);
        problem.0.challenge = Some(Challenge { secret: challenge.clone(), expires_in });
        problem
    }

    /// 403: known, but not allowed.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::Forbidden, detail)
    }

    /// 404: there is no such thing, or none that the caller may know of. The answer is the same for both.
    #[must_use]
    pub fn not_found(noun: &'static str) -> Self {
        Self::new(ProblemKind::NotFound, format!("there is no such {noun}"))
    }

    /// 409: a rule of the domain refuses. `rule` is its stable name in snake case.
    pub fn rule_refused(
        rule: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut problem = Self::new(ProblemKind::RuleRefused, detail);
        problem.0.rule = Some(rule.into());
        problem
    }

    /// 422: one value is not valid.
    pub fn invalid(
        pointer: impl Into<String>,
        code: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self::invalid_values(vec![FieldError::new(pointer, code, detail)])
    }

    /// 422: several values are not valid.
    #[must_use]
    pub fn invalid_values(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => format!("the body {}", one.detail),
            [one] => format!("{} {}", one.pointer, one.detail),
            more => format!("{} values are not valid", more.len()),
        };
        let mut problem = Self::new(ProblemKind::InvalidValue, detail);
        problem.0.errors = errors;
        problem
    }

    /// 429: too many tries; the next one is allowed after so many seconds.
    pub fn too_many_requests(detail: impl Into<Cow<'static, str>>, retry_after_s: u64) -> Self {
        Self::new(ProblemKind::TooManyRequests, detail).with_retry_after(retry_after_s)
    }

    /// 429: a limit has no slot free and does not queue, or too many runs wait already. Nobody knows when that changes; a few seconds
    /// keep a caller who repeats from being a load.
    pub fn queue_full(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::QueueFull, detail).with_retry_after(5)
    }

    /// 500: a fault of ours. The cause is logged here and does not go out.
    #[must_use]
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(cause), "a request failed by our own fault");
        Self::broken()
    }

    /// 500 without a cause to log: it has been logged where it happened.
    #[must_use]
    pub fn broken() -> Self {
        Self::new(
            ProblemKind::Internal,
            "the fault is ours and has been logged under the correlation id",
        )
    }

    /// 503: something that is needed is away. The cause is logged here and does not go out.
    #[must_use]
    pub fn away(what: &'static str, cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error = %chain(cause), what, "a dependency is away");
        Self::new(ProblemKind::DependencyAway, format!("{what} is away; try again"))
    }

    /// The same problem with the stable name of what refuses.
    #[must_use]
    pub fn with_rule(mut self, rule: &'static str) -> Self {
        self.0.rule = Some(rule.into());
        self
    }

    /// The same problem with `Retry-After: <seconds>`.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The same problem with what is wrong with each of several values or things.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// The same problem with the position at which to begin again.
    #[must_use]
    pub fn with_restart_position(mut self, position: Position) -> Self {
        self.0.restart_position = Some(position);
        self
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.0.kind
    }

    /// What went wrong this time.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is wrong with which value.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// Which rule refuses, where one does.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.0.rule.as_deref()
    }

    /// Where a reader begins again, where it must.
    #[must_use]
    pub fn restart_position(&self) -> Option<Position> {
        self.0.restart_position
    }

    /// The body as it goes over the wire.
    #[must_use]
    pub fn body<'a>(
        &'a self,
        instance: Option<&'a str>,
        correlation_id: Option<&'a str>,
    ) -> ProblemBody<'a> {
        let Parts { kind, detail, rule, errors, challenge, restart_position, .. } = self.0.as_ref();
        ProblemBody {
            r#type: kind.type_uri(),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail,
            instance,
            correlation_id,
            rule: rule.as_deref(),
            errors,
            restart_position: *restart_position,
            challenge: challenge.as_ref().map(|it| it.secret.expose_secret()),
            expires_in: challenge.as_ref().map(|it| it.expires_in),
        }
    }

    /// The whole answer, with the path that was asked and the id under which it is found in the logs.
    #[must_use]
    pub fn answer(self, instance: Option<&str>, correlation_id: Option<&str>) -> Response {
        let body = serde_json::to_vec(&self.body(instance, correlation_id))
            .expect("a problem has only text and numbers, so it always serialises");
        let mut response = (
            self.kind().status(),
            [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE))],
            body,
        )
            .into_response();
        if let Some(seconds) = self.0.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind().status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.answer(None, None)
    }
}

/// An error with everything that caused it, in one line for the log.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match &error {
            AppendError::Conflict { .. } => Self::new(
                ProblemKind::ConcurrentChange,
                "others changed the same thing while this was decided; read it again and repeat",
            ),
            // The lease belongs to a part of this process, not to the caller, who can only repeat.
            AppendError::Fenced { .. } => Self::away("the leader of this work", &error),
            AppendError::KeyReused => Self::new(
                ProblemKind::KeyReused,
                "the idempotency key was used before with another body; take a new key",
            ),
            AppendError::Invalid { reason } => {
                Self::invalid("", "cannot_be_stored", format!("cannot be stored: {reason}"))
            }
            // Only reactions have ids that can be in the log already; what a caller asks for has fresh ones.
            AppendError::DuplicateEvent => Self::internal(&error),
            AppendError::Overloaded => {
                Self::new(ProblemKind::Overloaded, "the log takes in no more right now")
            }
            AppendError::DiskFull => Self::away("room on the database's disk", &error),
            AppendError::Unavailable(_) => Self::away("the database", &error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Fenced { .. } => Self::away("the leader of this work", &error),
            StoreError::DiskFull => Self::away("room on the database's disk", &error),
            StoreError::Unavailable(_) => Self::away("the database", &error),
            StoreError::Corrupt { .. } => Self::internal(&error),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        match &error {
            // The id is that of another kind of thing, so there is none of this kind.
            LoadError::WrongCategory { category, .. } => Self::not_found(category),
            LoadError::UnknownEvent { .. } => Self::away("a build that is new enough", &error),
            LoadError::Corrupt { .. } => Self::internal(&error),
            LoadError::DiskFull => Self::away("room on the database's disk", &error),
            LoadError::Unavailable(_) => Self::away("the database", &error),
        }
    }
}

impl Problem {
    /// Why a command was not applied. How a refusal of the domain is answered is the caller's to say: `refused` for a rule (409),
    /// `denied` for what the caller may not do (403) or not even know (404).
    pub fn of_command<R>(
        error: CommandError<R>,
        refused: impl FnOnce(R) -> Self,
        denied: impl FnOnce(R) -> Self,
    ) -> Self {
        let append = match error {
            CommandError::Rejected(rejection) => return refused(rejection),
            CommandError::Denied(denial) => return denied(denial),
            CommandError::VersionMismatch { current } => {
                return Self::new(
                    ProblemKind::StaleVersion,
                    format!("it is at version {current}, and If-Match names another"),
                );
            }
            CommandError::PlanMoved { current } => {
                return Self::new(
                    ProblemKind::PlanChanged,
                    format!("the plan is now {current}, and If-Plan names another"),
                );
            }
            CommandError::ReadMoved { .. } | CommandError::Conflict => {
                return Self::new(
                    ProblemKind::ConcurrentChange,
                    "others changed the same thing while this was decided; read it again and repeat",
                );
            }
            CommandError::Load(error) => return error.into(),
            CommandError::Fenced { reader } => AppendError::Fenced { reader },
            CommandError::KeyReused => AppendError::KeyReused,
            CommandError::Invalid { reason } => AppendError::Invalid { reason },
            CommandError::DuplicateEvent => AppendError::DuplicateEvent,
            CommandError::Overloaded => AppendError::Overloaded,
            CommandError::DiskFull => AppendError::DiskFull,
            CommandError::Unavailable(source) => AppendError::Unavailable(source),
        };
        append.into()
    }
}

impl From<sqlx::Error> for Problem {
    /// For the statements of [`crate::identity`]. Violated constraints are translated there, by name, before they get here.
    fn from(error: sqlx::Error) -> Self {
        let transient = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Classes 08 connection, 53 resources, 57 operator intervention; 40 is a lost race that a repeat wins.
            sqlx::Error::Database(database) => database.code().is_some_and(|code| {
                ["08", "40", "53", "57"].contains(&code.get(..2).unwrap_or(""))
            }),
            _ => false,
        };
        if transient { Self::away("the database", &error) } else { Self::internal(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_page_and_every_page_its_kind() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/problems");
        let mut pages: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut kinds: Vec<String> =
            ProblemKind::ALL.iter().map(|kind| format!("{}.md", kind.slug())).collect();
        pages.sort();
        kinds.sort();
        assert_eq!(pages, kinds);
        for kind in ProblemKind::ALL {
            let page = kind.page();
            assert_eq!(page.lines().next(), Some(format!("# {}", kind.title()).as_str()));
            let status = format!("Status {}", kind.status().as_u16());
            assert!(page.contains(&status), "{} does not say {status}", kind.slug());
            assert!(kind.type_uri().starts_with(PROBLEM_PAGES));
        }
    }

    #[test]
    fn the_body_is_rfc_9457_and_leaves_out_what_does_not_apply() {
        let problem = Problem::invalid("/limit", "out_of_range", "must be between 1 and 200");
        let body = serde_json::to_value(problem.body(Some("/api/v1/workflows"), None)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "/docs/problems/invalid-value",
                "title": "A value is not valid",
                "status": 422,
                "detail": "/limit must be between 1 and 200",
                "instance": "/api/v1/workflows",
                "errors": [{"pointer": "/limit", "code": "out_of_range", "detail": "must be between 1 and 200"}],
            })
        );
    }

    #[test]
    fn what_can_be_repeated_says_when() {
        for problem in [
            Problem::from(AppendError::Overloaded),
            Problem::from(AppendError::Unavailable("gone".into())),
            Problem::from(StoreError::DiskFull),
            Problem::from(sqlx::Error::PoolTimedOut),
            Problem::new(ProblemKind::TimedOut, "late"),
        ] {
            let response = problem.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
    }

    #[test]
    fn the_cause_of_our_own_faults_does_not_go_out() {
        let problem = Problem::from(StoreError::Corrupt { reason: "secret internals".into() });
        let body = serde_json::to_string(&problem.body(None, None)).unwrap();
        assert_eq!(problem.kind(), ProblemKind::Internal);
        assert!(!body.contains("secret"));
    }
}
