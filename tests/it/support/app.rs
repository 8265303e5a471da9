//! What an API needs on a database of its own, put together without the other roles and under a clock that the test moves.

use std::sync::Arc;

use chrono::Utc;
use ledgerline_api::{
    app::{AppParts, AppState},
    bulk::Bell,
    clock::Clock,
    config::Config,
    health::Health,
    identity::{Identity, IdentityParts},
    seed,
};
use ledgerline_commands::{Clock as CommandClock, Commands, Lines, Recorder, Settings};
use ledgerline_nats::{Gateway, GatewayConfig, LiveLogs};
use ledgerline_projections::Positions;
use ledgerline_store::{
    EventLog, LogConfig, PostgresLog,
    facts::{Facts, Tallies},
    seal::MasterKey,
    sealed::SealedValues,
};
use ledgerline_worker::outbound::Reach;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::services::{self, TestDatabase};

/// The state of an API whose background work ends with it.
pub(crate) struct App {
    pub(crate) state: AppState,
    // Dropped last, when nobody asks any more.
    _database: TestDatabase,
}

impl App {
    /// Starts one on an empty database.
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// One that is configured otherwise.
    pub(crate) async fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let database = services::database().await;
        let pool = database.pool().await;
        ledgerline_projections::prepare(&pool).await.expect("the read models have their tables");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let log = PostgresLog::connect(pool.clone(), LogConfig::default(), &tasks, stop.clone());
        let log: Arc<dyn EventLog> = log.await.expect("the test's database answers");
        let clock = Clock::standing_at(Utc::now());
        let now = clock.clone();
        let of_commands = CommandClock::new(move || now.now(), Uuid::now_v7);
        let commands = Commands::new(Arc::clone(&log), of_commands, Settings::default());
        let config = change(Config::default());
        let networks = config.worker.allowed_networks.iter();
        let reach = networks.fold(Reach::public(), |reach, network| reach.and_network(*network));
        let identity = IdentityParts {
            pool: pool.clone(),
            config: config.auth.clone(),
            master_key: master_key(),
            public_url: config.http.public_url.clone(),
            mail: config.mail.clone(),
            clock: clock.clone(),
            on_registered: seed::personal_workspaces(commands.clone()),
            tallies: commands.tallies().clone(),
        };
        let identity = Identity::start(identity, &tasks, &stop).await.expect("the keys are new");
        let gateway = GatewayConfig::default();
        let recorder = Recorder::new(commands.clone(), Facts::new(pool.clone()));
        let state = AppState::new(AppParts {
            config,
            clock,
            identity,
            health: Health::default(),
            metrics: None,
            commands,
            reach: Arc::new(reach),
            sealed: SealedValues::new(pool.clone(), master_key()),
            pool,
            positions: Positions::new(Arc::clone(&log)),
            gateway: Gateway::start(log, None, gateway, &tasks, stop.clone()),
            live_logs: LiveLogs::new(None, Uuid::now_v7()),
            lines: Lines::default(),
            bulk: Bell::default(),
            recorder,
            stop,
            tasks,
        });
        Self { state, _database: database }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.state.stop.cancel();
    }
}

/// The accounts of another process on the same database, under the same clock.
pub(crate) async fn identity_elsewhere(
    pool: PgPool,
    clock: Clock,
    stop: &CancellationToken,
) -> Identity {
    let config = Config::default();
    let parts = IdentityParts {
        pool,
        config: config.auth,
        mail: config.mail,
        master_key: master_key(),
        public_url: config.http.public_url,
        clock,
        on_registered: Arc::new(|_| Box::pin(async { Ok(()) })),
        tallies: Tallies::default(),
    };
    Identity::start(parts, &TaskTracker::new(), stop).await.expect("another process")
}

/// The key under which every test seals.
pub(crate) fn master_key() -> MasterKey {
    let key = SecretString::from("A".repeat(43) + "=");
    MasterKey::from_config(&key).expect("32 bytes in base64")
}
