//! The composition root: from a configuration to a process that serves, and back to nothing.
//!
//! What starts later is stopped earlier: requests and sockets (`front`), then what decides and runs (`work`), then what carries
//! and shows (`carry`), then the log, whose last flush answers whoever waited for it, then the servers below. Each of these is
//! a [`Stage`]: tasks with one token.
//!
//! Reading order: [`backing`] (the servers below), [`Process`], [`background`] (the roles beside HTTP), [`watch`] (what
//! `/health` says), [`check`] (whether this build can read the log).

mod background;
pub mod backing;
mod check;
mod error;
mod http;
pub mod secret_file;
pub(crate) mod shape;
pub mod signals;
mod watch;
mod worker;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ledgerline_commands::{Clock as CommandClock, Commands, Settings, Snapshots};
use ledgerline_domain::{
    audit::AuditTrail, execution::Execution, trigger::Trigger, vault::Vault, workflow::Workflow,
    workspace::Workspace,
};
use ledgerline_nats::{Gateway, GatewayConfig, LiveLogs, Nats};
use ledgerline_projections::Positions;
use ledgerline_store::{EventLog, LogConfig, PostgresLog, Tail, sealed::SealedValues};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use self::{background::LOOK_EVERY, check::unknown_types};
pub use self::{backing::Backing, check::UnknownEvents, error::StartError};
use crate::{
    app::{AppParts, AppState},
    bulk::Bell,
    clock::Clock,
    config::{Config, DatabaseConfig, Role},
    environment::Environment,
    health::Health,
    identity::{Identity, IdentityParts},
    invitations, purge, seed,
};

/// How long the parts below the work may take to stop: they only let go of leases and write what they hold.
const CARRY_STOP: Duration = Duration::from_secs(5);

/// How long the database may take to let us in at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the log may take for its last flush.
const LOG_STOP: Duration = Duration::from_secs(15);

/// How long a connection may have lain in its pool and be used as it is. It was tested when it came back, so to test it again at once would be
/// a round trip for nothing; after a longer rest the database may have gone meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// Tasks that are stopped together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Stage {
    /// Waits until its tasks have ended, but not for ever. Call it after its token was cancelled.
    async fn ended(&self, name: &str, until: Instant) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                stage = name,
                open = self.tasks.len(),
                "did not end in time and is left behind"
            );
        }
    }
}

/// The stages of a process, in the order in which they are stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    /// HTTP and sockets.
    pub(crate) front: Stage,
    /// The worker and the policies.
    pub(crate) work: Stage,
    /// Projectors, relay, gateway, accounts.
    pub(crate) carry: Stage,
    /// The log.
    pub(crate) log: Stage,
}

impl Stages {
    async fn end(&self, drain: Duration) {
        let until = Instant::now() + drain;
        self.front.stop.cancel();
        self.work.stop.cancel();
        // Together: a request may wait for a run, and a run may be handed back while a request ends.
        tokio::join!(self.front.ended("front", until), self.work.ended("work", until));
        self.carry.ended("carry", Instant::now() + CARRY_STOP).await;
        self.log.ended("log", Instant::now() + LOG_STOP).await;
    }
}

/// What a process is told beside its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether a demo user with a workspace and workflows is made.
    pub seed_demo: bool,
    /// What `/metrics` renders.
    pub metrics: Option<PrometheusHandle>,
}

/// A process that serves.
pub struct Process {
    address: SocketAddr,
    url: String,
    demo: Option<seed::Demo>,
    stages: Stages,
    pools: Pools,
    backing: Backing,
    drain: Duration,
}

