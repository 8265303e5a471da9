//! The one integration binary: real Postgres and NATS, one file for each arrow of the data flow.
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it found by printing and by panicking, and runs once"
)]

mod chaos;
mod cli;
mod cli_client;
mod compensation;
mod connections;
mod coverage;
mod door;
mod embedded;
mod erasure;
mod examples;
mod execution;
mod gateway;
mod http {
    mod audit;
    mod auth;
    mod bodies;
    mod bulk;
    mod codes;
    mod compare;
    mod definitions;
    mod deletion;
    mod executions;
    mod imported;
    mod invitations;
    mod limits;
    mod log;
    mod mails;
    mod oidc;
    mod origins;
    mod past;
    mod quarantine;
    mod rate_limits;
    mod second_factor;
    mod secrets;
    mod service_accounts;
    mod system;
    mod task_requests;
    mod tokens;
    mod triggers;
    mod waits;
    mod workflows;
    mod workspaces;
}
mod invariants;
mod live;
mod long;
mod masking;
mod matrix;
mod projections;
mod readme;
mod relay;
mod sealed;
mod served;
mod serving_role;
mod ssrf;
mod statements;
mod steering;
mod store;
mod support {
    pub(crate) mod app;
    pub(crate) mod client;
    pub(crate) mod echo;
    pub(crate) mod engine;
    pub(crate) mod http;
    pub(crate) mod process;
    pub(crate) mod program;
    pub(crate) mod provider;
    pub(crate) mod services;
    pub(crate) mod smtp;
    pub(crate) mod streams;
    pub(crate) mod tables;
    pub(crate) mod tree;
}
mod tidy;
mod work;
