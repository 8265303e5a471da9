//! The numbered migrations of all crates, embedded in the binary, and what a role that only serves may do with their tables.

use std::collections::HashMap;

use sqlx::{
    AssertSqlSafe, PgPool,
    migrate::{Migrate as _, MigrateError, Migrator},
};

/// Every file of `migrations/`, in order. Other crates keep theirs in the same folder under other numbers.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// What a role that serves may do with every table but those below.
const OPERATIONAL: &str = "SELECT, INSERT, UPDATE, DELETE";

/// The tables with which it may do less. The log only grows; which migrations were applied, and which epochs the log had, it reads.
const RESTRICTED: [(&str, &str); 3] =
    [("events", "SELECT, INSERT"), ("log_epochs", "SELECT"), ("_sqlx_migrations", "SELECT")];

/// Applies what is missing, under a lock of the database, so that several processes may start at once.
///
/// # Errors
/// When Postgres is away, or when a migration that was applied is not the one in this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    MIGRATIONS.run(pool).await
}

/// How many migrations of this binary the database is still to see. Changes nothing and needs no more than reading.
///
/// # Errors
/// When Postgres is away; when the database saw a migration that this binary does not know or knows otherwise, or one that broke off.
pub async fn missing_migrations(pool: &PgPool) -> Result<usize, MigrateError> {
    let there = sqlx::query_scalar!(
        r#"SELECT to_regclass('public._sqlx_migrations') IS NOT NULL AS "there!""#
    )
    .fetch_one(pool)
    .await?;
    if !there {
        return Ok(MIGRATIONS.iter().count());
    }
    let mut connection = pool.acquire().await?;
    let table = &MIGRATIONS.table_name;
    if let Some(version) = connection.dirty_version(table).await? {
        return Err(MigrateError::Dirty(version));
    }
    let applied = connection.list_applied_migrations(table).await?;
    let mut applied: HashMap<i64, _> = applied.into_iter().map(|it| (it.version, it)).collect();
    let mut missing = 0;
    for migration in MIGRATIONS.iter() {
        match applied.remove(&migration.version) {
            None => missing += 1,
            Some(applied) if applied.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
        }
    }
    match applied.into_keys().min() {
        Some(unknown) => Err(MigrateError::VersionMissing(unknown)),
        None => Ok(missing),
    }
}

/// Gives a role what serving needs of the tables in `public`, and takes from it what it must not do with the log.
///
/// # Errors
/// When the role is not there, or the one that asks does not own the tables.
pub async fn grant_serving(pool: &PgPool, role: &str) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let found = sqlx::query!(
        r#"SELECT quote_ident(rolname) AS "quoted!", rolsuper OR rolname = current_user AS "mighty!"
           FROM pg_roles WHERE rolname = $1"#,
        role
    )
    .fetch_one(&mut *transaction)
    .await?;
    if found.mighty {
        let reason = "it is a superuser, or the very role that migrates: there would be no wall";
        return Err(sqlx::Error::Configuration(reason.into()));
    }
    let quoted = found.quoted;
    let mut statements = format!(
        "GRANT USAGE ON SCHEMA public TO {quoted}; \
         GRANT {OPERATIONAL} ON ALL TABLES IN SCHEMA public TO {quoted}; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {quoted}; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {quoted};"
    );
    for (table, rights) in RESTRICTED {
        statements.push_str(&format!(
            "REVOKE ALL ON public.{table} FROM {quoted}; GRANT {rights} ON public.{table} TO {quoted};"
        ));
    }
    // The name of the role is quoted by Postgres itself, the rest is made of constants.
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await?;
    transaction.commit().await
}
