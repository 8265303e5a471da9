//! The embedded Postgres: making its cluster, starting it with the log's settings, taking over one that was left running.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, ServerUser, private_folder, write_private};
use super::error::EmbeddedError;
use super::locate::Located;
use super::process::{Process, alive, command_line, log_tail, open_log, read_pid};

/// The owner of the cluster and of the database.
const OWNER: &str = "ledgerline";

/// The database that everything lives in.
const DATABASE: &str = "ledgerline";

/// The port in the name of the socket file. Nothing listens on a port of this number.
const SOCKET_PORT: u16 = 5432;

/// The longest path of a socket that every kernel we run on accepts.
const SOCKET_PATH_LIMIT: usize = 103;

/// How Postgres is stopped: fast (no new work, running transactions end), then at once (the next start recovers).
pub(super) const STOP_STEPS: [(Signal, Duration); 2] =
    [(Signal::SIGINT, Duration::from_secs(10)), (Signal::SIGQUIT, Duration::from_secs(5))];

/// How long a start may take until the server answers anything at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may answer "starting up": after a crash it replays at most `max_wal_size` of log.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between attempts to connect; a fresh start answers after about 100 ms.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The error code with which Postgres says that it is starting up, recovering or shutting down.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// What every start of the server is given, so that nothing in the data directory needs editing. Durability is complete:
/// an acknowledged append is on disk. The sizes are those under which the log was measured on a small machine.
const SETTINGS: [&str; 14] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=256MB",
    "max_wal_size=4GB",
    "wal_compression=off",
    "checkpoint_timeout=15min",
    "max_connections=100",
    "password_encryption=scram-sha-256",
    "jit=off",
    "log_checkpoints=off",
    "log_destination=stderr",
    "logging_collector=off",
    "unix_socket_permissions=0700",
];

/// A cluster that exists and can be launched.
pub(super) struct Postgres {
    program: PathBuf,
    user: Option<ServerUser>,
    cluster: PathBuf,
    log: PathBuf,
    address: Address,
    password: SecretString,
}

/// Where it listens; chosen once, so that pools find it again after a restart.
enum Address {
    /// In a folder that only its owner may enter; no port at all.
    Socket(PathBuf),
    /// On 127.0.0.1, only where the socket's path would be too long.
    Port(u16),
}

impl Postgres {
    /// Makes the cluster when there is none.
    pub(super) async fn prepare(
        data: &DataDir,
        program: &Located,
        cancel: &CancellationToken,
    ) -> Result<Self, EmbeddedError> {
        let cluster = data.cluster();
        let password = if data.cluster_major().is_some() {
            let missing = || EmbeddedError::PasswordMissing { path: data.root.join("password") };
            data.secret("password")?.ok_or_else(missing)?
        } else {
            let password = data.new_secret("password")?;
            initdb(data, program, &password, cancel).await?;
            password
        };
        let run = data.postgres.join("run");
        let address = choose_address(data, run)
            .map_err(|source| EmbeddedError::DataDir { path: data.postgres.clone(), source })?;
        Ok(Self {
            program: program.path.clone(),
            user: data.postgres_user,
            log: data.postgres.join("postgres.log"),
            cluster,
            address,
            password,
        })
    }

