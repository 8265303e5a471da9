//! From a row of the log to an event of the domain.

use ledgerline_domain::{
    event::{AnyEvent, DecodeError, Recorded},
    id::EventId,
};
use ledgerline_store::RecordedEvent;

use crate::LoadError;

/// Reads an event of any aggregate.
///
/// # Errors
/// [`LoadError::UnknownEvent`] when a newer build wrote it: the reader must stand down. [`LoadError::Corrupt`] when it doesn't have its shape.
pub fn recorded(row: &RecordedEvent) -> Result<Recorded<AnyEvent>, LoadError> {
    let stream = row.stream;
    let corrupt = |part: &str| LoadError::Corrupt {
        stream,
        reason: format!("the {part} of event {} at position {}", row.event_id, row.position),
    };
    let event = AnyEvent::decode(&row.category, &row.r#type, row.schema_version, &row.payload)
        .map_err(|source| match source {
            DecodeError::Unknown { .. } => LoadError::UnknownEvent { stream, source },
            DecodeError::Payload { .. } => corrupt("payload"),
        })?;
    let metadata = serde_json::from_str(&row.metadata).map_err(|_| corrupt("metadata"))?;
    Ok(Recorded {
        position: row.position.0,
        stream: stream.0,
        version: row.version.0,
        workspace: row.workspace.0,
        event_id: EventId(row.event_id),
        recorded_at: row.recorded_at,
        metadata,
        event,
    })
}

/// Whether this build reads events of a type and version.
#[must_use]
pub fn knows(category: &str, r#type: &str, schema_version: i16) -> bool {
    let known = AnyEvent::TYPES.iter().find(|(known, _)| *known == category);
    let mut types = known.into_iter().flat_map(|(_, types)| *types);
    types.any(|(name, version)| *name == r#type && *version >= schema_version)
}

/// Refuses an event that this build does not know, without reading its payload. Whoever skips events by type asks this first, so
/// that skipping never hides what a newer build wrote.
///
/// # Errors
/// [`LoadError::UnknownEvent`].
pub fn known(row: &RecordedEvent) -> Result<(), LoadError> {
    if knows(&row.category, &row.r#type, row.schema_version) {
        return Ok(());
    }
    Err(LoadError::UnknownEvent {
        stream: row.stream,
        source: DecodeError::Unknown {
            category: row.category.clone(),
            r#type: row.r#type.clone(),
            schema_version: row.schema_version,
        },
    })
}
