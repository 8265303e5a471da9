//! Configurations with every expression and template evaluated: what an effect is done with, and what is recorded as its input.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    CommandConfig, DEFAULT_PORT, EmailConfig, FileConfig, FileOperation, HttpConfig, HttpMethod,
    NodeConfig, NodeKind, ResolvedForEach, ResolvedJavascript, ResolvedMerge, ResolvedSignal,
    ResolvedWhile, ResolvedWorker, ResolvedWorkflow, SqlConfig, SwitchConfig, WaitConfig,
};
use crate::{
    execution::Approval,
    expression::{ExpressionError, Scope, TemplateValue, Veil},
    json::Json,
    limits,
};

/// Why a node's configuration can't be evaluated: a `validation` failure that names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {error}")]
pub struct ResolveError {
    /// JSON Pointer into the configuration.
    pub field: String,
    /// What went wrong; said in full here, so that it is no source of its own.
    pub error: ExpressionError,
}

/// A configuration after evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// A trigger, of this kind; its output is the run's input.
    Trigger(NodeKind),
    /// `action.http`
    Http(ResolvedHttp),
    /// `action.command`
    Command(ResolvedCommand),
    /// `action.file`
    File(ResolvedFile),
    /// `action.sql`
    Sql(ResolvedSql),
    /// `action.email`
    Email(Box<ResolvedEmail>),
    /// `code.javascript`
    Javascript(Box<ResolvedJavascript>),
    /// `logic.if`
    If(ResolvedIf),
    /// `logic.switch`
    Switch(ResolvedSwitch),
    /// `logic.transform`
    Transform(ResolvedTransform),
    /// `logic.set_variable`
    SetVariable(ResolvedSetVariable),
    /// `logic.wait`
    Wait(ResolvedWait),
    /// `logic.merge`; its output is put together from what came.
    Merge(ResolvedMerge),
    /// `logic.for_each`
    ForEach(ResolvedForEach),
    /// `logic.while`
    While(ResolvedWhile),
    /// `logic.approval`
    Approval(Box<Approval>),
    /// `logic.signal`
    Signal(ResolvedSignal),
    /// `integration.worker`
    Worker(ResolvedWorker),
    /// `logic.workflow`
    Workflow(ResolvedWorkflow),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedHttp {
    /// The method.
    pub method: HttpMethod,
    /// Where to.
    pub url: String,
    /// Header fields, in order.
    pub headers: Vec<(String, String)>,
    /// Added to the query of the URL, in order.
    pub query: Vec<(String, String)>,
    /// A string is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Status codes that count as success; 200 to 299 when empty.
    pub expect_status: Vec<u16>,
    /// A larger response is a permanent failure.
    pub max_response_bytes: u64,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedCommand {
    /// Its name.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Of each of its two outputs, what is kept.
    pub max_output_bytes: u64,
    /// Exit codes that count as success.
    pub allow_exit_codes: Vec<i32>,
}

/// What to do to a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedFile {
    /// What.
    pub operation: FileOperation,
    /// Which file.
    pub path: String,
    /// What to write or append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A statement with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedSql {
    /// The name of the connection.
    pub connection: String,
    /// The statement.
    pub statement: String,
    /// Its parameters, in order.
    pub params: Vec<Value>,
    /// How many rows are given at most.
    pub row_limit: u32,
    /// Whether the database refuses to change anything.
    pub read_only: bool,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedEmail {
    /// The name of the connection.
    pub connection: String,
    /// From whom, where the node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// To whom.
    pub to: Vec<String>,
    /// To whom as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<String>,
    /// To whom unseen by the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bcc: Vec<String>,
    /// Where answers go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// What it is about.
    pub subject: String,
    /// The message as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The message as HTML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// Header fields besides, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Paths of files in the workspace's own space.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
}

/// Which of two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedIf {
    /// Port `true` or `false`.
    pub condition: bool,
}

