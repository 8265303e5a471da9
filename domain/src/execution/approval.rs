//! Approvals: a person is asked, with a form and buttons, and the button that was pressed is the branch that is taken.
//!
//! Who may answer is decided here and nowhere else ([`Approval::may_be_answered_by`]); so is whether the values fit the form. An approval is
//! answered once: whoever comes second is told so.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ApprovalGiven, ApprovalRefused, Attempt, Awaited, ExecutionEvent, ExecutionRejection, NodePath,
    Open, Waiting,
};
use crate::{
    id::UserId,
    json::Json,
    limits::{MAX_COMMENT_CHARS, MAX_FORM_BYTES},
    permission::{Permission, Role},
};

/// The port of an approval or a signal that nobody answered in time.
pub const TIMEOUT_PORT: &str = "timeout";

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// A line.
    pub title: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What is to be filled in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FormField>,
    /// What may be decided.
    pub buttons: Vec<Button>,
    /// Least roles that may answer. When neither roles nor users are named: whoever has [`Permission::Approve`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Who else may answer, having [`Permission::Approve`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserId>,
    /// After so long it is left by [`TIMEOUT_PORT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A field of a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormField {
    /// The name of its value.
    pub name: String,
    /// What stands beside it.
    pub label: String,
    /// What its value is.
    pub r#type: FieldType,
    /// Whether it must be filled in, but for a button that refuses.
    #[serde(default)]
    pub required: bool,
    /// What may be chosen, where it is a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What the value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// A text.
    Text,
    /// A number.
    Number,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// A day, like 2026-01-31.
    Date,
    /// One of the field's options.
    Choice,
}

/// A button under a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// The decision, and the port that the node is left by.
    pub port: String,
    /// What stands on it.
    pub label: String,
    /// Whether it refuses: then the form need not be filled in.
    #[serde(default)]
    pub refuses: bool,
}

/// Somebody answers an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerApproval {
    /// The node that asks.
    pub path: NodePath,
    /// The port of a button.
    pub decision: String,
    /// The values of the form: a JSON object.
    pub values: Json,
    /// In the words of who answers.
    pub comment: Option<String>,
    /// Who answers.
    pub by: UserId,
    /// What they are in the workspace.
    pub role: Role,
}

/// What is wrong with a part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerError {
    /// JSON Pointer into the answer.
    pub pointer: String,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub reason: String,
}

impl FieldType {
    /// Every type with its word.
    pub const ALL: [(&'static str, Self); 6] = [
        ("text", Self::Text),
        ("number", Self::Number),
        ("integer", Self::Integer),
        ("boolean", Self::Boolean),
        ("date", Self::Date),
        ("choice", Self::Choice),
    ];
}

impl Button {
    /// The buttons of an approval that names none.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let button = |port: &str, label: &str, refuses| Self {
            port: port.to_owned(),
            label: label.to_owned(),
            refuses,
        };
        vec![button("approved", "Approve", false), button("rejected", "Reject", true)]
    }
}

impl Approval {
    /// Whether somebody may answer: always only who has [`Permission::Approve`]; where roles or users are named, they or these only.
    #[must_use]
    pub fn may_be_answered_by(&self, user: UserId, role: Role) -> bool {
        let is_named = self.users.contains(&user)
            // Roles are ordered from the most to the least: whoever has more has it too.
            || self.roles.iter().any(|least| role <= *least);
        let is_for_all = self.users.is_empty() && self.roles.is_empty();
        role.may(Permission::Approve) && (is_for_all || is_named)
    }

    /// Everything that is wrong with an answer; the button that was pressed where nothing is.
    fn check(&self, answer: &AnswerApproval) -> Result<&Button, Vec<AnswerError>> {
        let mut errors = Vec::new();
        let button = self.buttons.iter().find(|button| button.port == answer.decision);
        if button.is_none() {
            let known: Vec<&str> = self.buttons.iter().map(|button| button.port.as_str()).collect();
            errors.push(AnswerError {
                pointer: "/decision".to_owned(),
                code: "unknown_value",
                reason: format!("expected one of {}", known.join(", ")),
            });
        }
        let comment_chars = answer.comment.as_deref().map_or(0, |text| text.chars().count());
        if comment_chars > MAX_COMMENT_CHARS {
            errors.push(AnswerError {
                pointer: "/comment".to_owned(),
                code: "out_of_range",
                reason: format!("has at most {MAX_COMMENT_CHARS} characters"),
            });
        }
        let refuses = button.is_some_and(|button| button.refuses);
        self.check_values(&answer.values, refuses, &mut errors);
        match button {
            Some(button) if errors.is_empty() => Ok(button),
            Some(_) | None => Err(errors),
        }
    }

