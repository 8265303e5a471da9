//! Every way in: HTTP, WebSocket, SSE, OpenAPI, authentication, and the composition root.
//!
//! Reading order: [`config`], [`app`] (state and layers), [`router`] (all routes on one screen), [`extract`] (what handlers take),
//! [`problem`] (how they fail), then [`routes`] and [`identity`].

pub mod app;
pub mod clock;
pub mod config;
pub mod embedded;
pub mod extract;
pub mod health;
pub mod identity;
pub mod problem;
pub mod router;
pub mod routes;
pub mod telemetry;
