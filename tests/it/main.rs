//! The one integration binary: real Postgres and NATS, one file for each arrow of the data flow.
#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test says that it fails by panicking, and runs once")]

mod cli;
mod coverage;
mod embedded;
mod execution;
mod gateway;
mod http {
    mod auth;
    mod executions;
    mod log;
    mod system;
    mod workflows;
    mod workspaces;
}
mod live;
mod projections;
mod relay;
mod store;
mod support {
    pub(crate) mod app;
    pub(crate) mod client;
    pub(crate) mod engine;
    pub(crate) mod http;
    pub(crate) mod program;
    pub(crate) mod services;
    pub(crate) mod streams;
}
mod tidy;
mod work;
