//! Whether this build can read the log at all: asked before it serves, because half a history is worse than none.
//!
//! What was checked is remembered as the checkpoint of a reader named after the event types of this build, so a start looks only
//! at what was appended since the last start of the same build.

use std::{fmt, sync::Arc};

use ledgerline_commands::record::knows;
use ledgerline_domain::event::AnyEvent;
use ledgerline_store::{EventLog, Position};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use super::StartError;

/// How long the check may be silent before another process checks as well.
const LEASE_MS: i64 = 60_000;

/// One kind of event that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownType {
    /// The noun of its streams.
    pub category: String,
    /// Its stored name.
    pub r#type: String,
    /// The version of its payload.
    pub schema_version: i16,
    /// How many of them the log holds.
    pub count: i64,
}

/// The log holds events that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownEvents(pub Vec<UnknownType>);

impl fmt::Display for UnknownEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the log was written by a newer build; start that one. Unknown here:")?;
        for unknown in &self.0 {
            let UnknownType { category, r#type, schema_version, count } = unknown;
            write!(
                f,
                " {category}/{type} version {schema_version} ({count} events);",
                r#type = r#type
            )?;
        }
        Ok(())
    }
}

/// Refuses a log with events that this build cannot decode.
pub(super) async fn known_events(
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    owner: &str,
) -> Result<(), StartError> {
    let reader = format!("event_types:{}", fingerprint());
    let lease = log.acquire_lease(&reader, owner, LEASE_MS).await.map_err(StartError::Log)?;
    let head = log.head().await.map_err(StartError::Log)?.position;
    // Somebody else who checks at the same time has the lease: then everything is checked, and nothing remembered.
    let after = lease.as_ref().map_or(Position::START, |lease| lease.position);
    let unknown = unknown_types(pool, after, head).await.map_err(StartError::Database)?;
    if let Some(mut lease) = lease {
        if unknown.is_empty() && head > lease.position {
            log.advance(&mut lease, head).await.map_err(StartError::Log)?;
        }
        log.release_lease(&lease).await.map_err(StartError::Log)?;
    }
    if unknown.is_empty() { Ok(()) } else { Err(UnknownEvents(unknown).into()) }
}

/// The kinds of events after a position and up to another that this build does not know.
pub(crate) async fn unknown_types(
    pool: &PgPool,
    after: Position,
    until: Position,
) -> Result<Vec<UnknownType>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT category, type AS "type!", schema_version, count(*) AS "count!"
           FROM events WHERE position > $1 AND position <= $2
           GROUP BY category, type, schema_version ORDER BY category, type, schema_version"#,
        after.0,
        until.0
    )
    .fetch_all(pool)
    .await?;
    let unknown = rows
        .into_iter()
        .filter(|row| !knows(&row.category, &row.r#type, row.schema_version))
        .map(|row| UnknownType {
            category: row.category,
            r#type: row.r#type,
            schema_version: row.schema_version,
            count: row.count,
        });
    Ok(unknown.collect())
}

/// Names the set of event types that this build reads.
fn fingerprint() -> String {
    let mut hash = Sha256::new();
    for (category, types) in AnyEvent::TYPES {
        for (name, version) in *types {
            hash.update(format!("{category}/{name}/{version}\n"));
        }
    }
    hex::encode(&hash.finalize()[..8])
}
