//! Rebuilds a read model while it is served.
//!
//! A fresh schema beside the live one is filled from the start of the log, without indexes but the primary keys; the indexes are
//! made, the rest is caught up with, and the two schemas change names in one transaction. The one before is kept, so that the step
//! can be looked at ([`crate::compare`]) and undone. Readers notice nothing; the projector is fenced off and goes on with the new one.

use std::sync::Arc;

use ledgerline_store::{EventLog, Filter, Lease, Position, StoreError};
use serde::Serialize;
use sqlx::{Connection as _, PgPool};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::ToSchema;

use crate::{
    applier::{Applier, Stop},
    feed::{Entry, MAX_BATCH},
    model::{self, Model, with_projection},
    projection::Projection,
};

/// Reads that are applied together: the more events of a run are folded before its rows are written, the fewer writes.
const READS: usize = 4;

/// How long a rebuild that says nothing is waited for before another one may begin.
const LEASE_MS: i64 = 30_000;

/// How near to the live model a rebuild must be before the two change places.
const NEAR: i64 = 2_000;

/// What a rebuild does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Folds the log into the fresh tables.
    #[default]
    Filling,
    /// Makes the indexes.
    Indexing,
    /// Applies what came meanwhile.
    CatchingUp,
    /// The fresh tables are the live ones.
    Done,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// Position that it has applied.
    pub position: i64,
    /// Where the log ended when it was looked at last.
    pub head: i64,
}

/// Why a model was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another rebuild of it is under way.
    #[error("another rebuild of this model is under way")]
    Running,
    /// The process stops. A later rebuild begins anew.
    #[error("the process stops")]
    Cancelled,
    /// The log holds an event of a newer build.
    #[error("{0}")]
    Unknown(String),
    /// The read model cannot be written.
    #[error("the read model is unavailable")]
    Database(#[from] sqlx::Error),
    /// The log or a checkpoint cannot be read.
    #[error("the log is unavailable")]
    Log(#[from] StoreError),
    /// A batch could not be written.
    #[error("a batch cannot be written")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Stop> for RebuildError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fenced => Self::Running,
            Stop::Unknown(what) => Self::Unknown(what),
            Stop::Unavailable(error) => Self::Write(error),
        }
    }
}

/// Rebuilds a model and puts the result in the place of the live one. Returns when that is done.
///
/// # Errors
/// [`RebuildError`]; the live model is then as it was.
pub async fn rebuild(
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    model: Model,
    owner: &str,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<Progress, RebuildError> {
    with_projection!(model, P => {
        let rebuild = Rebuild::<P>::begin(pool, log, model, owner, progress, cancel).await?;
        rebuild.run().await
    })
}

struct Rebuild<'a, P> {
    pool: &'a PgPool,
    log: &'a Arc<dyn EventLog>,
    model: Model,
    progress: &'a watch::Sender<Progress>,
    cancel: &'a CancellationToken,
    lease: Lease,
    applier: Applier<P>,
}

impl<'a, P: Projection> Rebuild<'a, P> {
    async fn begin(
        pool: &'a PgPool,
        log: &'a Arc<dyn EventLog>,
        model: Model,
        owner: &str,
        progress: &'a watch::Sender<Progress>,
        cancel: &'a CancellationToken,
    ) -> Result<Self, RebuildError> {
        let schema = model.next_schema();
        let reader = model::reader(&schema);
        // An owner may take its own lease again, and this process might run two rebuilds: the names must differ.
        let owner = format!("{owner}/{}", uuid::Uuid::now_v7());
        let lease =
            log.acquire_lease(&reader, &owner, LEASE_MS).await?.ok_or(RebuildError::Running)?;
        let mut rebuild = Self {
            pool,
            log,
            model,
            progress,
            cancel,
            lease,
            applier: Applier::new(pool.clone(), schema.clone()),
        };
        let mut connection = pool.acquire().await?;
        model::create_tables(&mut connection, model, &schema).await?;
        sqlx::query!("DELETE FROM quarantine WHERE model = $1", reader)
            .execute(&mut *connection)
            .await?;
        sqlx::query!(
            "UPDATE checkpoints SET position = 0 WHERE reader = $1 AND epoch = $2",
            reader,
            rebuild.lease.epoch
        )
        .execute(&mut *connection)
        .await?;
        rebuild.lease.position = Position::START;
        rebuild.applier.restart(&model.reader()).await?;
        Ok(rebuild)
    }

    async fn run(mut self) -> Result<Progress, RebuildError> {
        let head = self.head().await?;
        self.fold(head).await?;
        self.say(Phase::Indexing, head);
        let mut connection = self.pool.acquire().await?;
        model::create_indexes(&mut connection, self.model, &self.model.next_schema()).await?;
        self.analyze().await?;
        drop(connection);
        loop {
            let head = self.head().await?;
            self.say(Phase::CatchingUp, head);
            if head.0 - self.lease.position.0 <= NEAR {
                break;
            }
            self.fold(head).await?;
        }
        self.swap().await?;
        let done = Progress { phase: Phase::Done, ..*self.progress.borrow() };
        self.progress.send_replace(done);
        Ok(done)
    }

