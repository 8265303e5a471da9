//! Trigger nodes: their configurations as they are read, and the schemas of those. None has a template: a trigger is armed before any run.

use serde_json::{Value, json};

use super::NodeConfig;
use crate::{
    event::AnyEvent,
    expression::Expression,
    graph::{Fields, ProblemCode, Reader},
    json::Json,
    limits,
    schedule::{ScheduleError, parse_pattern, parse_timezone},
    trigger::{CronConfig, EventConfig, Overlap, Signature, WebhookConfig},
};

/// Headers that no run sees: they let somebody in, or sign.
const HIDDEN_HEADERS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "ledgerline-signature",
    "stripe-signature",
    "x-hub-signature-256",
];

/// Reads `trigger.cron`.
pub(super) fn read_cron(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    fields.required("cron", reader);
    let cron = fields.string("cron", limits::MAX_CRON_CHARS, reader);
    let timezone = fields.string("timezone", limits::MAX_NAME_CHARS, reader).unwrap_or("UTC");
    if let Some(Err(error)) = cron.map(parse_pattern) {
        unsound(fields, "cron", &error, reader);
    }
    if let Err(error) = parse_timezone(timezone) {
        unsound(fields, "timezone", &error, reader);
    }
    let overlap = fields.one_of("overlap", &Overlap::ALL, reader).unwrap_or_default();
    let window = limits::MIN_CATCH_UP_WINDOW_MS..=limits::MAX_CATCH_UP_WINDOW_MS;
    let catch_up_window_ms = fields
        .integer("catch_up_window_ms", window, reader)
        .unwrap_or(limits::DEFAULT_CATCH_UP_WINDOW_MS);
    let jitter_ms = fields.integer("jitter_ms", 0..=limits::MAX_JITTER_MS, reader).unwrap_or(0);
    let payload = fields.get("payload").map_or_else(Json::null, Json::from_value);
    if payload.as_str().len() > limits::MAX_PAYLOAD_BYTES {
        let reason = format!("at most {} bytes", limits::MAX_PAYLOAD_BYTES);
        reader.report(&fields.place_of("payload"), ProblemCode::OutOfRange, reason);
    }
    Some(NodeConfig::TriggerCron(Box::new(CronConfig {
        cron: cron?.to_owned(),
        timezone: timezone.to_owned(),
        overlap,
        catch_up_window_ms,
        jitter_ms,
        payload,
    })))
}

fn unsound(fields: &Fields<'_>, name: &str, error: &ScheduleError, reader: &mut Reader) {
    reader.report(&fields.place_of(name), ProblemCode::InvalidValue, error.to_string());
}

/// Reads `trigger.webhook`.
pub(super) fn read_webhook(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let signature = fields.one_of("signature", &Signature::ALL, reader).unwrap_or_default();
    let window = 1_000..=limits::MAX_REPLAY_WINDOW_MS;
    let replay_window_ms = fields
        .integer("replay_window_ms", window, reader)
        .unwrap_or(limits::DEFAULT_REPLAY_WINDOW_MS);
    let delivery_id_header = fields.string("delivery_id_header", limits::MAX_NAME_CHARS, reader);
    if delivery_id_header.is_some_and(|name| !super::read::is_token(name)) {
        let place = fields.place_of("delivery_id_header");
        reader.report(&place, ProblemCode::InvalidValue, "not the name of a header");
    }
    let mut headers = Vec::new();
    let place = fields.place_of("headers");
    let named = fields.array("headers", limits::MAX_ENTRIES, reader).unwrap_or_default();
    for (index, name) in named.iter().enumerate() {
        let place = place.item(index);
        match name.as_str().map(str::to_ascii_lowercase) {
            None => reader.wrong_type(&place, "the name of a header", name),
            Some(name) if HIDDEN_HEADERS.contains(&name.as_str()) => {
                let reason = "no run sees what lets somebody in or signs";
                reader.report(&place, ProblemCode::InvalidValue, reason);
            }
            Some(name) if super::read::is_token(&name) => headers.push(name),
            Some(_) => {
                reader.report(&place, ProblemCode::InvalidValue, "not the name of a header");
            }
        }
    }
    Some(NodeConfig::TriggerWebhook(WebhookConfig {
        signature,
        replay_window_ms,
        delivery_id_header: delivery_id_header.map(str::to_ascii_lowercase),
        headers,
    }))
}

