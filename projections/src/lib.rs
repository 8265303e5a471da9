//! What can be asked: projectors and the read tables with their queries.
//!
//! Every screen is a projection: its tables are derived from the log, disposable, and rebuilt while the system serves. Reading
//! order: [`projection`] (what a read model is), [`workflows`], [`executions`], [`execution_nodes`], [`workspaces`],
//! [`members`], [`activity`], then [`page`]. To add one: a file here, a folder in `sql/`, a line in the list of models.
//!
//! Invariants: rows and checkpoint commit together, so each event is applied exactly once; a rebuild gives the same rows; an
//! event that this build does not know stops the projector, and one that cannot be applied stops its stream only.

pub mod activity;
pub mod execution_nodes;
pub mod executions;
pub mod feed;
mod lifecycle;
pub mod members;
pub mod page;
pub mod projection;
mod rows;
pub mod values;
pub mod workflows;
pub mod workspaces;

pub use feed::Feed;
pub use page::{Page, PageRequest, QueryError};
