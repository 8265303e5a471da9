//! The kinds of nodes with the JSON Schema of their configurations, for `GET /node-kinds` and the forms of the editor.
//!
//! A string that may hold `{{ … }}` has `"format": "template"`, one that is CEL has `"format": "cel"`. A field that may name secrets as
//! `{{ secrets.<name> }}` has `"x-secrets": true`; no other may.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    FileOperation, HttpMethod, MergeMode, NodeKind, OnItemError,
    awaiting::{approval_schema, signal_schema, worker_schema},
    trigger,
};
use crate::{execution::TIMEOUT_PORT, limits, vault::ConnectionKind};

/// A kind as it is served.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindDescription {
    /// Its stored name.
    pub r#type: &'static str,
    /// What it is listed under: `trigger`, `action`, `logic`, `integration`.
    pub group: &'static str,
    /// A few words.
    pub title: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// The JSON Schema (2020-12) of its configuration.
    pub config: Value,
    /// The named ports it is left by; a switch adds one a case, and the buttons of an approval are its own. Empty for the unnamed port
    /// alone.
    pub ports: Vec<&'static str>,
    /// Whether it does something in the world, and so can be retried and time out.
    pub is_effect: bool,
    /// How long one try may take where the definition doesn't say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_timeout_ms: Option<u64>,
}

/// Every kind, in the order in which they are listed.
#[must_use]
pub fn node_kinds() -> Vec<KindDescription> {
    NodeKind::ALL.into_iter().map(describe).collect()
}

fn describe(kind: NodeKind) -> KindDescription {
    let (title, description) = words(kind);
    KindDescription {
        r#type: kind.as_str(),
        group: kind.as_str().split('.').next().unwrap_or_default(),
        title,
        description,
        config: schema(kind),
        ports: match kind {
            NodeKind::If => vec!["true", "false"],
            NodeKind::Switch => vec![super::DEFAULT_PORT],
            NodeKind::Approval => vec!["approved", "rejected", TIMEOUT_PORT],
            NodeKind::Signal => vec![TIMEOUT_PORT],
            NodeKind::TriggerManual
            | NodeKind::TriggerCron
            | NodeKind::TriggerWebhook
            | NodeKind::TriggerEvent
            | NodeKind::Http
            | NodeKind::Command
            | NodeKind::File
            | NodeKind::Sql
            | NodeKind::Email
            | NodeKind::Javascript
            | NodeKind::Transform
            | NodeKind::SetVariable
            | NodeKind::Wait
            | NodeKind::Merge
            | NodeKind::ForEach
            | NodeKind::While
            | NodeKind::Workflow
            | NodeKind::Worker => vec![],
        },
        is_effect: kind.is_effect(),
        default_timeout_ms: kind.default_timeout_ms(),
    }
}

fn words(kind: NodeKind) -> (&'static str, &'static str) {
    match kind {
        NodeKind::TriggerManual => (
            "Manual start",
            "A run that a person or a program starts begins here; its output is the run's input.",
        ),
        NodeKind::TriggerCron => (
            "Schedule",
            "Starts a run at the times of a cron pattern in a time zone; its output is the fire time and a payload.",
        ),
        NodeKind::TriggerWebhook => (
            "Webhook",
            "Starts a run for each delivery to an address of its own; its output is headers, query, body and delivery_id.",
        ),
        NodeKind::TriggerEvent => (
            "Event",
            "Starts a run for each event of the workspace's log that fits; its output is the event.",
        ),
        NodeKind::Http => ("HTTP request", "Sends a request and gives status, headers and body."),
        NodeKind::Command => (
            "Command",
            "Runs an allowed program without a shell and gives its exit code and outputs.",
        ),
        NodeKind::File => {
            ("File", "Reads, writes, appends, lists or deletes files of the workspace.")
        }
        NodeKind::Sql => (
            "SQL",
            "Runs a statement on a database, with parameters, and gives columns and rows. It changes nothing unless it is allowed to.",
        ),
        NodeKind::Email => {
            ("Email", "Sends a message by mail, with files of the workspace where needed.")
        }
        NodeKind::Javascript => (
            "JavaScript",
            "Computes a value with a script that reaches nothing but what it is given.",
        ),
        NodeKind::If => ("If", "Goes on by port true or false."),
        NodeKind::Switch => {
            ("Switch", "Goes on by the port of the first case that holds, else by default.")
        }
        NodeKind::Transform => ("Transform", "Computes a value from others."),
        NodeKind::SetVariable => ("Set variable", "Gives a variable of the run a value."),
        NodeKind::Wait => ("Wait", "Waits for a time without holding a worker."),
        NodeKind::Merge => {
            ("Merge", "Goes on when all branches have come, or with the first one that comes.")
        }
        NodeKind::ForEach => {
            ("For each", "Runs its body for each item of a list and gives the list of outputs.")
        }
        NodeKind::While => (
            "While",
            "Runs its body again as long as a condition holds, and gives the last output and how often.",
        ),
        NodeKind::Approval => (
            "Approval",
            "Asks people with a form and goes on by the port of the button they press.",
        ),
        NodeKind::Signal => (
            "Signal",
            "Waits until a program outside sends a signal of its name, and gives what came with it.",
        ),
        NodeKind::Worker => (
            "External worker",
            "Offers a task to workers in any language, and gives what they make of it.",
        ),
        NodeKind::Workflow => (
            "Workflow",
            "Starts a run of another workflow and gives its output, or goes on at once.",
        ),
    }
}

