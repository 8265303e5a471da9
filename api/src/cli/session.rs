//! The servers below, opened for one command: those of the configuration, or those that a running process keeps.

use std::sync::Arc;

use ledgerline_commands::{Clock, Commands, Settings};
use ledgerline_store::{EventLog, LogConfig, PostgresLog};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::configured;
use crate::{
    config::{Config, ConfigArgs},
    environment::Environment,
    identity::Identity,
    roles::{Backing, Pools, StartError, identity_of, shape},
};

/// An open database with its log.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) backing: Backing,
    pub(super) pools: Pools,
    pub(super) log: Arc<PostgresLog>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Opened {
    /// Opens what the flags say. A database that has not the shape of this build is refused: looking changes nothing.
    pub(super) async fn open(
        args: ConfigArgs,
        environment: &Environment,
    ) -> Result<Self, StartError> {
        let config = configured(args)?;
        let stop = CancellationToken::new();
        let backing = Backing::open_beside(&config, environment, &stop).await?;
        match Self::connect(&config, &backing, &stop).await {
            Ok((pools, log, tasks)) => Ok(Self { config, backing, pools, log, stop, tasks }),
            Err(error) => {
                backing.close().await;
                Err(error)
            }
        }
    }

    async fn connect(
        config: &Config,
        backing: &Backing,
        stop: &CancellationToken,
    ) -> Result<(Pools, Arc<PostgresLog>, TaskTracker), StartError> {
        let pools = Pools::connect(backing, &config.database).await?;
        shape::demand(&pools.serving).await?;
        let tasks = TaskTracker::new();
        let log =
            PostgresLog::connect(pools.log.clone(), LogConfig::default(), &tasks, stop.clone());
        let log = log.await.map_err(StartError::Log)?;
        Ok((pools, log, tasks))
    }

    /// The log as everybody else takes it.
    pub(super) fn event_log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    /// Accounts.
    pub(super) async fn identity(&self) -> Result<Identity, StartError> {
        let commands = Commands::new(self.event_log(), Clock::system(), Settings::default());
        let pool = self.pools.serving.clone();
        identity_of(&self.config, &self.backing, pool, commands, &self.tasks, &self.stop).await
    }

    /// Closes everything in order.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.pools.close().await;
        self.backing.close().await;
    }
}