    /// How to connect to the product's database.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        // Every field that the environment could set is set here.
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .username(OWNER)
            .password(self.password.expose_secret())
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable);
        match &self.address {
            Address::Socket(folder) => options.socket(folder).port(SOCKET_PORT),
            Address::Port(port) => options.port(*port),
        }
    }

    /// Takes over a server that was left running for this cluster, or starts one; returns when it takes connections.
    pub(super) async fn launch(
        &self,
        cancel: &CancellationToken,
    ) -> Result<Process, EmbeddedError> {
        if let Some(pid) = self.adopt(cancel).await? {
            tracing::info!(%pid, "took over the PostgreSQL that an earlier process left running");
            return Ok(Process::Adopted(pid));
        }
        let mut process = self.spawn().map_err(|error| self.failed(error.to_string()))?;
        let ready = tokio::select! {
            ready = self.wait_ready() => ready,
            ended = process.wait() => return Err(self.failed(format!("it ended: {ended}"))),
            () = cancel.cancelled() => Err(EmbeddedError::Cancelled),
        };
        if let Err(error) = ready {
            process.stop(&STOP_STEPS).await;
            return Err(error);
        }
        Ok(process)
    }

    fn failed(&self, reason: String) -> EmbeddedError {
        EmbeddedError::Start { name: "postgres", reason, log: log_tail(&self.log) }
    }

    /// Starts the server itself and not `pg_ctl`, which would detach it: this way its end is told to us.
    fn spawn(&self) -> io::Result<Process> {
        let log = open_log(&self.log)?;
        let mut command = command_as(&self.program, self.user);
        command.arg("-D").arg(&self.cluster);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        match &self.address {
            Address::Socket(folder) => {
                let mut directory = std::ffi::OsString::from("unix_socket_directories=");
                directory.push(quoted(folder));
                command.args(["-c", "listen_addresses="]).arg("-c").arg(directory);
                command.args(["-c", &format!("port={SOCKET_PORT}")]);
            }
            Address::Port(port) => {
                command.args([
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                ]);
                command.args(["-c", &format!("port={port}")]);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Process::child(child)
    }

    /// Tries to connect until it works, and makes the database when there is none.
    async fn wait_ready(&self) -> Result<(), EmbeddedError> {
        let started = Instant::now();
        loop {
            match self.connect().await {
                Ok(connection) => return self.ensure_database(connection).await,
                Err(error) => {
                    let starting = code(&error).as_deref() == Some(CANNOT_CONNECT_NOW);
                    if code(&error).is_some() && !starting {
                        return Err(error.into());
                    }
                    let patience = if starting { RECOVERY_TIMEOUT } else { ANSWER_TIMEOUT };
                    if started.elapsed() > patience {
                        return Err(self.failed(format!(
                            "no connection within {} s: {error}",
                            patience.as_secs()
                        )));
                    }
                }
            }
            sleep(CONNECT_PAUSE).await;
        }
    }

    /// Connects to the database that every cluster has.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.connect_options().database("postgres");
        match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(connected) => connected,
            Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn ensure_database(&self, mut connection: PgConnection) -> Result<(), EmbeddedError> {
        let exists = connection
            .fetch_optional("SELECT 1 FROM pg_database WHERE datname = 'ledgerline'")
            .await?;
        if exists.is_none() {
            connection.execute("CREATE DATABASE ledgerline").await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// The process that serves this cluster already, when it knows our password and says that it serves this cluster.
    async fn adopt(&self, cancel: &CancellationToken) -> Result<Option<Pid>, EmbeddedError> {
        let pid_file = self.cluster.join("postmaster.pid");
        let Some(pid) = read_pid(&pid_file) else { return Ok(None) };
        // The number may belong to a stranger by now. Then Postgres itself judges its pid file; we never delete it.
        let ours = command_line(pid)
            .await
            .is_some_and(|line| line.contains(&*self.cluster.to_string_lossy()));
        if !ours {
            return Ok(None);
        }
        let refuse = |reason: String| EmbeddedError::LeftOver {
            pid: pid.as_raw(),
            path: self.cluster.clone(),
            reason,
        };
        let started = Instant::now();
        loop {
            match self.serves_our_cluster().await {
                Ok(true) => return Ok(Some(pid)),
                Ok(false) => {
                    return Err(refuse("another cluster answers at our address".to_owned()));
                }
                // It was on its way out; what it leaves is an ordinary start.
                Err(_) if !alive(pid) => return Ok(None),
                Err(error) => {
                    let starting = code(&error).as_deref() == Some(CANNOT_CONNECT_NOW);
                    let patience = if starting { RECOVERY_TIMEOUT } else { STOP_STEPS[0].1 };
                    if (code(&error).is_some() && !starting) || started.elapsed() > patience {
                        return Err(refuse(format!("it does not let us in ({error})")));
                    }
                }
            }
            tokio::select! {
                () = sleep(CONNECT_PAUSE) => {}
                () = cancel.cancelled() => return Err(EmbeddedError::Cancelled),
            }
        }
    }

    async fn serves_our_cluster(&self) -> Result<bool, sqlx::Error> {
        let mut connection = self.connect().await?;
        let row = connection.fetch_one("SHOW data_directory").await?;
        let directory: String = row.try_get(0)?;
        let same = fs::canonicalize(directory).is_ok_and(|directory| directory == self.cluster);
        self.ensure_database(connection).await.map_err(|error| match error {
            EmbeddedError::Database(error) => error,
            other => sqlx::Error::Protocol(other.to_string()),
        })?;
        Ok(same)
    }
}

/// Makes a new cluster beside its place and moves it there when it is complete, so that an interrupted start leaves none.
async fn initdb(
    data: &DataDir,
    program: &Located,
    password: &SecretString,
    cancel: &CancellationToken,
) -> Result<(), EmbeddedError> {
    let failed = |source| EmbeddedError::DataDir { path: data.postgres.clone(), source };
    let unfinished = data.postgres.join("cluster.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(failed)?;
    }
    let password_file = data.postgres.join("initdb-password");
    write_private(&password_file, password.expose_secret()).map_err(failed)?;
    data.give_to_postgres(&password_file).map_err(failed)?;

    let mut command = command_as(&program.beside("initdb"), data.postgres_user);
    command
        .arg("-D")
        .arg(&unfinished)
        .args([
            "-U",
            OWNER,
            "--auth=scram-sha-256",
            "--no-locale",
            "--encoding=UTF8",
            "--data-checksums",
        ])
        .arg("--pwfile")
        .arg(&password_file);
    if cfg!(target_os = "linux") && program.major() >= 17 {
        // One flush of the file system instead of one for each of a thousand files: half a second instead of four.
        command.arg("--sync-method=syncfs");
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::select! {
        output = output => output,
        () = cancel.cancelled() => Err(io::ErrorKind::Interrupted.into()),
    };
    fs::remove_file(&password_file).map_err(failed)?;
    let output = match output {
        Ok(output) => output,
        Err(_) if cancel.is_cancelled() => return Err(EmbeddedError::Cancelled),
        Err(error) => return Err(EmbeddedError::Initdb { output: error.to_string() }),
    };
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(EmbeddedError::Initdb {
            output: String::from_utf8_lossy(&said).trim().to_owned(),
        });
    }
    fs::rename(&unfinished, data.cluster()).map_err(failed)
}

/// A command that runs as the given user, in a process group of its own (a Ctrl-C in the terminal is for us: we stop the
/// servers in order), in a folder that exists for everybody.
fn command_as(program: &std::path::Path, user: Option<ServerUser>) -> Command {
    let mut command = Command::new(program);
    command
        .process_group(0)
        .current_dir("/")
        .env("LC_ALL", "C")
        .env_remove("PGDATA")
        .env_remove("PGPORT");
    if let Some(user) = user {
        // Setting the user also drops our supplementary groups.
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// The socket in the data directory, or a port where its path would be too long: the one a left-over server listens on.
fn choose_address(data: &DataDir, run: PathBuf) -> io::Result<Address> {
    let socket = run.join(format!(".s.PGSQL.{SOCKET_PORT}"));
    if socket.as_os_str().len() <= SOCKET_PATH_LIMIT {
        private_folder(&run)?;
        data.give_to_postgres(&run)?;
        return Ok(Address::Socket(run));
    }
    let left_over =
        read_pid(&data.cluster().join("postmaster.pid")).filter(|pid| alive(*pid)).and_then(|_| {
            let text = fs::read_to_string(data.cluster().join("postmaster.pid")).ok()?;
            text.lines().nth(3)?.trim().parse().ok()
        });
    match left_over {
        Some(port) => Ok(Address::Port(port)),
        None => Ok(Address::Port(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())),
    }
}

/// A folder as an element of a list-valued setting, in which a comma or blank would end it.
fn quoted(folder: &std::path::Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from("\"");
    text.push(folder);
    text.push("\"");
    text
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}