pub(super) fn object(properties: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

pub(super) fn cel(title: &str) -> Value {
    json!({
        "type": "string",
        "format": "cel",
        "title": title,
        "minLength": 1,
        "maxLength": limits::MAX_EXPRESSION_BYTES,
    })
}

pub(super) fn template(title: &str) -> Value {
    json!({
        "type": "string",
        "format": "template",
        "title": title,
        "maxLength": limits::MAX_TEMPLATE_BYTES,
    })
}

/// Marks a field as one that may name secrets.
fn with_secrets(mut schema: Value) -> Value {
    schema["x-secrets"] = true.into();
    schema
}

fn templates(title: &str) -> Value {
    json!({
        "type": "object",
        "title": title,
        "additionalProperties": { "type": ["string", "number", "boolean"], "format": "template" },
        "maxProperties": limits::MAX_ENTRIES,
    })
}

pub(super) fn whole(title: &str, min: u64, max: u64, default: Option<u64>) -> Value {
    let mut schema = json!({ "type": "integer", "title": title, "minimum": min, "maximum": max });
    if let Some(default) = default {
        schema["default"] = default.into();
    }
    schema
}

fn schema(kind: NodeKind) -> Value {
    match kind {
        NodeKind::TriggerManual => object(json!({}), &[]),
        NodeKind::TriggerCron => trigger::cron_schema(),
        NodeKind::TriggerWebhook => trigger::webhook_schema(),
        NodeKind::TriggerEvent => trigger::event_schema(),
        NodeKind::Http => http(),
        NodeKind::Command => command(),
        NodeKind::File => object(
            json!({
                "operation": {
                    "title": "Operation",
                    "enum": FileOperation::ALL.map(|(word, _)| word),
                },
                "path": template("Path"),
                "content": { "title": "Content (write, append)", "format": "template" },
            }),
            &["operation", "path"],
        ),
        NodeKind::Sql => sql(),
        NodeKind::Email => email(),
        NodeKind::Javascript => super::script::schema(),
        NodeKind::If => object(json!({ "condition": cel("Condition") }), &["condition"]),
        NodeKind::Switch => object(
            json!({
                "cases": {
                    "type": "array",
                    "title": "Cases",
                    "maxItems": limits::MAX_SWITCH_CASES,
                    "items": object(
                        json!({ "when": cel("When"), "port": identifier("Port") }),
                        &["when", "port"],
                    ),
                },
            }),
            &["cases"],
        ),
        NodeKind::Transform => object(json!({ "expression": cel("Expression") }), &["expression"]),
        NodeKind::SetVariable => object(
            json!({
                "name": {
                    "type": "string",
                    "title": "Name",
                    "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$",
                },
                "expression": cel("Value"),
            }),
            &["name", "expression"],
        ),
        NodeKind::Wait => wait(),
        NodeKind::Approval => approval_schema(),
        NodeKind::Signal => signal_schema(),
        NodeKind::Worker => worker_schema(),
        NodeKind::Merge => object(
            json!({
                "mode": {
                    "title": "Goes on when",
                    "enum": MergeMode::ALL.map(|(word, _)| word),
                    "default": "all",
                },
            }),
            &[],
        ),
        NodeKind::ForEach => for_each(),
        NodeKind::Workflow => workflow_schema(),
        NodeKind::While => while_schema(),
    }
}

fn while_schema() -> Value {
    object(
        json!({
            "condition": cel("As long as"),
            "max_iterations":
                whole("At most", 1, u64::from(limits::MAX_LOOP_ITERATIONS), None),
            "nodes": { "type": "array", "title": "Body", "minItems": 1 },
            "connections": { "type": "array", "title": "Connections of the body" },
        }),
        &["condition", "max_iterations", "nodes"],
    )
}

fn workflow_schema() -> Value {
    object(
        json!({
            "workflow_id": { "type": "string", "format": "uuid", "title": "Workflow" },
            "version": whole("Version (the published one when left out)", 1, u64::from(u16::MAX), None),
            "input": { "title": "Input", "format": "template" },
            "wait": { "type": "boolean", "title": "Wait for its end", "default": true },
        }),
        &["workflow_id"],
    )
}

fn for_each() -> Value {
    object(
        json!({
            "items": cel("List"),
            "concurrency": whole("At once", 1, u64::from(limits::MAX_PARALLELISM), Some(1)),
            "on_item_error": {
                "title": "When an item fails",
                "enum": OnItemError::ALL.map(|(word, _)| word),
                "default": "fail",
            },
            "nodes": { "type": "array", "title": "Body", "minItems": 1 },
            "connections": { "type": "array", "title": "Connections of the body" },
        }),
        &["items", "nodes"],
    )
}

pub(super) fn identifier(title: &str) -> Value {
    json!({ "type": "string", "title": title, "pattern": "^[A-Za-z0-9_-]{1,64}$" })
}

fn http() -> Value {
    object(
        json!({
            "method": {
                "title": "Method",
                "enum": HttpMethod::ALL.map(|(word, _)| word),
                "default": "GET",
            },
            "url": with_secrets(template("URL")),
            "headers": with_secrets(templates("Headers")),
            "query": with_secrets(templates("Query")),
            "body": with_secrets(json!({
                "title": "Body (a string is sent as it is, anything else as JSON)",
                "format": "template",
            })),
            "expect_status": {
                "type": "array",
                "title": "Status codes that count as success (200 to 299 when empty)",
                "items": whole("Status", 100, 599, None),
                "maxItems": limits::MAX_ENTRIES,
            },
            "max_response_bytes":
                whole("Largest response in bytes", 1, limits::MAX_RESPONSE_BYTES, Some(1024 * 1024)),
        }),
        &["url"],
    )
}

fn command() -> Value {
    object(
        json!({
            "program": template("Program"),
            "args": {
                "type": "array",
                "title": "Arguments",
                "items": { "type": ["string", "number", "boolean"], "format": "template" },
                "maxItems": limits::MAX_ARGUMENTS,
            },
            "stdin": with_secrets(json!({ "title": "Standard input", "format": "template" })),
            "env": with_secrets(templates("Environment")),
            "max_output_bytes": whole(
                "Kept of each output in bytes",
                1,
                limits::MAX_COMMAND_OUTPUT_BYTES,
                Some(256 * 1024),
            ),
            "allow_exit_codes": {
                "type": "array",
                "title": "Exit codes that count as success, besides 0",
                "items": whole("Exit code", 0, 255, None),
                "maxItems": limits::MAX_ENTRIES,
            },
        }),
        &["program"],
    )
}

fn sql() -> Value {
    object(
        json!({
            "connection": connection("Connection", ConnectionKind::Postgres),
            "statement": {
                "type": "string",
                "format": "sql",
                "title": "Statement, with $1, $2, … for parameters",
                "minLength": 1,
                "maxLength": limits::MAX_STATEMENT_CHARS,
            },
            "params": with_secrets(json!({
                "type": "array",
                "title": "Parameters",
                "items": { "format": "template" },
                "maxItems": limits::MAX_ENTRIES,
            })),
            "row_limit": whole("Rows at most", 1, u64::from(limits::MAX_SQL_ROWS), Some(1_000)),
            "read_only": { "type": "boolean", "title": "Changes nothing", "default": true },
        }),
        &["connection", "statement"],
    )
}

fn email() -> Value {
    let addresses = |title: &str| {
        json!({
            "type": ["string", "array"],
            "format": "template",
            "title": title,
            "items": { "type": "string", "format": "template" },
            "maxItems": limits::MAX_RECIPIENTS,
        })
    };
    object(
        json!({
            "connection": connection("Connection", ConnectionKind::Smtp),
            "from": template("From (the connection's address where empty)"),
            "to": addresses("To"),
            "cc": addresses("Cc"),
            "bcc": addresses("Bcc"),
            "reply_to": template("Reply to"),
            "subject": template("Subject"),
            "text": template("Plain text"),
            "html": template("HTML"),
            "headers": templates("Headers besides"),
            "attachments": {
                "type": ["string", "array"],
                "format": "template",
                "title": "Files of the workspace to attach",
                "items": { "type": "string", "format": "template" },
                "maxItems": limits::MAX_ATTACHMENTS,
            },
        }),
        &["connection", "subject"],
    )
}

/// The name of a connection of a kind; `x-connection` says which, so that a form can offer them.
fn connection(title: &str, kind: ConnectionKind) -> Value {
    let mut schema = identifier(title);
    schema["x-connection"] = kind.as_str().into();
    schema
}

fn wait() -> Value {
    let mut schema = object(
        json!({
            "duration_ms": {
                "title": "Milliseconds",
                "type": ["integer", "string"],
                "format": "template",
                "minimum": 0,
                "maximum": limits::MAX_WAIT_MS,
            },
            "until": template("Time (RFC 3339)"),
        }),
        &[],
    );
    schema["oneOf"] = json!([{ "required": ["duration_ms"] }, { "required": ["until"] }]);
    schema
}
