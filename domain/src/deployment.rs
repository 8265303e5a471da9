//! The deployment itself: what its operators decide for all workspaces at once. There is one, under an id that never changes.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Aggregate, event::events, id::derived, limits};

events! {
    /// What happened to the deployment.
    DeploymentEvent in "deployment" {
        "dispatch_paused" 1 => DispatchPaused,
        "dispatch_resumed" 1 => DispatchResumed,
        "projection_event_skipped" 1 => ProjectionEventSkipped,
    }
}

/// No execution of any workspace is handed to a worker from now on. Those that workers have go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchPaused {
    /// Why, in the words of whoever paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Executions are handed to workers again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchResumed {}

/// An event that a read model can't apply is left out of it, so that the stream behind it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionEventSkipped {
    /// The read model.
    pub model: String,
    /// The stream of the event.
    pub key: Uuid,
    /// The position of the event.
    pub position: i64,
    /// Why, in the words of whoever decided it.
    pub reason: String,
}

/// The fold of the deployment's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Whether dispatch is paused.
    pub dispatch_paused: bool,
    /// What was left out: the read model and the position of each event.
    pub skipped: BTreeSet<(String, i64)>,
}

/// What the deployment is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentCommand {
    /// Hand out nothing more.
    PauseDispatch {
        /// Why, for others to read.
        reason: Option<String>,
    },
    /// Hand out again.
    ResumeDispatch,
    /// Leave an event out of a read model.
    SkipProjectionEvent(ProjectionEventSkipped),
}

/// Which rule refuses a command on the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeploymentRejection {
    /// The reason is too long.
    #[error("a reason has at most {} characters", limits::MAX_REASON_CHARS)]
    ReasonTooLong,
    /// No reason is given.
    #[error("a reason is needed")]
    ReasonMissing,
    /// So many events were left out that the fault is another one.
    #[error("at most {} events can be left out of read models", limits::MAX_SKIPPED_EVENTS)]
    TooManySkipped,
}

impl DeploymentRejection {
    /// Its stable name.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::ReasonTooLong => "reason_too_long",
            Self::ReasonMissing => "reason_missing",
            Self::TooManySkipped => "too_many_skipped",
        }
    }
}

impl Deployment {
    /// The id of its stream.
    #[must_use]
    pub fn id() -> Uuid {
        derived(&["deployment"])
    }
}

impl Deployment {
    fn skip(
        &self,
        skipped: &ProjectionEventSkipped,
    ) -> Result<Vec<DeploymentEvent>, DeploymentRejection> {
        if skipped.reason.trim().is_empty() {
            return Err(DeploymentRejection::ReasonMissing);
        }
        demand_short(&skipped.reason)?;
        if self.skipped.contains(&(skipped.model.clone(), skipped.position)) {
            return Ok(Vec::new());
        }
        if self.skipped.len() >= limits::MAX_SKIPPED_EVENTS {
            return Err(DeploymentRejection::TooManySkipped);
        }
        Ok(vec![skipped.clone().into()])
    }
}

fn demand_short(reason: &str) -> Result<(), DeploymentRejection> {
    match reason.chars().count() > limits::MAX_REASON_CHARS {
        true => Err(DeploymentRejection::ReasonTooLong),
        false => Ok(()),
    }
}

impl Aggregate for Deployment {
    type Command = DeploymentCommand;
    type Event = DeploymentEvent;
    type Rejection = DeploymentRejection;

    const SNAPSHOT: &'static str = "deployment/2";

