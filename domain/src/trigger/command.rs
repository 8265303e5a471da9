//! What a trigger is told to do, and the rules that may refuse it.

use super::{Cause, OffReason, TriggerConfig};
use crate::{
    id::{ExecutionId, WorkflowId, WorkspaceId},
    workflow::WorkflowVersion,
};

/// What a trigger is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum TriggerCommand {
    /// A version of its workflow that has it is published (the policy of triggers).
    Arm(Box<ArmTrigger>),
    /// Its workflow runs it no more (the policy of triggers).
    Disarm {
        /// Why.
        reason: OffReason,
    },
    /// Start nothing until it is resumed.
    Pause,
    /// Go on.
    Resume,
    /// Take note of what came of a cause.
    Fire(FireTrigger),
    /// Pass over the fire times that are too late to be caught up with.
    Miss,
    /// Be delivered to at another address.
    ChangeToken {
        /// Which sealed value is the address.
        version: i32,
    },
    /// Have deliveries signed with another secret.
    ChangeSecret {
        /// Which sealed value is the secret.
        version: i32,
    },
}

/// A node of the version that is published.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmTrigger {
    /// The workspace of the workflow.
    pub workspace_id: WorkspaceId,
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The node.
    pub node_id: String,
    /// The version.
    pub workflow_version: WorkflowVersion,
    /// Its configuration.
    pub config: TriggerConfig,
    /// Why the workflow does not run it for all that; none where it does.
    pub off: Option<OffReason>,
}

/// Something that it fires for, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FireTrigger {
    /// What for.
    pub cause: Cause,
    /// What came of it.
    pub outcome: FireOutcome,
}

/// What came of a cause.
#[derive(Clone, Debug, PartialEq)]
pub enum FireOutcome {
    /// An execution is requested in the same append.
    Started(ExecutionId),
    /// Nothing starts.
    Refused {
        /// The rule's stable name.
        rule: String,
        /// What it says, for a person.
        reason: String,
    },
    /// The execution of this fire time exists already, from before the clock was set back: on to the next one.
    StartedBefore(ExecutionId),
}

/// Which rule refuses a command on a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TriggerRejection {
    /// There is none with this id.
    #[error("the trigger does not exist")]
    NotFound,
    /// Its workflow does not run it.
    #[error("the trigger is off: {}", why(*.0))]
    Off(OffReason),
    /// Somebody paused it.
    #[error("the trigger is paused: resume it first")]
    Paused,
    /// The fire time is not the next one: it was taken care of.
    #[error("this fire time was taken care of already")]
    NotNext,
    /// Only a webhook has an address and a secret.
    #[error("only a webhook has an address and a secret")]
    NotAWebhook,
    /// Only a schedule has fire times.
    #[error("only a schedule has fire times")]
    NotASchedule,
}

const fn why(reason: OffReason) -> &'static str {
    match reason {
        OffReason::NotPublished => "its workflow has no published version",
        OffReason::IntakePaused => "the intake of its workflow is paused",
        OffReason::IntakeInactive => "the intake of its workflow is inactive",
        OffReason::NodeRemoved => "the published version of its workflow has no such node",
        OffReason::WorkflowDeleted => "its workflow was deleted",
        OffReason::WorkspaceDeleted => "its workspace is being deleted",
    }
}

impl TriggerRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NotFound => "trigger_not_found",
            Self::Off(OffReason::NotPublished) => "workflow_not_published",
            Self::Off(OffReason::IntakePaused) => "intake_paused",
            Self::Off(OffReason::IntakeInactive) => "intake_inactive",
            Self::Off(OffReason::NodeRemoved) => "trigger_removed",
            Self::Off(OffReason::WorkflowDeleted) => "workflow_deleted",
            Self::Off(OffReason::WorkspaceDeleted) => "workspace_being_deleted",
            Self::Paused => "trigger_paused",
            Self::NotNext => "fire_time_passed",
            Self::NotAWebhook => "not_a_webhook",
            Self::NotASchedule => "not_a_schedule",
        }
    }
}
