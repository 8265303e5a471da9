//! The HTTP server of a process.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
    serve::ListenerExt as _,
};
use tokio::net::TcpListener;
use url::Url;

use super::{Stage, StartError};
use crate::{
    app::AppState,
    config::{Config, HttpConfig},
    health::{Condition, Health},
    router,
};

/// Takes the port.
pub(super) async fn bind(config: &HttpConfig) -> Result<TcpListener, StartError> {
    TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })
}

/// Where a listener listens, with the port that the system chose.
pub(super) fn address_of(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        source,
    })
}

/// A configuration without a public address of its own is reached where it listens.
pub(super) fn with_own_address(mut config: Config, listener: &TcpListener) -> Config {
    if config.http.public_url == HttpConfig::default().public_url
        && let Ok(address) = listener.local_addr()
        && let Ok(url) = Url::parse(&base_url(address))
    {
        config.http.public_url = url;
    }
    config
}

/// The address of a listener for those on the same machine: one that listens everywhere is reached over loopback.
pub(crate) fn base_url(address: SocketAddr) -> String {
    format!("http://{}", loopback_of(address))
}

/// Where a listener is reached from the same machine.
pub(crate) fn loopback_of(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v4.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port()))
        }
        other => other,
    }
}

/// Serves all routes until the stage stops, and then until open requests have been answered.
pub(super) fn serve(listener: TcpListener, state: &AppState, stage: &Stage) {
    spawn(listener, router::router(state), stage);
}

/// Serves health alone: for a process without the role `api`, which is watched all the same.
pub(super) fn serve_health(listener: TcpListener, health: &Health, stage: &Stage) {
    let (live, ready) = (health.clone(), health.clone());
    let routes =
        Router::new().route("/health", get(async move || say(&live, StatusCode::OK))).route(
            "/health/ready",
            get(async move || match ready.worst() {
                Condition::Down => say(&ready, StatusCode::SERVICE_UNAVAILABLE),
                Condition::Ok | Condition::Degraded => say(&ready, StatusCode::OK),
            }),
        );
    spawn(listener, routes, stage);
}

fn say(health: &Health, status: StatusCode) -> Response {
    let body = serde_json::json!({ "status": health.worst(), "parts": health.parts() });
    (status, Json(body)).into_response()
}

fn spawn(listener: TcpListener, routes: Router, stage: &Stage) {
    // Small frames to many sockets: waiting for more to send would only make them late.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let stop = stage.stop.clone().cancelled_owned();
    stage.tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
}
