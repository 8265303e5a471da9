//! The typed configuration of each kind.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{
    ApprovalConfig, DEFAULT_PORT, ForEachConfig, JavascriptConfig, MergeConfig, NodeKind,
    SignalConfig, WhileConfig, WorkerConfig, WorkflowConfig,
};
use crate::{
    execution::TIMEOUT_PORT,
    expression::{Expression, TemplateValue},
    graph::Graph,
    trigger::{CronConfig, EventConfig, TriggerConfig, WebhookConfig},
    vault::{ConnectionKind, SecretName},
};

/// What a node does: its kind with its configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeConfig {
    /// `trigger.manual`
    TriggerManual,
    /// `trigger.cron`
    TriggerCron(Box<CronConfig>),
    /// `trigger.webhook`
    TriggerWebhook(WebhookConfig),
    /// `trigger.event`
    TriggerEvent(EventConfig),
    /// `action.http`
    Http(Box<HttpConfig>),
    /// `action.command`
    Command(Box<CommandConfig>),
    /// `action.file`
    File(FileConfig),
    /// `action.sql`
    Sql(Box<SqlConfig>),
    /// `action.email`
    Email(Box<EmailConfig>),
    /// `code.javascript`
    Javascript(Box<JavascriptConfig>),
    /// `logic.if`
    If(IfConfig),
    /// `logic.switch`
    Switch(SwitchConfig),
    /// `logic.transform`
    Transform(TransformConfig),
    /// `logic.set_variable`
    SetVariable(SetVariableConfig),
    /// `logic.wait`
    Wait(WaitConfig),
    /// `logic.merge`
    Merge(MergeConfig),
    /// `logic.for_each`
    ForEach(Box<ForEachConfig>),
    /// `logic.while`
    While(Box<WhileConfig>),
    /// `logic.approval`
    Approval(Box<ApprovalConfig>),
    /// `logic.signal`
    Signal(SignalConfig),
    /// `integration.worker`
    Worker(WorkerConfig),
    /// `logic.workflow`
    Workflow(WorkflowConfig),
}

/// A request over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// The method.
    pub method: HttpMethod,
    /// Where to, `http` or `https`.
    pub url: TemplateValue,
    /// Header fields.
    pub headers: Vec<(String, TemplateValue)>,
    /// Added to the query of the URL.
    pub query: Vec<(String, TemplateValue)>,
    /// A string is sent as it is, anything else as JSON.
    pub body: Option<TemplateValue>,
    /// Status codes that count as success; 200 to 299 when empty.
    pub expect_status: Vec<u16>,
    /// A larger response is a permanent failure.
    pub max_response_bytes: u64,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Reads.
    Get,
    /// Reads the header alone.
    Head,
    /// Does something.
    Post,
    /// Puts a whole.
    Put,
    /// Changes a part.
    Patch,
    /// Takes away.
    Delete,
    /// Asks what may be done.
    Options,
}