    /// Pausing what is paused, resuming what is not, and leaving out what was left out leads to nothing.
    fn decide(
        &self,
        command: &DeploymentCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<DeploymentEvent>, DeploymentRejection> {
        Ok(match command {
            DeploymentCommand::PauseDispatch { reason } => {
                reason.as_deref().map_or(Ok(()), demand_short)?;
                match self.dispatch_paused {
                    true => Vec::new(),
                    false => vec![DispatchPaused { reason: reason.clone() }.into()],
                }
            }
            DeploymentCommand::ResumeDispatch => match self.dispatch_paused {
                true => vec![DispatchResumed {}.into()],
                false => Vec::new(),
            },
            DeploymentCommand::SkipProjectionEvent(skipped) => self.skip(skipped)?,
        })
    }

    fn evolve(mut self, event: &DeploymentEvent) -> Self {
        match event {
            DeploymentEvent::DispatchPaused(_) => self.dispatch_paused = true,
            DeploymentEvent::DispatchResumed(_) => self.dispatch_paused = false,
            DeploymentEvent::ProjectionEventSkipped(event) => {
                self.skipped.insert((event.model.clone(), event.position));
            }
        }
        self
    }

    fn weight(&self) -> usize {
        let skipped = self.skipped.iter().map(|skipped| size_of_val(skipped) + skipped.0.len());
        size_of::<Self>() + skipped.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(state: &Deployment, command: DeploymentCommand) -> Vec<DeploymentEvent> {
        state.decide(&command, DateTime::UNIX_EPOCH).expect("it is accepted")
    }

    #[test]
    fn it_is_paused_once_and_resumed_once() {
        let reason = Some("the database is moved".to_owned());
        let pause = DeploymentCommand::PauseDispatch { reason: reason.clone() };
        let running = Deployment::default();
        assert_eq!(decide(&running, DeploymentCommand::ResumeDispatch), []);
        assert_eq!(decide(&running, pause.clone()), [DispatchPaused { reason }.into()]);
        let paused = running.evolve(&DispatchPaused { reason: None }.into());
        assert_eq!(decide(&paused, pause), []);
        let resumed = decide(&paused, DeploymentCommand::ResumeDispatch);
        assert_eq!(resumed, [DispatchResumed {}.into()]);
        assert!(!paused.evolve(&resumed[0]).dispatch_paused);
    }

    fn skip(position: i64, reason: &str) -> ProjectionEventSkipped {
        let model = "executions".to_owned();
        ProjectionEventSkipped { model, key: Uuid::nil(), position, reason: reason.to_owned() }
    }

    #[test]
    fn an_event_is_left_out_once_and_with_a_reason() {
        let deployment = Deployment::default();
        let command = DeploymentCommand::SkipProjectionEvent(skip(7, "written by a bug"));
        assert_eq!(decide(&deployment, command.clone()), [skip(7, "written by a bug").into()]);
        let after = deployment.evolve(&skip(7, "written by a bug").into());
        assert_eq!(decide(&after, command), []);
        for (reason, refused) in [
            (" ".to_owned(), DeploymentRejection::ReasonMissing),
            ("x".repeat(limits::MAX_REASON_CHARS + 1), DeploymentRejection::ReasonTooLong),
        ] {
            let command = DeploymentCommand::SkipProjectionEvent(skip(8, &reason));
            assert_eq!(after.decide(&command, DateTime::UNIX_EPOCH), Err(refused));
        }
        let positions = 1..=i64::try_from(limits::MAX_SKIPPED_EVENTS).unwrap();
        let full =
            positions.fold(after, |state, position| state.evolve(&skip(position, "x").into()));
        let command = DeploymentCommand::SkipProjectionEvent(skip(0, "one more"));
        let refused = full.decide(&command, DateTime::UNIX_EPOCH);
        assert_eq!(refused, Err(DeploymentRejection::TooManySkipped));
    }

    #[test]
    fn a_reason_has_an_end() {
        let reason = Some("x".repeat(limits::MAX_REASON_CHARS + 1));
        let refused = Deployment::default()
            .decide(&DeploymentCommand::PauseDispatch { reason }, DateTime::UNIX_EPOCH);
        assert_eq!(refused, Err(DeploymentRejection::ReasonTooLong));
    }
}