/// Which of many ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedSwitch {
    /// The port.
    pub port: String,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedTransform {
    /// The output.
    pub value: Value,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedSetVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedWait {
    /// So long from its start, in milliseconds.
    DurationMs(u64),
    /// Until a time.
    Until(DateTime<Utc>),
}

impl Resolved {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> NodeKind {
        match self {
            Self::Trigger(kind) => *kind,
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

    /// What is recorded as the input of the node.
    #[must_use]
    pub fn input(&self) -> Json {
        let value = match self {
            Self::Trigger(_) => Ok(Value::Object(Map::new())),
            Self::Http(resolved) => serde_json::to_value(resolved),
            Self::Command(resolved) => serde_json::to_value(resolved),
            Self::File(resolved) => serde_json::to_value(resolved),
            Self::Sql(resolved) => serde_json::to_value(resolved),
            Self::Email(resolved) => serde_json::to_value(resolved),
            Self::Javascript(resolved) => return Json::of(resolved),
            Self::If(resolved) => serde_json::to_value(resolved),
            Self::Switch(resolved) => serde_json::to_value(resolved),
            Self::Transform(resolved) => serde_json::to_value(resolved),
            Self::SetVariable(resolved) => serde_json::to_value(resolved),
            Self::Wait(resolved) => serde_json::to_value(resolved),
            Self::Merge(resolved) => serde_json::to_value(resolved),
            Self::ForEach(resolved) => serde_json::to_value(resolved),
            Self::While(resolved) => serde_json::to_value(resolved),
            Self::Approval(resolved) => serde_json::to_value(resolved),
            Self::Signal(resolved) => serde_json::to_value(resolved),
            Self::Worker(resolved) => serde_json::to_value(resolved),
            Self::Workflow(resolved) => serde_json::to_value(resolved),
        };
        Json::from_value(&value.expect("these structs have only string keys"))
    }

    /// Reads a recorded input back, so that a try that is done again after a crash is done with the very same values.
    ///
    /// # Errors
    /// When it was not recorded for this kind.
    pub fn from_input(kind: NodeKind, input: &Json) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            NodeKind::TriggerManual
            | NodeKind::TriggerCron
            | NodeKind::TriggerWebhook
            | NodeKind::TriggerEvent => Self::Trigger(kind),
            NodeKind::Http => Self::Http(input.to()?),
            NodeKind::Command => Self::Command(input.to()?),
            NodeKind::File => Self::File(input.to()?),
            NodeKind::Sql => Self::Sql(input.to()?),
            NodeKind::Email => Self::Email(Box::new(input.to()?)),
            NodeKind::Javascript => Self::Javascript(input.to()?),
            NodeKind::If => Self::If(input.to()?),
            NodeKind::Switch => Self::Switch(input.to()?),
            NodeKind::Transform => Self::Transform(input.to()?),
            NodeKind::SetVariable => Self::SetVariable(input.to()?),
            NodeKind::Wait => Self::Wait(input.to()?),
            NodeKind::Merge => Self::Merge(input.to()?),
            NodeKind::ForEach => Self::ForEach(input.to()?),
            NodeKind::While => Self::While(input.to()?),
            NodeKind::Approval => Self::Approval(input.to()?),
            NodeKind::Signal => Self::Signal(input.to()?),
            NodeKind::Worker => Self::Worker(input.to()?),
            NodeKind::Workflow => Self::Workflow(input.to()?),
        })
    }
}

impl NodeConfig {
    /// Evaluates every expression and template.
    pub(super) fn resolve(&self, scope: &Scope) -> Result<Resolved, ResolveError> {
        Ok(match self {
            Self::TriggerManual
            | Self::TriggerCron(_)
            | Self::TriggerWebhook(_)
            | Self::TriggerEvent(_) => Resolved::Trigger(self.kind()),
            Self::Http(http) => Resolved::Http(resolve_http(http, scope)?),
            Self::Command(command) => Resolved::Command(resolve_command(command, scope)?),
            Self::File(file) => Resolved::File(resolve_file(file, scope)?),
            Self::Sql(sql) => Resolved::Sql(resolve_sql(sql, scope)?),
            Self::Email(email) => Resolved::Email(Box::new(resolve_email(email, scope)?)),
            Self::Javascript(script) => Resolved::Javascript(Box::new(script.resolve(scope)?)),
            Self::If(config) => Resolved::If(ResolvedIf {
                condition: at("/condition", config.condition.evaluate_condition(scope))?,
            }),
            Self::Switch(switch) => Resolved::Switch(resolve_switch(switch, scope)?),
            Self::Transform(transform) => Resolved::Transform(ResolvedTransform {
                value: at("/expression", transform.expression.evaluate(scope))?,
            }),
            Self::SetVariable(variable) => Resolved::SetVariable(ResolvedSetVariable {
                name: variable.name.clone(),
                value: at("/expression", variable.expression.evaluate(scope))?,
            }),
            Self::Wait(wait) => Resolved::Wait(resolve_wait(wait, scope)?),
            Self::Merge(merge) => Resolved::Merge(ResolvedMerge { mode: merge.mode }),
            Self::ForEach(for_each) => Resolved::ForEach(for_each.resolve(scope)?),
            Self::Workflow(workflow) => Resolved::Workflow(workflow.resolve(scope)?),
            Self::While(repeat) => {
                Resolved::While(ResolvedWhile { max_iterations: repeat.max_iterations })
            }
            Self::Approval(approval) => Resolved::Approval(Box::new(approval.resolve(scope)?)),
            Self::Signal(signal) => Resolved::Signal(signal.resolve(scope)?),
            Self::Worker(worker) => Resolved::Worker(worker.resolve(scope)?),
        })
    }
}