impl HttpMethod {
    /// Every method with its word.
    pub const ALL: [(&'static str, Self); 7] = [
        ("GET", Self::Get),
        ("HEAD", Self::Head),
        ("POST", Self::Post),
        ("PUT", Self::Put),
        ("PATCH", Self::Patch),
        ("DELETE", Self::Delete),
        ("OPTIONS", Self::Options),
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// A program that is run without a shell.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandConfig {
    /// Its name, which the operator's allow-list must know.
    pub program: TemplateValue,
    /// Its arguments, one value each.
    pub args: Vec<TemplateValue>,
    /// What it reads.
    pub stdin: Option<TemplateValue>,
    /// Its environment, which is empty but for these.
    pub env: Vec<(String, TemplateValue)>,
    /// Of each of its two outputs, what is kept.
    pub max_output_bytes: u64,
    /// Exit codes that count as success.
    pub allow_exit_codes: Vec<i32>,
}

/// A file in the workspace's own space.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// What to do.
    pub operation: FileOperation,
    /// Which file, relative to the space.
    pub path: TemplateValue,
    /// What to write or append: a string as it is, anything else as JSON.
    pub content: Option<TemplateValue>,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileOperation {
    /// Its content.
    Read,
    /// Another content.
    Write,
    /// More content.
    Append,
    /// The files below a path.
    List,
    /// No file any more.
    Delete,
}

impl FileOperation {
    /// Every operation with its word.
    pub const ALL: [(&'static str, Self); 5] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("append", Self::Append),
        ("list", Self::List),
        ("delete", Self::Delete),
    ];

    /// Whether it takes a content.
    #[must_use]
    pub const fn takes_content(self) -> bool {
        matches!(self, Self::Write | Self::Append)
    }
}

/// A statement on a database. Values go in as parameters and never into its text.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlConfig {
    /// The name of a connection of the workspace.
    pub connection: String,
    /// The statement, with `$1`, `$2`, … for its parameters.
    pub statement: String,
    /// The parameters, in order.
    pub params: Vec<TemplateValue>,
    /// How many rows are given at most.
    pub row_limit: u32,
    /// Whether the database refuses to change anything.
    pub read_only: bool,
}

/// A message by mail.
#[derive(Clone, Debug, PartialEq)]
pub struct EmailConfig {
    /// The name of a connection of the workspace.
    pub connection: String,
    /// From whom; the connection's own address where it isn't said.
    pub from: Option<TemplateValue>,
    /// To whom: each gives an address or a list of them.
    pub to: Vec<TemplateValue>,
    /// To whom as well.
    pub cc: Vec<TemplateValue>,
    /// To whom unseen by the others.
    pub bcc: Vec<TemplateValue>,
    /// Where answers go.
    pub reply_to: Option<TemplateValue>,
    /// What it is about.
    pub subject: TemplateValue,
    /// The message as plain text.
    pub text: Option<TemplateValue>,
    /// The message as HTML.
    pub html: Option<TemplateValue>,
    /// Header fields besides.
    pub headers: Vec<(String, TemplateValue)>,
    /// Paths of files in the workspace's own space.
    pub attachments: Vec<TemplateValue>,
}

/// One of two ways.
#[derive(Clone, Debug, PartialEq)]
pub struct IfConfig {
    /// Leaves by port `true` or `false`.
    pub condition: Expression,
}

/// One of many ways.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchConfig {
    /// The first case that holds gives the port, else [`DEFAULT_PORT`].
    pub cases: Vec<SwitchCase>,
}

/// A case of a switch.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchCase {
    /// Whether it holds.
    pub when: Expression,
    /// The port to leave by.
    pub port: String,
}

/// A value from others.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformConfig {
    /// Its value is the output.
    pub expression: Expression,
}

/// A variable of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct SetVariableConfig {
    /// Its name, seen as `vars.<name>`.
    pub name: String,
    /// Its value.
    pub expression: Expression,
}

/// A pause.
#[derive(Clone, Debug, PartialEq)]
pub enum WaitConfig {
    /// So long, in milliseconds.
    Duration(TemplateValue),
    /// Until a time in RFC 3339.
    Until(TemplateValue),
}

impl NodeConfig {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> NodeKind {
        match self {
            Self::TriggerManual => NodeKind::TriggerManual,
            Self::TriggerCron(_) => NodeKind::TriggerCron,
            Self::TriggerWebhook(_) => NodeKind::TriggerWebhook,
            Self::TriggerEvent(_) => NodeKind::TriggerEvent,
            Self::Http(_) => NodeKind::Http,
            Self::Command(_) => NodeKind::Command,
            Self::File(_) => NodeKind::File,
            Self::Sql(_) => NodeKind::Sql,
            Self::Email(_) => NodeKind::Email,
            Self::Javascript(_) => NodeKind::Javascript,
            Self::If(_) => NodeKind::If,
            Self::Switch(_) => NodeKind::Switch,
            Self::Transform(_) => NodeKind::Transform,
            Self::SetVariable(_) => NodeKind::SetVariable,
            Self::Wait(_) => NodeKind::Wait,
            Self::Merge(_) => NodeKind::Merge,
            Self::ForEach(_) => NodeKind::ForEach,
            Self::While(_) => NodeKind::While,
            Self::Approval(_) => NodeKind::Approval,
            Self::Signal(_) => NodeKind::Signal,
            Self::Worker(_) => NodeKind::Worker,
            Self::Workflow(_) => NodeKind::Workflow,
        }
    }

