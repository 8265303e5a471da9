//! Who does the work: takes executions from the work queue, asks the domain what comes next, performs it, and appends what happened.
//!
//! Nothing about a run lives only here: a worker may die between any two instructions, and another one goes on from the log.
//! Reading order: [`Worker`] (takes work, shows that it lives), `run` (one execution), `round` (what is appended next), `nodes` (the
//! effects), then the guards that effects go through: [`outbound`], [`subprocess`], [`file_space`].

pub mod allowed;
pub mod connections;
mod definitions;
pub mod file_space;
mod hear;
mod lease;
mod log_lines;
pub mod mask;
mod nodes;
pub mod outbound;
mod pace;
mod round;
mod run;
pub mod script;
mod secrets;
mod settings;
mod stand_down;
pub mod subprocess;
mod values;
mod worker;

pub use settings::WorkerSettings;
pub use worker::{Worker, WorkerError};