pub(super) fn at<T>(field: &str, result: Result<T, ExpressionError>) -> Result<T, ResolveError> {
    result.map_err(|error| ResolveError { field: field.to_owned(), error })
}

pub(super) fn wrong<T>(field: &str, message: impl Into<String>) -> Result<T, ResolveError> {
    at(field, Err(ExpressionError::Evaluation { message: message.into() }))
}

fn texts(
    field: &str,
    entries: &[(String, TemplateValue)],
    scope: &Scope,
) -> Result<Vec<(String, String)>, ResolveError> {
    let entries = entries.iter();
    entries
        .map(|(name, value)| {
            let text = at(&format!("{field}/{name}"), value.render(scope))?;
            Ok((name.clone(), text))
        })
        .collect()
}

fn resolve_http(http: &HttpConfig, scope: &Scope) -> Result<ResolvedHttp, ResolveError> {
    let url = at("/url", http.url.render(scope))?;
    // What a secret begins with is seen when it is asked.
    if !url.starts_with("http://") && !url.starts_with("https://") && !Veil::begins(&url) {
        return wrong("/url", "a URL begins with `http://` or `https://`");
    }
    let headers = texts("/headers", &http.headers, scope)?;
    // A line break in a value would be a header of its own.
    if let Some((name, _)) = headers.iter().find(|(_, value)| value.contains(['\r', '\n', '\0'])) {
        return wrong(&format!("/headers/{name}"), "a header has no line breaks");
    }
    Ok(ResolvedHttp {
        method: http.method,
        url,
        headers,
        query: texts("/query", &http.query, scope)?,
        body: at("/body", http.body.as_ref().map(|body| body.evaluate(scope)).transpose())?,
        expect_status: http.expect_status.clone(),
        max_response_bytes: http.max_response_bytes,
    })
}

fn resolve_command(
    command: &CommandConfig,
    scope: &Scope,
) -> Result<ResolvedCommand, ResolveError> {
    let args = command.args.iter().enumerate();
    let args: Vec<String> = args
        .map(|(index, argument)| at(&format!("/args/{index}"), argument.render(scope)))
        .collect::<Result<_, _>>()?;
    let env = texts("/env", &command.env, scope)?;
    let program = at("/program", command.program.render(scope))?;
    let stdin = command.stdin.as_ref().map(|stdin| stdin.render(scope)).transpose();
    let has_nul = |text: &String| text.contains('\0');
    if has_nul(&program) || args.iter().any(has_nul) || env.iter().any(|(_, text)| has_nul(text)) {
        return wrong("/args", "an argument has no U+0000");
    }
    Ok(ResolvedCommand {
        program,
        args,
        stdin: at("/stdin", stdin)?,
        env,
        max_output_bytes: command.max_output_bytes,
        allow_exit_codes: command.allow_exit_codes.clone(),
    })
}

fn resolve_file(file: &FileConfig, scope: &Scope) -> Result<ResolvedFile, ResolveError> {
    let content = file.content.as_ref().map(|content| content.render(scope)).transpose();
    Ok(ResolvedFile {
        operation: file.operation,
        path: at("/path", file.path.render(scope))?,
        content: at("/content", content)?,
    })
}

fn resolve_sql(sql: &SqlConfig, scope: &Scope) -> Result<ResolvedSql, ResolveError> {
    let params = sql.params.iter().enumerate();
    let params: Vec<Value> = params
        .map(|(index, param)| at(&format!("/params/{index}"), param.evaluate(scope)))
        .collect::<Result<_, _>>()?;
    Ok(ResolvedSql {
        connection: sql.connection.clone(),
        statement: sql.statement.clone(),
        params,
        row_limit: sql.row_limit,
        read_only: sql.read_only,
    })
}

