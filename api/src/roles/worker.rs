//! The role that runs executions, with what it may reach and run on this machine.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, Permissions},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ledgerline_nats::{WorkSource, WorkSourceConfig};
use ledgerline_worker::{
    Worker, WorkerSettings, allowed::AllowList, outbound::Reach, subprocess::RunAs,
};
use nix::unistd::{User, geteuid};

use super::{Backing, Foundation, Stages, StartError, http};
use crate::{config::Config, environment::Environment, health::Condition};

/// What a drain leaves of the time that a stop has, so that what was handed back is in the log before the log stops.
const HAND_BACK: Duration = Duration::from_secs(2);

/// The name under which workflows see where this deployment is reached from its own machine.
const OWN_URL: &str = "LEDGERLINE_URL";

/// Starts the worker of this process.
pub(super) fn start(
    config: &Config,
    environment: &Environment,
    foundation: &Foundation,
    stages: &Stages,
    backing: &Backing,
    address: SocketAddr,
) -> Result<(), StartError> {
    let settings = settings(config, environment, foundation, backing, address)?;
    // It outlives the worker, which gives back through it what it cannot finish.
    let source = WorkSource::start(
        Arc::clone(&foundation.log),
        foundation.nats.clone(),
        WorkSourceConfig::default(),
        &stages.carry.tasks,
        stages.carry.stop.clone(),
    );
    let worker = Worker::start(
        settings,
        foundation.commands.clone(),
        Arc::clone(&foundation.tail),
        source,
        foundation.live_logs.clone(),
        &stages.work.tasks,
        stages.work.stop.clone(),
    )
    .map_err(StartError::Worker)?;
    let (mut standing_down, health) = (worker.standing_down(), foundation.health.clone());
    let stop = stages.work.stop.clone();
    stages.work.tasks.spawn(async move {
        let begun = stop.run_until_cancelled(standing_down.wait_for(Option::is_some)).await;
        if let Some(Ok(why)) = begun {
            health.set("worker", Condition::Degraded, why.clone());
        }
    });
    let (mut active, health) = (worker.active(), foundation.health.clone());
    let (slots, stop) = (u64::from(config.worker.slots), stages.work.stop.clone());
    stages.work.tasks.spawn(async move {
        loop {
            let running = *active.borrow_and_update();
            health.set_jobs(u64::try_from(running).unwrap_or(u64::MAX), slots);
            match stop.run_until_cancelled(active.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    });
    Ok(())
}

fn settings(
    config: &Config,
    environment: &Environment,
    foundation: &Foundation,
    backing: &Backing,
    address: SocketAddr,
) -> Result<WorkerSettings, StartError> {
    // Never the name of a process before: its runs are taken over because its name stops giving signs of life.
    let name = format!("{}-{}", foundation.owner, uuid::Uuid::now_v7().simple());
    let allowed = match &config.worker.allowed_commands {
        Some(list) => list.clone(),
        None if config.embedded.enabled => AllowList::embedded_default(environment.repository()),
        None => AllowList::default(),
    };
    let drain = Duration::from_millis(config.http.drain_timeout_ms).saturating_sub(HAND_BACK);
    Ok(WorkerSettings {
        slots: usize::try_from(config.worker.slots).unwrap_or(usize::MAX),
        drain,
        reach: Arc::new(reach(config, address)),
        run_as: if allowed.0.is_empty() { None } else { run_as()? },
        allowed: Arc::new(allowed),
        scratch_dir: scratch_dir(backing.folder())?,
        sealed: Some(foundation.sealed.clone()),
        env: BTreeMap::from([(OWN_URL.to_owned(), http::base_url(&config.http, address))]),
        ..WorkerSettings::new(name, backing.folder())
    })
}

/// Which addresses workflows may reach.
pub(super) fn reach(config: &Config, address: SocketAddr) -> Reach {
    let mut reach = Reach::public();
    for network in &config.worker.allowed_networks {
        reach = reach.and_network(*network);
    }
    if config.worker.reach_own_address {
        reach = reach.and_endpoint(http::loopback_of(address));
    }
    reach
}

/// Programs never run as root.
fn run_as() -> Result<Option<RunAs>, StartError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let nobody = User::from_name("nobody").ok().flatten().ok_or(StartError::NoUser)?;
    Ok(Some(RunAs { uid: nobody.uid.as_raw(), gid: nobody.gid.as_raw() }))
}

/// The folder in which programs get a directory while they run: one that the user they run as can enter, so in the data directory
/// only where everybody may pass through it.
fn scratch_dir(folder: &Path) -> Result<PathBuf, StartError> {
    let as_root = geteuid().is_root();
    let elsewhere = as_root && !open_to_all(folder);
    let path = if elsewhere {
        std::env::temp_dir().join(format!("ledgerline-scratch-{}", uuid::Uuid::now_v7().simple()))
    } else {
        folder.join("scratch")
    };
    let mode = if as_root { 0o711 } else { 0o700 };
    DirBuilder::new()
        // Where everybody may write, a folder or link of this name that is there already is somebody else's.
        .recursive(!elsewhere)
        .mode(mode)
        .create(&path)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
        .map_err(|source| StartError::File { path: path.clone(), source })?;
    Ok(path)
}

/// Whether every user may pass through this folder and all above it.
fn open_to_all(path: &Path) -> bool {
    path.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o001 != 0)
    })
}
