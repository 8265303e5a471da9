//! Definitions that are not in a workflow's state: large ones, which are blobs, and those of versions that nothing new runs.
//!
//! Reading them is no decision, so the pure functions of the domain leave it to whoever calls them: [`at_hand`] before a version is
//! published, started, shown or copied, and [`keep`] before a draft is saved.

use ledgerline_domain::{
    graph::Definition,
    id::WorkflowId,
    json::Json,
    limits::MAX_INLINE_DEFINITION_BYTES,
    workflow::{
        Content, DefinitionBlob, PublishWorkflow, SavedVersion, Whereabouts, Workflow,
        WorkflowEvent, WorkflowVersion,
    },
};
use ledgerline_store::{EventLog, StreamId, StreamVersion};

use crate::{LoadError, load::decode};

/// Puts the definition of a version at hand in a state of its workflow. One that does not exist is no error here: whoever asks for it
/// next says so.
///
/// # Errors
/// [`LoadError`], also when the log names a blob that is not there.
pub async fn at_hand(
    log: &dyn EventLog,
    workflow: WorkflowId,
    content: &Content,
    version: WorkflowVersion,
) -> Result<(), LoadError> {
    let stream = StreamId(workflow.0);
    let Some(place) = content.whereabouts(version) else { return Ok(()) };
    let corrupt = |what: &str| LoadError::Corrupt {
        stream,
        reason: format!("{what} of version {}", version.0),
    };
    let definition = match place {
        Whereabouts::Event(event) => {
            let found = log.read_stream(stream, StreamVersion(event - 1), 1).await;
            let found = found.map_err(|error| LoadError::from_store(stream, error))?;
            let recorded = found.first().ok_or_else(|| corrupt("the event"))?;
            match decode::<WorkflowEvent>(recorded)? {
                WorkflowEvent::WorkflowCreated(created) => created.draft.definition,
                WorkflowEvent::DraftSaved(saved) => saved.draft.definition,
                _ => return Err(corrupt("the event")),
            }
        }
        Whereabouts::Blob(DefinitionBlob { hash, .. }) => {
            let found = log.blob(&hash).await;
            let found = found.map_err(|error| LoadError::from_store(stream, error))?;
            let text = found.and_then(|content| String::from_utf8(content).ok());
            let definition = text.and_then(|text| Json::parse(&text).ok());
            definition.ok_or_else(|| corrupt("the blob"))?
        }
    };
    content.supply(version, definition);
    Ok(())
}

/// Looks up the definition that a publication needs, where the state does not have it.
///
/// # Errors
/// As [`at_hand`].
pub async fn look_up(
    log: &dyn EventLog,
    id: WorkflowId,
    workflow: &Workflow,
    publish: &mut PublishWorkflow,
) -> Result<(), LoadError> {
    let Some(content) = workflow.content() else { return Ok(()) };
    let version = publish.version.unwrap_or_else(|| content.latest_version());
    if content.whereabouts(version).is_some() {
        at_hand(log, id, content, version).await?;
        publish.version = Some(version);
        publish.definition = content.version(version).and_then(SavedVersion::definition).cloned();
    }
    Ok(())
}

/// Stores a definition that no event can hold, before the draft is saved that names it. Twice is the same as once.
///
/// # Errors
/// [`LoadError`] when the store is away.
pub async fn keep(
    log: &dyn EventLog,
    workflow: WorkflowId,
    definition: Definition,
) -> Result<Definition, LoadError> {
    let text = definition.text().as_str();
    if text.len() <= MAX_INLINE_DEFINITION_BYTES || definition.blob().is_some() {
        return Ok(definition);
    }
    let hash = log.put_blob(text.as_bytes()).await;
    let hash = hash.map_err(|error| LoadError::from_store(StreamId(workflow.0), error))?;
    let size_bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    Ok(definition.kept_in(DefinitionBlob { hash, size_bytes }))
}