/// What would end a line would begin a header of its own.
fn one_line(field: &str, text: String) -> Result<String, ResolveError> {
    if text.contains(['\r', '\n', '\0']) {
        return wrong(field, "has no line breaks");
    }
    Ok(text)
}

/// Addresses or paths: each template gives one or a list.
fn resolve_list(
    field: &str,
    values: &[TemplateValue],
    scope: &Scope,
) -> Result<Vec<String>, ResolveError> {
    let mut texts = Vec::new();
    for value in values {
        let found = match at(field, value.evaluate(scope))? {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            one @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                vec![one]
            }
        };
        for item in found {
            match item {
                Value::String(text) => texts.push(one_line(field, text)?),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => {
                    return wrong(field, "expected a string or a list of strings");
                }
            }
        }
    }
    Ok(texts)
}

fn resolve_email(email: &EmailConfig, scope: &Scope) -> Result<ResolvedEmail, ResolveError> {
    let line = |field: &str, value: &TemplateValue| -> Result<String, ResolveError> {
        one_line(field, at(field, value.render(scope))?)
    };
    let optional = |field: &str, value: &Option<TemplateValue>| {
        value.as_ref().map(|value| line(field, value)).transpose()
    };
    let text = |field: &str, value: &Option<TemplateValue>| {
        value.as_ref().map(|value| at(field, value.render(scope))).transpose()
    };
    let to = resolve_list("/to", &email.to, scope)?;
    let cc = resolve_list("/cc", &email.cc, scope)?;
    let bcc = resolve_list("/bcc", &email.bcc, scope)?;
    let recipients = to.len() + cc.len() + bcc.len();
    if !(1..=limits::MAX_RECIPIENTS).contains(&recipients) {
        let bounds =
            format!("1 to {} recipients in all, found {recipients}", limits::MAX_RECIPIENTS);
        return wrong("/to", bounds);
    }
    let attachments = resolve_list("/attachments", &email.attachments, scope)?;
    if attachments.len() > limits::MAX_ATTACHMENTS {
        return wrong("/attachments", format!("at most {} files", limits::MAX_ATTACHMENTS));
    }
    let mut headers = texts("/headers", &email.headers, scope)?;
    for (name, value) in &mut headers {
        *value = one_line(&format!("/headers/{name}"), std::mem::take(value))?;
    }
    Ok(ResolvedEmail {
        connection: email.connection.clone(),
        from: optional("/from", &email.from)?,
        to,
        cc,
        bcc,
        reply_to: optional("/reply_to", &email.reply_to)?,
        subject: line("/subject", &email.subject)?,
        text: text("/text", &email.text)?,
        html: text("/html", &email.html)?,
        headers,
        attachments,
    })
}

fn resolve_switch(switch: &SwitchConfig, scope: &Scope) -> Result<ResolvedSwitch, ResolveError> {
    for (index, case) in switch.cases.iter().enumerate() {
        if at(&format!("/cases/{index}/when"), case.when.evaluate_condition(scope))? {
            return Ok(ResolvedSwitch { port: case.port.clone() });
        }
    }
    Ok(ResolvedSwitch { port: DEFAULT_PORT.to_owned() })
}

fn resolve_wait(wait: &WaitConfig, scope: &Scope) -> Result<ResolvedWait, ResolveError> {
    match wait {
        WaitConfig::Duration(value) => {
            let value = at("/duration_ms", value.evaluate(scope))?;
            // A text with a number in it is what most inputs carry.
            let number =
                value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            match number {
                Some(number) if number <= limits::MAX_WAIT_MS => {
                    Ok(ResolvedWait::DurationMs(number))
                }
                _ => wrong(
                    "/duration_ms",
                    format!("expected a whole number from 0 to {}", limits::MAX_WAIT_MS),
                ),
            }
        }
        WaitConfig::Until(value) => {
            let text = at("/until", value.render(scope))?;
            match DateTime::parse_from_rfc3339(&text) {
                Ok(time) => Ok(ResolvedWait::Until(time.with_timezone(&Utc))),
                Err(_) => wrong("/until", "expected a time in RFC 3339, like 2026-01-31T08:00:00Z"),
            }
        }
    }
}
