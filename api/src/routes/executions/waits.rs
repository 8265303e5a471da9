//! What the nodes of an execution wait for, as `why` and the execution itself show it.

use chrono::{DateTime, SecondsFormat, Utc};
use ledgerline_domain::execution::{Awaited, NodePath, NodeWait};
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
}

impl From<NodeWait> for NodeWaitView {
    fn from(wait: NodeWait) -> Self {
        let awaited = match wait.awaited {
            None => AwaitedView::NextTry {},
            Some(Awaited::Time) => AwaitedView::Time {},
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
