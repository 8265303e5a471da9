//! What happens to a trigger, and the configurations that it is armed with.

use crate::{
    event::events,
    id::{EventId, ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::WorkflowVersion,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

events! {
    /// What happened to a trigger.
    TriggerEvent in "trigger" {
        "trigger_armed" 1 => TriggerArmed,
        "trigger_disarmed" 1 => TriggerDisarmed,
        "trigger_paused" 1 => TriggerPaused,
        "trigger_resumed" 1 => TriggerResumed,
        "trigger_fired" 1 => TriggerFired,
        "trigger_refused" 1 => TriggerRefused,
        "fires_missed" 1 => FiresMissed,
        "webhook_token_changed" 1 => WebhookTokenChanged,
        "webhook_secret_changed" 1 => WebhookSecretChanged,
    }
}

/// What a trigger node is configured with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerConfig {
    /// `trigger.cron`
    Cron(CronConfig),
    /// `trigger.webhook`
    Webhook(WebhookConfig),
    /// `trigger.event`
    Event(EventConfig),
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronConfig {
    /// The pattern: five fields, or six with seconds first.
    pub cron: String,
    /// The time zone, by its IANA name.
    pub timezone: String,
    /// What happens when the run before is still open.
    pub overlap: Overlap,
    /// How late a fire may be; what is later is missed.
    pub catch_up_window_ms: u64,
    /// By how much at most a fire is put off.
    pub jitter_ms: u64,
    /// Given to each run as `input.payload`.
    pub payload: Json,
}

/// What happens at a fire time when the run that the schedule started last is still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Another one starts beside it, as far as the workflow's own limit lets it.
    #[default]
    Allow,
    /// Nothing starts.
    Skip,
    /// One more waits until it has ended; when one waits already nothing starts.
    Queue,
    /// It is cancelled, and another one starts.
    CancelRunning,
}

impl Overlap {
    /// Every policy with its word.
    pub const ALL: [(&'static str, Self); 4] = [
        ("allow", Self::Allow),
        ("skip", Self::Skip),
        ("queue", Self::Queue),
        ("cancel_running", Self::CancelRunning),
    ];
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookConfig {
    /// How deliveries are signed.
    pub signature: Signature,
    /// For how long a signature that names its time is good.
    pub replay_window_ms: u64,
    /// The header that names a delivery, in lower case; none for the usual one of the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id_header: Option<String>,
    /// Headers that the run sees, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// How the deliveries of a webhook are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// Not at all: whoever knows the address may deliver.
    None,
    /// `Ledgerline-Signature: t=<seconds>,v1=<hex>` over time, delivery id and body.
    #[default]
    Ledgerline,
    /// `X-Hub-Signature-256: sha256=<hex>` over the body.
    Github,
    /// `Stripe-Signature: t=<seconds>,v1=<hex>` over time and body.
    Stripe,
}

impl Signature {
    /// Every scheme with its word.
    pub const ALL: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("ledgerline", Self::Ledgerline),
        ("github", Self::Github),
        ("stripe", Self::Stripe),
    ];
}

/// A listener on the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventConfig {
    /// The stored type of the events, e.g. `execution_failed`.
    pub event_type: String,
    /// A CEL condition over `event`; none for all events of the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// Why a trigger is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffReason {
    /// No version of its workflow is published.
    NotPublished,
    /// The intake of its workflow is paused.
    IntakePaused,
    /// The intake of its workflow is inactive.
    IntakeInactive,
    /// The published version has no such node, or it is of another kind there.
    NodeRemoved,
    /// Its workflow was deleted.
    WorkflowDeleted,
    /// Its workspace is being deleted, or was.
    WorkspaceDeleted,
}

impl OffReason {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPublished => "not_published",
            Self::IntakePaused => "intake_paused",
            Self::IntakeInactive => "intake_inactive",
            Self::NodeRemoved => "node_removed",
            Self::WorkflowDeleted => "workflow_deleted",
            Self::WorkspaceDeleted => "workspace_deleted",
        }
    }
}

/// What a trigger fires for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// A fire time of its schedule.
    Schedule {
        /// Which.
        fire_at: DateTime<Utc>,
    },
    /// Somebody ran the schedule now.
    RunNow,
    /// A delivery to its address.
    Delivery {
        /// Its name.
        delivery_id: String,
    },
    /// An event of the log.
    Event {
        /// Which.
        event_id: EventId,
        /// Its place in the log.
        position: i64,
    },
    /// Somebody wants once more what it fired for before.
    Replay {
        /// The execution that was started then.
        execution_id: ExecutionId,
    },
}

/// The published version of its workflow has it, and takes in work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerArmed {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow that it starts.
    pub workflow_id: WorkflowId,
    /// Its node in it.
    pub node_id: String,
    /// The version that is published.
    pub workflow_version: WorkflowVersion,
    /// The configuration of the node.
    pub config: TriggerConfig,
    /// When a schedule fires next; none while it is paused, or when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// Its workflow does not run it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerDisarmed {
    /// Why.
    pub reason: OffReason,
}

/// Somebody paused it: nothing starts until it is resumed, and what comes meanwhile is not caught up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerPaused {}

/// Somebody let it go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerResumed {
    /// When a schedule fires next; none while it is off, or when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// It started an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerFired {
    /// What for.
    pub cause: Cause,
    /// The execution.
    pub execution_id: ExecutionId,
    /// When a schedule fires next; none when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// It would have started an execution, and a rule refused that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRefused {
    /// What for.
    pub cause: Cause,
    /// The rule's stable name.
    pub rule: String,
    /// What it says, for a person.
    pub reason: String,
    /// When a schedule fires next; none when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// Fire times came and went while nobody was there, longer ago than the catch-up window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiresMissed {
    /// The first of them.
    pub first_at: DateTime<Utc>,
    /// The last one that was counted.
    pub last_at: DateTime<Utc>,
    /// How many; a thousand stands for that or more.
    pub count: u32,
    /// When it fires next; none when there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fire_at: Option<DateTime<Utc>>,
}

/// The webhook has another address, and the one before is no more. The address itself is kept sealed beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookTokenChanged {
    /// Which sealed value is the address now.
    pub version: i32,
}

/// Deliveries are signed with another secret from now on. The secret itself is kept sealed beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSecretChanged {
    /// Which sealed value is the secret now.
    pub version: i32,
}