    /// What the trigger is armed with; none for a node that starts nothing by itself.
    #[must_use]
    pub fn trigger(&self) -> Option<TriggerConfig> {
        if let Self::TriggerCron(cron) = self {
            return Some(TriggerConfig::Cron((**cron).clone()));
        }
        if let Self::TriggerWebhook(webhook) = self {
            return Some(TriggerConfig::Webhook(webhook.clone()));
        }
        if let Self::TriggerEvent(event) = self {
            return Some(TriggerConfig::Event(event.clone()));
        }
        None
    }

    /// The named ports of the kind itself.
    pub(super) fn ports(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::If(_) => vec![Cow::Borrowed("true"), Cow::Borrowed("false")],
            Self::Switch(switch) => switch
                .cases
                .iter()
                .map(|case| Cow::Borrowed(case.port.as_str()))
                .chain([Cow::Borrowed(DEFAULT_PORT)])
                .collect(),
            Self::Approval(approval) => approval.ports().map(Cow::Borrowed).collect(),
            Self::Signal(signal) => {
                signal.timeout_ms.map(|_| Cow::Borrowed(TIMEOUT_PORT)).into_iter().collect()
            }
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Http(_)
            | Self::Command(_)
            | Self::File(_)
            | Self::Sql(_)
            | Self::Email(_)
            | Self::Javascript(_)
            | Self::Transform(_)
            | Self::SetVariable(_)
            | Self::Wait(_)
            | Self::Merge(_)
            | Self::ForEach(_)
            | Self::While(_)
            | Self::Workflow(_)
            | Self::Worker(_) => Vec::new(),
        }
    }

    /// Whether it can be left by the unnamed port: every kind that does not choose a branch.
    pub(super) fn has_unnamed_port(&self) -> bool {
        match self {
            Self::If(_) | Self::Switch(_) | Self::Approval(_) => false,
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Http(_)
            | Self::Command(_)
            | Self::File(_)
            | Self::Sql(_)
            | Self::Email(_)
            | Self::Javascript(_)
            | Self::Transform(_)
            | Self::SetVariable(_)
            | Self::Wait(_)
            | Self::Merge(_)
            | Self::ForEach(_)
            | Self::While(_)
            | Self::Workflow(_)
            | Self::Signal(_)
            | Self::Worker(_) => true,
        }
    }

    /// Whether doing it twice is the same as doing it once, where the definition doesn't say.
    pub(super) fn is_idempotent(&self) -> bool {
        match self {
            Self::Http(http) => {
                matches!(http.method, HttpMethod::Get | HttpMethod::Head | HttpMethod::Options)
            }
            // Nobody knows what a program does.
            Self::Command(_) | Self::Email(_) | Self::Worker(_) => false,
            Self::Sql(sql) => sql.read_only,
            // Writing the same content again changes nothing; appending does, and a second delete finds nothing.
            Self::File(file) => match file.operation {
                FileOperation::Read | FileOperation::List | FileOperation::Write => true,
                FileOperation::Append | FileOperation::Delete => false,
            },
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Javascript(_)
            | Self::If(_)
            | Self::Switch(_)
            | Self::Transform(_)
            | Self::SetVariable(_)
            | Self::Wait(_)
            | Self::Merge(_)
            | Self::ForEach(_)
            | Self::While(_)
            | Self::Workflow(_)
            | Self::Approval(_)
            | Self::Signal(_) => true,
        }
    }

    /// The body of a loop.
    #[must_use]
    pub fn body(&self) -> Option<&Graph> {
        match self {
            Self::ForEach(for_each) => Some(&for_each.body),
            Self::While(repeat) => Some(&repeat.body),
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Http(_)
            | Self::Command(_)
            | Self::File(_)
            | Self::Sql(_)
            | Self::Email(_)
            | Self::Javascript(_)
            | Self::If(_)
            | Self::Switch(_)
            | Self::Transform(_)
            | Self::SetVariable(_)
            | Self::Wait(_)
            | Self::Merge(_)
            | Self::Workflow(_)
            | Self::Approval(_)
            | Self::Signal(_)
            | Self::Worker(_) => None,
        }
    }

    /// The connection that it needs: its name, and to what it must lead.
    #[must_use]
    pub fn connection(&self) -> Option<(&str, ConnectionKind)> {
        match self {
            Self::Sql(sql) => Some((&sql.connection, ConnectionKind::Postgres)),
            Self::Email(email) => Some((&email.connection, ConnectionKind::Smtp)),
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Http(_)
            | Self::Command(_)
            | Self::File(_)
            | Self::Javascript(_)
            | Self::Workflow(_)
            | Self::If(_)
            | Self::Switch(_)
            | Self::Transform(_)
            | Self::SetVariable(_)
            | Self::Wait(_)
            | Self::ForEach(_)
            | Self::Merge(_)
            | Self::While(_)
            | Self::Approval(_)
            | Self::Signal(_)
            | Self::Worker(_) => None,
        }
    }

    /// Ids of the nodes whose output it reads.
    pub(super) fn references(&self) -> Vec<String> {
        let (values, expressions) = self.programs();
        let mut ids = Vec::new();
        values.into_iter().for_each(|value| value.collect_references(&mut ids));
        for expression in expressions {
            ids.extend(expression.node_references().map(str::to_owned));
        }
        if let Self::Javascript(script) = self {
            ids.extend(script.named_nodes().map(str::to_owned));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether it reads a variable.
    pub(super) fn reads(&self, variable: &str) -> bool {
        let (values, expressions) = self.programs();
        values.into_iter().any(|value| value.reads(variable))
            || expressions.into_iter().any(|expression| expression.reads(variable))
    }

    /// The secrets that it names.
    pub(super) fn secrets(&self) -> Vec<SecretName> {
        let mut names = Vec::new();
        self.programs().0.into_iter().for_each(|value| value.collect_secrets(&mut names));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Every template and expression of its own, those of a body left out.
    fn programs(&self) -> (Vec<&TemplateValue>, Vec<&Expression>) {
        let mut values: Vec<&TemplateValue> = Vec::new();
        let mut expressions: Vec<&Expression> = Vec::new();
        match self {
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_)
            | Self::Merge(_) => {}
            Self::Http(http) => {
                values.push(&http.url);
                values.extend(http.headers.iter().chain(&http.query).map(|(_, value)| value));
                values.extend(&http.body);
            }
            Self::Command(command) => {
                values.push(&command.program);
                values.extend(&command.args);
                values.extend(&command.stdin);
                values.extend(command.env.iter().map(|(_, value)| value));
            }
            Self::File(file) => {
                values.push(&file.path);
                values.extend(&file.content);
            }
            Self::Sql(sql) => values.extend(&sql.params),
            Self::Email(email) => {
                values
                    .extend(email.from.iter().chain(&email.to).chain(&email.cc).chain(&email.bcc));
                values.extend(email.reply_to.iter().chain(&email.text).chain(&email.html));
                values.push(&email.subject);
                values.extend(email.headers.iter().map(|(_, value)| value));
                values.extend(&email.attachments);
            }
            Self::Javascript(script) => values.extend(&script.input),
            Self::If(config) => expressions.push(&config.condition),
            Self::Switch(switch) => expressions.extend(switch.cases.iter().map(|case| &case.when)),
            Self::Transform(transform) => expressions.push(&transform.expression),
            Self::SetVariable(variable) => expressions.push(&variable.expression),
            Self::Wait(WaitConfig::Duration(value) | WaitConfig::Until(value)) => {
                values.push(value);
            }
            Self::ForEach(for_each) => expressions.push(&for_each.items),
            Self::While(repeat) => expressions.push(&repeat.condition),
            Self::Approval(approval) => values.extend(approval.values()),
            Self::Signal(signal) => values.push(&signal.name),
            Self::Worker(worker) => values.extend(&worker.input),
            Self::Workflow(workflow) => values.push(&workflow.input),
        }
        (values, expressions)
    }
}
