//! Handlers, one file a noun, with their request and response types beside them. Which path leads where is in [`crate::router`].

pub mod approvals;
pub mod audit;
pub mod auth;
pub mod connections;
pub mod docs;
pub mod event_triggers;
pub mod executions;
pub mod health;
pub mod hooks;
pub mod imported_executions;
pub mod invitations;
pub mod log;
pub mod schedules;
pub mod secrets;
pub mod security_txt;
pub mod system;
pub mod triggers;
pub mod webhooks;
pub mod worker_tasks;
pub mod workflows;
pub mod workspaces;
