//! The numbered migrations of all crates, embedded in the binary.

use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};

/// Every file of `migrations/`, in order. Other crates keep theirs in the same folder under other numbers.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Applies what is missing, under a lock of the database, so that several processes may start at once.
///
/// # Errors
/// When Postgres is away, or when a migration that was applied is not the one in this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    MIGRATIONS.run(pool).await
}
