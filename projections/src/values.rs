//! The value types that rows of several read models share: closed sets of words, and JSON that passes through as text.

use ledgerline_domain::{
    execution::{CancelReason, NodeError, NodeOutput, OriginKind, Queue, TriggerType},
    permission::Role,
};
use serde_json::value::RawValue;

/// JSON of a row as the text that the log holds: never parsed on its way from the table to the caller.
pub type RawJson = sqlx::types::Json<Box<RawValue>>;

/// Declares a closed set of words as an enum that tables hold as text and the API serves as it is.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize, utoipa::ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$word_doc])* $word,)*
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$word),*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }

            /// The value of a word; none for any other.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$word),)*
                    _ => None,
                }
            }
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <str as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(info: &sqlx::postgres::PgTypeInfo) -> bool {
                <str as sqlx::Type<sqlx::Postgres>>::compatible(info)
            }
        }

        impl<'r> sqlx::Decode<'r, sqlx::Postgres> for $name {
            fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                let text = <&str as sqlx::Decode<sqlx::Postgres>>::decode(value)?;
                Self::parse(text).ok_or_else(|| format!("{text:?} is no {}", stringify!($name)).into())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where an execution stands.
    ExecutionStatus {
        /// Requested, and no worker began it yet.
        Pending = "pending",
        /// Waits for a slot in its line.
        Queued = "queued",
        /// A worker runs it, or it waits for a timer between two steps.
        Running = "running",
        /// Held: no further step starts.
        Paused = "paused",
        /// Ended well.
        Completed = "completed",
        /// Ended with a failure.
        Failed = "failed",
        /// Was stopped.
        Cancelled = "cancelled",
    }
}

impl ExecutionStatus {
    /// Whether nothing more happens to it.
    #[must_use]
    pub const fn ended(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Pending | Self::Queued | Self::Running | Self::Paused => false,
        }
    }
}

words! {
    /// Where one run of a node stands.
    NodeStatus {
        /// Its effect may be under way.
        Running = "running",
        /// It waits for a time.
        Waiting = "waiting",
        /// A try failed and another one follows.
        Retrying = "retrying",
        /// It has its output.
        Completed = "completed",
        /// Its last try failed.
        Failed = "failed",
        /// No branch that leads to it was taken.
        Skipped = "skipped",
        /// Its execution ended before it did.
        Cancelled = "cancelled",
    }
}

impl NodeStatus {
    /// Whether nothing more happens to it while its execution goes on.
    #[must_use]
    pub const fn ended(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled => true,
            Self::Running | Self::Waiting | Self::Retrying => false,
        }
    }
}

words! {
    /// Where a workflow stands.
    WorkflowStatus {
        /// No version is published.
        Draft = "draft",
        /// A version is published; drafts may be newer.
        Published = "published",
        /// Put away.
        Archived = "archived",
    }
}

words! {
    /// Whether a workflow takes in work.
    Intake {
        /// Triggers start executions.
        Active = "active",
        /// Triggers hold, and nothing starts until it is resumed.
        Paused = "paused",
        /// Triggers are off; a person may still start it.
        Inactive = "inactive",
    }
}

words! {
    /// What a member is in a workspace.
    MemberRole {
        /// Everything, also deleting the workspace.
        Owner = "owner",
        /// Everything but deleting and transferring it.
        Administrator = "administrator",
        /// Builds and runs workflows.
        Editor = "editor",
        /// Looks.
        Viewer = "viewer",
    }
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Administrator => Self::Administrator,
            Role::Editor => Self::Editor,
            Role::Viewer => Self::Viewer,
        }
    }
}

impl From<MemberRole> for Role {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Owner => Self::Owner,
            MemberRole::Administrator => Self::Administrator,
            MemberRole::Editor => Self::Editor,
            MemberRole::Viewer => Self::Viewer,
        }
    }
}

words! {
    /// What started an execution.
    Trigger {
        /// A person or a program asked for it.
        Manual = "manual",
        /// A schedule's fire time came.
        Cron = "cron",
        /// A webhook delivery arrived.
        Webhook = "webhook",
        /// An event of the log matched.
        Event = "event",
        /// A node of another execution started it.
        Workflow = "workflow",
    }
}

impl From<TriggerType> for Trigger {
    fn from(trigger: TriggerType) -> Self {
        match trigger {
            TriggerType::Manual => Self::Manual,
            TriggerType::Cron => Self::Cron,
            TriggerType::Webhook => Self::Webhook,
            TriggerType::Event => Self::Event,
            TriggerType::Workflow => Self::Workflow,
        }
    }
}

pub(crate) const fn queue_word(queue: Queue) -> &'static str {
    match queue {
        Queue::High => "high",
        Queue::Default => "default",
        Queue::Low => "low",
    }
}

pub(crate) const fn origin_word(kind: OriginKind) -> &'static str {
    match kind {
        OriginKind::Retry => "retry",
        OriginKind::Rerun => "rerun",
        OriginKind::Fork => "fork",
        OriginKind::Node => "node",
    }
}

pub(crate) const fn cancel_word(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::StoppedByUser => "stopped_by_user",
        CancelReason::WorkflowStopped => "workflow_stopped",
        CancelReason::WorkflowDeleted => "workflow_deleted",
        CancelReason::WorkspaceDeleted => "workspace_deleted",
        CancelReason::ParentEnded => "parent_ended",
        CancelReason::LimitReached => "limit_reached",
        CancelReason::Superseded => "superseded",
    }
}

/// An output as the two columns that hold it: inline text, or hash and size of a blob.
pub(crate) fn output_columns(output: &NodeOutput) -> (Option<String>, Option<String>) {
    match output {
        NodeOutput::Inline(json) => (Some(json.as_str().to_owned()), None),
        NodeOutput::Blob { hash, size_bytes } => {
            let blob = serde_json::json!({ "hash": hash, "size_bytes": size_bytes });
            (None, Some(blob.to_string()))
        }
    }
}

/// An error as the text of its column.
pub(crate) fn error_column(error: &NodeError) -> String {
    serde_json::to_string(error).expect("an error has only string keys, so it always serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_serde_says() {
        for status in ExecutionStatus::ALL {
            let json = serde_json::to_string(status).expect("a word serialises");
            assert_eq!(json, format!("{:?}", status.as_str()));
            assert_eq!(ExecutionStatus::parse(status.as_str()), Some(*status));
        }
        assert_eq!(ExecutionStatus::parse("stopped"), None);
    }
}
