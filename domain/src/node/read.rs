//! Reads a node from a definition's JSON, with every problem it has.

use serde_json::Value;

use super::{
    CommandConfig, DEFAULT_PORT, ERROR_PORT, EmailConfig, FileConfig, FileOperation, HttpConfig,
    HttpMethod, IfConfig, Node, NodeConfig, NodeKind, OnError, Position, RetryPolicy,
    SetVariableConfig, SqlConfig, SwitchCase, SwitchConfig, TransformConfig, WaitConfig,
    awaiting::{read_approval, read_signal, read_worker},
    script,
    steer::{read_for_each, read_merge, read_while, read_workflow},
};
use crate::{
    expression::TemplateValue,
    graph::{Fields, Place, ProblemCode, Reader, Settings, read_integer},
    json::Json,
    limits,
};

/// Whether a text can be a node's id or a port: both are parts of node paths, so nothing of their syntax may be in it.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=limits::MAX_NODE_ID_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Reads one node. None after a problem that leaves nothing to draw conclusions from; the id is read before by the caller.
pub(crate) fn read_node(
    value: &Value,
    id: &str,
    place: Place,
    settings: &Settings,
    reader: &mut Reader,
) -> Option<Node> {
    let mut fields = Fields::open(value, place, reader)?;
    fields.get("id");
    let name = fields.string("name", limits::MAX_NAME_CHARS, reader).unwrap_or(id).to_owned();
    let retry = fields
        .get("retry")
        .and_then(|retry| RetryPolicy::read(retry, fields.place_of("retry"), reader));
    let timeout_ms = fields.integer("timeout_ms", 1..=limits::MAX_NODE_TIMEOUT_MS, reader);
    let on_error = fields
        .get("on_error")
        .and_then(|on_error| read_on_error(on_error, fields.place_of("on_error"), reader))
        .unwrap_or_default();
    let idempotent = fields.boolean("idempotent", reader);
    let undo = fields.string("undo", limits::MAX_NODE_ID_CHARS, reader).map(str::to_owned);
    let position = fields
        .get("position")
        .and_then(|position| read_position(position, fields.place_of("position"), reader));
    let has_pinned = fields.has("pinned_output");
    // Here `null` says something: it is an output like any other.
    let pinned_output = fields.get("pinned_output").map(Json::from_value);
    let pinned_output = pinned_output.or_else(|| has_pinned.then(Json::null));
    let kind = read_kind(&mut fields, reader);
    let config = fields.get("config");
    let place = fields.place_of("config");
    fields.finish(reader);
    let config = read_config(kind?, config, place, settings, reader)?;
    Some(Node {
        id: id.to_owned(),
        name,
        retry: retry.unwrap_or_else(|| settings.retry.clone()),
        timeout_ms,
        on_error,
        idempotent: idempotent.unwrap_or_else(|| config.is_idempotent()),
        position,
        undo,
        pinned_output,
        references: config.references(),
        reads_last: config.reads("last"),
        secrets: config.secrets(),
        config,
    })
}

