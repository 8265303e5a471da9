//! What every read model is to the machinery around it: [`Projection`], a fold of the log that is kept in tables.
//!
//! A projection never decides anything and never looks at a clock. It holds the rows that its recent events touched, applies
//! events to them in memory, and writes each changed row once a batch. The machinery owns transactions, checkpoints and faults, so
//! the same projection runs live, catches up, and is rebuilt into a fresh schema.

use std::future::Future;

use chrono::{DateTime, Utc};
use ledgerline_domain::event::{Actor, AnyEvent, Metadata};
use sqlx::PgConnection;
use uuid::Uuid;

/// A decoded event with its place in the log.
#[derive(Clone, Debug)]
pub struct LogEvent {
    /// Position in the log.
    pub position: i64,
    /// The stream, i.e. the id of the workspace, workflow or execution.
    pub stream: Uuid,
    /// Place in the stream, from 1.
    pub version: i64,
    /// The workspace it belongs to.
    pub workspace: Uuid,
    /// The event's own id.
    pub event_id: Uuid,
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// What happened.
    pub event: AnyEvent,
    /// Who and why, as JSON text: most events are applied without looking at it.
    pub metadata: String,
}

impl LogEvent {
    /// Who caused it.
    ///
    /// # Errors
    /// When the metadata has not its shape.
    pub fn actor(&self) -> Result<Actor, Poison> {
        serde_json::from_str::<Metadata>(&self.metadata)
            .map(|metadata| metadata.actor)
            .map_err(|error| Poison::new(format!("its metadata cannot be read: {error}")))
    }

    /// The person or service account that caused it; none where another program or Ledgerline itself did.
    ///
    /// # Errors
    /// When the metadata has not its shape.
    pub fn user(&self) -> Result<Option<Uuid>, Poison> {
        Ok(self.actor()?.member().map(|member| member.0))
    }
}

/// An event that a projection cannot apply. Its stream is set aside in the quarantine and the rest flows on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event cannot be applied: {reason}")]
pub struct Poison {
    /// What is wrong, for an operator.
    pub reason: String,
}

impl Poison {
    /// A reason in words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// A read model: which events it wants, and what they do to its rows.
///
/// For each batch the machinery calls [`want`](Self::want) for every event, [`load`](Self::load) once, [`apply`](Self::apply)
/// for every event in order, and [`write`](Self::write) once, in one transaction with the checkpoint. When any of it fails the
/// projection is thrown away and made anew, so it need not undo anything.
pub trait Projection: Default + Send + Sync + 'static {
    /// The model's name: of its file, its `sql/` folder and, with the version, its schema.
    const NAME: &'static str;
    /// Raised when rows would come out differently: the model is then rebuilt in a new schema at the next start.
    const VERSION: i32;
    /// The statements that make its tables.
    const SCHEMA: &'static str;
    /// The categories of the events it wants.
    const CATEGORIES: &'static [&'static str];

    /// Notes which rows an event will need.
    fn want(&mut self, event: &LogEvent);

    /// Reads the noted rows that are not held yet.
    fn load(
        &mut self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Applies an event to the rows in memory.
    ///
    /// # Errors
    /// [`Poison`] when the event contradicts what came before it.
    fn apply(&mut self, event: &LogEvent) -> Result<(), Poison>;

    /// Writes the changed rows, sorted by key, with one statement a table.
    fn write(
        &mut self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// How many rows are held in memory.
    fn held(&self) -> usize;
}
