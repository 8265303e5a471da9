//! What can be asked: projectors and the read tables with their queries.
//!
//! Every screen is a projection: its tables are derived from the log, disposable, and rebuilt while the system serves. Reading
//! order: [`projection`] (what a read model is), [`workflows`], [`executions`], [`execution_nodes`], [`execution_waits`], [`workspaces`],
//! [`members`], [`activity`], [`triggers`], [`audit`], then the machinery: `feed`, `applier`, [`projector`], [`wait`], [`rebuild`], [`quarantine`].
//! To add one: a file here, a folder in `sql/`, a line in the list of models ([`model`]).
//!
//! Invariants: rows and checkpoint commit together, so each event is applied exactly once; a rebuild gives the same rows; an
//! event that this build does not know stops the projector, and one that cannot be applied stops its stream only.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod activity;
mod applier;
pub mod audit;
pub mod compare;
mod copy;
pub mod execution_nodes;
pub mod execution_waits;
pub mod executions;
mod feed;
mod lifecycle;
pub mod members;
pub mod model;
pub mod page;
pub mod projection;
pub mod projector;
mod projectors;
pub mod purge;
pub mod quarantine;
pub mod rebuild;
mod rows;
pub mod status;
pub mod triggers;
pub mod values;
pub mod wait;
pub mod workflows;
pub mod workspaces;

pub use compare::compare;
pub use model::{Model, give_to, missing, prepare, search_path, with_search_path};
pub use page::{Page, PageRequest, QueryError};
pub use projector::ProjectorConfig;
pub use projectors::spawn;
pub use rebuild::rebuild;
pub use status::{ProjectorStatus, status};
pub use wait::{Behind, Positions};