fn read_kind(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeKind> {
    let value = fields.required("type", reader)?;
    let place = fields.place_of("type");
    let Some(name) = value.as_str() else {
        reader.wrong_type(&place, "the name of a kind of node", value);
        return None;
    };
    let kind = NodeKind::from_name(name);
    if kind.is_none() {
        let known = NodeKind::ALL.map(NodeKind::as_str).join(", ");
        let shown: String = name.chars().take(limits::MAX_NODE_ID_CHARS).collect();
        reader.report(
            &place,
            ProblemCode::KindUnknown,
            format!("unknown kind of node `{shown}`; known are {known}"),
        );
    }
    kind
}

fn read_on_error(value: &Value, place: Place, reader: &mut Reader) -> Option<OnError> {
    const WORDS: [(&str, OnErrorWord); 4] = [
        ("fail", OnErrorWord::Fail),
        ("continue", OnErrorWord::Continue),
        ("branch", OnErrorWord::Branch),
        ("pause", OnErrorWord::Pause),
    ];
    let (word, output) = if let Some(text) = value.as_str() {
        let word = WORDS.iter().find(|(word, _)| *word == text).map(|(_, word)| *word);
        if word.is_none() {
            let reason = "expected one of fail, continue, branch, pause";
            reader.report(&place, ProblemCode::UnknownValue, reason);
        }
        (word?, Value::Null)
    } else {
        let mut fields = Fields::open(value, place.clone(), reader)?;
        if !fields.has("action") {
            fields.required("action", reader);
        }
        let word = fields.one_of("action", &WORDS, reader);
        let output = fields.get("value").cloned();
        if output.is_some()
            && matches!(word, Some(OnErrorWord::Fail | OnErrorWord::Branch | OnErrorWord::Pause))
        {
            let reason = "only `continue` takes a value";
            reader.report(&fields.place_of("value"), ProblemCode::InvalidValue, reason);
        }
        fields.finish(reader);
        (word?, output.unwrap_or(Value::Null))
    };
    match word {
        OnErrorWord::Fail => Some(OnError::Fail),
        OnErrorWord::Continue => Some(OnError::Continue(output)),
        OnErrorWord::Branch => Some(OnError::Branch),
        OnErrorWord::Pause => Some(OnError::Pause),
    }
}

#[derive(Clone, Copy)]
enum OnErrorWord {
    Fail,
    Continue,
    Branch,
    Pause,
}

fn read_position(value: &Value, place: Place, reader: &mut Reader) -> Option<Position> {
    let mut fields = Fields::open(value, place, reader)?;
    let range = -1.0e9..=1.0e9;
    let x = fields.number("x", range.clone(), reader).unwrap_or_default();
    let y = fields.number("y", range, reader).unwrap_or_default();
    fields.finish(reader);
    Some(Position { x, y })
}

fn read_config(
    kind: NodeKind,
    value: Option<&Value>,
    place: Place,
    settings: &Settings,
    reader: &mut Reader,
) -> Option<NodeConfig> {
    let empty = Value::Object(serde_json::Map::new());
    let mut fields = Fields::open(value.unwrap_or(&empty), place, reader)?;
    let fields_ref = &mut fields;
    let config = match kind {
        NodeKind::TriggerManual => Some(NodeConfig::TriggerManual),
        NodeKind::TriggerCron => super::trigger::read_cron(fields_ref, reader),
        NodeKind::TriggerWebhook => super::trigger::read_webhook(fields_ref, reader),
        NodeKind::TriggerEvent => super::trigger::read_event(fields_ref, reader),
        NodeKind::Http => read_http(fields_ref, reader),
        NodeKind::Command => read_command(fields_ref, reader),
        NodeKind::File => read_file(fields_ref, reader),
        NodeKind::Sql => read_sql(fields_ref, reader),
        NodeKind::Email => read_email(fields_ref, reader),
        NodeKind::Javascript => script::read(fields_ref, reader),
        NodeKind::If => fields_ref
            .expression("condition", reader)
            .map(|condition| NodeConfig::If(IfConfig { condition })),
        NodeKind::Switch => read_switch(fields_ref, reader),
        NodeKind::Transform => fields_ref
            .expression("expression", reader)
            .map(|expression| NodeConfig::Transform(TransformConfig { expression })),
        NodeKind::SetVariable => read_set_variable(fields_ref, reader),
        NodeKind::Wait => read_wait(fields_ref, reader),
        NodeKind::Merge => Some(read_merge(fields_ref, reader)),
        NodeKind::ForEach => read_for_each(fields_ref, settings, reader),
        NodeKind::While => read_while(fields_ref, settings, reader),
        NodeKind::Approval => read_approval(fields_ref, reader),
        NodeKind::Signal => read_signal(fields_ref, reader),
        NodeKind::Worker => read_worker(fields_ref, reader),
        NodeKind::Workflow => read_workflow(fields_ref, reader),
    };
    fields.finish(reader);
    config
}

/// A template that must be there and not empty.
pub(super) fn required_template(
    fields: &mut Fields<'_>,
    name: &'static str,
    reader: &mut Reader,
) -> Option<TemplateValue> {
    if !fields.has(name) {
        fields.required(name, reader);
    }
    let template = fields.template(name, reader)?;
    if template.constant().is_some_and(|text| text.trim().is_empty()) {
        let reason = format!("`{name}` is required");
        reader.report(&fields.place_of(name), ProblemCode::Required, reason);
    }
    Some(TemplateValue::from_template(template))
}

fn read_http(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let method = fields.one_of("method", &HttpMethod::ALL, reader);
    let method_is_wrong = method.is_none() && fields.has("method");
    let url = reader.with_secrets(|reader| required_template(fields, "url", reader));
    if let Some(TemplateValue::Constant(Value::String(text))) = &url
        && !text.starts_with("http://")
        && !text.starts_with("https://")
    {
        let reason = "a URL begins with `http://` or `https://`";
        reader.report(&fields.place_of("url"), ProblemCode::InvalidValue, reason);
    }
    let headers = reader.with_secrets(|reader| fields.templates_by_name("headers", reader));
    for (name, _) in &headers {
        if !is_token(name) {
            let place = fields.place_of("headers").field(name);
            reader.report(&place, ProblemCode::InvalidValue, "not the name of a header");
        }
    }
    let query = reader.with_secrets(|reader| fields.templates_by_name("query", reader));
    let body = fields.get("body").map(|body| {
        reader.with_secrets(|reader| reader.template_value(body, &fields.place_of("body")))
    });
    let expect_status = read_integers(fields, "expect_status", 100..=599, reader);
    let max_response_bytes = fields
        .integer("max_response_bytes", 1..=limits::MAX_RESPONSE_BYTES, reader)
        .unwrap_or(1024 * 1024);
    if method_is_wrong {
        return None;
    }
    Some(NodeConfig::Http(Box::new(HttpConfig {
        method: method.unwrap_or(HttpMethod::Get),
        url: url?,
        headers,
        query,
        body,
        expect_status: expect_status
            .into_iter()
            .filter_map(|status| u16::try_from(status).ok())
            .collect(),
        max_response_bytes,
    })))
}

/// A token of RFC 9110, which the name of a header field is.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn read_integers(
    fields: &mut Fields<'_>,
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    reader: &mut Reader,
) -> Vec<u64> {
    let Some(items) = fields.array(name, limits::MAX_ENTRIES, reader) else { return Vec::new() };
    let place = fields.place_of(name);
    let items = items.iter().enumerate();
    items
        .filter_map(|(index, item)| read_integer(item, &place.item(index), range.clone(), reader))
        .collect()
}

