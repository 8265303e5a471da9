//! The state that handlers share, and the layers around all routes.
//!
//! Layers do what is the same for every route and nothing else: correlation, tracing, metrics, a deadline, a bound on what is
//! under way, the body limit, panics, CORS, compression, headers. Who may do what is a value that handlers ask for
//! ([`crate::extract::Caller`]), never a layer.

use std::{any::Any, ops::Deref, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, OriginalUri, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use ledgerline_commands::{Commands, Lines, Recorder};
use ledgerline_nats::{Gateway, LiveLogs};
use ledgerline_projections::Positions;
use ledgerline_store::sealed::SealedValues;
use ledgerline_worker::outbound::Reach;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer, Predicate,
        predicate::{DefaultPredicate, NotForContentType},
    },
    cors::{AllowOrigin, CorsLayer},
    sensitive_headers::SetSensitiveHeadersLayer,
};
use tracing::{Instrument, field};

use crate::{
    access::Looks,
    answer::LOG,
    bulk::Bell,
    clock::Clock,
    config::Config,
    extract::{
        RequestContext,
        context::CORRELATION_ID,
        conventions::{IDEMPOTENCY_KEY, IF_PLAN, MIN_POSITION, POSITION, WORKSPACE},
    },
    health::Health,
    identity::Identity,
    ledger::Ledger,
    leftover::read_leftover,
    live::LiveState,
    oidc::Providers,
    problem::{Problem, ProblemKind},
    rate_limit::{Announcement, RATE_LIMIT, RATE_LIMIT_POLICY, RateLimits},
    routes::{docs::Documents, system::projections::Rebuilds},
};

/// What handlers share, made once by the composition root. Each layer of the router clones it for each request, so a clone is one count.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The fields of an [`AppState`].
#[derive(Clone)]
pub struct Shared {
    /// The configuration of the process.
    pub config: Arc<Config>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Accounts, sessions and keys.
    pub identity: Identity,
    /// How the parts of the process are.
    pub health: Health,
    /// What `/metrics` renders; None where no recorder is installed (tests).
    pub metrics: Option<PrometheusHandle>,
    /// The way in for every change; its log is where history is read.
    pub commands: Commands,
    /// Where the read models are queried.
    pub pool: PgPool,
    /// What secrets and connections hold, sealed.
    pub sealed: SealedValues,
    /// The providers that people may sign in with.
    pub oidc: Providers,
    /// Which addresses may be tried out for connections: those that workflows may reach.
    pub reach: Arc<Reach>,
    /// How far each read model is, for reads that must reflect a write.
    pub positions: Positions,
    /// Live events for sockets.
    pub gateway: Gateway,
    /// Live log lines for sockets.
    pub live_logs: LiveLogs,
    /// Cancelled when the process stops: whatever outlives a request ends then.
    pub stop: CancellationToken,
    /// What outlives a request runs here, so that a stop waits for it.
    pub tasks: TaskTracker,
    /// What this process remembers of the log for its callers.
    pub ledger: Ledger,
    /// What live feeds share.
    pub(crate) live: LiveState,
    /// Looks at memberships that requests share.
    pub looks: Looks,
    /// Answers what executions wait for.
    pub lines: Lines,
    /// Wakes whoever carries bulk jobs out.
    pub bulk: Bell,
    /// Takes facts for the audit into the log.
    pub recorder: Recorder,
    /// The rebuilds of read models that this process began.
    pub rebuilds: Rebuilds,
    /// How often each user may ask.
    pub rate_limits: RateLimits,
    /// What webhooks share.
    pub hooks: crate::hooks::Hooks,
    /// The rendered pages.
    pub(crate) documents: Arc<Documents>,
    /// One permit for each request that may be under way.
    in_flight: Arc<Semaphore>,
    /// One permit for each poll of an external worker that may wait for a task.
    pub(crate) polls: Arc<Semaphore>,
}

/// What an [`AppState`] is made of; see there.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is described where handlers see it")]
pub struct AppParts {
    pub config: Config,
    pub clock: Clock,
    pub identity: Identity,
    pub health: Health,
    pub metrics: Option<PrometheusHandle>,
    pub commands: Commands,
    pub pool: PgPool,
    pub sealed: SealedValues,
    pub reach: Arc<Reach>,
    pub positions: Positions,
    pub gateway: Gateway,
    pub live_logs: LiveLogs,
    pub lines: Lines,
    pub bulk: Bell,
    pub recorder: Recorder,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl AppState {
    /// The state of a process.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let in_flight = Arc::new(Semaphore::new(parts.config.http.max_in_flight));
        // Most of what may be under way is for requests that do not wait.
        let polls = Arc::new(Semaphore::new(parts.config.http.max_in_flight / 4));
        let documents = Arc::new(Documents::render(&crate::router::openapi()));
        let rate_limits = RateLimits::start(
            parts.pool.clone(),
            parts.config.rate_limits,
            parts.clock.clone(),
            &parts.tasks,
            parts.stop.clone(),
        );
        let oidc = Providers::new(&parts.config.auth.oidc, &parts.reach);
        let ledger = Ledger::new(parts.commands.clone(), parts.positions.clone());
        Self(Arc::new(Shared {
            config: Arc::new(parts.config),
            clock: parts.clock,
            identity: parts.identity,
            health: parts.health,
            metrics: parts.metrics,
            commands: parts.commands,
            pool: parts.pool,
            sealed: parts.sealed,
            oidc,
            reach: parts.reach,
            positions: parts.positions,
            gateway: parts.gateway,
            live_logs: parts.live_logs,
            stop: parts.stop,
            tasks: parts.tasks,
            ledger,
            live: LiveState::default(),
            looks: Looks::default(),
            lines: parts.lines,
            bulk: parts.bulk,
            recorder: parts.recorder,
            rebuilds: Rebuilds::default(),
            rate_limits,
            hooks: crate::hooks::Hooks::default(),
            documents,
            in_flight,
            polls,
        }))
    }
}