    fn check_values(&self, values: &Json, refuses: bool, errors: &mut Vec<AnswerError>) {
        let mut wrong = |name: &str, code, reason: String| {
            let name = name.replace('~', "~0").replace('/', "~1");
            let pointer =
                if name.is_empty() { "/values".to_owned() } else { format!("/values/{name}") };
            errors.push(AnswerError { pointer, code, reason });
        };
        if values.as_str().len() > MAX_FORM_BYTES {
            return wrong("", "out_of_range", format!("has at most {MAX_FORM_BYTES} bytes"));
        }
        let Value::Object(values) = values.to_value() else {
            return wrong("", "wrong_type", "must be an object".to_owned());
        };
        for name in values.keys() {
            if !self.fields.iter().any(|field| field.name == *name) {
                wrong(name, "unknown_field", "is not a field of the form".to_owned());
            }
        }
        for field in &self.fields {
            match values.get(&field.name) {
                None | Some(Value::Null) if field.required && !refuses => {
                    wrong(&field.name, "required", "is required".to_owned());
                }
                None | Some(Value::Null) => {}
                Some(value) => {
                    if let Err(expected) = field.admits(value, refuses) {
                        wrong(&field.name, "invalid_value", format!("must be {expected}"));
                    }
                }
            }
        }
    }
}

impl FormField {
    /// Whether a value fits, or what would.
    fn admits(&self, value: &Value, refuses: bool) -> Result<(), String> {
        let (fits, expected) = match self.r#type {
            FieldType::Text => {
                let fits = value
                    .as_str()
                    .is_some_and(|text| !self.required || refuses || !text.trim().is_empty());
                (fits, "a text".to_owned())
            }
            FieldType::Number => (value.is_number(), "a number".to_owned()),
            FieldType::Integer => (value.is_i64() || value.is_u64(), "a whole number".to_owned()),
            FieldType::Boolean => (value.is_boolean(), "true or false".to_owned()),
            FieldType::Date => {
                let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok();
                (value.as_str().is_some_and(date), "a day like 2026-01-31".to_owned())
            }
            FieldType::Choice => {
                let chosen = |text: &str| self.options.iter().any(|option| option == text);
                let expected = format!("one of {}", self.options.join(", "));
                (value.as_str().is_some_and(chosen), expected)
            }
        };
        if fits { Ok(()) } else { Err(expected) }
    }
}

/// Once only: a second answer, whatever it says, is refused.
pub(super) fn answered(
    open: &Open,
    answer: &AnswerApproval,
    now: DateTime<Utc>,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    let (attempt, waiting, approval) = asked(open, &answer.path)?;
    if open.is_cancelling() {
        return Err(ExecutionRejection::Cancelling);
    }
    if !approval.may_be_answered_by(answer.by, answer.role) {
        return Err(ExecutionRejection::NotAnApprover { path: answer.path.0.clone() });
    }
    let button = approval.check(answer).map_err(ExecutionRejection::AnswerInvalid)?;
    let (path, decision, by) = (answer.path.clone(), answer.decision.clone(), answer.by);
    let (values, comment) = (answer.values.clone(), answer.comment.clone());
    let answered: ExecutionEvent = if button.refuses {
        ApprovalRefused { path, attempt, decision, values, comment, by }.into()
    } else {
        ApprovalGiven { path, attempt, decision, values, comment, by }.into()
    };
    let output = json!({
        "decision": answer.decision,
        "values": answer.values.to_value(),
        "comment": answer.comment,
        "by": answer.by,
        "at": stamp(now),
    });
    let port = Some(button.port.clone());
    let completed = waiting.completed(&answer.path, attempt, Json::from_value(&output), port, now);
    Ok(vec![answered, completed.into()])
}

/// The approval that a node waits for.
fn asked<'a>(
    open: &'a Open,
    path: &NodePath,
) -> Result<(Attempt, &'a Waiting, &'a Approval), ExecutionRejection> {
    let not_asked = || ExecutionRejection::ApprovalNotOpen { path: path.0.clone() };
    let node = open.run.nodes.get(path).ok_or_else(not_asked)?;
    let waiting = open.waiting(path, node.attempt).ok_or_else(not_asked)?;
    match &waiting.awaited {
        Awaited::Approval(approval) => Ok((node.attempt, waiting, approval)),
        Awaited::Time
        | Awaited::Decision(_)
        | Awaited::Child(_)
        | Awaited::Signal { .. }
        | Awaited::Task(_) => Err(not_asked()),
    }
}

/// The output of an approval that nobody answered in time.
pub(super) fn output_of_timeout(now: DateTime<Utc>) -> Json {
    let values = Value::Object(Map::new());
    Json::from_value(&json!({
        "decision": TIMEOUT_PORT, "values": values, "comment": null, "by": null, "at": stamp(now),
    }))
}

fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
