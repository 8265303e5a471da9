//! The kinds that wait for something from outside: `logic.approval`, `logic.signal`, `integration.worker`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ERROR_PORT, NodeConfig, ResolveError, is_id,
    read::required_template,
    resolved::{at, wrong},
    schema::{identifier, object, template, whole},
};
use crate::{
    execution::{Approval, Button, FieldType, FormField, TIMEOUT_PORT, is_signal_name},
    expression::{Scope, TemplateValue},
    graph::{Fields, ProblemCode, Reader},
    id::UserId,
    limits,
    permission::{Permission, Role},
};

/// The heartbeat timeout of a task where the definition doesn't say: long enough for a worker that works in one thread, short enough
/// that a step is not lost for long.
const USUAL_HEARTBEAT_TIMEOUT_MS: u64 = 60_000;

/// A question to people.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalConfig {
    /// A line.
    pub title: TemplateValue,
    /// More of it.
    pub description: Option<TemplateValue>,
    /// What is to be filled in.
    pub fields: Vec<FormField>,
    /// What may be decided, each a port.
    pub buttons: Vec<Button>,
    /// Least roles that may answer.
    pub roles: Vec<Role>,
    /// Ids of people who may answer.
    pub users: Vec<TemplateValue>,
    /// After so long it is left by [`TIMEOUT_PORT`].
    pub timeout_ms: Option<u64>,
}

/// A wait for a signal.
#[derive(Clone, Debug, PartialEq)]
pub struct SignalConfig {
    /// The name of the signal.
    pub name: TemplateValue,
    /// After so long it is left by [`TIMEOUT_PORT`].
    pub timeout_ms: Option<u64>,
}

/// A step for an external worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// The queue that its workers ask.
    pub queue: String,
    /// What it works on.
    pub input: Option<TemplateValue>,
    /// How long its worker may not be heard of.
    pub heartbeat_timeout_ms: u64,
}

/// A signal to wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedSignal {
    /// Its name.
    pub name: String,
    /// After so long it is left by [`TIMEOUT_PORT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A task to offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedWorker {
    /// The queue that its workers ask.
    pub queue: String,
    /// What it works on.
    pub input: Value,
    /// How long its worker may not be heard of.
    pub heartbeat_timeout_ms: u64,
}