impl Process {
    /// Starts everything that the configuration asks for, and returns when it serves. `cancel` abandons the start.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(
        config: Config,
        environment: &Environment,
        options: Options,
        cancel: &CancellationToken,
    ) -> Result<Self, StartError> {
        let stages = Stages::default();
        // First, because it fails at once where another process has the port.
        let door = http::bind(&config.http, &stages.front).await?;
        let config = http::with_own_address(config, &door);
        let url = http::base_url(&config.http, door.address()?);
        let backing = match Backing::open(&config, environment, cancel).await {
            Ok(backing) => backing,
            Err(error) => {
                stages.front.stop.cancel();
                return Err(error);
            }
        };
        let drain = Duration::from_millis(config.http.drain_timeout_ms);
        let assembling = assemble(config, environment, options, &backing, &stages, door);
        let assembled = cancel.run_until_cancelled(Box::pin(assembling)).await;
        let failed = match assembled {
            Some(Ok(assembled)) => {
                let Assembled { address, demo, pools } = assembled;
                return Ok(Self { address, url, demo, stages, pools, backing, drain });
            }
            Some(Err(error)) => error,
            None => StartError::Cancelled,
        };
        stages.end(CARRY_STOP).await;
        backing.close().await;
        Err(failed)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is reached from the same machine: a URL without a path.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The demo user, where one was asked for.
    #[must_use]
    pub fn demo(&self) -> Option<&seed::Demo> {
        self.demo.as_ref()
    }

    /// Stops in order: no new work, running work ends or is handed back, then everything below it.
    pub async fn stop(self) {
        self.stages.end(self.drain).await;
        self.pools.close().await;
        self.backing.close().await;
    }
}

/// The two pools of a process. The log has its own, so that queries which hold all connections never hold up a command.
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    pub(crate) serving: PgPool,
    pub(crate) log: PgPool,
}

impl Pools {
    pub(crate) async fn connect(
        backing: &Backing,
        config: &DatabaseConfig,
    ) -> Result<Self, StartError> {
        let of_log = (config.max_connections / 4).clamp(2, 16);
        let of_serving = config.max_connections.saturating_sub(of_log).max(2);
        let pool = |connections: u32| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_millis(config.acquire_timeout_ms))
                .test_before_acquire(false)
                .before_acquire(|connection, rest| {
                    Box::pin(async move {
                        if rest.idle_for > FRESH {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
        };
        let options = backing.postgres();
        // A pool only says that nothing came of it; the first connection says why.
        let first = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
        let first = first.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())));
        first.map_err(StartError::Database)?.close().await.map_err(StartError::Database)?;
        let serving = pool(of_serving).connect_with(options.clone()).await;
        let serving = serving.map_err(StartError::Database)?;
        Ok(Self { serving, log: pool(of_log).connect_lazy_with(options) })
    }

    pub(crate) async fn close(self) {
        self.serving.close().await;
        self.log.close().await;
    }
}

struct Assembled {
    address: SocketAddr,
    demo: Option<seed::Demo>,
    pools: Pools,
}

/// What every role is built on.
pub(crate) struct Foundation {
    pub(crate) pools: Pools,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) commands: Commands,
    pub(crate) sealed: SealedValues,
    pub(crate) positions: Positions,
    pub(crate) nats: Option<Nats>,
    pub(crate) live_logs: LiveLogs,
    pub(crate) health: Health,
    /// The process, as leases name it.
    pub(crate) owner: String,
}

async fn assemble(
    config: Config,
    environment: &Environment,
    options: Options,
    backing: &Backing,
    stages: &Stages,
    door: http::Door,
) -> Result<Assembled, StartError> {
    let foundation = lay_foundation(&config, backing, stages).await?;
    let carry = &stages.carry;
    let gateway = Gateway::start(
        Arc::clone(&foundation.log),
        foundation.nats.clone(),
        GatewayConfig::default(),
        &carry.tasks,
        carry.stop.clone(),
    );
    let identity = start_identity(&config, backing, &foundation, carry).await?;
    let demo = match options.seed_demo {
        true => Some(seed::seed(&identity, &foundation.commands, backing.folder()).await?),
        false => None,
    };
    let address = door.address()?;
    let bulk = Bell::default();
    let lines = background::watch_lines(&foundation, stages);
    background::start(&config, environment, &foundation, stages, backing, address, &lines, &bulk)?;
    let recorder = background::start_recorder(&foundation, stages);
    watch::start(&foundation, backing, &config, carry);
    if config.roles.contains(&Role::Policies) {
        let (commands, identity) = (foundation.commands.clone(), identity.clone());
        let stop = stages.work.stop.clone();
        stages.work.tasks.spawn(invitations::keep(commands, identity, Clock::system(), stop));
        let (pool, stop) = (foundation.pools.serving.clone(), stages.work.stop.clone());
        stages.work.tasks.spawn(purge::keep(pool, stop));
    }
    if config.roles.contains(&Role::Api) {
        let reach = Arc::new(worker::reach(&config, address));
        let state = AppState::new(AppParts {
            config,
            clock: Clock::system(),
            identity,
            health: foundation.health.clone(),
            metrics: options.metrics,
            commands: foundation.commands.clone(),
            pool: foundation.pools.serving.clone(),
            sealed: foundation.sealed.clone(),
            reach,
            positions: foundation.positions.clone(),
            gateway,
            live_logs: foundation.live_logs.clone(),
            lines,
            bulk,
            recorder,
            stop: stages.front.stop.clone(),
            tasks: stages.front.tasks.clone(),
        });
        http::serve(door, &state, foundation.nats.clone(), &stages.front);
    } else {
        http::serve_health(door, &foundation.health, &stages.front);
    }
    Ok(Assembled { address, demo, pools: foundation.pools })
}

