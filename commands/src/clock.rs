//! Where the time and new ids come from, so that a decision can be replayed and a simulation is the same each time.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The time and new ids of a process. Cheap to clone. The real one is made at the composition root; tests drive their own.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    id: Arc<dyn Fn() -> Uuid + Send + Sync>,
}

impl Clock {
    /// The wall clock, and UUIDv7.
    #[must_use]
    pub fn system() -> Self {
        Self { now: Arc::new(Utc::now), id: Arc::new(Uuid::now_v7) }
    }

    /// A clock and a source of ids that somebody else drives.
    pub fn new(
        now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
        id: impl Fn() -> Uuid + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), id: Arc::new(id) }
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.now)()
    }

    /// An id that was never given before.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        (self.id)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}
