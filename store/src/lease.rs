//! Who leads: leases with an epoch, so that a leader that was only asleep is fenced off.

use chrono::{DateTime, Utc};

use crate::Position;

/// Leadership of one reader of the log (a projector, the relay, the policies), with its checkpoint in the same row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The reader.
    pub reader: String,
    /// The process that holds it.
    pub owner: String,
    /// Rises each time the lease changes hands.
    pub epoch: i64,
    /// Everything up to here has been done.
    pub position: Position,
}

/// A worker process's sign of life. One row a process, so heartbeats grow with workers, not with executions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLease {
    /// The worker process.
    pub worker: String,
    /// Rises when an expired lease is taken up again.
    pub epoch: i64,
    /// How many executions it runs at once.
    pub slots: i32,
    /// By the database's clock.
    pub expires_at: DateTime<Utc>,
    /// Whether it had expired when it was read, by the database's clock.
    pub expired: bool,
}
