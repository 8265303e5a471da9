//! What can keep the embedded servers from starting. Every text ends with what to do, because it is all that is printed.

use std::io;
use std::path::PathBuf;

/// Why [`super::start`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The data directory cannot be made, read or written.
    #[error("cannot use {}", path.display())]
    DataDir {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves from this data directory.
    #[error(
        "{} is in use by another ledgerline (process {holder}); stop that one, or choose another --data-dir",
        path.display()
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, as it wrote it down.
        holder: String,
    },
    /// There is no Postgres here that can be used.
    #[error("{0}")]
    PostgresMissing(String),
    /// A program was named explicitly and cannot be used.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster was made by another major version of Postgres than any found here.
    #[error("{0}")]
    MajorMismatch(String),
    /// The cluster exists but its password file does not.
    #[error(
        "{} is missing, so nobody can log in to the database beside it; put it back from a backup of the data directory",
        path.display()
    )]
    PasswordMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initdb {
        /// What it said.
        output: String,
    },
    /// A Postgres that we may not take over holds the cluster.
    #[error("process {pid} already serves {}, and {reason}; stop it (kill -INT {pid}), then start again", path.display())]
    LeftOver {
        /// The process in `postmaster.pid`.
        pid: i32,
        /// The cluster.
        path: PathBuf,
        /// Why it is not taken over.
        reason: String,
    },
    /// A server ended, or did not take connections in time.
    #[error("{name} did not start: {reason}; the last lines of its log:\n{log}")]
    Start {
        /// `postgres` or `nats-server`.
        name: &'static str,
        /// What was seen.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// Postgres runs, and refuses what we ask of it.
    #[error("failed to prepare the database")]
    Database(#[from] sqlx::Error),
    /// The start was abandoned because the process was told to stop.
    #[error("the start was interrupted")]
    Cancelled,
}
