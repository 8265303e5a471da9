//! The deployment itself: what its operators decide for all workspaces at once. There is one, under an id that never changes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Aggregate, event::events, id::derived, limits};

events! {
    /// What happened to the deployment.
    DeploymentEvent in "deployment" {
        "dispatch_paused" 1 => DispatchPaused,
        "dispatch_resumed" 1 => DispatchResumed,
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

/// The fold of the deployment's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Whether dispatch is paused.
    pub dispatch_paused: bool,
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
}

/// Which rule refuses a command on the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeploymentRejection {
    /// The reason is too long.
    #[error("a reason has at most {} characters", limits::MAX_REASON_CHARS)]
    ReasonTooLong,
}

impl Deployment {
    /// The id of its stream.
    #[must_use]
    pub fn id() -> Uuid {
        derived(&["deployment"])
    }
}

impl Aggregate for Deployment {
    type Command = DeploymentCommand;
    type Event = DeploymentEvent;
    type Rejection = DeploymentRejection;

    const SNAPSHOT: &'static str = "deployment/1";

    /// Pausing what is paused, and resuming what is not, leads to nothing.
    fn decide(
        &self,
        command: &DeploymentCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<DeploymentEvent>, DeploymentRejection> {
        Ok(match command {
            DeploymentCommand::PauseDispatch { reason } => {
                if reason.as_ref().is_some_and(|it| it.chars().count() > limits::MAX_REASON_CHARS) {
                    return Err(DeploymentRejection::ReasonTooLong);
                }
                match self.dispatch_paused {
                    true => Vec::new(),
                    false => vec![DispatchPaused { reason: reason.clone() }.into()],
                }
            }
            DeploymentCommand::ResumeDispatch => match self.dispatch_paused {
                true => vec![DispatchResumed {}.into()],
                false => Vec::new(),
            },
        })
    }

    fn evolve(self, event: &DeploymentEvent) -> Self {
        match event {
            DeploymentEvent::DispatchPaused(_) => Self { dispatch_paused: true },
            DeploymentEvent::DispatchResumed(_) => Self { dispatch_paused: false },
        }
    }

    fn weight(&self) -> usize {
        size_of::<Self>()
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

    #[test]
    fn a_reason_has_an_end() {
        let reason = Some("x".repeat(limits::MAX_REASON_CHARS + 1));
        let refused = Deployment::default()
            .decide(&DeploymentCommand::PauseDispatch { reason }, DateTime::UNIX_EPOCH);
        assert_eq!(refused, Err(DeploymentRejection::ReasonTooLong));
    }
}
