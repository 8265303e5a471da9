//! The kinds of nodes by name.

use std::fmt;

/// A kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// `trigger.manual`: where a run by a person begins.
    TriggerManual,
    /// `trigger.cron`: where a run at a time begins.
    TriggerCron,
    /// `trigger.webhook`: where a run by a delivery begins.
    TriggerWebhook,
    /// `trigger.event`: where a run by an event of the log begins.
    TriggerEvent,
    /// `action.http`: a request.
    Http,
    /// `action.command`: a program in a sandbox.
    Command,
    /// `action.file`: a file of the workspace's own space.
    File,
    /// `action.sql`: a statement on a database.
    Sql,
    /// `action.email`: a message by mail.
    Email,
    /// `code.javascript`: a script in a sandbox.
    Javascript,
    /// `logic.if`: one of two ways.
    If,
    /// `logic.switch`: one of many ways.
    Switch,
    /// `logic.transform`: a value from others.
    Transform,
    /// `logic.set_variable`: a variable of the run.
    SetVariable,
    /// `logic.wait`: until a time.
    Wait,
    /// `logic.merge`: where branches come together.
    Merge,
    /// `logic.for_each`: a body for each item of a list.
    ForEach,
    /// `logic.while`: a body as long as a condition holds.
    While,
    /// `logic.approval`: until somebody decides.
    Approval,
    /// `logic.signal`: until a program outside says so.
    Signal,
    /// `integration.worker`: a step that an external worker does.
    Worker,
    /// `logic.workflow`: a run of another workflow.
    Workflow,
}

/// Who does a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeClass {
    /// Pure: the engine computes it in place.
    Inline,
    /// An effect in the world: a worker does it, after its start is durable.
    Effect,
    /// It waits, for a time or for something from outside, and holds no worker.
    Wait,
    /// A loop over a body.
    Loop,
}

impl NodeKind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [Self; 22] = [
        Self::TriggerManual,
        Self::TriggerCron,
        Self::TriggerWebhook,
        Self::TriggerEvent,
        Self::Http,
        Self::Command,
        Self::File,
        Self::Sql,
        Self::Email,
        Self::Javascript,
        Self::If,
        Self::Switch,
        Self::Transform,
        Self::SetVariable,
        Self::Wait,
        Self::Merge,
        Self::ForEach,
        Self::While,
        Self::Approval,
        Self::Signal,
        Self::Worker,
        Self::Workflow,
    ];

    /// The stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TriggerManual => "trigger.manual",
            Self::TriggerCron => "trigger.cron",
            Self::TriggerWebhook => "trigger.webhook",
            Self::TriggerEvent => "trigger.event",
            Self::Http => "action.http",
            Self::Command => "action.command",
            Self::File => "action.file",
            Self::Sql => "action.sql",
            Self::Email => "action.email",
            Self::Javascript => "code.javascript",
            Self::If => "logic.if",
            Self::Switch => "logic.switch",
            Self::Transform => "logic.transform",
            Self::SetVariable => "logic.set_variable",
            Self::Wait => "logic.wait",
            Self::Merge => "logic.merge",
            Self::ForEach => "logic.for_each",
            Self::While => "logic.while",
            Self::Approval => "logic.approval",
            Self::Signal => "logic.signal",
            Self::Worker => "integration.worker",
            Self::Workflow => "logic.workflow",
        }
    }

    /// The kind with this stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Who does it.
    #[must_use]
    pub const fn class(self) -> NodeClass {
        match self {
            Self::TriggerManual
            | Self::TriggerCron
            | Self::TriggerWebhook
            | Self::TriggerEvent
            | Self::If
            | Self::Switch
            | Self::Transform
            | Self::SetVariable
            | Self::Merge => NodeClass::Inline,
            Self::Http
            | Self::Command
            | Self::File
            | Self::Sql
            | Self::Email
            | Self::Javascript => NodeClass::Effect,
            Self::Wait | Self::Approval | Self::Signal | Self::Worker | Self::Workflow => {
                NodeClass::Wait
            }
            Self::ForEach | Self::While => NodeClass::Loop,
        }
    }

    /// Whether it does something in the world, and so can be retried and time out.
    #[must_use]
    pub const fn is_effect(self) -> bool {
        matches!(self.class(), NodeClass::Effect) || matches!(self, Self::Worker)
    }

    /// Whether runs begin at it.
    #[must_use]
    pub const fn is_trigger(self) -> bool {
        matches!(
            self,
            Self::TriggerManual | Self::TriggerCron | Self::TriggerWebhook | Self::TriggerEvent
        )
    }

    /// How long one try may take where the definition doesn't say. None for what the engine does itself.
    #[must_use]
    pub const fn default_timeout_ms(self) -> Option<u64> {
        match self {
            Self::Http => Some(30_000),
            Self::Command => Some(300_000),
            Self::File | Self::Sql | Self::Email => Some(60_000),
            Self::Javascript => Some(10_000),
            Self::TriggerManual
            | Self::TriggerCron
            | Self::TriggerWebhook
            | Self::TriggerEvent
            | Self::If
            | Self::Switch
            | Self::Transform
            | Self::SetVariable
            | Self::Wait
            | Self::Merge
            | Self::While
            | Self::ForEach
            | Self::Workflow
            | Self::Approval
            | Self::Signal
            // Its workers may be away for long; whether that is too long is for the definition to say.
            | Self::Worker => None,
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
