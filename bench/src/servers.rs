//! A private Postgres and nats-server with the durability of production: fsync on, `synchronous_commit` on.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use anyhow::Context as _;
use ledgerline_api::embedded::{Embedded, EmbeddedConfig, start};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio_util::sync::CancellationToken;

/// The servers of one run of the benchmarks.
pub(crate) struct Servers {
    pub embedded: Embedded,
    data_dir: PathBuf,
}

impl Servers {
    pub(crate) async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let _ = std::fs::remove_dir_all(data_dir);
        std::fs::create_dir_all(data_dir)?;
        let data_dir = data_dir.canonicalize()?;
        let config = EmbeddedConfig {
            data_dir: data_dir.clone(),
            postgres_bin: None,
            nats_server: None,
            search_path: std::env::var_os("PATH"),
        };
        let embedded = start(config, CancellationToken::new())
            .await
            .context("failed to start Postgres and nats-server")?;
        Ok(Self { embedded, data_dir })
    }

    /// A pool on a new database with every migration applied.
    pub(crate) async fn database(&self, name: &str) -> anyhow::Result<PgPool> {
        let pool = self.pool(name, "").await?;
        ledgerline_store::migrate(&pool).await?;
        Ok(pool)
    }

    /// A pool on a new, empty database.
    pub(crate) async fn pool(&self, name: &str, search_path: &str) -> anyhow::Result<PgPool> {
        let mut connection = self.embedded.postgres.connect().await?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS bench_{name} WITH (FORCE)")))
            .execute(&mut connection)
            .await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE bench_{name}")))
            .execute(&mut connection)
            .await?;
        let mut options = self.embedded.postgres.clone().database(&format!("bench_{name}"));
        if !search_path.is_empty() {
            options = options.options([("search_path", search_path)]);
        }
        Ok(PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await?)
    }

    /// How to reach one of the databases made here.
    pub(crate) fn options(&self, name: &str) -> anyhow::Result<PgConnectOptions> {
        Ok(PgConnectOptions::from_str(&self.embedded.database_url())?
            .database(&format!("bench_{name}")))
    }

    pub(crate) async fn stop(self) {
        self.embedded.stop().await;
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}
