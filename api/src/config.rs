//! The configuration of a process: parsed once, checked as a whole before a port opens, then handed down by section.
//!
//! Three sources, the later ones win: built-in defaults, a TOML file (`--config`), flags and environment variables. The file
//! holds every setting; flags and variables exist for those that differ from deployment to deployment. Secrets never print.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use ledgerline_commands::WorkspaceLimits;
use ledgerline_domain::limits::MAX_CONCURRENCY;
use ledgerline_store::seal::MasterKey;
use ledgerline_worker::allowed::AllowList;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

pub use self::oidc::OidcConfig;
use crate::{
    listen::tls::TlsFiles,
    rate_limit::quota::{Limit, RateLimitsConfig},
};

mod oidc;

/// The most sessions that one person may have, whatever is configured: more are not devices.
pub const MAX_SESSIONS: u32 = 100;

/// The exit code of a process whose configuration is not valid (`EX_USAGE`).
pub const EXIT_CONFIG: i32 = 64;

/// The name of the variable that holds the master key, for messages.
pub const MASTER_KEY_VARIABLE: &str = "LEDGERLINE_MASTER_KEY";

/// Everything that can be set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which parts of the product this process runs. Default: all.
    pub roles: Vec<Role>,
    /// Where and how HTTP is served.
    pub http: HttpConfig,
    /// The database that holds the log, the read rows and the accounts.
    pub database: DatabaseConfig,
    /// The messaging server through which others hear.
    pub nats: NatsConfig,
    /// Accounts, tokens and keys.
    pub auth: AuthConfig,
    /// How much each workspace may do at once.
    pub limits: LimitsConfig,
    /// How often each user may ask.
    pub rate_limits: RateLimitsConfig,
    /// Mails to people.
    pub mail: MailConfig,
    /// The part that runs executions.
    pub worker: WorkerConfig,
    /// Logs and metrics.
    pub telemetry: TelemetryConfig,
    /// A private Postgres and nats-server as child processes.
    pub embedded: EmbeddedConfig,
}

/// A part of the product. A process runs one or more; each may run in any number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Role {
    /// HTTP, WebSocket and SSE.
    Api,
    /// Keeps the read tables.
    Projector,
    /// Publishes the log to NATS.
    Relay,
    /// Reacts to events: triggers, timers, dispatch.
    Policies,
    /// Runs executions.
    Worker,
}

impl Role {
    /// All parts, as one process runs them by default.
    pub const ALL: [Self; 5] =
        [Self::Api, Self::Projector, Self::Relay, Self::Policies, Self::Worker];
}

/// Where and how HTTP is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How users reach this deployment. It is the issuer of access tokens and decides whether cookies demand HTTPS.
    pub public_url: Url,
    /// Origins beside our own whose pages may call the API (CORS), e.g. `https://app.example.com`.
    pub allowed_origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed. Empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// The certificate to serve TLS 1.3 with and those that vouch for it, in PEM. None: plain HTTP, for a proxy in front. Read again
    /// once a minute and at SIGHUP.
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    pub tls_key: Option<PathBuf>,
    /// Whom to tell of a security problem of this deployment, as `mailto:`, `https:` or `tel:` addresses, the best one first: what
    /// `/.well-known/security.txt` says. Empty: there is none.
    pub security_contacts: Vec<Url>,
    /// How many connections are open at once; more wait in the system's queue.
    pub max_connections: usize,
    /// How long a handshake or the head of a request may take, and how long a connection may be idle.
    pub head_timeout_ms: u64,
    /// How long a client may take nothing of an answer that is ready for it.
    pub stall_timeout_ms: u64,
    /// How long a request may take until its answer begins. Streams may go on after that.
    pub request_timeout_ms: u64,
    /// The largest body.
    pub body_limit_bytes: usize,
    /// How many requests are worked on at once; more are answered 503.
    pub max_in_flight: usize,
    /// How long a stop waits for open requests.
    pub drain_timeout_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: Url::parse("http://localhost:8080").expect("the literal is a URL"),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tls_cert: None,
            tls_key: None,
            security_contacts: Vec::new(),
            max_connections: 20_000,
            head_timeout_ms: 60_000,
            stall_timeout_ms: 60_000,
            request_timeout_ms: 30_000,
            body_limit_bytes: 10 * 1024 * 1024,
            max_in_flight: 2_048,
            drain_timeout_ms: 20_000,
        }
    }
}

