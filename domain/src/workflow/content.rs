//! What a workflow holds: its versions, and where the definition of each is.
//!
//! A workflow may have thousands of versions, and a definition may have megabytes. So the state holds the definitions that the next
//! command is likely to need, of the latest and the published version, unless they are blobs. Any other is [`Whereabouts`]: whoever
//! needs it looks it up in the log and puts it at hand ([`Content::supply`]). That is a memory of what the log holds and no part of the
//! state: never stored, never compared.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::{
    DefinitionBlob, Draft, Intake, StartPlan, VersionNamed, WorkflowCreated, WorkflowRejection,
    WorkflowVersion,
};
use crate::{
    graph::{Definition, Graph},
    id::{WorkflowId, WorkspaceId},
    json::Json,
};

/// What a workflow holds in every shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow it was copied from.
    pub parent_workflow_id: Option<WorkflowId>,
    /// Whether triggers start executions.
    pub intake: Intake,
    /// Every version, from 1, in order.
    pub(super) versions: Vec<Arc<SavedVersion>>,
    /// What people call versions; most have no name.
    pub(super) names: BTreeMap<WorkflowVersion, VersionName>,
    /// How many events were folded: the version of the stream.
    events: i64,
}

/// What people call a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionName {
    /// A short name, which no other version of the workflow has.
    pub label: Option<String>,
    /// What is to be said about it.
    pub note: Option<String>,
}

/// A saved version.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedVersion {
    /// The name that the workflow had.
    pub name: String,
    /// The description that it had.
    pub description: String,
    /// The tags that it had.
    pub tags: Vec<String>,
    /// Whether it was shown to everybody who is signed in.
    pub is_public: bool,
    /// The version of the stream whose event holds it.
    event: i64,
    /// The blob that holds its definition, where it is too large for an event.
    blob: Option<DefinitionBlob>,
    /// Its definition, while the state keeps it.
    kept: Option<Json>,
    #[serde(skip)]
    found: OnceLock<Json>,
    #[serde(skip)]
    graph: OnceLock<Option<Arc<Graph>>>,
}

/// Where a definition is that is not at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the event with this version of the workflow's stream.
    Event(i64),
    /// In a blob.
    Blob(DefinitionBlob),
}

impl PartialEq for SavedVersion {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, description, tags, is_public, event, blob, kept, found: _, graph: _ } =
            self;
        (name, description, tags, is_public)
            == (&other.name, &other.description, &other.tags, &other.is_public)
            && (event, blob, kept) == (&other.event, &other.blob, &other.kept)
    }
}

impl SavedVersion {
    fn of(draft: &Draft, event: i64) -> Self {
        let Draft { name, description, definition, blob, tags, is_public } = draft.clone();
        Self {
            name,
            description,
            tags,
            is_public,
            event,
            kept: blob.is_none().then_some(definition),
            blob,
            found: OnceLock::new(),
            graph: OnceLock::new(),
        }
    }

    /// Its definition as it was written, while it is at hand.
    #[must_use]
    pub fn definition(&self) -> Option<&Json> {
        self.kept.as_ref().or_else(|| self.found.get())
    }

    /// What the event of its saving holds, where that is known: of a blob the reference, else the definition at hand.
    pub(super) fn is(&self, draft: &Draft) -> bool {
        let same = (&self.name, &self.description, &self.tags, self.is_public, &self.blob)
            == (&draft.name, &draft.description, &draft.tags, draft.is_public, &draft.blob);
        same && (self.blob.is_some() || self.definition() == Some(&draft.definition))
    }

    /// The same without its definition.
    fn without_definition(&self) -> Self {
        Self {
            name: self.name.clone(),
            description: self.description.clone(),
            tags: self.tags.clone(),
            is_public: self.is_public,
            event: self.event,
            blob: self.blob.clone(),
            kept: None,
            found: OnceLock::new(),
            graph: OnceLock::new(),
        }
    }

    fn weight(&self) -> usize {
        /// Of a version without its definition.
        const HEAD_BYTES: usize = 256;
        /// A parsed graph takes a small multiple of its text.
        const PARSED_BYTES_PER_BYTE: usize = 8;
        let text = self.definition().map_or(0, |text| text.as_str().len());
        let parsed = if self.graph.get().is_some() { text * PARSED_BYTES_PER_BYTE } else { 0 };
        HEAD_BYTES + self.name.len() + self.description.len() + text + parsed
    }
}

