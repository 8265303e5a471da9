//! What a workspace is: how it is made, called and set.

use super::{
    ActiveWorkspace, ConcurrencyChanged, CreateWorkspace, DispatchPaused, DispatchResumed,
    RenameWorkspace, Workspace, WorkspaceCreated, WorkspaceEvent, WorkspaceRejection,
    WorkspaceRenamed,
};
use crate::limits;

impl Workspace {
    /// A repeat of the same creation is already true and leads to nothing.
    pub(super) fn create(
        &self,
        command: &CreateWorkspace,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        check_name(&command.name, &command.description)?;
        match self {
            Self::Absent => Ok(vec![
                WorkspaceCreated {
                    name: command.name.clone(),
                    description: command.description.clone(),
                    owner: command.owner,
                    personal: command.personal,
                }
                .into(),
            ]),
            // A personal workspace's id follows from its owner, so whoever tries again means the same one.
            Self::Active(workspace)
                if workspace.personal
                    && command.personal
                    && workspace.members.contains_key(&command.owner) =>
            {
                Ok(vec![])
            }
            Self::Active(_) | Self::Deleting { .. } | Self::Deleted => {
                Err(WorkspaceRejection::AlreadyExists)
            }
        }
    }
}

impl ActiveWorkspace {
    /// A name and description that it already has lead to nothing.
    pub(super) fn rename(
        &self,
        command: &RenameWorkspace,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        check_name(&command.name, &command.description)?;
        if self.name == command.name && self.description == command.description {
            return Ok(vec![]);
        }
        Ok(vec![
            WorkspaceRenamed {
                name: command.name.clone(),
                description: command.description.clone(),
            }
            .into(),
        ])
    }

    /// The limit that it has leads to nothing.
    pub(super) fn limit_concurrency(
        &self,
        limit: Option<u32>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        if limit.is_some_and(|limit| !(1..=limits::MAX_CONCURRENCY).contains(&limit)) {
            return Err(WorkspaceRejection::ConcurrencyOutOfRange);
        }
        if self.max_concurrency == limit {
            return Ok(vec![]);
        }
        Ok(vec![ConcurrencyChanged { limit }.into()])
    }

    /// Pausing what is paused leads to nothing.
    pub(super) fn pause_dispatch(
        &self,
        reason: Option<&str>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        if reason.is_some_and(|reason| reason.chars().count() > limits::MAX_REASON_CHARS) {
            return Err(WorkspaceRejection::ReasonTooLong);
        }
        match self.dispatch_paused {
            true => Ok(vec![]),
            false => Ok(vec![DispatchPaused { reason: reason.map(str::to_owned) }.into()]),
        }
    }

    /// Resuming what is not paused leads to nothing.
    pub(super) fn resume_dispatch(&self) -> Vec<WorkspaceEvent> {
        match self.dispatch_paused {
            true => vec![DispatchResumed {}.into()],
            false => vec![],
        }
    }
}

fn check_name(name: &str, description: &str) -> Result<(), WorkspaceRejection> {
    if name.trim().is_empty() || name.chars().count() > limits::MAX_NAME_CHARS {
        return Err(WorkspaceRejection::NameInvalid);
    }
    if description.chars().count() > limits::MAX_DESCRIPTION_CHARS {
        return Err(WorkspaceRejection::DescriptionTooLong);
    }
    Ok(())
}
