//! The servers below a process: embedded ones that it starts or finds running, or those that the configuration names.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use ledgerline_nats::{NatsConfig as NatsServer, Prefix};
use ledgerline_projections::with_search_path;
use ledgerline_store::seal::MasterKey;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::StartError;
use crate::{
    config::{Config, NatsConfig},
    embedded::{self, Embedded, EmbeddedConfig, EmbeddedError, ServiceState},
    environment::Environment,
};

/// The name under which the one process of a data directory leads. It may take its leases again at once after a crash, since the
/// directory's lock says that the process before is gone; and taking one raises its epoch, which fences that one off.
const ALONE: &str = "embedded";

/// The servers below a process.
pub struct Backing {
    postgres: PgConnectOptions,
    master_key: MasterKey,
    owner: String,
    folder: PathBuf,
    embedded: Option<Embedded>,
}

impl Backing {
    /// Starts the embedded servers, or takes what the configuration names.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn open(
        config: &Config,
        environment: &Environment,
        cancel: &CancellationToken,
    ) -> Result<Self, StartError> {
        let folder = config.embedded.data_dir.clone();
        if !config.embedded.enabled {
            return Self::configured(config, folder);
        }
        if config.database.url.is_some() || config.nats.url.is_some() {
            tracing::warn!(
                "--embedded brings its own servers: DATABASE_URL and NATS_URL are not used"
            );
        }
        let servers = EmbeddedConfig {
            data_dir: folder.clone(),
            postgres_bin: config.embedded.postgres_bin.clone(),
            nats_server: config.embedded.nats_bin.clone(),
            search_path: environment.search_path.clone(),
        };
        let embedded = embedded::start(servers, cancel.clone()).await?;
        let folder = fs::canonicalize(&folder).unwrap_or(folder);
        match embedded_key(config, &folder) {
            Ok(master_key) => Ok(Self {
                postgres: embedded.postgres.clone(),
                master_key,
                owner: ALONE.to_owned(),
                folder,
                embedded: Some(embedded),
            }),
            Err(error) => {
                embedded.stop().await;
                Err(error)
            }
        }
    }

    /// As [`Backing::open`], but a data directory that another process serves from is no failure: its database is used beside it.
    /// For commands that look at or look after what a running process keeps.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn open_beside(
        config: &Config,
        environment: &Environment,
        cancel: &CancellationToken,
    ) -> Result<Self, StartError> {
        match Self::open(config, environment, cancel).await {
            Err(StartError::Embedded(EmbeddedError::Locked { path, holder })) => {
                let Some(postgres) = running_postgres(&path) else {
                    return Err(EmbeddedError::Locked { path, holder }.into());
                };
                Ok(Self {
                    postgres,
                    master_key: embedded_key(config, &path)?,
                    owner: unique_name(),
                    folder: path,
                    embedded: None,
                })
            }
            other => other,
        }
    }

    fn configured(config: &Config, folder: PathBuf) -> Result<Self, StartError> {
        let url = config.database.url.as_ref().map_or("", |url| url.expose_secret());
        let postgres = PgConnectOptions::from_str(url).map_err(StartError::DatabaseAddress)?;
        Ok(Self {
            postgres,
            master_key: configured_key(config)?.ok_or(StartError::MasterKey)?,
            owner: unique_name(),
            folder,
            embedded: None,
        })
    }

    /// How to connect to the database, with every read model in sight.
    #[must_use]
    pub fn postgres(&self) -> PgConnectOptions {
        with_search_path(self.postgres.clone()).application_name("ledgerline")
    }

    /// How to connect to NATS; `None` where there is none.
    ///
    /// # Errors
    /// When the prefix is not one.
    pub fn nats(&self, config: &NatsConfig) -> Result<Option<NatsServer>, StartError> {
        let prefix = Prefix::new(&config.prefix);
        let prefix = prefix.map_err(|error| StartError::Prefix(error.to_string()))?;
        let server = match (&self.embedded, &config.url) {
            (Some(embedded), _) => embedded.nats.as_ref().map(|address| NatsServer {
                token: Some(address.token.clone()),
                ..NatsServer::new(address.url.clone())
            }),
            (None, Some(url)) => Some(NatsServer::new(url.expose_secret())),
            (None, None) => None,
        };
        Ok(server.map(|server| NatsServer { prefix, replicas: config.replicas, ..server }))
    }

    /// Under which keys and secrets are sealed.
    #[must_use]
    pub fn master_key(&self) -> &MasterKey {
        &self.master_key
    }

    /// The process, as leases name it: unique among those that run.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether no other process can be using this database.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.embedded.is_some()
    }

    /// Where the process keeps files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the embedded servers are doing: Postgres, then nats-server.
    #[must_use]
    pub fn states(&self) -> Option<[watch::Receiver<ServiceState>; 2]> {
        self.embedded.as_ref().map(|embedded| [embedded.postgres_state(), embedded.nats_state()])
    }

    /// Stops the servers that were started here.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

fn unique_name() -> String {
    let id = Uuid::now_v7().simple().to_string();
    format!("process-{}-{}", std::process::id(), &id[id.len() - 8..])
}

/// The configured key, or the one that the data directory keeps.
fn embedded_key(config: &Config, folder: &Path) -> Result<MasterKey, StartError> {
    match configured_key(config)? {
        Some(key) => Ok(key),
        None => MasterKey::kept_in(folder)
            .map_err(|source| StartError::File { path: folder.to_owned(), source }),
    }
}

/// The key that the configuration names, with those that it replaces.
fn configured_key(config: &Config) -> Result<Option<MasterKey>, StartError> {
    let read = |key: &SecretString| MasterKey::from_config(key).ok_or(StartError::MasterKey);
    let previous: Vec<MasterKey> =
        config.auth.previous_master_keys.iter().map(read).collect::<Result<_, _>>()?;
    let current = config.auth.master_key.as_ref().map(read).transpose()?;
    Ok(current.map(|key| key.replacing(previous)))
}

/// The Postgres that a running process keeps in a data directory, found by its pid file and password.
fn running_postgres(data_dir: &Path) -> Option<PgConnectOptions> {
    let text = |path: &Path| -> io::Result<String> { fs::read_to_string(data_dir.join(path)) };
    let password = text(Path::new("password")).ok()?;
    let pid_file = text(Path::new("postgres/cluster/postmaster.pid")).ok()?;
    // Lines: pid, data directory, start time, port, socket folder, listen address.
    let line =
        |number: usize| pid_file.lines().nth(number).map(str::trim).filter(|line| !line.is_empty());
    let port = line(3)?.parse().ok()?;
    let options = PgConnectOptions::new_without_pgpass()
        .username("ledgerline")
        .password(password.trim_end())
        .database("ledgerline")
        .port(port);
    Some(match line(4) {
        Some(folder) => options.socket(folder),
        None => options.host("127.0.0.1"),
    })
}
