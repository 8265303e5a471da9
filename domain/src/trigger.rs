//! A trigger: what starts a workflow by itself. A schedule, a webhook, or a listener on the log.
//!
//! A trigger is a node of a workflow, over all its versions ([`TriggerId::of`]). The workflow's policy arms it with the node's
//! configuration when the workflow is published and its intake is active, and turns it off when that is over; people pause and resume it
//! in between. Its stream is its history: what it fired for, what it started, what was refused and what was missed.

mod command;
mod decide;
mod events;
mod index;

use crate::{
    Aggregate,
    event::corrupt,
    id::{ExecutionId, TriggerId, WorkflowId, WorkspaceId},
    schedule::{Due, Patience, Schedule},
    workflow::WorkflowVersion,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::{
    command::{ArmTrigger, FireOutcome, FireTrigger, TriggerCommand, TriggerRejection},
    events::*,
    index::{TriggerIndex, Wanted, concerns_all_triggers, concerns_triggers, wanted},
};

/// The fold of a trigger's stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// It was never armed.
    #[default]
    Absent,
    /// Its workflow is published and takes in work.
    Armed(Box<Content>),
    /// Its workflow does not run it.
    Off {
        /// What it holds.
        content: Box<Content>,
        /// Why.
        reason: OffReason,
    },
}

/// What a trigger holds in every shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Which trigger it is.
    pub id: TriggerId,
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow that it starts.
    pub workflow_id: WorkflowId,
    /// Its node in it.
    pub node_id: String,
    /// The version whose node it was armed with last.
    pub workflow_version: WorkflowVersion,
    /// The configuration of that node.
    pub config: TriggerConfig,
    /// Whether somebody paused it. Stays so when its workflow is published anew.
    pub paused: bool,
    /// The next fire time of a schedule; none while it is off or paused, or when there is no more.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// The execution that it started last.
    pub last_execution_id: Option<ExecutionId>,
    /// Which sealed address of a webhook is in force; none before the first one was made.
    pub token_version: Option<i32>,
    /// Which sealed signing secret of a webhook is in force; none before the first one was made.
    pub secret_version: Option<i32>,
}

impl Trigger {
    /// What it holds, also while it is off.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Absent => None,
            Self::Armed(content) | Self::Off { content, .. } => Some(content),
        }
    }

    /// What it holds, where it may fire now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn ready(&self) -> Result<&Content, TriggerRejection> {
        match self {
            Self::Absent => Err(TriggerRejection::NotFound),
            Self::Off { reason, .. } => Err(TriggerRejection::Off(*reason)),
            Self::Armed(content) if content.paused => Err(TriggerRejection::Paused),
            Self::Armed(content) => Ok(content),
        }
    }

    /// When it is to be looked at next: the durable time of a schedule, its jitter included.
    #[must_use]
    pub fn due_at(&self) -> Option<DateTime<Utc>> {
        let content = self.content()?;
        let TriggerConfig::Cron(cron) = &content.config else { return None };
        Some(Schedule::due_at(content.id, content.next_fire_at?, cron.patience()))
    }

    /// What is to be done now about the next fire time, and which that is. None where there is none.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, Due)> {
        let content = self.ready().ok()?;
        let TriggerConfig::Cron(cron) = &content.config else { return None };
        let (schedule, fire_at) = (cron.schedule()?, content.next_fire_at?);
        Some((fire_at, schedule.due(content.id, fire_at, cron.patience(), now)))
    }
}

impl CronConfig {
    /// The pattern in its time zone. Saving a workflow checks it, so none only where the rules became stricter since.
    #[must_use]
    pub fn schedule(&self) -> Option<Schedule> {
        Schedule::parse(&self.cron, &self.timezone).ok()
    }

    /// How it treats time that has gone by.
    #[must_use]
    pub const fn patience(&self) -> Patience {
        Patience { catch_up_window_ms: self.catch_up_window_ms, jitter_ms: self.jitter_ms }
    }
}