fn read_command(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let program = required_template(fields, "program", reader);
    let mut args = Vec::new();
    if let Some(items) = fields.array("args", limits::MAX_ARGUMENTS, reader) {
        let place = fields.place_of("args");
        for (index, item) in items.iter().enumerate() {
            let place = place.item(index);
            if item.is_array() || item.is_object() || item.is_null() {
                reader.wrong_type(&place, "a string", item);
            } else {
                args.push(reader.template_value(item, &place));
            }
        }
    }
    let stdin = fields.get("stdin").map(|stdin| {
        reader.with_secrets(|reader| reader.template_value(stdin, &fields.place_of("stdin")))
    });
    let env = reader.with_secrets(|reader| fields.templates_by_name("env", reader));
    for (name, _) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let place = fields.place_of("env").field(name);
            reader.report(&place, ProblemCode::InvalidValue, "not the name of a variable");
        }
    }
    let max_output_bytes = fields
        .integer("max_output_bytes", 1..=limits::MAX_COMMAND_OUTPUT_BYTES, reader)
        .unwrap_or(256 * 1024);
    let codes = read_integers(fields, "allow_exit_codes", 0..=255, reader);
    let mut allow_exit_codes: Vec<i32> =
        codes.into_iter().filter_map(|code| i32::try_from(code).ok()).collect();
    if !allow_exit_codes.contains(&0) {
        allow_exit_codes.push(0);
    }
    Some(NodeConfig::Command(Box::new(CommandConfig {
        program: program?,
        args,
        stdin,
        env,
        max_output_bytes,
        allow_exit_codes,
    })))
}

