//! `serve --embedded`: a private Postgres and nats-server as children of this process, in one data directory.
//!
//! What holds, whatever happened before:
//! - One process at a time: a lock on the data directory, which the kernel releases however we die.
//! - A server that outlived a killed process is found by its pid file. Postgres is taken over when it knows our password
//!   and serves our directory; a nats-server that runs our configuration is stopped. Nothing is ever deleted to get a start.
//! - A child that dies is started again, with growing pauses, at the same address: pools and clients reconnect by themselves.
//! - Postgres runs with every durability setting on. This is the product's database, only its supervision is embedded.
//!
//! Nothing here reads the environment: [`EmbeddedConfig`] holds what `config` has parsed.

mod data_dir;
mod error;
mod locate;
mod nats;
mod postgres;
mod process;
mod supervise;

use std::ffi::OsString;
use std::path::PathBuf;

use secrecy::SecretString;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::EmbeddedError;
pub use locate::Located;

use data_dir::DataDir;
use nats::Nats;
use postgres::Postgres;
use supervise::{Service, supervise};

/// Where the embedded servers live and where their programs may be found.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Everything the two servers keep. Made when missing.
    pub data_dir: PathBuf,
    /// The folder with `postgres` and `initdb`. When set, nothing else is looked at.
    pub postgres_bin: Option<PathBuf>,
    /// The `nats-server` program, or the folder that holds it. When set, nothing else is looked at.
    pub nats_server: Option<PathBuf>,
    /// The value of `PATH`, searched after `.services`.
    pub search_path: Option<OsString>,
}

/// How to reach the embedded nats-server.
#[derive(Debug, Clone)]
pub struct NatsAddress {
    /// `nats://127.0.0.1:<port>`; the port stays the same for the life of this process.
    pub url: String,
    /// What a connection must present; new for each data directory.
    pub token: SecretString,
}

/// What a supervised server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It took connections when last looked at, and its process lives.
    Running,
    /// It died, and start number `attempt` is being made.
    Restarting {
        /// Counts from 1 since the server last ran.
        attempt: u32,
    },
    /// It was not found on this machine; Ledgerline runs without.
    Absent,
    /// It was stopped on purpose.
    Stopped,
}

/// The embedded servers while they run. Stop them last, after everything that talks to them.
///
/// Dropped without [`Embedded::stop`], the supervision ends and the servers are asked to stop, but nobody waits for it.
pub struct Embedded {
    /// How to connect to the database `ledgerline` as its owner.
    pub postgres: PgConnectOptions,
    /// How to connect to nats-server, or `None` when there is none on this machine.
    pub nats: Option<NatsAddress>,
    /// The Postgres that was taken, for the start-up banner.
    pub postgres_program: Located,
    /// The nats-server that was taken, or why there is none.
    pub nats_program: Result<Located, String>,
    postgres_state: watch::Receiver<ServiceState>,
    nats_state: watch::Receiver<ServiceState>,
    supervision: Supervision,
    // Held for its lock, and released after both servers have stopped.
    _data_dir: DataDir,
}

struct Supervision {
    tasks: TaskTracker,
    stop_postgres: CancellationToken,
    stop_nats: CancellationToken,
}

impl Drop for Supervision {
    fn drop(&mut self) {
        self.stop_nats.cancel();
        self.stop_postgres.cancel();
    }
}

/// Starts both servers and returns when both take connections and the database `ledgerline` exists.
///
/// `cancel` abandons the start, and nothing of it is left running. Once this has returned it has no meaning: the servers
/// must outlive what uses them, so they end by [`Embedded::stop`] alone.
///
/// # Errors
/// Without a suitable Postgres, when the directory is in use or belongs to another major version, or when a server does
/// not come up. Each error says what to do; a caller prints it and exits 2. A missing nats-server is not an error.
pub async fn start(
    config: EmbeddedConfig,
    cancel: CancellationToken,
) -> Result<Embedded, EmbeddedError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    let postgres_program = locate::postgres(&config, &data_dir).await?;
    tracing::info!(version = %postgres_program.version, path = %postgres_program.path.display(), "using PostgreSQL");
    let postgres = Postgres::prepare(&data_dir, &postgres_program, &cancel).await?;
    let postgres_options = postgres.connect_options();
    let nats_program = locate::nats(&config, &data_dir).await?;

    let supervision = Supervision {
        tasks: TaskTracker::new(),
        stop_postgres: CancellationToken::new(),
        stop_nats: CancellationToken::new(),
    };
    let postgres_state = supervise(
        Service::Postgres(postgres),
        &supervision.tasks,
        &supervision.stop_postgres,
        &cancel,
    )
    .await?;

    let started = match &nats_program {
        Ok(program) => start_nats(&data_dir, program, &supervision, &cancel).await.map(Some),
        Err(missing) => {
            tracing::warn!(
                "{missing}; running without: live updates come from the log, health says degraded"
            );
            Ok(None)
        }
    };
    let (nats, nats_state) = match started {
        Ok(Some((address, state))) => (Some(address), state),
        Ok(None) => (None, watch::channel(ServiceState::Absent).1),
        Err(error) => {
            stop_all(supervision).await;
            return Err(error);
        }
    };
    Ok(Embedded {
        postgres: postgres_options,
        nats,
        postgres_program,
        nats_program,
        postgres_state,
        nats_state,
        supervision,
        _data_dir: data_dir,
    })
}

async fn start_nats(
    data_dir: &DataDir,
    program: &Located,
    supervision: &Supervision,
    cancel: &CancellationToken,
) -> Result<(NatsAddress, watch::Receiver<ServiceState>), EmbeddedError> {
    tracing::info!(version = %program.version, path = %program.path.display(), "using nats-server");
    let nats = Nats::prepare(data_dir, program)?;
    let (port, token) = (nats.port(), nats.token());
    let state =
        supervise(Service::Nats(nats), &supervision.tasks, &supervision.stop_nats, cancel).await?;
    let url = port.url().expect("a launch that succeeded has set the port");
    Ok((NatsAddress { url, token }, state))
}

/// NATS first: it only carries what Postgres has, and a relay that still publishes finds the log at its place.
async fn stop_all(supervision: Supervision) {
    supervision.stop_nats.cancel();
    supervision.stop_postgres.cancel();
    supervision.tasks.close();
    supervision.tasks.wait().await;
}

impl Embedded {
    /// The database as a URL, for what is configured by text. It contains the password: never log it.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.postgres.to_url_lossy().to_string()
    }

    /// What Postgres is doing, now and on every change.
    #[must_use]
    pub fn postgres_state(&self) -> watch::Receiver<ServiceState> {
        self.postgres_state.clone()
    }

    /// What nats-server is doing, now and on every change.
    #[must_use]
    pub fn nats_state(&self) -> watch::Receiver<ServiceState> {
        self.nats_state.clone()
    }

    /// Stops both servers and waits until they are gone: at most about 20 seconds, then they are killed.
    pub async fn stop(self) {
        stop_all(self.supervision).await;
    }
}
