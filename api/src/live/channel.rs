//! Channels: what can be listened to, by whom, and which events are on each.

use std::fmt;

use ledgerline_commands::Commands;
use ledgerline_domain::{
    execution::Execution,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    permission::Permission,
    workflow::Workflow,
    workspace::Workspace,
};
use ledgerline_store::{Filter, Position, StreamId, Workspace as OfWorkspace};

use crate::{
    app::AppState,
    extract::Caller,
    identity::api_key::Scope,
    problem::{Problem, ProblemKind},
};

/// The longest name of a channel that is looked at.
const MAX_NAME_BYTES: usize = 128;

/// What can be listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Every event of a workspace.
    Workspace,
    /// The events of its workflows.
    Workflows,
    /// The events of a workflow and of its executions.
    Workflow(WorkflowId),
    /// The events of its executions.
    Executions,
    /// The events of an execution.
    Execution(ExecutionId),
    /// The log lines of an execution.
    Logs(ExecutionId),
    /// A channel of the contract on which nothing happens yet.
    Empty(&'static str),
}

impl Channel {
    /// Reads a name.
    ///
    /// # Errors
    /// 422 when there is no such channel.
    pub fn parse(name: &str) -> Result<Self, Problem> {
        let unknown = || {
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            Problem::invalid("/channel", "unknown", format!("is not a channel: {shown:?}"))
        };
        if name.len() > MAX_NAME_BYTES {
            return Err(unknown());
        }
        let Some((noun, id)) = name.split_once(':') else {
            return Ok(match name {
                "workspace" => Self::Workspace,
                "workflows" => Self::Workflows,
                "executions" => Self::Executions,
                "agents" => Self::Empty("agents"),
                "tasks" => Self::Empty("tasks"),
                "suggestions" => Self::Empty("suggestions"),
                "analytics" => Self::Empty("analytics"),
                _ => return Err(unknown()),
            });
        };
        match noun {
            "workflow" => id.parse().map(Self::Workflow).map_err(|_| unknown()),
            "execution" => id.parse().map(Self::Execution).map_err(|_| unknown()),
            "logs" => id.parse().map(Self::Logs).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }

    /// What a member must be allowed to do to listen.
    const fn permission(self) -> Permission {
        match self {
            Self::Workspace | Self::Empty(_) => Permission::ViewWorkspace,
            Self::Workflows | Self::Workflow(_) => Permission::ViewWorkflow,
            Self::Executions | Self::Execution(_) | Self::Logs(_) => Permission::ViewExecution,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace => f.write_str("workspace"),
            Self::Workflows => f.write_str("workflows"),
            Self::Workflow(id) => write!(f, "workflow:{id}"),
            Self::Executions => f.write_str("executions"),
            Self::Execution(id) => write!(f, "execution:{id}"),
            Self::Logs(id) => write!(f, "logs:{id}"),
            Self::Empty(name) => f.write_str(name),
        }
    }
}

/// From where a subscriber wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// From now on; log lines from the first one on.
    Now,
    /// After an event.
    Position(Position),
    /// After a log line, by its claim and number; all lines without one.
    Line(Option<(i32, i64)>),
}

/// A channel that a caller may listen to.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) channel: Channel,
    pub(super) workspace: WorkspaceId,
}

impl Granted {
    /// Which events are read for it. A workflow's channel passes fewer of them, see [`Granted::passes`].
    pub(super) fn filter(&self) -> Filter {
        let in_workspace =
            Filter { workspace: Some(OfWorkspace(self.workspace.0)), ..Filter::default() };
        let of = |categories: &[&str]| Filter {
            categories: categories.iter().map(|&category| category.to_owned()).collect(),
            ..in_workspace.clone()
        };
        match self.channel {
            Channel::Workspace | Channel::Empty(_) => in_workspace,
            Channel::Workflows => of(&["workflow"]),
            Channel::Workflow(_) => of(&["workflow", "execution"]),
            Channel::Executions => of(&["execution"]),
            Channel::Execution(id) | Channel::Logs(id) => {
                Filter { stream: Some(StreamId(id.0)), ..in_workspace }
            }
        }
    }
}

/// Grants a channel. `workspace` is the one that channels without an id are of.
///
/// # Errors
/// 404 when there is no such thing or the caller is no member of its workspace, 403 when the role does not allow it.
pub(super) async fn authorise(
    state: &AppState,
    caller: &Caller,
    channel: Channel,
    workspace: WorkspaceId,
) -> Result<Granted, Problem> {
    caller.demand_scope(Scope::Read)?;
    let workspace = match channel {
        Channel::Workspace | Channel::Workflows | Channel::Executions | Channel::Empty(_) => {
            workspace
        }
        Channel::Workflow(id) => {
            let loaded = state.commands.load_cached::<Workflow>(id).await?;
            of_workspace(loaded.origin, "workflow")?
        }
        Channel::Execution(id) | Channel::Logs(id) => {
            let loaded = state.commands.load_cached::<Execution>(id).await?;
            of_workspace(loaded.origin, "execution")?
        }
    };
    let granted = Granted { channel, workspace };
    still_granted(state, caller, &granted).await?;
    Ok(granted)
}

fn of_workspace(
    origin: Option<ledgerline_commands::StreamOrigin>,
    noun: &'static str,
) -> Result<WorkspaceId, Problem> {
    origin.map(|origin| WorkspaceId(origin.workspace.0)).ok_or_else(|| Problem::not_found(noun))
}

/// Whether the caller is a member with the right role now, as the log has it.
///
/// # Errors
/// 404 when not a member, 403 when the role does not allow it.
pub(super) async fn still_granted(
    state: &AppState,
    caller: &Caller,
    granted: &Granted,
) -> Result<(), Problem> {
    caller.demand_reach(granted.workspace)?;
    let role = role_in(&state.commands, granted.workspace, caller).await?;
    let role = role.ok_or_else(|| match granted.channel {
        Channel::Workflow(_) => Problem::not_found("workflow"),
        Channel::Execution(_) | Channel::Logs(_) => Problem::not_found("execution"),
        _ => Problem::not_found("workspace"),
    })?;
    if role.may(granted.channel.permission()) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::Forbidden, "your role in this workspace does not allow this"))
}

async fn role_in(
    commands: &Commands,
    workspace: WorkspaceId,
    caller: &Caller,
) -> Result<Option<ledgerline_domain::permission::Role>, Problem> {
    // As the log holds it, not as this process last knew it: another process may have taken the member out.
    let loaded = commands.load::<Workspace>(workspace).await?;
    Ok(loaded.state.role_of(caller.user_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_what_it_is_called() {
        let id = "0199a0c0-0000-7000-8000-000000000001";
        for name in
            ["workspace", "workflows", "executions", "agents", "tasks", "suggestions", "analytics"]
        {
            assert_eq!(Channel::parse(name).unwrap().to_string(), name);
        }
        for noun in ["workflow", "execution", "logs"] {
            let name = format!("{noun}:{id}");
            assert_eq!(Channel::parse(&name).unwrap().to_string(), name);
        }
        for wrong in
            ["", "workflow", "workflow:", "execution:7", "everything", "logs:x", &"x".repeat(1_000)]
        {
            assert!(Channel::parse(wrong).is_err(), "{wrong}");
        }
    }
}