impl HttpConfig {
    /// How long a request may take until its answer begins.
    #[must_use]
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// Where the certificate and its key are, where TLS is served.
    #[must_use]
    pub fn tls_files(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { certificate, key })
    }

    /// The scheme that is spoken on the port.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }

    /// Whether users come over HTTPS, so that cookies may demand it.
    #[must_use]
    pub fn secure(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// The origin of our own pages, as a browser writes it.
    #[must_use]
    pub fn own_origin(&self) -> String {
        self.public_url.origin().ascii_serialization()
    }
}

/// The database.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Connection string, `postgres://user:password@host/database`. None: the embedded one.
    pub url: Option<SecretString>,
    /// How many connections this process opens at most.
    pub max_connections: u32,
    /// How long a statement waits for a free connection.
    pub acquire_timeout_ms: u64,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, max_connections: 32, acquire_timeout_ms: 5_000 }
    }
}

/// The messaging server.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// Server, `nats://host:4222`, with credentials in it where needed. None: the embedded one, or none at all.
    pub url: Option<SecretString>,
    /// The first part of every subject and stream name, so that deployments can share a server.
    pub prefix: String,
    /// On how many servers a stream is kept.
    pub replicas: usize,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self { url: None, prefix: "ledgerline".to_owned(), replicas: 1 }
    }
}

/// Accounts, tokens and keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// 32 bytes in base64, under which signing keys and secrets are sealed. All processes of a deployment share it; losing it
    /// ends all sessions and makes stored secrets unreadable. `openssl rand -base64 32` makes one.
    pub master_key: Option<SecretString>,
    /// Master keys that this one replaces, in base64: they still open what was sealed under them, until `ledgerline keys rewrap` has
    /// sealed everything under the present one.
    pub previous_master_keys: Vec<SecretString>,
    /// How long an access token is good.
    pub access_token_ttl_s: u32,
    /// How long a session lives after its last refresh.
    pub refresh_token_ttl_s: u32,
    /// How many sessions one person has at once; signing in once more ends the oldest. None: as many as a hundred, so that they have an end.
    pub max_sessions: Option<u32>,
    /// How many passwords are hashed at once; each takes 64 MiB.
    pub password_hash_concurrency: usize,
    /// After how many days a new signing key is made.
    pub signing_key_days: u32,
    /// Whether anybody may register. The first user always may.
    pub open_registration: bool,
    /// The providers that people may sign in with (OpenID Connect).
    pub oidc: Vec<OidcConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            master_key: None,
            previous_master_keys: Vec::new(),
            access_token_ttl_s: 15 * 60,
            refresh_token_ttl_s: 7 * 24 * 60 * 60,
            max_sessions: None,
            password_hash_concurrency: 2,
            signing_key_days: 30,
            open_registration: true,
            oidc: Vec::new(),
        }
    }
}

/// Mails to people: codes, links, invitations.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// The mail server, `smtp://user:password@host:587?tls=required` or `smtps://…`. None: mails stay in the outbox, which
    /// `ledgerline outbox` shows.
    pub smtp_url: Option<SecretString>,
    /// Whom mails come from, `Name <address>`.
    pub from: String,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self { smtp_url: None, from: "Ledgerline <ledgerline@localhost>".to_owned() }
    }
}

/// The part that runs executions.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// How many executions this process runs at once.
    pub slots: u32,
    /// Inside networks (private, loopback, …) that `action.http` and connections may reach. Empty: only what is public.
    pub allowed_networks: Vec<IpNet>,
    /// Whether `action.http` may reach the address that this process listens on, on its own machine.
    pub reach_own_address: bool,
    /// What `action.command` may run. Without it: a harmless few programs where Postgres is embedded, else nothing.
    pub allowed_commands: Option<AllowList>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            slots: 64,
            allowed_networks: Vec::new(),
            reach_own_address: false,
            allowed_commands: None,
        }
    }
}

/// How much each workspace may do at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// How many executions of a workspace run at once where its own setting does not say. Default: no limit but those of its workflows.
    /// With one, every execution waits for its turn in line, so that a flood of one workspace never holds up another.
    pub workspace_concurrency: Option<u32>,
    /// How many executions of any workspace run at once at most, whatever its own setting says. Default: no maximum.
    pub max_workspace_concurrency: Option<u32>,
}