impl Aggregate for Trigger {
    type Command = TriggerCommand;
    type Event = TriggerEvent;
    type Rejection = TriggerRejection;

    fn decide(
        &self,
        command: &TriggerCommand,
        now: DateTime<Utc>,
    ) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        match command {
            TriggerCommand::Arm(command) => Ok(self.arm(command, now)),
            TriggerCommand::Disarm { reason } => Ok(self.disarm(*reason)),
            TriggerCommand::Pause => self.pause(),
            TriggerCommand::Resume => self.resume(now),
            TriggerCommand::Fire(command) => self.fire(command),
            TriggerCommand::Miss => self.miss(now),
            TriggerCommand::ChangeToken { version } => self.change_token(*version),
            TriggerCommand::ChangeSecret { version } => self.change_secret(*version),
        }
    }

    fn evolve(self, event: &TriggerEvent) -> Self {
        let (mut content, off) = match (self, event) {
            (Self::Absent, TriggerEvent::TriggerArmed(armed)) => {
                return Self::Armed(Box::new(Content::armed(armed)));
            }
            (Self::Absent, event) => corrupt!("the trigger was never armed", event),
            (Self::Armed(content), _) => (content, None),
            (Self::Off { content, reason }, _) => (content, Some(reason)),
        };
        let mut off = off;
        match event {
            TriggerEvent::TriggerArmed(armed) => {
                content.workflow_version = armed.workflow_version;
                content.config = armed.config.clone();
                content.next_fire_at = armed.next_fire_at;
                off = None;
            }
            TriggerEvent::TriggerDisarmed(event) => {
                content.next_fire_at = None;
                off = Some(event.reason);
            }
            TriggerEvent::TriggerPaused(_) => {
                content.paused = true;
                content.next_fire_at = None;
            }
            TriggerEvent::TriggerResumed(event) => {
                content.paused = false;
                content.next_fire_at = event.next_fire_at;
            }
            TriggerEvent::TriggerFired(event) => {
                content.last_execution_id = Some(event.execution_id);
                content.moved_on(&event.cause, event.next_fire_at);
            }
            TriggerEvent::TriggerRefused(event) => {
                content.moved_on(&event.cause, event.next_fire_at);
            }
            TriggerEvent::FiresMissed(event) => content.next_fire_at = event.next_fire_at,
            TriggerEvent::WebhookTokenChanged(event) => content.token_version = Some(event.version),
            TriggerEvent::WebhookSecretChanged(event) => {
                content.secret_version = Some(event.version);
            }
        }
        match off {
            None => Self::Armed(content),
            Some(reason) => Self::Off { content, reason },
        }
    }

    const SNAPSHOT: &'static str = "trigger-1";

    fn weight(&self) -> usize {
        let config = self.content().map_or(0, |content| match &content.config {
            TriggerConfig::Cron(cron) => cron.payload.as_str().len(),
            TriggerConfig::Webhook(_) | TriggerConfig::Event(_) => 0,
        });
        config + 1_024
    }
}

impl Content {
    fn armed(armed: &TriggerArmed) -> Self {
        Self {
            id: TriggerId::of(armed.workflow_id, &armed.node_id),
            workspace_id: armed.workspace_id,
            workflow_id: armed.workflow_id,
            node_id: armed.node_id.clone(),
            workflow_version: armed.workflow_version,
            config: armed.config.clone(),
            paused: false,
            next_fire_at: armed.next_fire_at,
            last_execution_id: None,
            token_version: None,
            secret_version: None,
        }
    }

    /// Only a fire time moves the schedule on; a run by hand or a replay does not.
    fn moved_on(&mut self, cause: &Cause, next_fire_at: Option<DateTime<Utc>>) {
        if matches!(cause, Cause::Schedule { .. }) {
            self.next_fire_at = next_fire_at;
        }
    }
}

#[cfg(test)]
mod tests;
