//! How far a reader has come: moved by compare-and-set on position and epoch, which is exactly-once and fencing at once.

use sqlx::{PgConnection, PgPool};

use crate::{Lease, Position, StoreError};

/// Moves the checkpoint inside the transaction that writes the reader's rows, so that both are committed or neither. The lease
/// in memory is the caller's to update once the transaction is committed.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease was taken over or the checkpoint is not where the lease says: roll back.
pub async fn advance_in(
    connection: &mut PgConnection,
    lease: &Lease,
    to: Position,
) -> Result<(), StoreError> {
    let moved = sqlx::query!(
        "UPDATE checkpoints SET position = $1 WHERE reader = $2 AND epoch = $3 AND position = $4",
        to.0,
        lease.reader,
        lease.epoch,
        lease.position.0,
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(fenced(&lease.reader)) }
}

/// See [`crate::EventLog::advance`].
pub(crate) async fn advance(
    pool: &PgPool,
    lease: &mut Lease,
    to: Position,
) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await?;
    advance_in(&mut connection, lease, to).await?;
    lease.position = to;
    Ok(())
}

/// See [`crate::EventLog::checkpoint`].
pub(crate) async fn checkpoint(pool: &PgPool, reader: &str) -> Result<Position, StoreError> {
    let position =
        sqlx::query_scalar!("SELECT position FROM checkpoints WHERE reader = $1", reader)
            .fetch_optional(pool)
            .await?;
    Ok(position.map_or(Position::START, Position))
}

pub(crate) fn fenced(reader: &str) -> StoreError {
    StoreError::Fenced { reader: reader.to_owned() }
}