/// The database in the shape of this build, the log, the commands, and the connection to NATS.
async fn lay_foundation(
    config: &Config,
    backing: &Backing,
    stages: &Stages,
) -> Result<Foundation, StartError> {
    let pools = Pools::connect(backing, &config.database).await?;
    shape::bring_missing(&pools.serving).await?;
    let Stage { tasks, stop } = &stages.log;
    let log = PostgresLog::connect(pools.log.clone(), LogConfig::default(), tasks, stop.clone());
    let log: Arc<dyn EventLog> = log.await.map_err(StartError::Log)?;
    check::known_events(&pools.serving, &log, backing.owner()).await?;
    if backing.is_alone() {
        background::forget_dead_workers(&log).await.map_err(StartError::Log)?;
    }
    let Stage { tasks, stop } = &stages.carry;
    let nats = match backing.nats(&config.nats)? {
        Some(nats) => {
            Some(Nats::connect(nats, tasks, stop.clone()).await.map_err(StartError::Nats)?)
        }
        None => None,
    };
    let snapshots = Snapshots::default()
        .with::<Execution>()
        .with::<Workflow>()
        .with::<Workspace>()
        .with::<Vault>()
        .with::<Trigger>()
        .with::<AuditTrail>();
    let workspaces = config.limits.workspaces();
    let settings = Settings { snapshots, workspaces, ..Settings::default() };
    let commands = Commands::new(Arc::clone(&log), CommandClock::system(), settings);
    Ok(Foundation {
        tail: Tail::start(Arc::clone(&log), tasks, stop.clone()),
        positions: Positions::new(Arc::clone(&log)),
        live_logs: LiveLogs::new(nats.clone(), Uuid::now_v7()),
        health: Health::default(),
        owner: backing.owner().to_owned(),
        sealed: SealedValues::new(pools.serving.clone(), backing.master_key().clone()),
        pools,
        log,
        commands,
        nats,
    })
}

async fn start_identity(
    config: &Config,
    backing: &Backing,
    foundation: &Foundation,
    stage: &Stage,
) -> Result<Identity, StartError> {
    let parts = IdentityParts {
        pool: foundation.pools.serving.clone(),
        config: config.auth.clone(),
        master_key: backing.master_key().clone(),
        public_url: config.http.public_url.clone(),
        mail: config.mail.clone(),
        clock: Clock::system(),
        on_registered: seed::personal_workspaces(foundation.commands.clone()),
        tallies: foundation.commands.tallies().clone(),
    };
    Identity::start(parts, &stage.tasks, &stage.stop).await.map_err(StartError::Identity)
}

/// Accounts alone, for commands that need nothing else of a process.
///
/// # Errors
/// When the database or the keys cannot be used.
pub async fn identity_of(
    config: &Config,
    backing: &Backing,
    pool: PgPool,
    commands: Commands,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Identity, StartError> {
    let parts = IdentityParts {
        pool,
        config: config.auth.clone(),
        master_key: backing.master_key().clone(),
        public_url: config.http.public_url.clone(),
        mail: config.mail.clone(),
        clock: Clock::system(),
        tallies: commands.tallies().clone(),
        on_registered: seed::personal_workspaces(commands),
    };
    Identity::start(parts, tasks, stop).await.map_err(StartError::Identity)
}
