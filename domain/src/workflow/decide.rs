//! The decision of each command.

use super::{
    Content, CreateWorkflow, DraftSaved, Intake, IntakeActivated, IntakeDeactivated, IntakePaused,
    NameVersion, PublishWorkflow, SaveDraft, VersionName, VersionNamed, Workflow, WorkflowArchived,
    WorkflowCreated, WorkflowDeleted, WorkflowEvent, WorkflowPublished, WorkflowRejection,
    WorkflowUnarchived, WorkflowUnpublished, WorkflowVersion,
};
use crate::limits;

impl Workflow {
    /// The content, where commands may still change it.
    fn editable(&self) -> Result<&Content, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Archived(_) => Err(WorkflowRejection::Archived),
            Self::Draft(content) | Self::Published { content, .. } => Ok(content),
        }
    }

    /// A repeat of the same creation leads to nothing.
    pub(super) fn create(
        &self,
        command: &CreateWorkflow,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let draft = command.draft.checked()?;
        match self {
            Self::Absent => Ok(vec![
                WorkflowCreated {
                    workspace_id: command.workspace_id,
                    parent_workflow_id: command.parent_workflow_id,
                    draft,
                }
                .into(),
            ]),
            Self::Draft(content)
                if content.workspace_id == command.workspace_id
                    && content.parent_workflow_id == command.parent_workflow_id
                    && content.versions.len() == 1
                    && content.latest().is(&draft) =>
            {
                Ok(vec![])
            }
            Self::Draft(_) | Self::Published { .. } | Self::Archived(_) | Self::Deleted(_) => {
                Err(WorkflowRejection::AlreadyExists)
            }
        }
    }

    /// What the latest version already holds leads to nothing.
    pub(super) fn save_draft(
        &self,
        command: &SaveDraft,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let content = self.editable()?;
        let draft = command.draft.checked()?;
        if content.latest().is(&draft) {
            return Ok(vec![]);
        }
        if content.versions.len() >= limits::MAX_VERSIONS {
            return Err(WorkflowRejection::TooManyVersions);
        }
        let version = WorkflowVersion(content.latest_version().0 + 1);
        Ok(vec![DraftSaved { version, draft }.into()])
    }

    /// What the version is already called leads to nothing.
    pub(super) fn name_version(
        &self,
        command: &NameVersion,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let NameVersion { version, label, note } = command;
        let content = self.editable()?;
        content.version(*version).ok_or(WorkflowRejection::VersionNotFound)?;
        let kept_or = |given: &Option<String>, kept: Option<String>| match given {
            None => kept,
            Some(given) if given.is_empty() => None,
            Some(given) => Some(given.clone()),
        };
        let known = content.name_of(*version);
        let name = VersionName {
            label: kept_or(label, known.label.clone()),
            note: kept_or(note, known.note.clone()),
        };
        if name == known {
            return Ok(vec![]);
        }
        if let Some(label) = &name.label {
            if label.trim().is_empty() || label.chars().count() > limits::MAX_LABEL_CHARS {
                return Err(WorkflowRejection::LabelInvalid);
            }
            let others = content.names.iter().filter(|(other, _)| *other != version);
            if others.into_iter().any(|(_, other)| other.label.as_ref() == Some(label)) {
                return Err(WorkflowRejection::LabelTaken);
            }
        }
        if name.note.as_ref().is_some_and(|note| note.chars().count() > limits::MAX_NOTE_CHARS) {
            return Err(WorkflowRejection::NoteTooLong);
        }
        let VersionName { label, note } = name;
        Ok(vec![VersionNamed { version: *version, label, note }.into()])
    }

    /// The version that is already published leads to nothing.
    pub(super) fn publish(
        &self,
        command: &PublishWorkflow,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let content = self.editable()?;
        let version = command.version.unwrap_or_else(|| content.latest_version());
        let (label, note) = (command.label.clone(), command.note.clone());
        let mut events = self.name_version(&NameVersion { version, label, note })?;
        if self.published_version() != Some(version) {
            if let Some(definition) = &command.definition {
                content.supply(version, definition.clone());
            }
            content.plan(version)?;
            events.push(WorkflowPublished { version }.into());
        }
        Ok(events)
    }

    /// Without a published version it leads to nothing.
    pub(super) fn unpublish(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        self.editable()?;
        Ok(self.published_version().map(|_| WorkflowUnpublished {}.into()).into_iter().collect())
    }

    /// In the archive already, it leads to nothing. Says in events of their own that it is unpublished and takes in nothing, so
    /// that no reader has to know what archiving implies.
    pub(super) fn archive(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        if matches!(self, Self::Archived(_)) {
            return Ok(vec![]);
        }
        let content = self.editable()?;
        let mut events = Vec::new();
        if content.intake != Intake::Inactive {
            events.push(IntakeDeactivated {}.into());
        }
        if self.published_version().is_some() {
            events.push(WorkflowUnpublished {}.into());
        }
        events.push(WorkflowArchived {}.into());
        Ok(events)
    }

    /// Outside the archive it leads to nothing.
    pub(super) fn unarchive(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Draft(_) | Self::Published { .. } => Ok(vec![]),
            Self::Archived(_) => Ok(vec![WorkflowUnarchived {}.into()]),
        }
    }

    /// The intake it already has leads to nothing.
    pub(super) fn set_intake(
        &self,
        intake: Intake,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        // An archived workflow takes in nothing already, so turning it off is true there and no edit.
        let content = match self {
            Self::Archived(content) if intake == Intake::Inactive => content,
            Self::Absent
            | Self::Draft(_)
            | Self::Published { .. }
            | Self::Archived(_)
            | Self::Deleted(_) => self.editable()?,
        };
        if content.intake == intake {
            return Ok(vec![]);
        }
        Ok(vec![match intake {
            Intake::Active => IntakeActivated {}.into(),
            Intake::Paused => IntakePaused {}.into(),
            Intake::Inactive => IntakeDeactivated {}.into(),
        }])
    }

    /// Said each time, also where it takes in nothing already: what was started by hand since then ends by that.
    pub(super) fn stop(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Draft(_) | Self::Published { .. } | Self::Archived(_) => {
                Ok(vec![IntakeDeactivated {}.into()])
            }
        }
    }

    /// Deleted already, it leads to nothing.
    pub(super) fn delete(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match self {
            Self::Absent => Err(WorkflowRejection::NotFound),
            Self::Deleted(_) => Ok(vec![]),
            Self::Draft(_) | Self::Published { .. } | Self::Archived(_) => {
                Ok(vec![WorkflowDeleted {}.into()])
            }
        }
    }
}