impl LimitsConfig {
    /// The same for commands.
    #[must_use]
    pub fn workspaces(self) -> WorkspaceLimits {
        WorkspaceLimits { default: self.workspace_concurrency, max: self.max_workspace_concurrency }
    }
}

/// Logs and metrics.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are written, in the syntax of `tracing` (`info,ledgerline_api=debug`).
    pub log_filter: String,
    /// Whether `/metrics` is served to anybody who reaches the port.
    pub public_metrics: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Pretty,
            log_filter: "info,sqlx::postgres::notice=warn".to_owned(),
            public_metrics: true,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line, for machines.
    Json,
}

/// A private Postgres and nats-server as child processes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Whether to start them. Then no other database or NATS server is used, even where one is named.
    pub enabled: bool,
    /// Where their data and the generated master key are kept.
    pub data_dir: PathBuf,
    /// The folder with `postgres` and `initdb`. None: looked for.
    pub postgres_bin: Option<PathBuf>,
    /// The `nats-server` program, or the folder that holds it. None: looked for.
    pub nats_bin: Option<PathBuf>,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { enabled: false, data_dir: PathBuf::from("data"), postgres_bin: None, nats_bin: None }
    }
}

/// The flags and variables that override the file.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// A TOML file with any of the settings.
    #[arg(long, env = "LEDGERLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which parts this process runs (default: all).
    #[arg(long, env = "LEDGERLINE_ROLES", value_delimiter = ',', value_enum)]
    pub roles: Option<Vec<Role>>,
    /// Address and port to listen on.
    #[arg(long, env = "LEDGERLINE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// How users reach this deployment.
    #[arg(long, env = "LEDGERLINE_PUBLIC_URL")]
    pub public_url: Option<Url>,
    /// Origins beside our own whose pages may call the API.
    #[arg(long, env = "LEDGERLINE_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Option<Vec<String>>,
    /// Networks whose X-Forwarded-For is believed.
    #[arg(long, env = "LEDGERLINE_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// The certificate to serve TLS with, in PEM.
    #[arg(long, env = "LEDGERLINE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, env = "LEDGERLINE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Whom to tell of a security problem: mailto:security@example.com.
    #[arg(long, env = "LEDGERLINE_SECURITY_CONTACT", value_delimiter = ',', value_name = "URI")]
    pub security_contact: Option<Vec<Url>>,
    /// Connection string of Postgres.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// The NATS server.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<SecretString>,
    /// The first part of every subject.
    #[arg(long, env = "LEDGERLINE_NATS_PREFIX")]
    pub nats_prefix: Option<String>,
    /// 32 bytes in base64, under which keys and secrets are sealed. Set the variable or a file: a flag shows in the process list.
    #[arg(long, env = "LEDGERLINE_MASTER_KEY", hide = true, hide_env_values = true)]
    pub master_key: Option<SecretString>,
    /// A file that holds the master key.
    #[arg(long, env = "LEDGERLINE_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// A file that holds the master key which the present one replaces, until `ledgerline keys rewrap` is done.
    #[arg(long, env = "LEDGERLINE_PREVIOUS_MASTER_KEY_FILE", value_name = "FILE")]
    pub previous_master_key_file: Option<PathBuf>,
    /// The mail server for codes, links and invitations: smtp://user:password@host:587?tls=required.
    #[arg(long, env = "LEDGERLINE_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Whom mails come from: Name <address>.
    #[arg(long, env = "LEDGERLINE_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// How many executions this process runs at once.
    #[arg(long, env = "LEDGERLINE_WORKER_SLOTS")]
    pub worker_slots: Option<u32>,
    /// How often a user may read: 500/10s, or off.
    #[arg(long, env = "LEDGERLINE_LIMIT_READS", value_name = "LIMIT")]
    pub limit_reads: Option<Limit>,
    /// How often a user may write: 600/1m, or off.
    #[arg(long, env = "LEDGERLINE_LIMIT_WRITES", value_name = "LIMIT")]
    pub limit_writes: Option<Limit>,
    /// How often a user may ask at all: 1000/1h, or off.
    #[arg(long, env = "LEDGERLINE_LIMIT_REQUESTS", value_name = "LIMIT")]
    pub limit_requests: Option<Limit>,
    /// How log lines look.
    #[arg(long, env = "LEDGERLINE_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written.
    #[arg(long, env = "LEDGERLINE_LOG")]
    pub log_filter: Option<String>,
    /// Start a private Postgres and nats-server.
    #[arg(long, env = "LEDGERLINE_EMBEDDED")]
    pub embedded: bool,
    /// Where the embedded services keep their data.
    #[arg(long, env = "LEDGERLINE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// The folder of the embedded Postgres's programs; no other place is looked at then.
    #[arg(long, env = "LEDGERLINE_PG_BIN", value_name = "FOLDER")]
    pub postgres_bin: Option<PathBuf>,
    /// The embedded nats-server, or its folder; no other place is looked at then.
    #[arg(long, env = "LEDGERLINE_NATS_BIN", value_name = "PATH")]
    pub nats_bin: Option<PathBuf>,
}