/// Puts the layers around the routes. The last one added is the first one a request meets.
pub fn with_layers(routes: Router<AppState>, state: &AppState) -> Router {
    let secrets =
        [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::SEC_WEBSOCKET_PROTOCOL];
    routes
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(DefaultBodyLimit::max(state.config.http.body_limit_bytes))
        .layer(middleware::from_fn_with_state(state.clone(), read_leftover))
        .layer(middleware::from_fn_with_state(state.clone(), bound))
        .layer(middleware::from_fn_with_state(state.clone(), harden))
        .layer(middleware::from_fn_with_state(state.clone(), correlate))
        .layer(cors(&state.config.http.allowed_origins))
        // Server-sent events are left as they are: compression would hold lines back.
        .layer(CompressionLayer::new().compress_when(
            DefaultPredicate::new().and(NotForContentType::const_new("application/x-ndjson")),
        ))
        .layer(SetSensitiveHeadersLayer::new(secrets))
        .with_state(state.clone())
}

/// A panic is our fault: logged with its message, answered as a 500 without it.
fn answer_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    tracing::error!(panic = message, "a handler panicked");
    metrics::counter!("http_panics_total").increment(1);
    Problem::broken().into_response()
}

/// Makes the request's context, a span around everything it leads to, and what every answer carries.
async fn correlate(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::of(
        request.headers(),
        request.extensions(),
        &state.config.http.trusted_proxies,
        state.clock.now(),
    );
    let (correlation_id, correlation) = (context.correlation_id.0, context.correlation.clone());
    let path = request
        .extensions()
        .get::<OriginalUri>()
        .map_or_else(|| request.uri().path(), |uri| uri.path())
        .to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        %method,
        %route,
        %correlation_id,
        %correlation,
        trace = context.trace.as_deref().unwrap_or(""),
        user_id = field::Empty
    );
    request.extensions_mut().insert(context);
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = complete(response, problem, &path, &correlation);
    }
    let id = HeaderValue::try_from(correlation).expect("it came in a header, or is a UUID");
    response.headers_mut().insert(CORRELATION_ID, id);
    let status = response.status();
    let elapsed = started.elapsed();
    let labels =
        [("method", method.to_string()), ("route", route), ("status", status.as_u16().to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_duration_seconds", &labels[..2]).record(elapsed);
    span.in_scope(|| {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = status.as_u16(), elapsed_ms, %path, "answered");
    });
    response
}

/// Writes a problem again with the path and the correlation id, and keeps the headers that were added on the way (`Allow`, cookies).
fn complete(old: Response, problem: Problem, path: &str, correlation: &str) -> Response {
    let mut response = problem.answer(Some(path), Some(correlation));
    for (name, value) in old.headers() {
        if name != header::CONTENT_LENGTH && !response.headers().contains_key(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

/// Refuses what is more than can be worked on, and ends what takes too long. Both count until the answer begins.
async fn bound(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Ok(_permit) = state.in_flight.try_acquire() else {
        return Problem::new(ProblemKind::Overloaded, "too many requests are under way")
            .into_response();
    };
    match tokio::time::timeout(state.config.http.request_timeout(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::new(ProblemKind::TimedOut, "the answer was not ready in time").into_response()
        }
    }
}

/// Headers that make a browser careful, and those that tell a caller how its rate limits stand. A page that needs more sets its own
/// policy before.
async fn harden(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let counted = Announcement::default();
    request.extensions_mut().insert(counted.clone());
    let mut response = next.run(request).await;
    counted.add_to(response.headers_mut());
    let mut default = |name: HeaderName, value: &'static str| {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(header::X_FRAME_OPTIONS, "DENY");
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    default(header::CACHE_CONTROL, "no-store");
    // The filter that this once switched on could be turned against a page; the policy above does its work.
    default(header::X_XSS_PROTECTION, "0");
    default(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    default(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    default(
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    );
    if state.config.http.secure() {
        default(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::ACCEPT,
            header::IF_MATCH,
            IDEMPOTENCY_KEY,
            IF_PLAN,
            MIN_POSITION,
            WORKSPACE,
            CORRELATION_ID,
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            RATE_LIMIT,
            RATE_LIMIT_POLICY,
            POSITION,
            LOG,
            CORRELATION_ID,
        ])
        .max_age(std::time::Duration::from_secs(3_600))
}
