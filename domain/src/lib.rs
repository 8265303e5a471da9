//! What is true: aggregates, events, decisions.
//!
//! Pure: no async, clock, randomness, logging or I/O. New ids, the actor and the time are inputs, so every decision can be
//! replayed. Reading order: [`id`], [`event`], then the aggregates [`workspace`], [`workflow`], [`execution`] and [`trigger`].

// A new variant is a compile error wherever it matters.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod audit;
pub mod deployment;
pub mod dispatch;
pub mod event;
pub mod execution;
pub mod expression;
pub mod graph;
pub mod id;
pub mod json;
pub mod limits;
pub mod node;
pub mod permission;
pub mod personal;
pub mod policy;
pub mod schedule;
pub mod testing;
pub mod trigger;
pub mod upcast;
pub mod vault;
pub mod workflow;
pub mod workspace;

use chrono::{DateTime, Utc};
use event::DomainEvent;

/// A unit of consistency: its state is the fold of its stream, and its commands are decided on that state alone.
pub trait Aggregate: Clone + Default + Send + Sync + 'static {
    /// What it is told to do: an imperative.
    type Command: Send + Sync;
    /// What happened: a past-tense fact.
    type Event: DomainEvent;
    /// Which rule of the domain refuses a command.
    type Rejection: std::error::Error + Send + Sync + 'static;

    /// The events that a command leads to, none for a repeat that is already true.
    ///
    /// # Errors
    /// The rule that refuses it.
    fn decide(
        &self,
        command: &Self::Command,
        now: DateTime<Utc>,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// The state after an event. Total, and does not judge: that was done when it was decided.
    #[must_use]
    fn evolve(self, event: &Self::Event) -> Self;

    /// Names the shape of the state, so that a snapshot of another shape is discarded.
    const SNAPSHOT: &'static str;

    /// About how many bytes the state holds, for the weight of a cache entry.
    fn weight(&self) -> usize;

    /// Whether no event comes after it, so that it is hardly asked for again and need not be kept in memory for long.
    fn is_final(&self) -> bool {
        false
    }
}