impl ApprovalConfig {
    /// A port a button, and one for when nobody answers.
    pub(super) fn ports(&self) -> impl Iterator<Item = &str> {
        let timeout = self.timeout_ms.map(|_| TIMEOUT_PORT);
        self.buttons.iter().map(|button| button.port.as_str()).chain(timeout)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &TemplateValue> {
        [&self.title].into_iter().chain(&self.description).chain(&self.users)
    }

    pub(super) fn resolve(&self, scope: &Scope) -> Result<Approval, ResolveError> {
        let users = self.users.iter().enumerate().map(|(index, user)| {
            let field = format!("/users/{index}");
            let text = at(&field, user.render(scope))?;
            text.parse::<UserId>().or_else(|_| wrong(&field, "expected the id of a user"))
        });
        let description = self.description.as_ref();
        Ok(Approval {
            title: bounded("/title", &self.title, scope)?,
            description: description
                .map(|description| bounded("/description", description, scope))
                .transpose()?,
            fields: self.fields.clone(),
            buttons: self.buttons.clone(),
            roles: self.roles.clone(),
            users: users.collect::<Result<_, _>>()?,
            timeout_ms: self.timeout_ms,
        })
    }
}

impl SignalConfig {
    pub(super) fn resolve(&self, scope: &Scope) -> Result<ResolvedSignal, ResolveError> {
        let name = at("/name", self.name.render(scope))?;
        if !is_signal_name(&name) {
            return wrong("/name", expected_signal_name());
        }
        Ok(ResolvedSignal { name, timeout_ms: self.timeout_ms })
    }
}

impl WorkerConfig {
    pub(super) fn resolve(&self, scope: &Scope) -> Result<ResolvedWorker, ResolveError> {
        let input = self.input.as_ref().map(|input| input.evaluate(scope)).transpose();
        Ok(ResolvedWorker {
            queue: self.queue.clone(),
            input: at("/input", input)?.unwrap_or(Value::Null),
            heartbeat_timeout_ms: self.heartbeat_timeout_ms,
        })
    }
}

fn bounded(field: &str, text: &TemplateValue, scope: &Scope) -> Result<String, ResolveError> {
    let text = at(field, text.render(scope))?;
    if text.chars().count() > limits::MAX_APPROVAL_TEXT_CHARS {
        return wrong(field, format!("at most {} characters", limits::MAX_APPROVAL_TEXT_CHARS));
    }
    Ok(text.replace('\0', "\u{fffd}"))
}

fn expected_signal_name() -> String {
    format!("a signal has a name of 1 to {} characters", limits::MAX_SIGNAL_NAME_CHARS)
}

pub(super) fn read_approval(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let title = required_template(fields, "title", reader);
    let description = fields.template("description", reader).map(TemplateValue::from_template);
    let form = read_form(fields, reader);
    let buttons = read_buttons(fields, reader);
    let roles = read_roles(fields, reader);
    let users = read_users(fields, reader);
    let timeout_ms = fields.integer("timeout_ms", 1..=limits::MAX_WAIT_MS, reader);
    Some(NodeConfig::Approval(Box::new(ApprovalConfig {
        title: title?,
        description,
        fields: form,
        buttons,
        roles,
        users,
        timeout_ms,
    })))
}

fn read_form(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<FormField> {
    let items = fields.array("fields", limits::MAX_FORM_FIELDS, reader).unwrap_or_default();
    let place = fields.place_of("fields");
    let mut names = HashSet::new();
    let mut form = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(mut field) = Fields::open(item, place.item(index), reader) else { continue };
        let name = read_identifier(&mut field, "name", reader);
        if name.is_some_and(|name| !names.insert(name)) {
            let reason = "each field has a name of its own";
            reader.report(&field.place_of("name"), ProblemCode::InvalidValue, reason);
        }
        let label = field.string("label", limits::MAX_NAME_CHARS, reader);
        field.required("type", reader);
        let r#type = field.one_of("type", &FieldType::ALL, reader);
        let required = field.boolean("required", reader).unwrap_or(false);
        let options = read_options(&mut field, r#type, reader);
        field.finish(reader);
        if let (Some(name), Some(r#type)) = (name, r#type) {
            let label = label.unwrap_or(name).to_owned();
            form.push(FormField { name: name.to_owned(), label, r#type, required, options });
        }
    }
    form
}

fn read_options(
    field: &mut Fields<'_>,
    r#type: Option<FieldType>,
    reader: &mut Reader,
) -> Vec<String> {
    let items = field.array("options", limits::MAX_FORM_OPTIONS, reader).unwrap_or_default();
    let place = field.place_of("options");
    let is_choice = r#type == Some(FieldType::Choice);
    if is_choice && items.is_empty() {
        reader.report(&place, ProblemCode::Required, "a choice has at least one option");
    }
    if !is_choice && r#type.is_some() && !items.is_empty() {
        reader.report(&place, ProblemCode::InvalidValue, "only a choice has options");
    }
    let mut options: Vec<String> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item.as_str() {
            Some(option)
                if option.chars().count() <= limits::MAX_NAME_CHARS
                    && !options.iter().any(|known| known == option) =>
            {
                options.push(option.to_owned());
            }
            Some(_) => {
                let reason = format!(
                    "each option is another text of at most {} characters",
                    limits::MAX_NAME_CHARS
                );
                reader.report(&place.item(index), ProblemCode::InvalidValue, reason);
            }
            None => reader.wrong_type(&place.item(index), "a string", item),
        }
    }
    options
}

fn read_buttons(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<Button> {
    let Some(items) = fields.array("buttons", limits::MAX_FORM_BUTTONS, reader) else {
        return Button::usual();
    };
    let place = fields.place_of("buttons");
    if items.is_empty() {
        reader.report(&place, ProblemCode::Required, "at least one button");
    }
    let mut buttons: Vec<Button> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(mut button) = Fields::open(item, place.item(index), reader) else { continue };
        let port = read_identifier(&mut button, "port", reader);
        let reason = match port {
            Some(TIMEOUT_PORT | ERROR_PORT) => Some("`timeout` and `error` are ports of their own"),
            Some(port) if buttons.iter().any(|known| known.port == port) => {
                Some("each button has a port of its own")
            }
            Some(_) | None => None,
        };
        if let Some(reason) = reason {
            reader.report(&button.place_of("port"), ProblemCode::InvalidValue, reason);
        }
        let label = button.string("label", limits::MAX_NAME_CHARS, reader);
        let refuses = button.boolean("refuses", reader).unwrap_or(false);
        button.finish(reader);
        if let Some(port) = port {
            let label = label.unwrap_or(port).to_owned();
            buttons.push(Button { port: port.to_owned(), label, refuses });
        }
    }
    buttons
}

/// Only roles that may approve at all: naming another would be an approval that nobody of that role can give.
fn read_roles(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<Role> {
    let items = fields.array("roles", Role::ALL.len(), reader).unwrap_or_default();
    let place = fields.place_of("roles");
    let mut roles = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let known = Role::ALL.into_iter().filter(|role| role.may(Permission::Approve));
        match known.clone().find(|role| Some(role.as_str()) == item.as_str()) {
            Some(role) => roles.push(role),
            None => {
                let known: Vec<&str> = known.map(Role::as_str).collect();
                let reason = format!("expected one of {}", known.join(", "));
                reader.report(&place.item(index), ProblemCode::UnknownValue, reason);
            }
        }
    }
    roles
}

fn read_users(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<TemplateValue> {
    let items = fields.array("users", limits::MAX_APPROVERS, reader).unwrap_or_default();
    let place = fields.place_of("users");
    let mut users = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let place = place.item(index);
        let Some(template) = reader.template(item, &place) else { continue };
        if template.constant().is_some_and(|text| text.parse::<UserId>().is_err()) {
            reader.report(&place, ProblemCode::InvalidValue, "expected the id of a user");
        }
        users.push(TemplateValue::from_template(template));
    }
    users
}

fn read_identifier<'a>(
    fields: &mut Fields<'a>,
    name: &'static str,
    reader: &mut Reader,
) -> Option<&'a str> {
    fields.required(name, reader);
    let text = fields.string(name, limits::MAX_NODE_ID_CHARS, reader)?;
    if !is_id(text) {
        let reason = "expected 1 to 64 letters, digits, `_` or `-`";
        reader.report(&fields.place_of(name), ProblemCode::InvalidValue, reason);
        return None;
    }
    Some(text)
}

pub(super) fn read_signal(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let name = required_template(fields, "name", reader);
    if let Some(TemplateValue::Constant(Value::String(text))) = &name
        && !is_signal_name(text)
    {
        let place = fields.place_of("name");
        reader.report(&place, ProblemCode::InvalidValue, expected_signal_name());
    }
    let timeout_ms = fields.integer("timeout_ms", 1..=limits::MAX_WAIT_MS, reader);
    Some(NodeConfig::Signal(SignalConfig { name: name?, timeout_ms }))
}

pub(super) fn read_worker(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let queue = read_identifier(fields, "queue", reader);
    let input =
        fields.get("input").map(|input| reader.template_value(input, &fields.place_of("input")));
    let range = limits::MIN_HEARTBEAT_TIMEOUT_MS..=limits::MAX_HEARTBEAT_TIMEOUT_MS;
    let heartbeat_timeout_ms =
        fields.integer("heartbeat_timeout_ms", range, reader).unwrap_or(USUAL_HEARTBEAT_TIMEOUT_MS);
    Some(NodeConfig::Worker(WorkerConfig { queue: queue?.to_owned(), input, heartbeat_timeout_ms }))
}

pub(super) fn approval_schema() -> Value {
    let words = FieldType::ALL.map(|(word, _)| word);
    let text = |title: &str| json!({ "type": "string", "title": title, "maxLength": limits::MAX_NAME_CHARS });
    let roles: Vec<&str> = Role::ALL
        .into_iter()
        .filter(|role| role.may(Permission::Approve))
        .map(Role::as_str)
        .collect();
    object(
        json!({
            "title": template("Question"),
            "description": template("Details"),
            "fields": {
                "type": "array",
                "title": "Form",
                "maxItems": limits::MAX_FORM_FIELDS,
                "items": object(
                    json!({
                        "name": identifier("Name"),
                        "label": text("Label"),
                        "type": { "title": "Type", "enum": words },
                        "required": { "type": "boolean", "title": "Required", "default": false },
                        "options": {
                            "type": "array",
                            "title": "Options (choice)",
                            "items": text("Option"),
                            "maxItems": limits::MAX_FORM_OPTIONS,
                        },
                    }),
                    &["name", "type"],
                ),
            },
            "buttons": {
                "type": "array",
                "title": "Buttons (each a port)",
                "minItems": 1,
                "maxItems": limits::MAX_FORM_BUTTONS,
                "default": Button::usual(),
                "items": object(
                    json!({
                        "port": identifier("Port"),
                        "label": text("Label"),
                        "refuses": { "type": "boolean", "title": "Refuses (the form need not be filled in)", "default": false },
                    }),
                    &["port"],
                ),
            },
            "roles": { "type": "array", "title": "Least roles that may answer", "items": { "enum": roles } },
            "users": {
                "type": "array",
                "title": "Ids of people who may answer",
                "items": template("User"),
                "maxItems": limits::MAX_APPROVERS,
            },
            "timeout_ms": whole("Left by port timeout after (ms)", 1, limits::MAX_WAIT_MS, None),
        }),
        &["title"],
    )
}

pub(super) fn signal_schema() -> Value {
    object(
        json!({
            "name": template("Name of the signal"),
            "timeout_ms": whole("Left by port timeout after (ms)", 1, limits::MAX_WAIT_MS, None),
        }),
        &["name"],
    )
}

pub(super) fn worker_schema() -> Value {
    object(
        json!({
            "queue": identifier("Queue"),
            "input": { "title": "Input of the task", "format": "template" },
            "heartbeat_timeout_ms": whole(
                "A worker that is not heard of for so long is lost (ms)",
                limits::MIN_HEARTBEAT_TIMEOUT_MS,
                limits::MAX_HEARTBEAT_TIMEOUT_MS,
                Some(USUAL_HEARTBEAT_TIMEOUT_MS),
            ),
        }),
        &["queue"],
    )
}