fn read_file(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    if !fields.has("operation") {
        fields.required("operation", reader);
    }
    let operation = fields.one_of("operation", &FileOperation::ALL, reader);
    let path = required_template(fields, "path", reader);
    let content = fields
        .get("content")
        .map(|content| reader.template_value(content, &fields.place_of("content")));
    let operation = operation?;
    if operation.takes_content() && content.is_none() {
        fields.required("content", reader);
    }
    if !operation.takes_content() && content.is_some() {
        let reason = "only `write` and `append` take a content";
        reader.report(&fields.place_of("content"), ProblemCode::InvalidValue, reason);
    }
    Some(NodeConfig::File(FileConfig { operation, path: path?, content }))
}

/// The name of a connection: a constant, so that a definition says which ones it needs.
fn read_connection(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<String> {
    fields.required("connection", reader);
    let name = fields.string("connection", limits::MAX_NODE_ID_CHARS, reader)?;
    if !is_id(name) {
        let reason = "the name of a connection has 1 to 64 letters, digits, `_` or `-`";
        reader.report(&fields.place_of("connection"), ProblemCode::InvalidValue, reason);
    }
    Some(name.to_owned())
}

fn read_sql(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let connection = read_connection(fields, reader);
    fields.required("statement", reader);
    let statement = fields.string("statement", limits::MAX_STATEMENT_CHARS, reader);
    if statement.is_some_and(|statement| statement.trim().is_empty()) {
        let place = fields.place_of("statement");
        reader.report(&place, ProblemCode::Required, "`statement` is required");
    }
    let mut params = Vec::new();
    if let Some(items) = fields.array("params", limits::MAX_ENTRIES, reader) {
        let place = fields.place_of("params");
        for (index, item) in items.iter().enumerate() {
            let place = place.item(index);
            params.push(reader.with_secrets(|reader| reader.template_value(item, &place)));
        }
    }
    let row_limit = fields.integer("row_limit", 1..=u64::from(limits::MAX_SQL_ROWS), reader);
    let row_limit = row_limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(1_000);
    let read_only = fields.boolean("read_only", reader).unwrap_or(true);
    Some(NodeConfig::Sql(Box::new(SqlConfig {
        connection: connection?,
        statement: statement?.to_owned(),
        params,
        row_limit,
        read_only,
    })))
}

/// One string or a list of them.
fn one_or_more(
    fields: &mut Fields<'_>,
    name: &'static str,
    max: usize,
    reader: &mut Reader,
) -> Vec<TemplateValue> {
    let Some(value) = fields.get(name) else { return Vec::new() };
    let place = fields.place_of(name);
    if value.is_string() {
        return vec![reader.template_value(value, &place)];
    }
    let Some(items) = fields.array(name, max, reader) else { return Vec::new() };
    let items = items.iter().enumerate();
    let strings = items.filter_map(|(index, item)| {
        reader.template(item, &place.item(index)).map(TemplateValue::from_template)
    });
    strings.collect()
}

fn read_email(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let connection = read_connection(fields, reader);
    let optional = |fields: &mut Fields<'_>, name, reader: &mut Reader| {
        fields.template(name, reader).map(TemplateValue::from_template)
    };
    let from = optional(fields, "from", reader);
    let [to, cc, bcc] =
        ["to", "cc", "bcc"].map(|name| one_or_more(fields, name, limits::MAX_RECIPIENTS, reader));
    if to.is_empty() && cc.is_empty() && bcc.is_empty() {
        let reason = "at least one of `to`, `cc` and `bcc` is required";
        reader.report(&fields.place_of("to"), ProblemCode::Required, reason);
    }
    let reply_to = optional(fields, "reply_to", reader);
    let subject = required_template(fields, "subject", reader);
    let text = optional(fields, "text", reader);
    let html = optional(fields, "html", reader);
    if text.is_none() && html.is_none() {
        let reason = "at least one of `text` and `html` is required";
        reader.report(&fields.place_of("text"), ProblemCode::Required, reason);
    }
    let headers = fields.templates_by_name("headers", reader);
    for (name, _) in &headers {
        if !is_token(name) || is_own_header(name) {
            let place = fields.place_of("headers").field(name);
            let reason = "not the name of a header that may be added";
            reader.report(&place, ProblemCode::InvalidValue, reason);
        }
    }
    let attachments = one_or_more(fields, "attachments", limits::MAX_ATTACHMENTS, reader);
    Some(NodeConfig::Email(Box::new(EmailConfig {
        connection: connection?,
        from,
        to,
        cc,
        bcc,
        reply_to,
        subject: subject?,
        text,
        html,
        headers,
        attachments,
    })))
}