/// Why a configuration is not valid. Exit with [`EXIT_CONFIG`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that is named cannot be read.
    #[error("failed to read {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a setting that does not exist or has another type.
    #[error("failed to understand {path}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Settings that cannot stand. All of them, so that one start shows all.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

impl Config {
    /// Puts the three sources together and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(args: ConfigArgs) -> Result<Self, ConfigError> {
        let mut config = match &args.config {
            None => Self::default(),
            Some(path) => toml::from_str(&read(path)?).map_err(|source| {
                ConfigError::Malformed { path: path.clone(), source: Box::new(source) }
            })?,
        };
        config.override_with(args)?;
        if config.roles.is_empty() {
            config.roles = Role::ALL.to_vec();
        }
        config.check()?;
        Ok(config)
    }

    fn override_with(&mut self, args: ConfigArgs) -> Result<(), ConfigError> {
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        fn set_secret(target: &mut Option<SecretString>, value: Option<SecretString>) {
            if value.is_some() {
                *target = value;
            }
        }
        set(&mut self.roles, args.roles);
        set(&mut self.http.listen, args.listen);
        set(&mut self.http.public_url, args.public_url);
        set(&mut self.http.allowed_origins, args.allowed_origins);
        set(&mut self.http.trusted_proxies, args.trusted_proxies);
        set(&mut self.http.security_contacts, args.security_contact);
        self.http.tls_cert = args.tls_cert.or_else(|| self.http.tls_cert.take());
        self.http.tls_key = args.tls_key.or_else(|| self.http.tls_key.take());
        set(&mut self.nats.prefix, args.nats_prefix);
        set(&mut self.mail.from, args.mail_from);
        set_secret(&mut self.mail.smtp_url, args.smtp_url);
        set(&mut self.worker.slots, args.worker_slots);
        set(&mut self.rate_limits.reads, args.limit_reads);
        set(&mut self.rate_limits.writes, args.limit_writes);
        set(&mut self.rate_limits.requests, args.limit_requests);
        set(&mut self.telemetry.log_format, args.log_format);
        set(&mut self.telemetry.log_filter, args.log_filter);
        set(&mut self.embedded.data_dir, args.data_dir);
        self.embedded.postgres_bin =
            args.postgres_bin.or_else(|| self.embedded.postgres_bin.take());
        self.embedded.nats_bin = args.nats_bin.or_else(|| self.embedded.nats_bin.take());
        self.embedded.enabled |= args.embedded;
        set_secret(&mut self.database.url, args.database_url);
        set_secret(&mut self.nats.url, args.nats_url);
        if let Some(path) = &args.master_key_file {
            self.auth.master_key = Some(read(path)?.trim().to_owned().into());
        }
        set_secret(&mut self.auth.master_key, args.master_key);
        if let Some(path) = &args.previous_master_key_file {
            self.auth.previous_master_keys.push(read(path)?.trim().to_owned().into());
        }
        for provider in &mut self.auth.oidc {
            if let Some(path) = &provider.client_secret_file {
                provider.client_secret = Some(read(path)?.trim().to_owned().into());
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one demand a setting: the list is the length")]
    fn check(&self) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        let mut demand = |holds: bool, otherwise: &str| {
            if !holds {
                wrong.push(otherwise.to_owned());
            }
        };
        let scheme = self.http.public_url.scheme();
        demand(scheme == "http" || scheme == "https", "http.public_url must be http or https");
        for origin in &self.http.allowed_origins {
            let same =
                Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            demand(same, "http.allowed_origins must hold origins like https://app.example.com");
        }
        demand(
            self.http.tls_cert.is_some() == self.http.tls_key.is_some(),
            "http.tls_cert and http.tls_key go together: set both or none",
        );
        let contacts = &self.http.security_contacts;
        demand(
            contacts.iter().all(|uri| ["mailto", "https", "tel"].contains(&uri.scheme())),
            "http.security_contacts must be mailto:, https: or tel: addresses",
        );
        demand(self.http.max_connections >= 16, "http.max_connections must be at least 16");
        demand(
            self.http.head_timeout_ms >= 100 && self.http.stall_timeout_ms >= 100,
            "http.head_timeout_ms and http.stall_timeout_ms must be at least 100",
        );
        demand(
            self.http.request_timeout_ms >= 1_000,
            "http.request_timeout_ms must be at least 1000",
        );
        demand(self.http.body_limit_bytes >= 1_024, "http.body_limit_bytes must be at least 1024");
        demand(self.http.max_in_flight >= 1, "http.max_in_flight must be at least 1");
        let LimitsConfig { workspace_concurrency, max_workspace_concurrency } = self.limits;
        for limit in [workspace_concurrency, max_workspace_concurrency].into_iter().flatten() {
            demand(
                (1..=MAX_CONCURRENCY).contains(&limit),
                "limits.workspace_concurrency and limits.max_workspace_concurrency must be 1 to 10000",
            );
        }
        demand(
            self.database.url.is_some() || self.embedded.enabled,
            "a database is needed: set DATABASE_URL, or start with --embedded and its --data-dir",
        );
        demand(
            self.database.url.as_ref().is_none_or(|url| {
                let url = url.expose_secret();
                url.starts_with("postgres://") || url.starts_with("postgresql://")
            }),
            "database.url must begin with postgres://",
        );
        demand(self.database.max_connections >= 4, "database.max_connections must be at least 4");
        demand(
            !self.nats.prefix.is_empty()
                && self
                    .nats
                    .prefix
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
            "nats.prefix must be letters, digits, - and _",
        );
        demand((1..=5).contains(&self.nats.replicas), "nats.replicas must be between 1 and 5");
        demand(
            self.auth.master_key.is_some() || self.embedded.enabled,
            "a master key is needed: set LEDGERLINE_MASTER_KEY (openssl rand -base64 32 makes one)",
        );
        demand(
            self.auth.master_key.as_ref().is_none_or(is_key),
            "auth.master_key must be 32 bytes in base64",
        );
        demand(
            self.auth.previous_master_keys.iter().all(is_key),
            "auth.previous_master_keys must each be 32 bytes in base64",
        );
        demand(
            self.auth.previous_master_keys.is_empty() || self.auth.master_key.is_some(),
            "auth.previous_master_keys are replaced by auth.master_key, so it must be set",
        );
        demand(
            (60..=3_600).contains(&self.auth.access_token_ttl_s),
            "auth.access_token_ttl_s must be between 60 and 3600",
        );
        demand(
            self.auth.refresh_token_ttl_s > self.auth.access_token_ttl_s,
            "auth.refresh_token_ttl_s must be longer than an access token's",
        );
        demand(
            (1..=64).contains(&self.auth.password_hash_concurrency),
            "auth.password_hash_concurrency must be between 1 and 64",
        );
        demand(
            self.auth.max_sessions.is_none_or(|most| (1..=MAX_SESSIONS).contains(&most)),
            "auth.max_sessions must be between 1 and 100",
        );
        demand(self.auth.signing_key_days >= 1, "auth.signing_key_days must be at least 1");
        for problem in self.auth.oidc.iter().filter_map(OidcConfig::problem) {
            demand(false, problem);
        }
        let ids: HashSet<&str> = self.auth.oidc.iter().map(|it| it.id.as_str()).collect();
        demand(ids.len() == self.auth.oidc.len(), "auth.oidc: each id must be another one");
        demand((1..=4_096).contains(&self.worker.slots), "worker.slots must be between 1 and 4096");
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(wrong)) }
    }
}

/// Whether a text can be a master key.
fn is_key(key: &SecretString) -> bool {
    MasterKey::from_config(key).is_some()
}

fn read(path: &PathBuf) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })
}

#[cfg(test)]
mod tests;