impl Content {
    pub(super) fn created(created: &WorkflowCreated) -> Self {
        let mut content = Self {
            workspace_id: created.workspace_id,
            parent_workflow_id: created.parent_workflow_id,
            intake: Intake::Inactive,
            versions: Vec::new(),
            names: BTreeMap::new(),
            events: 1,
        };
        content.push(&created.draft);
        content
    }

    /// Counts an event.
    pub(super) fn folded(&mut self) {
        self.events += 1;
    }

    pub(super) fn push(&mut self, draft: &Draft) {
        self.versions.push(Arc::new(SavedVersion::of(draft, self.events)));
    }

    pub(super) fn call(&mut self, named: &VersionNamed) {
        let VersionNamed { version, label, note } = named.clone();
        if label.is_none() && note.is_none() {
            self.names.remove(&version);
        } else {
            self.names.insert(version, VersionName { label, note });
        }
    }

    /// Lets go of every definition but those of the latest and the published version.
    pub(super) fn keep_at_hand(&mut self, published: Option<WorkflowVersion>) {
        let latest = self.latest_version();
        // Only the latest two and the one that was published before can have any, but which that was is not known.
        for (version, saved) in (1..).map(WorkflowVersion).zip(&mut self.versions) {
            if saved.kept.is_some() && version != latest && Some(version) != published {
                *saved = Arc::new(saved.without_definition());
            }
        }
    }

    pub(super) fn weight(&self) -> usize {
        self.versions.iter().map(|saved| saved.weight()).sum()
    }

    /// The number of the latest version.
    #[must_use]
    pub fn latest_version(&self) -> WorkflowVersion {
        WorkflowVersion(i32::try_from(self.versions.len()).unwrap_or(i32::MAX))
    }

    /// The latest version.
    #[must_use]
    pub fn latest(&self) -> &SavedVersion {
        self.versions.last().expect("a workflow is created with version 1")
    }

    /// A version, where there is one.
    #[must_use]
    pub fn version(&self, version: WorkflowVersion) -> Option<&SavedVersion> {
        let index = usize::try_from(version.0).ok()?.checked_sub(1)?;
        self.versions.get(index).map(Arc::as_ref)
    }

    /// What people call a version.
    #[must_use]
    pub fn name_of(&self, version: WorkflowVersion) -> VersionName {
        self.names.get(&version).cloned().unwrap_or_default()
    }

    /// Where to look up the definition of a version; none while it is at hand, and where there is no such version.
    #[must_use]
    pub fn whereabouts(&self, version: WorkflowVersion) -> Option<Whereabouts> {
        let saved = self.version(version).filter(|saved| saved.definition().is_none())?;
        Some(saved.blob.clone().map_or(Whereabouts::Event(saved.event), Whereabouts::Blob))
    }

    /// Puts a definition at hand that was looked up, for as long as this state lives.
    pub fn supply(&self, version: WorkflowVersion, definition: Json) {
        if let Some(saved) = self.version(version) {
            saved.found.get_or_init(|| definition);
        }
    }

    /// The graph of a version whose definition is at hand, parsed once for as long as this state lives.
    ///
    /// # Errors
    /// [`WorkflowRejection::VersionNotFound`], [`WorkflowRejection::DefinitionInvalid`] when it was saved under looser rules, or
    /// [`WorkflowRejection::DefinitionElsewhere`].
    pub fn graph(&self, version: WorkflowVersion) -> Result<Arc<Graph>, WorkflowRejection> {
        let saved = self.version(version).ok_or(WorkflowRejection::VersionNotFound)?;
        let text = saved.definition().ok_or(WorkflowRejection::DefinitionElsewhere)?;
        let graph = saved.graph.get_or_init(|| {
            let definition = Definition::parse(text.clone()).ok()?;
            Some(Arc::clone(definition.graph()))
        });
        graph.clone().ok_or(WorkflowRejection::DefinitionInvalid)
    }

    pub(super) fn plan(&self, version: WorkflowVersion) -> Result<StartPlan, WorkflowRejection> {
        let graph = self.graph(version)?;
        if graph.is_empty() {
            return Err(WorkflowRejection::GraphEmpty);
        }
        let definition = self.version(version).and_then(SavedVersion::definition);
        let settings = graph.settings();
        Ok(StartPlan {
            workspace_id: self.workspace_id,
            version,
            definition: definition.cloned().ok_or(WorkflowRejection::DefinitionElsewhere)?,
            planned_nodes: u32::try_from(graph.flow_len()).unwrap_or(u32::MAX),
            queue: settings.queue,
            concurrency: settings.concurrency.clone(),
            timeout_ms: settings.timeout_ms,
            error_workflow_id: settings.error_workflow_id,
            undoes: graph.undoes(),
            graph,
        })
    }
}