/// Header fields that have a field of their own, or are the sender's to write.
fn is_own_header(name: &str) -> bool {
    const OWN: [&str; 14] = [
        "from",
        "sender",
        "to",
        "cc",
        "bcc",
        "reply-to",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
        "received",
        "return-path",
    ];
    OWN.contains(&name.to_ascii_lowercase().as_str())
}

fn read_switch(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    if !fields.has("cases") {
        fields.required("cases", reader);
    }
    let items = fields.array("cases", limits::MAX_SWITCH_CASES, reader)?;
    let place = fields.place_of("cases");
    let mut cases: Vec<SwitchCase> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(mut case) = Fields::open(item, place.item(index), reader) else { continue };
        let when = case.expression("when", reader);
        case.required("port", reader);
        let port = case.string("port", limits::MAX_NODE_ID_CHARS, reader);
        if let Some(port) = port {
            let reason = if !is_id(port) {
                Some("a port has 1 to 64 letters, digits, `_` or `-`")
            } else if port == DEFAULT_PORT || port == ERROR_PORT {
                Some("`default` and `error` are ports of their own")
            } else if cases.iter().any(|case| case.port == port) {
                Some("each case has a port of its own")
            } else {
                None
            };
            if let Some(reason) = reason {
                reader.report(&case.place_of("port"), ProblemCode::InvalidValue, reason);
            }
        }
        case.finish(reader);
        if let (Some(when), Some(port)) = (when, port) {
            cases.push(SwitchCase { when, port: port.to_owned() });
        }
    }
    Some(NodeConfig::Switch(SwitchConfig { cases }))
}

fn read_set_variable(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    fields.required("name", reader);
    let name = fields.string("name", limits::MAX_NODE_ID_CHARS, reader);
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.is_some_and(|name| !is_name(name)) {
        let reason = "a variable has a letter or `_`, then letters, digits or `_`";
        reader.report(&fields.place_of("name"), ProblemCode::InvalidValue, reason);
    }
    let expression = fields.expression("expression", reader);
    Some(NodeConfig::SetVariable(SetVariableConfig {
        name: name?.to_owned(),
        expression: expression?,
    }))
}

fn read_wait(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let duration = fields.get("duration_ms");
    let until = fields.get("until");
    let place = fields.place.clone();
    match (duration, until) {
        (Some(_), Some(_)) | (None, None) => {
            let reason = "exactly one of `duration_ms` and `until`";
            reader.report(&place, ProblemCode::InvalidValue, reason);
            None
        }
        (Some(duration), None) => {
            let place = fields.place_of("duration_ms");
            let value = if duration.is_string() {
                reader.template_value(duration, &place)
            } else {
                let range = 0..=limits::MAX_WAIT_MS;
                TemplateValue::Constant(read_integer(duration, &place, range, reader)?.into())
            };
            if let TemplateValue::Constant(Value::String(_)) = value {
                let reason = "expected a whole number or a `{{ … }}` that gives one";
                reader.report(&place, ProblemCode::WrongType, reason);
            }
            Some(NodeConfig::Wait(WaitConfig::Duration(value)))
        }
        (None, Some(until)) => {
            let place = fields.place_of("until");
            let template = reader.template(until, &place)?;
            if let Some(text) = template.constant()
                && chrono::DateTime::parse_from_rfc3339(text).is_err()
            {
                let reason = "expected a time in RFC 3339, like 2026-01-31T08:00:00Z";
                reader.report(&place, ProblemCode::InvalidValue, reason);
            }
            Some(NodeConfig::Wait(WaitConfig::Until(TemplateValue::from_template(template))))
        }
    }
}
