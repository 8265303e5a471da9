//! The decision of each command.

use chrono::{DateTime, Utc};

use super::{
    ArmTrigger, Cause, Content, FireOutcome, FireTrigger, FiresMissed, OffReason, Trigger,
    TriggerArmed, TriggerConfig, TriggerDisarmed, TriggerEvent, TriggerFired, TriggerPaused,
    TriggerRefused, TriggerRejection, TriggerResumed, WebhookSecretChanged, WebhookTokenChanged,
};
use crate::schedule::Due;

impl Trigger {
    /// What it holds and how it stands already, it leads to nothing. Another version with the same schedule keeps the next fire time, so
    /// that publishing at the wrong moment skips none.
    pub(super) fn arm(&self, command: &ArmTrigger, now: DateTime<Utc>) -> Vec<TriggerEvent> {
        let is_known = self.content().is_some_and(|content| {
            content.config == command.config && content.workflow_version == command.workflow_version
        });
        let next_fire_at = match (command.off, self) {
            (Some(reason), _) if is_known => return self.disarm(reason),
            (Some(_), _) => None,
            (None, Self::Armed(_)) if is_known => return vec![],
            (None, Self::Armed(content)) if content.config == command.config => {
                content.next_fire_at
            }
            (None, _) if self.content().is_some_and(|content| content.paused) => None,
            (None, _) => next_fire(&command.config, now),
        };
        let armed = TriggerArmed {
            workspace_id: command.workspace_id,
            workflow_id: command.workflow_id,
            node_id: command.node_id.clone(),
            workflow_version: command.workflow_version,
            config: command.config.clone(),
            next_fire_at,
        };
        let off = command.off.map(|reason| TriggerDisarmed { reason }.into());
        std::iter::once(armed.into()).chain(off).collect()
    }

    /// Off for the same reason already, or never armed, it leads to nothing.
    pub(super) fn disarm(&self, reason: OffReason) -> Vec<TriggerEvent> {
        match self {
            Self::Absent => vec![],
            Self::Off { reason: known, .. } if *known == reason => vec![],
            Self::Armed(_) | Self::Off { .. } => vec![TriggerDisarmed { reason }.into()],
        }
    }

    /// Paused already, it leads to nothing. One that is off may be paused too, so that it stays quiet when it is armed again.
    pub(super) fn pause(&self) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        let paused = self.existing()?.paused;
        Ok(if paused { vec![] } else { vec![TriggerPaused {}.into()] })
    }

    /// Not paused, it leads to nothing.
    pub(super) fn resume(&self, now: DateTime<Utc>) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        let content = self.existing()?;
        if !content.paused {
            return Ok(vec![]);
        }
        let next_fire_at = match self {
            Self::Armed(content) => next_fire(&content.config, now),
            Self::Absent | Self::Off { .. } => None,
        };
        Ok(vec![TriggerResumed { next_fire_at }.into()])
    }

    /// Takes note of a fire. A fire time must be the next one of the schedule: that makes it once.
    pub(super) fn fire(
        &self,
        command: &FireTrigger,
    ) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        let content = match command.cause {
            // Somebody who asks for it may have a run also while the trigger rests; the workflow still has its say.
            Cause::RunNow | Cause::Replay { .. } => self.existing()?,
            Cause::Schedule { .. } | Cause::Delivery { .. } | Cause::Event { .. } => {
                self.ready()?
            }
        };
        let next_fire_at = match command.cause {
            Cause::Schedule { fire_at } => {
                if content.next_fire_at != Some(fire_at) {
                    return Err(TriggerRejection::NotNext);
                }
                next_fire(&content.config, fire_at)
            }
            Cause::RunNow | Cause::Replay { .. } | Cause::Delivery { .. } | Cause::Event { .. } => {
                content.next_fire_at
            }
        };
        let cause = command.cause.clone();
        Ok(vec![match &command.outcome {
            FireOutcome::Started(execution_id) => {
                TriggerFired { cause, execution_id: *execution_id, next_fire_at }.into()
            }
            FireOutcome::Refused { rule, reason } => {
                let (rule, reason) = (rule.clone(), reason.clone());
                TriggerRefused { cause, rule, reason, next_fire_at }.into()
            }
            FireOutcome::StartedBefore(execution_id) => TriggerRefused {
                cause,
                rule: "started_before".to_owned(),
                reason: format!("execution {execution_id} was started for this already"),
                next_fire_at,
            }
            .into(),
        }])
    }

    /// Without a fire time that is too late it leads to nothing.
    pub(super) fn miss(&self, now: DateTime<Utc>) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        self.ready()?;
        Ok(match self.due(now) {
            Some((_, Due::Missed(missed))) => vec![
                FiresMissed {
                    first_at: missed.first,
                    last_at: missed.last,
                    count: missed.count,
                    next_fire_at: missed.next,
                }
                .into(),
            ],
            Some((_, Due::NotYet | Due::Fire)) | None => vec![],
        })
    }

    /// The address that is in force already leads to nothing.
    pub(super) fn change_token(&self, version: i32) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        if self.webhook()?.token_version == Some(version) {
            return Ok(vec![]);
        }
        Ok(vec![WebhookTokenChanged { version }.into()])
    }

    /// The secret that is in force already leads to nothing.
    pub(super) fn change_secret(
        &self,
        version: i32,
    ) -> Result<Vec<TriggerEvent>, TriggerRejection> {
        if self.webhook()?.secret_version == Some(version) {
            return Ok(vec![]);
        }
        Ok(vec![WebhookSecretChanged { version }.into()])
    }

    fn existing(&self) -> Result<&Content, TriggerRejection> {
        self.content().ok_or(TriggerRejection::NotFound)
    }

    fn webhook(&self) -> Result<&Content, TriggerRejection> {
        let content = self.existing()?;
        match content.config {
            TriggerConfig::Webhook(_) => Ok(content),
            TriggerConfig::Cron(_) | TriggerConfig::Event(_) => Err(TriggerRejection::NotAWebhook),
        }
    }
}

/// The first fire time of a schedule after a moment.
fn next_fire(config: &TriggerConfig, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match config {
        TriggerConfig::Cron(cron) => cron.schedule()?.next_after(after),
        TriggerConfig::Webhook(_) | TriggerConfig::Event(_) => None,
    }
}
