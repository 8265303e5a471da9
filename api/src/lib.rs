//! Every way in: HTTP, WebSocket, SSE, OpenAPI, authentication, and the composition root.
//!
//! Reading order: [`config`], [`app`] (state and layers), [`router`] (all routes on one screen), [`extract`] (what handlers take),
//! [`problem`] (how they fail), [`reading`] and [`writing`] (what all queries and all commands have in common), then [`routes`], [`live`] and [`identity`]; from the other end [`cli`] (what a person types) and
//! [`roles`] (how a process comes together).

pub mod access;
pub mod answer;
pub mod app;
pub mod bulk;
pub mod cli;
pub mod clock;
pub mod config;
pub mod embedded;
pub mod environment;
pub mod erasure;
pub mod extract;
pub mod health;
pub mod hooks;
pub mod identity;
pub mod imported;
pub mod invitations;
pub mod ledger;
mod leftover;
pub mod listen;
pub mod live;
pub mod oidc;
pub mod page;
pub mod parameters;
pub mod personal;
pub mod problem;
pub mod purge;
pub mod rate_limit;
pub mod reading;
pub mod refusal;
pub mod roles;
pub mod router;
pub mod routes;
pub mod seed;
mod task_requests;
pub mod telemetry;
pub mod vault;
pub mod webhook;
pub mod writing;
pub mod yaml;
