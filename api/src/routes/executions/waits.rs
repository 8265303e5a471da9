//! What the nodes of an execution wait for, as `why` and the execution itself show it.

use chrono::{DateTime, SecondsFormat, Utc};
use ledgerline_domain::{
    execution::{Approval, Awaited, NodeError, NodePath, NodeWait},
    id::{ExecutionId, UserId},
    permission::Role,
};
use serde::Serialize;
use utoipa::ToSchema;

/// A node that waits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeWaitView {
    /// The node: `ask`, or `each[3]/ask` inside a loop.
    #[schema(value_type = String)]
    pub node: NodePath,
    /// When its time comes: the end of a wait for a time, and when any other is given up.
    pub until: Option<DateTime<Utc>>,
    /// For what.
    #[serde(flatten)]
    pub awaited: AwaitedView,
}

/// What a node waits for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum AwaitedView {
    /// That its time comes.
    Time {},
    /// Its next try, after one that failed.
    NextTry {},
    /// The answer of a person.
    Approval {
        /// What is asked.
        title: String,
        /// Least roles that may answer; when neither roles nor users are named, whoever may approve.
        #[schema(value_type = Vec<String>)]
        roles: Vec<Role>,
        /// Who else may answer.
        #[schema(value_type = Vec<Uuid>)]
        users: Vec<UserId>,
    },
    /// A signal.
    Signal {
        /// Its name.
        name: String,
    },
    /// That an external worker does a task.
    Task {
        /// The queue that its workers ask.
        queue: String,
        /// The worker that has it.
        worker: Option<String>,
    },
    /// A person who decides what becomes of it: it failed for the last time.
    Decision {
        /// Why it failed: `{kind, message, details}`.
        #[schema(value_type = Object)]
        error: NodeError,
    },
    /// The end of another run that it started.
    Child {
        /// That run.
        #[schema(value_type = Uuid)]
        execution_id: ExecutionId,
    },
}

impl From<NodeWait> for NodeWaitView {
    fn from(wait: NodeWait) -> Self {
        let awaited = match wait.awaited {
            None => AwaitedView::NextTry {},
            Some(Awaited::Time) => AwaitedView::Time {},
            Some(Awaited::Approval(approval)) => {
                let Approval { title, roles, users, .. } = *approval;
                AwaitedView::Approval { title, roles, users }
            }
            Some(Awaited::Signal { name }) => AwaitedView::Signal { name },
            Some(Awaited::Task(task)) => {
                AwaitedView::Task { queue: task.queue, worker: task.worker }
            }
            Some(Awaited::Decision(error)) => AwaitedView::Decision { error: *error },
            Some(Awaited::Child(execution_id)) => AwaitedView::Child { execution_id },
        };
        Self { node: wait.path, until: wait.until, awaited }
    }
}

/// What nodes wait for, as a person says it: the first of them, and how many more there are.
pub(super) fn explain(
    count: usize,
    next_due_at: Option<DateTime<Utc>>,
    first: &[NodeWait],
) -> String {
    let Some(wait) = first.first() else {
        return "it waits for nothing that has a name, which should not be".to_owned();
    };
    let what = match &wait.awaited {
        None => "the next try of a node".to_owned(),
        Some(Awaited::Time) => "a time".to_owned(),
        Some(Awaited::Approval(approval)) => format!("an answer by {}", approvers(approval)),
        Some(Awaited::Signal { name }) => format!("the signal '{name}'"),
        Some(Awaited::Task(task)) => match &task.worker {
            None => format!("a worker of the queue '{}'", task.queue),
            Some(worker) => format!("the worker {worker} of the queue '{}'", task.queue),
        },
        Some(Awaited::Decision(_)) => "somebody who decides what becomes of it".to_owned(),
        Some(Awaited::Child(child)) => format!("the execution {child} that it started"),
    };
    let node = wait.path.as_str();
    let others = match count.saturating_sub(1) {
        0 => String::new(),
        1 => ", and another node waits too".to_owned(),
        more => format!(", and {more} other nodes wait too"),
    };
    let due = next_due_at.map_or_else(String::new, |due| {
        format!("; the next time is {}", due.to_rfc3339_opts(SecondsFormat::Millis, true))
    });
    format!("node '{node}' waits for {what}{others}{due}")
}

fn approvers(approval: &Approval) -> String {
    let roles = approval.roles.iter().map(|role| format!("{} and above", role.as_str()));
    let users = match approval.users.len() {
        0 => None,
        1 => Some("1 person named".to_owned()),
        more => Some(format!("{more} people named")),
    };
    let who: Vec<String> = roles.chain(users).collect();
    if who.is_empty() { "anybody who may approve".to_owned() } else { who.join(" or ") }
}
