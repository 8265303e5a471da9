//! Why a command is refused, by a rule of the domain or for want of a permission, and how each is answered.

use ledgerline_commands::{CommandError, resolve::ResolveRejection, start::StartRejection};
use ledgerline_domain::{
    deployment::DeploymentRejection,
    execution::{ExecutionRejection, NotCarried},
    graph::Problem as GraphProblem,
    limits::MAX_PROBLEMS,
    permission::{Permission, Role},
    trigger::TriggerRejection,
    vault::VaultRejection,
    workflow::WorkflowRejection,
    workspace::WorkspaceRejection,
};

use crate::{
    identity::api_key,
    problem::{FieldError, Problem, ProblemKind},
};

/// Everything that plans of commands refuse with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing, or none that the caller may know of.
    #[error("there is no such {0}")]
    Hidden(&'static str),
    /// The caller is a member whose role is too little.
    #[error("the role {} may not {}", role.as_str(), word(*permission))]
    NotAllowed {
        /// The caller's role.
        role: Role,
        /// What it takes.
        permission: Permission,
    },
    /// The API key has not the scope for it.
    #[error("the API key does not have the scope {0:?}")]
    KeyScope(api_key::Scope),
    /// A workspace refuses.
    #[error(transparent)]
    Workspace(#[from] WorkspaceRejection),
    /// A workflow refuses.
    #[error(transparent)]
    Workflow(#[from] WorkflowRejection),
    /// An execution refuses.
    #[error(transparent)]
    Execution(#[from] ExecutionRejection),
    /// A trigger refuses.
    #[error(transparent)]
    Trigger(#[from] TriggerRejection),
    /// A vault refuses.
    #[error(transparent)]
    Vault(#[from] VaultRejection),
    /// The deployment refuses.
    #[error(transparent)]
    Deployment(#[from] DeploymentRejection),
    /// A limit or a line is full.
    #[error("{0}")]
    Full(String),
    /// A start is refused for what it was given.
    #[error("{0}")]
    Input(String),
    /// A node can't be configured as a rerun asks for.
    #[error("the node can't be configured like that")]
    NodeInput(Vec<GraphProblem>),
    /// An outcome that a person gives is one that its node can't have: which field, and why.
    #[error("{1}")]
    Outcome(&'static str, String),
    /// A rule that no single aggregate can see.
    #[error("{detail}")]
    Rule {
        /// Its stable name.
        rule: &'static str,
        /// Why it refuses, for the caller.
        detail: String,
    },
}

impl From<ResolveRejection> for Refusal {
    fn from(rejection: ResolveRejection) -> Self {
        match rejection {
            ResolveRejection::Workflow(rejection) => Self::Workflow(rejection),
            ResolveRejection::Execution(rejection) => Self::Execution(rejection),
            ResolveRejection::Port(detail) => Self::Outcome("/port", detail),
            ResolveRejection::OutputTooLarge { .. } => {
                Self::Outcome("/output", rejection.to_string())
            }
        }
    }
}

impl From<StartRejection> for Refusal {
    fn from(rejection: StartRejection) -> Self {
        match rejection {
            StartRejection::Workflow(rejection) => Self::Workflow(rejection),
            StartRejection::Execution(rejection) => Self::Execution(rejection),
            StartRejection::Workspace(rejection) => Self::Workspace(rejection),
            StartRejection::NodeInput(problems) => Self::NodeInput(problems),
            StartRejection::Key(error) => {
                Self::Input(format!("does not fit the concurrency key: {error}"))
            }
            full @ (StartRejection::LimitReached(_) | StartRejection::QueueFull { .. }) => {
                Self::Full(full.to_string())
            }
        }
    }
}

/// A permission in the words of the role matrix.
#[must_use]
pub fn word(permission: Permission) -> &'static str {
    match permission {
        Permission::ViewWorkflow => "view workflows",
        Permission::ViewExecution => "view executions",
        Permission::ViewAnalytics => "view analytics",
        Permission::ViewWorkspace => "view the workspace",
        Permission::CreateWorkflow => "create workflows",
        Permission::EditWorkflow => "edit workflows",
        Permission::DeleteWorkflow => "delete workflows",
        Permission::StartExecution => "start executions",
        Permission::ControlExecution => "control executions",
        Permission::Approve => "approve",
        Permission::AddMember => "add members",
        Permission::RemoveMember => "remove members",
        Permission::ChangeMemberRole => "change the role of members",
        Permission::EditWorkspace => "edit the workspace",
        Permission::ManageSecrets => "manage secrets",
        Permission::DeleteWorkspace => "delete the workspace",
        Permission::TransferWorkspace => "transfer the workspace",
        Permission::ViewAudit => "see the audit of the workspace",
        Permission::EraseSubject => "erase people whom runs hold data about",
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Hidden(noun) => Self::not_found(noun),
            Refusal::NotAllowed { .. } | Refusal::KeyScope(_) => Self::forbidden(detail),
            Refusal::Workspace(rejection) => of_workspace(rejection, detail),
            Refusal::Workflow(rejection) => of_workflow(rejection, detail),
            Refusal::Deployment(
                DeploymentRejection::ReasonTooLong | DeploymentRejection::ReasonMissing,
            ) => Self::invalid("/reason", "out_of_range", detail),
            Refusal::Deployment(rejection) => Self::rule_refused(rejection.rule(), detail),
            Refusal::Execution(ExecutionRejection::NotRequested) => Self::not_found("execution"),
            Refusal::Execution(ExecutionRejection::InputTooLarge { .. }) => {
                Self::invalid("/input", "too_large", detail)
            }
            Refusal::Execution(rejection) => of_execution(rejection, detail),
            Refusal::NodeInput(problems) => Self::invalid_values(node_input(&problems)),
            Refusal::Vault(rejection) => of_vault(&rejection, detail),
            Refusal::Full(detail) => Self::queue_full(detail),
            Refusal::Trigger(TriggerRejection::NotFound) => Self::not_found("trigger"),
            Refusal::Trigger(rejection) => Self::rule_refused(rejection.rule(), detail),
            Refusal::Outcome(pointer, detail) => Self::invalid(pointer, "invalid_value", detail),
            Refusal::Input(detail) => Self::invalid("/input", "invalid_value", detail),
            Refusal::Rule { rule, .. } => Self::rule_refused(rule, detail),
        }
    }
}

impl From<CommandError<Refusal>> for Problem {
    fn from(error: CommandError<Refusal>) -> Self {
        Self::of_command(error, Self::from, Self::from)
    }
}

/// Every node that can't be taken over, each with its reason.
fn not_carried(nodes: &[NotCarried]) -> Vec<FieldError> {
    let error = |node: &NotCarried| {
        let detail = format!("the node `{}` {}", node.node, node.reason.detail());
        FieldError::new("", node.reason.as_str(), detail)
    };
    nodes.iter().take(MAX_PROBLEMS).map(error).collect()
}

/// What is wrong with the configuration of a node, pointing into what the caller sent.
fn node_input(problems: &[GraphProblem]) -> Vec<FieldError> {
    let error = |problem: &GraphProblem| {
        let place = problem.field.split_once("/config").map_or("", |(_, place)| place);
        FieldError::new(
            format!("/node_input{place}"),
            problem.code.as_str(),
            problem.reason.clone(),
        )
    };
    problems.iter().map(error).collect()
}

fn of_workspace(rejection: WorkspaceRejection, detail: String) -> Problem {
    match rejection {
        WorkspaceRejection::NotFound => Problem::not_found("workspace"),
        WorkspaceRejection::NotAMember => Problem::not_found("member"),
        WorkspaceRejection::InvitationNotFound => Problem::not_found("invitation"),
        WorkspaceRejection::NotAServiceAccount => Problem::not_found("service account"),
        WorkspaceRejection::NameInvalid => Problem::invalid("/name", "out_of_range", detail),
        WorkspaceRejection::DescriptionTooLong => {
            Problem::invalid("/description", "out_of_range", detail)
        }
        WorkspaceRejection::ConcurrencyOutOfRange => {
            Problem::invalid("/max_concurrency", "out_of_range", detail)
        }
        WorkspaceRejection::ReasonTooLong => Problem::invalid("/reason", "out_of_range", detail),
        // The role matrix refuses these, as it does at the door: known, but not allowed.
        WorkspaceRejection::MayNotManageMembers
        | WorkspaceRejection::OwnerIsAboveAdministrator
        | WorkspaceRejection::NotAnOwner => Problem::forbidden(detail),
        WorkspaceRejection::BeingDeleted
        | WorkspaceRejection::AlreadyExists
        | WorkspaceRejection::AlreadyAMember
        | WorkspaceRejection::LastOwner
        | WorkspaceRejection::PersonalWorkspace
        | WorkspaceRejection::InvitationExpired
        | WorkspaceRejection::TooManyInvitations
        | WorkspaceRejection::TransferToSelf
        | WorkspaceRejection::ServiceAccountOwner
        | WorkspaceRejection::TooManyServiceAccounts
        | WorkspaceRejection::TooManyMembers => Problem::rule_refused(rejection.rule(), detail),
    }
}

fn of_vault(rejection: &VaultRejection, detail: String) -> Problem {
    match rejection {
        VaultRejection::SecretNotFound => Problem::not_found("secret"),
        VaultRejection::ConnectionNotFound => Problem::not_found("connection"),
        VaultRejection::ConnectionNameInvalid => Problem::invalid("/name", "invalid", detail),
        VaultRejection::Overtaken => Problem::new(ProblemKind::ConcurrentChange, detail),
        VaultRejection::TooManySecrets
        | VaultRejection::TooManyConnections
        | VaultRejection::ConnectionNameTaken
        | VaultRejection::ConnectionKindChanged => Problem::rule_refused(rejection.rule(), detail),
    }
}

fn of_workflow(rejection: WorkflowRejection, detail: String) -> Problem {
    match rejection {
        WorkflowRejection::NotFound => Problem::not_found("workflow"),
        WorkflowRejection::VersionNotFound => Problem::not_found("version"),
        WorkflowRejection::NameInvalid => Problem::invalid("/name", "out_of_range", detail),
        WorkflowRejection::DescriptionTooLong => {
            Problem::invalid("/description", "out_of_range", detail)
        }
        WorkflowRejection::TagsInvalid => Problem::invalid("/tags", "out_of_range", detail),
        WorkflowRejection::LabelInvalid => Problem::invalid("/label", "out_of_range", detail),
        WorkflowRejection::NoteTooLong => Problem::invalid("/note", "out_of_range", detail),
        WorkflowRejection::DefinitionElsewhere => {
            tracing::error!("a definition was needed and not looked up");
            Problem::broken()
        }
        WorkflowRejection::DefinitionTooLarge => Problem::invalid("", "too_large", detail),
        WorkflowRejection::AlreadyExists
        | WorkflowRejection::LabelTaken
        | WorkflowRejection::TooManyVersions
        | WorkflowRejection::GraphEmpty
        | WorkflowRejection::DefinitionInvalid
        | WorkflowRejection::NotPublished
        | WorkflowRejection::Archived
        | WorkflowRejection::IntakePaused
        | WorkflowRejection::IntakeInactive => Problem::rule_refused(rejection.rule(), detail),
    }
}

fn of_execution(rejection: ExecutionRejection, detail: String) -> Problem {
    match rejection {
        // Who may answer is said where it is asked, and belongs to the role matrix in spirit: known, but not allowed.
        ExecutionRejection::NotAnApprover { .. } => Problem::forbidden(detail),
        ExecutionRejection::AnswerInvalid(errors) => {
            let errors = errors.into_iter();
            Problem::invalid_values(
                errors
                    .map(|error| FieldError::new(error.pointer, error.code, error.reason))
                    .collect(),
            )
        }
        ExecutionRejection::NoSuchNode(_) => Problem::invalid("/from_node", "node_unknown", detail),
        ExecutionRejection::NotCarried(nodes) => {
            Problem::rule_refused("not_carried", detail).with_errors(not_carried(&nodes))
        }
        ExecutionRejection::SignalNameInvalid => Problem::invalid("/name", "out_of_range", detail),
        ExecutionRejection::SignalTooLarge => Problem::invalid("", "out_of_range", detail),
        rejection => Problem::rule_refused(execution_rule(&rejection), detail),
    }
}

const fn execution_rule(rejection: &ExecutionRejection) -> &'static str {
    match rejection {
        ExecutionRejection::NotRequested => "execution_not_found",
        ExecutionRejection::Ended(_) => "execution_ended",
        ExecutionRejection::TooDeep { .. } => "triggers_too_deep",
        ExecutionRejection::InputTooLarge { .. } => "input_too_large",
        ExecutionRejection::NotCarried(_) => "not_carried",
        ExecutionRejection::NoSuchNode(_) => "no_such_node",
        ExecutionRejection::TooMuchCarried { .. } => "too_much_carried",
        ExecutionRejection::NothingToFork => "nothing_to_fork",
        ExecutionRejection::Cancelling => "execution_cancelling",
        ExecutionRejection::Compensating => "execution_compensating",
        ExecutionRejection::NotInFlow(_) => "node_not_in_flow",
        ExecutionRejection::Paused => "execution_paused",
        ExecutionRejection::Waiting => "execution_waiting",
        ExecutionRejection::ClaimLost { .. } => "claim_lost",
        ExecutionRejection::Overtaken => "report_overtaken",
        ExecutionRejection::Contradiction { .. } => "report_contradicts",
        ExecutionRejection::NodeUnknown { .. } => "node_unknown",
        ExecutionRejection::OutputUnknown { .. } => "output_unknown",
        ExecutionRejection::NotHeld { .. } => "node_not_held",
        ExecutionRejection::NothingToRetry => "nothing_to_retry",
        ExecutionRejection::OtherLimit => "other_limit",
        ExecutionRejection::ApprovalNotOpen { .. } => "approval_not_open",
        ExecutionRejection::NotAnApprover { .. } => "not_an_approver",
        ExecutionRejection::AnswerInvalid(_) => "answer_invalid",
        ExecutionRejection::SignalNameInvalid | ExecutionRejection::SignalTooLarge => {
            "signal_invalid"
        }
        ExecutionRejection::SignalsFull { .. } => "signals_full",
        ExecutionRejection::TaskTaken => "task_taken",
        ExecutionRejection::TaskLost => "task_lost",
    }
}
