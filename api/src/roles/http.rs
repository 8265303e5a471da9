//! The HTTP server of a process.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use ledgerline_nats::Nats;
use tokio::net::TcpListener;
use url::Url;

use super::{Stage, StartError};
use crate::{
    app::AppState,
    config::{Config, HttpConfig},
    health::{Condition, Health},
    listen::{self, Bounds, tls::Tls},
    router, task_requests,
};

/// A port that was taken, and how connections to it are treated.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
    bounds: Bounds,
}

/// Takes the port, and reads the certificate where there is one.
pub(super) async fn bind(config: &HttpConfig, stage: &Stage) -> Result<Door, StartError> {
    let tls = match config.tls_files() {
        Some(files) => Some(Tls::start(files, &stage.tasks, stage.stop.clone())?),
        None => None,
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })?;
    Ok(Door { listener, tls, bounds: Bounds::from(config) })
}

impl Door {
    /// Where it is, with the port that the system chose.
    pub(super) fn address(&self) -> Result<SocketAddr, StartError> {
        self.listener.local_addr().map_err(|source| StartError::Listen {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            source,
        })
    }
}

/// A configuration without a public address of its own is reached where it listens.
pub(super) fn with_own_address(mut config: Config, door: &Door) -> Config {
    if config.http.public_url == HttpConfig::default().public_url
        && let Ok(address) = door.address()
        && let Ok(url) = Url::parse(&base_url(&config.http, address))
    {
        config.http.public_url = url;
    }
    config
}

/// The address of a listener for those on the same machine: one that listens everywhere is reached over loopback.
pub(crate) fn base_url(config: &HttpConfig, address: SocketAddr) -> String {
    format!("{}://{}", config.scheme(), loopback_of(address))
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

/// Serves all routes until the stage stops, and then until open requests have been answered. Those for workers are served over NATS too.
pub(super) fn serve(door: Door, state: &AppState, nats: Option<Nats>, stage: &Stage) {
    let routes = router::router(state);
    if let Some(nats) = nats {
        task_requests::serve(nats, routes.clone(), stage);
    }
    spawn(door, routes, stage);
}

/// Serves health alone: for a process without the role `api`, which is watched all the same.
pub(super) fn serve_health(door: Door, health: &Health, stage: &Stage) {
    let (live, ready) = (health.clone(), health.clone());
    let routes =
        Router::new().route("/health", get(async move || say(&live, StatusCode::OK))).route(
            "/health/ready",
            get(async move || match ready.worst() {
                Condition::Down => say(&ready, StatusCode::SERVICE_UNAVAILABLE),
                Condition::Ok | Condition::Degraded => say(&ready, StatusCode::OK),
            }),
        );
    spawn(door, routes, stage);
}

fn say(health: &Health, status: StatusCode) -> Response {
    let body = serde_json::json!({ "status": health.worst(), "parts": health.parts() });
    (status, Json(body)).into_response()
}

fn spawn(door: Door, routes: Router, stage: &Stage) {
    let Door { listener, tls, bounds } = door;
    let (tasks, stop) = (stage.tasks.clone(), stage.stop.clone());
    stage.tasks.spawn(listen::serve(listener, tls, routes, bounds, tasks, stop));
}
