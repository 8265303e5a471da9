//! Values too large for an event, by the SHA-256 of their content.

use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::StoreError;

/// The name of a value: its SHA-256.
pub(crate) fn hash_of(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// See [`crate::EventLog::put_blob`].
pub(crate) async fn put(pool: &PgPool, content: &[u8]) -> Result<String, StoreError> {
    let hash = hash_of(content);
    sqlx::query!(
        "INSERT INTO blobs (hash, size_bytes, content) VALUES ($1, octet_length($2::bytea), $2)
         ON CONFLICT ON CONSTRAINT blobs_pkey DO NOTHING",
        &hash,
        content,
    )
    .execute(pool)
    .await?;
    Ok(hex::encode(hash))
}

/// See [`crate::EventLog::blob`]. What is not a hash names nothing.
pub(crate) async fn get(pool: &PgPool, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Ok(hash) = hex::decode(hash) else { return Ok(None) };
    let content = sqlx::query_scalar!("SELECT content FROM blobs WHERE hash = $1", hash)
        .fetch_optional(pool)
        .await?;
    Ok(content)
}
