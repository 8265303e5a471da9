//! Who does the work: takes executions from the work queue, asks the domain what comes next, performs it, and appends what happened.
//!
//! Nothing about a run lives only here: a worker may die between any two instructions, and another one goes on from the log.

pub mod allowed;
pub mod file_space;
pub mod outbound;
pub mod subprocess;
