//! What is measured, one file each.

pub mod append;
pub mod execution;
pub mod http;
pub mod live;
pub mod rebuild;
pub mod relay;
pub mod replay;
