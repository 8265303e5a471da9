//! What is measured, one file each.

pub mod append;
pub mod replay;
