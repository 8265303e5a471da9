//! The shape of the database: what this build needs of tables, and who makes them.
//!
//! `migrate` makes what is missing. `serve` does so too, and touches nothing where nothing is missing, so that it can run as a role
//! that may not change the tables. Every other command only looks.

use ledgerline_projections::Model;
use sqlx::PgPool;

use super::StartError;

/// What of the shape of this build the database has not.
struct Missing {
    migrations: usize,
    models: Vec<Model>,
}

impl Missing {
    async fn of(pool: &PgPool) -> Result<Self, StartError> {
        let migrations = ledgerline_store::missing_migrations(pool).await;
        let models = ledgerline_projections::missing(pool).await;
        Ok(Self {
            migrations: migrations.map_err(StartError::Migrate)?,
            models: models.map_err(StartError::Prepare)?,
        })
    }

    fn told(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.migrations > 0 {
            parts.push(format!("{} migrations are missing", self.migrations));
        }
        if !self.models.is_empty() {
            let names: Vec<&str> = self.models.iter().map(|model| model.as_str()).collect();
            parts.push(format!("no tables for {}", names.join(", ")));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Brings the database into the shape of this build.
pub(crate) async fn bring(pool: &PgPool) -> Result<(), StartError> {
    ledgerline_store::migrate(pool).await.map_err(StartError::Migrate)?;
    ledgerline_projections::prepare(pool).await.map_err(StartError::Prepare)
}

/// Brings the database into the shape of this build where it is not in it yet.
pub(crate) async fn bring_missing(pool: &PgPool) -> Result<(), StartError> {
    let missing = Missing::of(pool).await?;
    if missing.migrations > 0 {
        ledgerline_store::migrate(pool).await.map_err(StartError::Migrate)?;
    }
    if !missing.models.is_empty() {
        ledgerline_projections::prepare(pool).await.map_err(StartError::Prepare)?;
    }
    Ok(())
}

/// Demands the shape of this build, and changes nothing.
pub(crate) async fn demand(pool: &PgPool) -> Result<(), StartError> {
    match Missing::of(pool).await?.told() {
        None => Ok(()),
        Some(missing) => Err(StartError::NeedsMigrate(missing)),
    }
}

/// Gives a role all that serving needs, and no more of the log than to read it and to append.
pub(crate) async fn give_to(pool: &PgPool, role: &str) -> Result<(), StartError> {
    ledgerline_store::grant_serving(pool, role).await.map_err(StartError::ServingRole)?;
    ledgerline_projections::give_to(pool, role).await.map_err(StartError::ServingRole)
}
