//! The real Postgres and nats-server that the integration tests run on: one of each for a whole test run, one database
//! and one subject prefix for each test.
//!
//! `make test` starts the two beforehand (`scripts/test-services run`) and names them in the environment. A plain
//! `cargo nextest run` has nobody to do so, and nextest gives every test a process of its own: there the first test that
//! asks starts `scripts/test-services keep`, the others find it, and it stops itself when the run's process is gone.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

/// How long the two servers may take to be ready; the first time on a machine they are also installed.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Connections of one test's pool: enough for concurrent appends, few enough that many tests fit on one server.
const POOL_SIZE: u32 = 8;

/// The name of the advisory lock under which the template is made, so that one process migrates and the others wait.
const TEMPLATE_LOCK: i64 = 0x6c65_6467_6572;

/// A database of one test: migrated, empty, and dropped with this value.
pub(crate) struct TestDatabase {
    name: String,
    options: PgConnectOptions,
}

/// Makes a database for the calling test, as a copy of a template that holds every migration (about 30 ms).
pub(crate) async fn database() -> TestDatabase {
    let server = postgres();
    let mut connection = PgConnection::connect_with(server).await.expect("test postgres answers");
    let template = migrated_template(&mut connection).await;
    let name = format!("test_{}", Uuid::now_v7().simple());
    run(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
        .await;
    connection.close().await.expect("a healthy connection closes");
    TestDatabase { options: server.clone().database(&name), name }
}

/// The URL of the run's nats-server. It is shared: build every stream and subject from [`subject_prefix`].
pub(crate) fn nats_url() -> &'static str {
    &services().nats
}

/// A subject and stream name prefix that no other test has: one token, letters and digits only.
pub(crate) fn subject_prefix() -> String {
    format!("t{}", Uuid::now_v7().simple())
}

impl TestDatabase {
    /// How to connect to this database, for what makes its own pools.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// The same as a URL, for what is configured by text.
    pub(crate) fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }

    /// A pool of a few connections on this database.
    pub(crate) async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(POOL_SIZE)
            .connect_with(self.options())
            .await
            .expect("the test's own database answers")
    }
}

impl Drop for TestDatabase {
    /// Drops the database whoever is still connected. In a thread of its own, because a test's runtime is busy or ending
    /// here; a failure is left to the end of the run, when the whole server goes.
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let dropped = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build()
            else {
                return;
            };
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect_with(postgres()).await {
                    let _ = connection.execute(AssertSqlSafe(statement)).await;
                    let _ = connection.close().await;
                }
            });
        });
        let _ = dropped.join();
    }
}

/// The name of the template database for the migrations as they are now, made if this is the first test to need it.
async fn migrated_template(connection: &mut PgConnection) -> String {
    let migrator = Migrator::new(root().join("migrations")).await.expect("migrations are readable");
    let mut hasher = DefaultHasher::new();
    for migration in migrator.iter() {
        migration.checksum.hash(&mut hasher);
    }
    let name = format!("template_{:016x}", hasher.finish());

    run(connection, format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
    let ready = format!("SELECT 1 FROM pg_database WHERE datname = '{name}' AND datistemplate");
    let ready =
        connection.fetch_optional(AssertSqlSafe(ready)).await.expect("the catalogue is readable");
    if ready.is_none() {
        // One that exists without being a template is what a killed test left half made.
        run(connection, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        run(connection, format!("CREATE DATABASE {name}")).await;
        let mut template = PgConnection::connect_with(&postgres().clone().database(&name))
            .await
            .expect("the new template database answers");
        migrator.run(&mut template).await.expect("every migration applies to an empty database");
        template.close().await.expect("a healthy connection closes");
        run(connection, format!("ALTER DATABASE {name} WITH IS_TEMPLATE true")).await;
    }
    run(connection, format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    name
}

/// Runs one statement made of names from this file alone.
async fn run(connection: &mut PgConnection, statement: String) {
    if let Err(error) = connection.execute(AssertSqlSafe(statement.clone())).await {
        panic!("{statement}: {error}");
    }
}

/// The two servers of this run.
struct Services {
    postgres: PgConnectOptions,
    nats: String,
}

fn postgres() -> &'static PgConnectOptions {
    &services().postgres
}

fn services() -> &'static Services {
    static SERVICES: OnceLock<Services> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let (postgres, nats) = named_by_environment().unwrap_or_else(started_for_this_run);
        let postgres: PgConnectOptions =
            postgres.parse().expect("the test Postgres has a valid URL");
        Services { postgres: postgres.disable_statement_logging(), nats }
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test run is configured by its environment, there is no configuration file"
)]
fn named_by_environment() -> Option<(String, String)> {
    Some((std::env::var("LEDGERLINE_TEST_PG").ok()?, std::env::var("LEDGERLINE_TEST_NATS").ok()?))
}

/// Finds the servers that another test of the same run has started, or starts them.
#[expect(clippy::zombie_processes, reason = "the keeper outlives this test for the others")]
fn started_for_this_run() -> (String, String) {
    // The parent of a test process is the runner: the one process that lives exactly as long as the run.
    let runner = parent_id();
    let folder = root().join(format!(".services/test/keep-{runner}"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(scratch.join("test-services.lock")).expect("target/tmp is writable");
    lock.lock().expect("a file lock can be waited for");

    if let Some(ready) = running(&folder) {
        return ready;
    }
    let log = scratch.join("test-services.log");
    let mut keeper = start_keeper(&folder, runner, &log);
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(ready) = running(&folder) {
            return ready;
        }
        let ended = keeper.try_wait().expect("a child can be asked for its status");
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "the test servers did not start: {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The addresses in `folder/ready`, when the keeper that wrote them is alive. Also tells it that it is still needed.
fn running(folder: &Path) -> Option<(String, String)> {
    let keeper: i32 = fs::read_to_string(folder.join("keeper.pid")).ok()?.trim().parse().ok()?;
    kill(Pid::from_raw(keeper), None).ok()?;
    let ready = fs::read_to_string(folder.join("ready")).ok()?;
    fs::write(folder.join("used"), []).ok()?;
    let (postgres, nats) = ready.trim_end().split_once('\n')?;
    Some((postgres.to_owned(), nats.to_owned()))
}

/// Starts the script that owns the servers. It outlives this test, so it holds none of its pipes and is in a process
/// group of its own, where the runner's signals to this test do not reach it.
fn start_keeper(folder: &Path, runner: u32, log: &Path) -> Child {
    let log = File::create(log).expect("target/tmp is writable");
    Command::new(root().join("scripts/test-services"))
        .arg("keep")
        .arg(folder)
        .arg(runner.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be copied"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("scripts/test-services can be started")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}
