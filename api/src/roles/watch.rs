//! What `/health` says about the parts of the process: they are asked here, at intervals, so that no part has to know of it.

use std::time::Duration;

use ledgerline_nats::{Carrier, CarrierState, Nats, NatsState};
use ledgerline_projections::{Model, Positions, status::State};
use tokio::time::{MissedTickBehavior, interval};

use super::{Backing, Foundation, Stage};
use crate::{
    config::{Config, Role},
    embedded::ServiceState,
    health::{Condition, Health},
};

/// How often the parts are asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts to ask.
pub(super) fn start(foundation: &Foundation, backing: &Backing, config: &Config, stage: &Stage) {
    let health = foundation.health.clone();
    let (nats, positions) = (foundation.nats.clone(), foundation.positions.clone());
    let projects = config.roles.contains(&Role::Projector);
    let servers = backing.states();
    health.set("database", Condition::Ok, None);
    let stop = stage.stop.clone();
    stage.tasks.spawn(async move {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            look_at_nats(nats.as_ref(), &health);
            if projects {
                look_at_projectors(&positions, &health);
            }
            if let Some([postgres, nats_server]) = &servers {
                look_at_server("postgres", &postgres.borrow(), Condition::Down, &health);
                look_at_server("nats_server", &nats_server.borrow(), Condition::Degraded, &health);
            }
        }
    });
}

/// Says how a carrier is, whenever that changes.
pub(super) fn carrier(part: &'static str, carrier: &Carrier, health: &Health, stage: &Stage) {
    let (mut status, health, stop) = (carrier.status(), health.clone(), stage.stop.clone());
    stage.tasks.spawn(async move {
        loop {
            let now = status.borrow_and_update().clone();
            let (condition, detail) = match now.state {
                CarrierState::Standby | CarrierState::Leading => (Condition::Ok, None),
                other => (Condition::Degraded, Some(format!("{other}; {} events behind", now.lag))),
            };
            health.set(part, condition, detail);
            match stop.run_until_cancelled(status.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    });
}

fn look_at_nats(nats: Option<&Nats>, health: &Health) {
    let (condition, detail) = match nats.map(|nats| nats.state().borrow().clone()) {
        Some(NatsState::Ready { .. }) => (Condition::Ok, None),
        Some(state) => {
            (Condition::Degraded, Some(format!("NATS is {state}; live updates come from the log")))
        }
        None => (
            Condition::Degraded,
            Some("no NATS is configured; live updates come from the log".to_owned()),
        ),
    };
    health.set("nats", condition, detail);
}

fn look_at_projectors(positions: &Positions, health: &Health) {
    let mut wrong = Vec::new();
    for model in Model::ALL {
        match positions.state(*model) {
            State::Elsewhere
            | State::Standby
            | State::Leading { quarantined: 0 }
            | State::Stopped => {}
            State::Leading { quarantined } => {
                wrong.push(format!(
                    "{}: {quarantined} streams wait behind an event that cannot be applied",
                    model.as_str()
                ));
            }
            State::Rebuilding => wrong.push(format!("{}: being rebuilt", model.as_str())),
            State::StoodDown(why) => wrong.push(format!("{}: stands down: {why}", model.as_str())),
            State::Failed(why) => wrong.push(format!("{}: {why}", model.as_str())),
        }
    }
    let condition = if wrong.is_empty() { Condition::Ok } else { Condition::Degraded };
    health.set("projections", condition, (!wrong.is_empty()).then(|| wrong.join("; ")));
}

fn look_at_server(part: &'static str, state: &ServiceState, away: Condition, health: &Health) {
    let (condition, detail) = match state {
        ServiceState::Running => (Condition::Ok, None),
        ServiceState::Restarting { attempt } => {
            (away, Some(format!("it died and is being started again, attempt {attempt}")))
        }
        ServiceState::Absent => (Condition::Degraded, Some("it is not installed here".to_owned())),
        ServiceState::Stopped => (away, Some("it was stopped".to_owned())),
    };
    health.set(part, condition, detail);
}