    /// Applies everything up to a position. Another task reads and decodes ahead, so that reading and writing overlap.
    async fn fold(&mut self, until: Position) -> Result<(), RebuildError> {
        let (sender, mut batches) = mpsc::channel(2);
        let (log, after) = (Arc::clone(self.log), self.lease.position);
        let reading = TaskTracker::new();
        reading.spawn(read_ahead(log, P::CATEGORIES, after, until, sender));
        while let Some(batch) = batches.recv().await {
            if self.cancel.is_cancelled() {
                return Err(RebuildError::Cancelled);
            }
            let entries: Vec<Entry> = batch?;
            let entries: Vec<&Entry> = entries.iter().collect();
            self.apply(&entries).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, entries: &[&Entry]) -> Result<(), RebuildError> {
        let Some(last) = entries.last() else { return Ok(()) };
        if self.applier.concerns(entries) {
            self.applier.apply(&mut self.lease, entries).await?;
        } else {
            self.applier.advance(&mut self.lease, Position(last.position)).await?;
        }
        self.log.renew_lease(&self.lease, LEASE_MS).await?;
        let Progress { phase, head, .. } = *self.progress.borrow();
        self.progress.send_replace(Progress { phase, head, position: self.lease.position.0 });
        Ok(())
    }

    /// Puts the fresh tables in the place of the live ones. The live checkpoint is locked meanwhile, so the live model stands
    /// still while the rest is applied to the fresh one.
    async fn swap(&mut self) -> Result<(), RebuildError> {
        let (live, next, old) =
            (self.model.schema(), self.model.next_schema(), self.model.old_schema());
        let mut connection = self.pool.acquire().await?;
        // Before anything is locked: it may have to wait for whoever still reads it.
        model::run(&mut connection, format!("DROP SCHEMA IF EXISTS {old} CASCADE")).await?;
        let mut swap = connection.begin().await?;
        sqlx::query!(
            "INSERT INTO checkpoints (reader) VALUES ($1) ON CONFLICT (reader) DO NOTHING",
            self.model.reader()
        )
        .execute(&mut *swap)
        .await?;
        let position = sqlx::query_scalar!(
            "SELECT position FROM checkpoints WHERE reader = $1 FOR UPDATE",
            self.model.reader()
        )
        .fetch_one(&mut *swap)
        .await?;
        if position > self.lease.position.0 {
            self.fold(Position(position)).await?;
        }
        // Making the indexes may have taken longer than the lease: whoever took it over has made the fresh tables anew.
        sqlx::query_scalar!(
            "SELECT position FROM checkpoints WHERE reader = $1 AND epoch = $2 FOR UPDATE",
            self.lease.reader,
            self.lease.epoch
        )
        .fetch_optional(&mut *swap)
        .await?
        .ok_or(RebuildError::Running)?;
        model::run(
            &mut swap,
            format!("ALTER SCHEMA {live} RENAME TO {old}; ALTER SCHEMA {next} RENAME TO {live}"),
        )
        .await?;
        sqlx::query_file!(
            "sql/projector/swap.sql",
            self.model.reader(),
            self.lease.reader,
            self.lease.position.0
        )
        .execute(&mut *swap)
        .await?;
        swap.commit().await?;
        Ok(())
    }

    async fn analyze(&self) -> Result<(), RebuildError> {
        let schema = self.model.next_schema();
        let mut connection = model::connect(self.pool, &schema).await?;
        let tables = sqlx::query_scalar!(
            r#"SELECT tablename::text AS "name!" FROM pg_tables WHERE schemaname = $1"#,
            schema
        )
        .fetch_all(&mut connection)
        .await?;
        for table in tables {
            model::run(&mut connection, format!("ANALYZE {schema}.{table}")).await?;
        }
        connection.close().await?;
        Ok(())
    }

    async fn head(&self) -> Result<Position, RebuildError> {
        let head = self.log.head().await?.position;
        self.progress.send_modify(|progress| progress.head = head.0);
        Ok(head)
    }

    fn say(&self, phase: Phase, head: Position) {
        let position = self.lease.position.0;
        self.progress.send_replace(Progress { phase, position, head: head.0 });
    }
}

/// Reads and decodes the log from one position to another, a few batches ahead of whoever receives them.
async fn read_ahead(
    log: Arc<dyn EventLog>,
    categories: &'static [&'static str],
    mut after: Position,
    until: Position,
    sender: mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) {
    while after < until {
        let mut entries = Vec::with_capacity(MAX_BATCH * READS);
        for _ in 0..READS {
            let left = usize::try_from(until.0 - after.0).unwrap_or(MAX_BATCH).min(MAX_BATCH);
            let read = log.read(after, left, &Filter::default()).await;
            match read {
                Ok((events, _)) => {
                    let Some(last) = events.last() else { break };
                    after = last.position;
                    let decoded =
                        events.into_iter().map(|event| Entry::decode_of(event, categories));
                    entries.extend(decoded);
                }
                Err(error) => {
                    // The receiver learns of it, or is gone and needs not.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
        if entries.is_empty() || sender.send(Ok(entries)).await.is_err() {
            return;
        }
    }
}