/// Reads `trigger.event`.
pub(super) fn read_event(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    fields.required("event_type", reader);
    let event_type = fields.string("event_type", limits::MAX_NAME_CHARS, reader);
    if event_type.is_some_and(|name| !AnyEvent::is_heard(name)) {
        let reason =
            "not the type of an event that a workflow can start from, like execution_failed";
        reader.report(&fields.place_of("event_type"), ProblemCode::UnknownValue, reason);
    }
    let filter = fields.string("filter", limits::MAX_EXPRESSION_BYTES, reader);
    if let Some(Err(reason)) = filter.map(filter_problem) {
        reader.report(&fields.place_of("filter"), ProblemCode::ExpressionInvalid, reason);
    }
    Some(NodeConfig::TriggerEvent(EventConfig {
        event_type: event_type?.to_owned(),
        filter: filter.map(str::to_owned),
    }))
}

/// A filter is evaluated before there is a run, so it sees the event alone.
fn filter_problem(source: &str) -> Result<(), String> {
    let filter = Expression::parse(source).map_err(|error| error.to_string())?;
    if filter.reads_only("event") { Ok(()) } else { Err("a filter reads `event` alone".to_owned()) }
}

/// The schema of `trigger.cron`.
pub(super) fn cron_schema() -> Value {
    super::schema::object(
        json!({
            "cron": {
                "type": "string",
                "format": "cron",
                "title": "Cron pattern",
                "description": "Five fields, or six with seconds first; L, W, # and names as usual",
                "examples": ["0 8 * * MON-FRI"],
                "maxLength": limits::MAX_CRON_CHARS,
            },
            "timezone": { "type": "string", "format": "timezone", "title": "Time zone", "default": "UTC" },
            "overlap": {
                "title": "While the run before is open",
                "enum": Overlap::ALL.map(|(word, _)| word),
                "default": "allow",
            },
            "catch_up_window_ms": super::schema::whole(
                "How late a fire may be, in milliseconds",
                limits::MIN_CATCH_UP_WINDOW_MS,
                limits::MAX_CATCH_UP_WINDOW_MS,
                Some(limits::DEFAULT_CATCH_UP_WINDOW_MS),
            ),
            "jitter_ms":
                super::schema::whole("Put off by at most, in milliseconds", 0, limits::MAX_JITTER_MS, Some(0)),
            "payload": { "title": "Given to each run as input.payload" },
        }),
        &["cron"],
    )
}

/// The schema of `trigger.webhook`.
pub(super) fn webhook_schema() -> Value {
    super::schema::object(
        json!({
            "signature": {
                "title": "Signature",
                "enum": Signature::ALL.map(|(word, _)| word),
                "default": "ledgerline",
            },
            "replay_window_ms": super::schema::whole(
                "How long a signature is good, in milliseconds",
                1_000,
                limits::MAX_REPLAY_WINDOW_MS,
                Some(limits::DEFAULT_REPLAY_WINDOW_MS),
            ),
            "delivery_id_header": {
                "type": "string",
                "title": "Header that names a delivery, where it is not the usual one",
                "maxLength": limits::MAX_NAME_CHARS,
            },
            "headers": {
                "type": "array",
                "title": "Headers that the run sees",
                "items": { "type": "string" },
                "maxItems": limits::MAX_ENTRIES,
            },
        }),
        &[],
    )
}

/// The schema of `trigger.event`.
pub(super) fn event_schema() -> Value {
    super::schema::object(
        json!({
            "event_type": {
                "title": "Type of the event",
                "enum": AnyEvent::heard().collect::<Vec<_>>(),
            },
            "filter": super::schema::cel("Only where this holds, over `event`"),
        }),
        &["event_type"],
    )
}
