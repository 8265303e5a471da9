//! What is measured, one file each.

pub mod append;
pub mod rebuild;
pub mod relay;
pub mod replay;
