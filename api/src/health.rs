//! How the parts of this process are: each part says so itself, `/health` only repeats it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use utoipa::ToSchema;

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It works.
    Ok,
    /// It is away, and the product does without it.
    Degraded,
    /// It is away, and requests fail without it.
    Down,
}

/// How a part is, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartHealth {
    /// How it is.
    pub condition: Condition,
    /// Why, when it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The board on which the parts of a process say how they are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    parts: RwLock<BTreeMap<&'static str, PartHealth>>,
    active_jobs: AtomicU64,
    max_concurrent_jobs: AtomicU64,
}

impl Health {
    /// A part says how it is.
    pub fn set(&self, part: &'static str, condition: Condition, detail: Option<String>) {
        let mut parts = self.0.parts.write().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part, PartHealth { condition, detail });
    }

    /// The worker says how many executions it runs, and how many it may.
    pub fn set_jobs(&self, active: u64, max_concurrent: u64) {
        self.0.active_jobs.store(active, Ordering::Relaxed);
        self.0.max_concurrent_jobs.store(max_concurrent, Ordering::Relaxed);
    }

    /// How many executions run here, and how many may.
    #[must_use]
    pub fn jobs(&self) -> (u64, u64) {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        (load(&self.0.active_jobs), load(&self.0.max_concurrent_jobs))
    }

    /// What all parts said last.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, PartHealth> {
        self.0.parts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The worst condition of any part.
    #[must_use]
    pub fn worst(&self) -> Condition {
        let parts = self.0.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.values().map(|part| part.condition).max().unwrap_or(Condition::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_as_well_as_its_worst_part() {
        let health = Health::default();
        assert_eq!(health.worst(), Condition::Ok);
        health.set("nats", Condition::Degraded, Some("not connected".to_owned()));
        health.set("database", Condition::Ok, None);
        assert_eq!(health.worst(), Condition::Degraded);
        health.set("nats", Condition::Ok, None);
        assert_eq!(health.worst(), Condition::Ok);
    }
}
