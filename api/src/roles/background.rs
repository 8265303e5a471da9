//! The roles beside HTTP: read models, relay, policies, worker.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use futures_util::future::BoxFuture;
use ledgerline_commands::{
    Auditor, Commands, DispatchSettings, Dispatcher, Leading, Lines, Policies, Recorder, StandDown,
    Timers, Triggers,
};
use ledgerline_nats::{Carrier, CarrierConfig, relay, work};
use ledgerline_projections::ProjectorConfig;
use ledgerline_store::{EventLog, StoreError, facts::Facts};

use super::{Backing, Foundation, Stages, StartError, watch, worker};
use crate::{
    bulk::{self, Bell},
    config::{Config, Role},
    environment::Environment,
    health::{Condition, Health},
};

/// How long other processes wait after the last sign of life of one that leads.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// How often dispatch looks whether workers are alive.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a claim may go untaken while slots are free before it is handed out again.
const UNTAKEN_GRACE: Duration = Duration::from_secs(10);

/// How long an idempotency key is known, and how often those that are older are looked for.
const KEYS_KEPT: TimeDelta = TimeDelta::days(7);
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// Starts the roles that the configuration names.
#[expect(clippy::too_many_arguments, reason = "each role is given what it is made of")]
pub(super) fn start(
    config: &Config,
    environment: &Environment,
    foundation: &Foundation,
    stages: &Stages,
    backing: &Backing,
    address: SocketAddr,
    lines: &Lines,
    bulk: &Bell,
) -> Result<(), StartError> {
    for role in &config.roles {
        match role {
            Role::Api => {}
            Role::Projector => start_projectors(foundation, stages),
            Role::Relay => start_relay(foundation, stages),
            Role::Policies => start_policies(foundation, stages, lines, bulk),
            Role::Worker => {
                worker::start(config, environment, foundation, stages, backing, address)?;
            }
        }
    }
    Ok(())
}

/// Watches the slots and lines: requests of runs are let in by them, and questions are answered from them.
pub(super) fn watch_lines(foundation: &Foundation, stages: &Stages) -> Lines {
    let lines = Lines::default();
    let (commands, tail) = (foundation.commands.clone(), Arc::clone(&foundation.tail));
    commands.watch_lines(lines.clone());
    let stage = &stages.carry;
    let following = lines.clone().follow(commands, tail, stage.stop.clone());
    let health = foundation.health.clone();
    health.set("lines", Condition::Ok, None);
    stage.tasks.spawn(async move { stand_by("lines", Box::pin(following), &health).await });
    lines
}

fn start_projectors(foundation: &Foundation, stages: &Stages) {
    ledgerline_projections::spawn(
        &foundation.pools.serving,
        &foundation.log,
        &foundation.positions,
        &ProjectorConfig::new(foundation.owner.clone()),
        Utc::now,
        &stages.carry.tasks,
        &stages.carry.stop,
    );
}

/// Without NATS there is nothing to carry to: sockets and workers of every process read the log.
fn start_relay(foundation: &Foundation, stages: &Stages) {
    let Some(nats) = &foundation.nats else { return };
    type Start = fn(
        Arc<dyn EventLog>,
        ledgerline_nats::Nats,
        CarrierConfig,
        &tokio_util::task::TaskTracker,
        tokio_util::sync::CancellationToken,
    ) -> Carrier;
    let carry = &stages.carry;
    for (part, start) in [("relay", relay::start as Start), ("work_relay", work::start as Start)] {
        let config =
            CarrierConfig::new(foundation.owner.clone()).with_tail(Arc::clone(&foundation.tail));
        let carrier = start(
            Arc::clone(&foundation.log),
            nats.clone(),
            config,
            &carry.tasks,
            carry.stop.clone(),
        );
        watch::carrier(part, &carrier, &foundation.health, carry);
    }
}

fn start_policies(foundation: &Foundation, stages: &Stages, lines: &Lines, bulk: &Bell) {
    let leading = Leading { owner: foundation.owner.clone(), lease_ttl: LEASE_TTL };
    let (commands, tail) = (foundation.commands.clone(), Arc::clone(&foundation.tail));
    let settings = DispatchSettings {
        leading: leading.clone(),
        look_every: LOOK_EVERY,
        untaken_grace: UNTAKEN_GRACE,
    };
    let stop = || stages.work.stop.clone();
    let policies = Policies::new(commands.clone(), Arc::clone(&tail), leading.clone());
    let triggers = Triggers::new(commands.clone(), Arc::clone(&tail), leading.clone());
    let dispatch = Dispatcher::new(commands.clone(), tail, settings);
    let (forgetful, over) = (commands.clone(), stop());
    let forgetting = async move { over.run_until_cancelled(forget_keys(&forgetful)).await };
    stages.work.tasks.spawn(forgetting);
    let pool = foundation.pools.serving.clone();
    stages.work.tasks.spawn(bulk::run(commands.clone(), pool, bulk.clone(), stop()));
    let timers = Timers::new(commands.clone(), leading.clone());
    let auditor = Auditor::new(commands, lines.clone(), leading);
    let loops: [(&'static str, BoxFuture<'static, Result<(), StandDown>>); 5] = [
        ("policies", Box::pin(policies.run(stop()))),
        ("dispatch", Box::pin(dispatch.run(stop()))),
        ("timers", Box::pin(timers.run(stop()))),
        ("triggers", Box::pin(triggers.run(stop()))),
        ("auditor", Box::pin(auditor.run(stop()))),
    ];
    for (part, running) in loops {
        let health = foundation.health.clone();
        health.set(part, Condition::Ok, None);
        stages.work.tasks.spawn(async move { stand_by(part, running, &health).await });
    }
}

/// Takes facts for the audit into the log, in every process: each counts its own.
pub(super) fn start_recorder(foundation: &Foundation, stages: &Stages) -> Recorder {
    let facts = Facts::new(foundation.pools.serving.clone());
    let recorder = Recorder::new(foundation.commands.clone(), facts);
    stages.carry.tasks.spawn(recorder.clone().run(stages.carry.stop.clone()));
    recorder
}

/// Forgets idempotency keys that nobody repeats any more. Several processes may do so: a repeat changes nothing.
async fn forget_keys(commands: &Commands) {
    let mut ticks = tokio::time::interval(FORGET_EVERY);
    loop {
        ticks.tick().await;
        match commands.log().prune_keys(commands.clock().now() - KEYS_KEPT).await {
            Ok(0) => {}
            Ok(keys) => tracing::debug!(keys, "old idempotency keys were forgotten"),
            Err(error) => tracing::warn!(%error, "old idempotency keys can't be forgotten now"),
        }
    }
}

/// A loop that met what it cannot read stands down and says so; the other parts go on.
async fn stand_by(
    part: &'static str,
    running: BoxFuture<'static, Result<(), StandDown>>,
    health: &Health,
) {
    if let Err(stood_down) = running.await {
        let detail = crate::problem::chain(&stood_down);
        tracing::error!(part, %detail, "stands down");
        health.set(part, Condition::Degraded, Some(detail));
    }
}

/// Lets go of the leases of workers that cannot be alive, because this process alone uses the database: their runs go on at
/// once instead of when the leases expire.
pub(super) async fn forget_dead_workers(log: &Arc<dyn EventLog>) -> Result<(), StoreError> {
    for lease in log.worker_leases().await? {
        log.release_worker_lease(&lease.worker).await?;
    }
    Ok(())
}
