//! Streams that wait behind an event that could not be applied: looking at them, trying again, leaving an event out.
//!
//! A projector sets a stream aside and goes on with the others. Whoever tries again or skips does so in one transaction under the
//! projector's checkpoint row, and takes the lease from its leader, who then starts afresh with what changed.

use chrono::{DateTime, Utc};
use ledgerline_store::{EventLog, RecordedEvent, StoreError, StreamId, StreamVersion};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    applier::poison,
    feed::{Content, Entry},
    model::{self, Model, with_projection},
    page::QueryError,
    projection::{Poison, Projection},
};

/// Events of a stream that are read at once.
const PAGE: usize = 500;

/// An event that could not be applied, and whose stream waits behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quarantined {
    /// The stream: an id of a workspace, workflow or execution.
    pub key: Uuid,
    /// Position of the event.
    pub position: i64,
    /// Why it could not be applied.
    pub error: String,
    /// Since when.
    pub quarantined_at: DateTime<Utc>,
    /// When somebody decided to leave it out.
    pub skipped_at: Option<DateTime<Utc>>,
    /// Who did.
    pub skipped_by: Option<String>,
    /// Why.
    pub skip_reason: Option<String>,
}

/// Why a stream could not be taken out of the quarantine.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// Nothing of this stream waits.
    #[error("nothing of this stream waits in the quarantine")]
    NotQuarantined,
    /// Another event of the stream waits by now.
    #[error("the stream waits behind the event at position {position} by now")]
    Moved {
        /// Position of that event.
        position: i64,
    },
    /// It still cannot be applied; or a later event of the stream cannot, and now waits in its place.
    #[error("the event at position {position} cannot be applied: {reason}")]
    StillPoison {
        /// Position of the event.
        position: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// The read model cannot be written.
    #[error("the read model is unavailable")]
    Database(#[from] sqlx::Error),
    /// The log cannot be read.
    #[error("the log is unavailable")]
    Log(#[from] StoreError),
}

/// Everything that waits or was left out in a model, oldest first, at most 1,000.
///
/// # Errors
/// When Postgres is away.
pub async fn list(pool: &PgPool, model: Model) -> Result<Vec<Quarantined>, QueryError> {
    Ok(sqlx::query_as!(
        Quarantined,
        "SELECT key, position, error, quarantined_at, skipped_at, skipped_by, skip_reason
         FROM quarantine WHERE model = $1 ORDER BY position LIMIT 1000",
        model.reader()
    )
    .fetch_all(pool)
    .await?)
}

/// Behind which event a stream waits in a model; nothing where it does not.
///
/// # Errors
/// When Postgres is away.
pub async fn waiting(
    pool: &PgPool,
    model: Model,
    key: Uuid,
) -> Result<Option<Quarantined>, QueryError> {
    Ok(sqlx::query_as!(
        Quarantined,
        "SELECT key, position, error, quarantined_at, skipped_at, skipped_by, skip_reason
         FROM quarantine WHERE model = $1 AND key = $2 AND skipped_at IS NULL ORDER BY position LIMIT 1",
        model.reader(),
        key
    )
    .fetch_optional(pool)
    .await?)
}

/// An event that somebody decided to leave out.
#[derive(Clone, Copy, Debug)]
pub struct Skip<'a> {
    /// Its position.
    pub position: i64,
    /// Who decided.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// Applies what waits of a stream, in order.
///
/// # Errors
/// [`QuarantineError`]; what could be applied before it stays applied.
pub async fn retry(
    pool: &PgPool,
    log: &dyn EventLog,
    model: Model,
    key: Uuid,
) -> Result<(), QuarantineError> {
    with_projection!(model, P => release::<P>(pool, log, model, key, None).await)
}

/// Leaves out the event that a stream waits behind, and applies the rest. Kept with who and why, and obeyed by every rebuild.
///
/// # Errors
/// [`QuarantineError`]; [`QuarantineError::StillPoison`] names a later event that now waits in its place.
pub async fn skip(
    pool: &PgPool,
    log: &dyn EventLog,
    model: Model,
    key: Uuid,
    skip: Skip<'_>,
) -> Result<(), QuarantineError> {
    with_projection!(model, P => release::<P>(pool, log, model, key, Some(skip)).await)
}

async fn release<P: Projection>(
    pool: &PgPool,
    log: &dyn EventLog,
    model: Model,
    key: Uuid,
    skipped: Option<Skip<'_>>,
) -> Result<(), QuarantineError> {
    let reader = model.reader();
    let mut connection = model::connect(pool, &model.schema()).await?;
    let mut transaction = connection.begin().await?;
    // From here to the commit nobody else moves this model.
    let checkpoint = sqlx::query_scalar!(
        "SELECT position FROM checkpoints WHERE reader = $1 FOR UPDATE",
        reader
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(QuarantineError::NotQuarantined)?;
    let first = sqlx::query_scalar!(
        "SELECT min(position) FROM quarantine WHERE model = $1 AND key = $2 AND skipped_at IS NULL",
        reader,
        key
    )
    .fetch_one(&mut *transaction)
    .await?
    .ok_or(QuarantineError::NotQuarantined)?;
    let from = match skipped {
        Some(skip) if skip.position != first => {
            return Err(QuarantineError::Moved { position: first });
        }
        Some(skip) => {
            record_skip(&mut transaction, &reader, key, skip).await?;
            first + 1
        }
        None => first,
    };
    let outcome = apply_stream::<P>(&mut transaction, log, key, from, checkpoint).await?;
    // What waits behind the same event as before has waited since then.
    let stays = outcome.as_ref().err().map(|(position, _)| *position);
    sqlx::query!(
        "DELETE FROM quarantine
         WHERE model = $1 AND key = $2 AND skipped_at IS NULL AND position IS DISTINCT FROM $3",
        reader,
        key,
        stays
    )
    .execute(&mut *transaction)
    .await?;
    if let Err((position, poison)) = &outcome {
        sqlx::query!(
            "INSERT INTO quarantine (model, key, position, error) VALUES ($1, $2, $3, $4)
             ON CONFLICT ON CONSTRAINT quarantine_pkey DO UPDATE SET error = excluded.error",
            reader,
            key,
            position,
            poison.reason.replace('\0', "\u{fffd}")
        )
        .execute(&mut *transaction)
        .await?;
    }
    sqlx::query!(
        "UPDATE checkpoints SET epoch = epoch + 1, owner = NULL, expires_at = NULL WHERE reader = $1",
        reader
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    connection.close().await?;
    outcome.map_err(|(position, poison)| QuarantineError::StillPoison {
        position,
        reason: poison.reason,
    })
}

async fn record_skip(
    connection: &mut PgConnection,
    reader: &str,
    key: Uuid,
    Skip { position, by, reason }: Skip<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE quarantine SET skipped_at = clock_timestamp(), skipped_by = $4, skip_reason = $5
         WHERE model = $1 AND key = $2 AND position = $3",
        reader,
        key,
        position,
        by,
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Applies the events of a stream from one position to another, each with a way back. Returns where it had to stop.
async fn apply_stream<P: Projection>(
    connection: &mut PgConnection,
    log: &dyn EventLog,
    key: Uuid,
    from: i64,
    until: i64,
) -> Result<Result<(), (i64, Poison)>, QuarantineError> {
    let mut projection = P::default();
    let mut version = StreamVersion::NEW;
    loop {
        let page = log.read_stream(StreamId(key), version, PAGE).await?;
        let Some(last) = page.last() else { return Ok(Ok(())) };
        version = last.version;
        let due =
            page.into_iter().filter(|event| event.position.0 >= from && event.position.0 <= until);
        for event in due {
            if let Err(stop) = apply_one(&mut projection, connection, event).await? {
                return Ok(Err(stop));
            }
        }
    }
}

async fn apply_one<P: Projection>(
    projection: &mut P,
    connection: &mut PgConnection,
    event: RecordedEvent,
) -> Result<Result<(), (i64, Poison)>, QuarantineError> {
    let entry = Entry::decode(event);
    let event = match entry.content {
        Content::Event(event) => event,
        // Only what was asked for by category is left undecoded, and nothing was here.
        Content::Unwanted => return Ok(Ok(())),
        Content::Broken(reason) | Content::Unknown(reason) => {
            return Ok(Err((entry.position, Poison::new(reason))));
        }
    };
    let mut savepoint = connection.begin().await?;
    projection.want(&event);
    let written = async {
        projection.load(&mut savepoint).await?;
        if let Err(poison) = projection.apply(&event) {
            return Ok(Err(poison));
        }
        projection.write(&mut savepoint).await.map(Ok)
    };
    let reason = match written.await {
        Ok(Ok(())) => {
            savepoint.commit().await?;
            return Ok(Ok(()));
        }
        Ok(Err(reason)) => reason,
        Err(error) => match poison(&error) {
            Some(reason) => reason,
            None => return Err(error.into()),
        },
    };
    savepoint.rollback().await?;
    *projection = P::default();
    Ok(Err((entry.position, reason)))
}
