//! What is measured, one file each.

pub(crate) mod append;
pub(crate) mod cancel;
pub(crate) mod execution;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod live;
pub(crate) mod log_lines;
pub(crate) mod memory;
pub(crate) mod rebuild;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod signals;
pub(crate) mod timers;
