//! The list of read models, and where each one's tables are.
//!
//! The tables of a model live in a schema of their own, `<name>_v<version>`; statements name tables alone and find them by the
//! search path. Another version is another schema with another checkpoint, so an old and a new process can serve side by side
//! during a rolling upgrade, and a rebuild can fill a fresh schema beside the one that is read.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgConnectOptions};

use crate::{
    activity::ActivityFeed, audit::Audit, execution_nodes::ExecutionNodes,
    execution_waits::ExecutionWaits, executions::Executions, members::Members,
    projection::Projection, triggers::Triggers, values::words, workflows::Workflows,
    workspaces::Workspaces,
};

/// The schema of what the projectors keep beside the models.
const OWN_SCHEMA: &str = "projections";

/// The advisory lock under which schemas are made, so that several processes may start at once.
const PREPARE_LOCK: i64 = 0x6c65_6467_7072_6a73;

/// Where the tables of a `schema.sql` end and the indexes begin that a rebuild makes once the rows are there.
const INDEXES: &str = "-- indexes\n";

/// Introduces the substring index of a `schema.sql`, made where the database has the extension for it.
const TRIGRAM: &str = "-- trigram: ";

words! {
    /// A read model.
    Model {
        /// [`crate::workflows`].
        Workflows = "workflows",
        /// [`crate::executions`].
        Executions = "executions",
        /// [`crate::execution_nodes`].
        ExecutionNodes = "execution_nodes",
        /// [`crate::execution_waits`].
        ExecutionWaits = "execution_waits",
        /// [`crate::workspaces`].
        Workspaces = "workspaces",
        /// [`crate::members`].
        Members = "members",
        /// [`crate::activity`].
        Activity = "activity",
        /// [`crate::triggers`].
        Triggers = "triggers",
        /// [`crate::audit`].
        Audit = "audit",
    }
}

/// Runs an expression with the projection type of a model.
macro_rules! with_projection {
    ($model:expr, $projection:ident => $body:expr) => {
        match $model {
            $crate::model::Model::Workflows => {
                type $projection = $crate::workflows::Workflows;
                $body
            }
            $crate::model::Model::Executions => {
                type $projection = $crate::executions::Executions;
                $body
            }
            $crate::model::Model::ExecutionNodes => {
                type $projection = $crate::execution_nodes::ExecutionNodes;
                $body
            }
            $crate::model::Model::ExecutionWaits => {
                type $projection = $crate::execution_waits::ExecutionWaits;
                $body
            }
            $crate::model::Model::Workspaces => {
                type $projection = $crate::workspaces::Workspaces;
                $body
            }
            $crate::model::Model::Members => {
                type $projection = $crate::members::Members;
                $body
            }
            $crate::model::Model::Activity => {
                type $projection = $crate::activity::ActivityFeed;
                $body
            }
            $crate::model::Model::Triggers => {
                type $projection = $crate::triggers::Triggers;
                $body
            }
            $crate::model::Model::Audit => {
                type $projection = $crate::audit::Audit;
                $body
            }
        }
    };
}
pub(crate) use with_projection;

impl Model {
    /// The version of its rows.
    #[must_use]
    pub const fn version(self) -> i32 {
        match self {
            Self::Workflows => Workflows::VERSION,
            Self::Executions => Executions::VERSION,
            Self::ExecutionNodes => ExecutionNodes::VERSION,
            Self::ExecutionWaits => ExecutionWaits::VERSION,
            Self::Workspaces => Workspaces::VERSION,
            Self::Members => Members::VERSION,
            Self::Activity => ActivityFeed::VERSION,
            Self::Triggers => Triggers::VERSION,
            Self::Audit => Audit::VERSION,
        }
    }

    /// The schema that its tables are read from.
    #[must_use]
    pub fn schema(self) -> String {
        format!("{}_v{}", self.as_str(), self.version())
    }

    /// The schema that a rebuild fills.
    #[must_use]
    pub fn next_schema(self) -> String {
        format!("{}_next", self.schema())
    }

    /// The schema that was read before the last rebuild.
    #[must_use]
    pub fn old_schema(self) -> String {
        format!("{}_old", self.schema())
    }

    /// The name of its checkpoint.
    #[must_use]
    pub fn reader(self) -> String {
        reader(&self.schema())
    }

    const fn statements(self) -> &'static str {
        match self {
            Self::Workflows => Workflows::SCHEMA,
            Self::Executions => Executions::SCHEMA,
            Self::ExecutionNodes => ExecutionNodes::SCHEMA,
            Self::ExecutionWaits => ExecutionWaits::SCHEMA,
            Self::Workspaces => Workspaces::SCHEMA,
            Self::Members => Members::SCHEMA,
            Self::Activity => ActivityFeed::SCHEMA,
            Self::Triggers => Triggers::SCHEMA,
            Self::Audit => Audit::SCHEMA,
        }
    }

    /// The statements for the tables, and those for the indexes.
    fn tables_and_indexes(self) -> (&'static str, &'static str) {
        self.statements().split_once(INDEXES).unwrap_or_else(|| (self.statements(), ""))
    }
}

/// The name of the checkpoint of a schema.
pub(crate) fn reader(schema: &str) -> String {
    format!("projection:{schema}")
}

/// The search path by which a pool's connections find every read model: to be set on the options that the pool is made with
/// (see [`with_search_path`]).
#[must_use]
pub fn search_path() -> String {
    path_of(Model::ALL.iter().map(|model| model.schema()))
}

/// Connection options that find every read model.
#[must_use]
pub fn with_search_path(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("search_path", search_path().replace(' ', ""))])
}

/// The search path of a connection that writes to one schema only.
pub(crate) fn path_to(schema: &str) -> String {
    path_of([schema.to_owned()])
}

fn path_of(schemas: impl IntoIterator<Item = String>) -> String {
    let mut path = format!("public, {OWN_SCHEMA}");
    for schema in schemas {
        path.push_str(", ");
        path.push_str(&schema);
    }
    path
}

/// A connection of a projector's own, which writes to one schema. What it commits may be lost together with its checkpoint
/// when Postgres crashes, and is then made again: nothing waits for the disk.
pub(crate) async fn connect(pool: &PgPool, schema: &str) -> Result<PgConnection, sqlx::Error> {
    let options = (*pool.connect_options()).clone().application_name("ledgerline-projector");
    let mut connection = PgConnection::connect_with(&options).await?;
    let settings = format!("SET synchronous_commit TO off; SET search_path TO {}", path_to(schema));
    run(&mut connection, settings).await?;
    Ok(connection)
}

/// Makes what is missing of the schemas of all read models. Safe to call from several processes at once, after the migrations.
///
/// # Errors
/// When Postgres is away, or refuses.
pub async fn prepare(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?.detach();
    sqlx::query!("SELECT pg_advisory_lock($1)", PREPARE_LOCK).execute(&mut connection).await?;
    // The lock goes with the connection, which is closed whatever comes of this.
    let prepared = prepare_locked(&mut connection).await;
    connection.close().await?;
    prepared
}

async fn prepare_locked(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    run(
        connection,
        format!("SET client_min_messages TO warning; CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}"),
    )
    .await?;
    run(connection, format!("SET search_path TO {OWN_SCHEMA}")).await?;
    run(connection, include_str!("../sql/projector/schema.sql").to_owned()).await?;
    for model in Model::ALL {
        if !exists(connection, &model.schema()).await? {
            // A checkpoint without its tables is of tables that were dropped: they are made again from the start of the log.
            sqlx::query!(
                "UPDATE public.checkpoints SET position = 0, epoch = epoch + 1 WHERE reader = $1",
                model.reader()
            )
            .execute(&mut *connection)
            .await?;
            create_tables(connection, *model, &model.schema()).await?;
            create_indexes(connection, *model, &model.schema()).await?;
        }
    }
    Ok(())
}

/// The read models of which the tables of this build's version are still to be made. Changes nothing.
///
/// # Errors
/// When Postgres is away.
pub async fn missing(pool: &PgPool) -> Result<Vec<Model>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if !exists(&mut connection, OWN_SCHEMA).await? {
        return Ok(Model::ALL.to_vec());
    }
    let mut missing = Vec::new();
    for model in Model::ALL {
        if !exists(&mut connection, &model.schema()).await? {
            missing.push(*model);
        }
    }
    Ok(missing)
}

/// Makes a role the owner of all read models, with what is kept beside them, and lets it make further schemas: a rebuild fills a
/// schema of its own and renames it.
///
/// # Errors
/// When the role is not there, or the one that asks may not give the schemas to it.
pub async fn give_to(pool: &PgPool, role: &str) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let names = sqlx::query!(
        r#"SELECT quote_ident(rolname) AS "role!", quote_ident(current_database()) AS "database!"
           FROM pg_roles WHERE rolname = $1"#,
        role
    )
    .fetch_one(&mut *transaction)
    .await?;
    let role = names.role;
    run(&mut transaction, format!("GRANT CREATE ON DATABASE {} TO {role}", names.database)).await?;
    let mut schemas = vec![OWN_SCHEMA.to_owned()];
    for model in Model::ALL {
        schemas.extend([model.schema(), model.next_schema(), model.old_schema()]);
    }
    for schema in schemas {
        if !exists(&mut transaction, &schema).await? {
            continue;
        }
        let tables = sqlx::query_scalar!(
            r#"SELECT format('%I.%I', schemaname, tablename) AS "table!" FROM pg_tables WHERE schemaname = $1"#,
            schema
        );
        for table in tables.fetch_all(&mut *transaction).await? {
            run(&mut transaction, format!("ALTER TABLE {table} OWNER TO {role}")).await?;
        }
        run(&mut transaction, format!("ALTER SCHEMA {schema} OWNER TO {role}")).await?;
    }
    transaction.commit().await
}

pub(crate) async fn exists(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1) AS "exists!""#,
        schema
    )
    .fetch_one(connection)
    .await
}

/// Makes a schema anew, with the tables of a model and their primary keys.
pub(crate) async fn create_tables(
    connection: &mut PgConnection,
    model: Model,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let (tables, _) = model.tables_and_indexes();
    let mut transaction = connection.begin().await?;
    run(
        &mut transaction,
        format!(
            "SET LOCAL client_min_messages TO warning; DROP SCHEMA IF EXISTS {schema} CASCADE; \
             CREATE SCHEMA {schema}; SET LOCAL search_path TO {schema}; {tables}"
        ),
    )
    .await?;
    transaction.commit().await
}

/// Makes the other indexes of a model's tables and refreshes their statistics.
pub(crate) async fn create_indexes(
    connection: &mut PgConnection,
    model: Model,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let (_, indexes) = model.tables_and_indexes();
    let mut transaction = connection.begin().await?;
    run(&mut transaction, format!("SET LOCAL search_path TO {schema}; {indexes}")).await?;
    transaction.commit().await?;
    let trigrams = indexes.lines().filter_map(|line| line.strip_prefix(TRIGRAM));
    for (name, table, column) in trigrams.filter_map(parse_trigram) {
        if !has_trigrams(connection).await? {
            tracing::warn!("pg_trgm cannot be installed: searches read every row of a workspace");
            break;
        }
        run(
            connection,
            format!(
                "CREATE INDEX {name} ON {schema}.{table} USING gin ({column} public.gin_trgm_ops)"
            ),
        )
        .await?;
    }
    Ok(())
}

/// `name ON table (column)` in its parts.
fn parse_trigram(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once(" ON ")?;
    let (table, column) = rest.split_once(" (")?;
    Some((name, table, column.trim_end_matches(')')))
}

/// Whether substring indexes can be made. The extension is trusted, so the owner of the database may install it.
async fn has_trigrams(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let install = "CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public";
    match run(connection, install.to_owned()).await {
        Ok(()) => {}
        Err(sqlx::Error::Database(error)) => tracing::debug!(%error, "pg_trgm is not installed"),
        Err(error) => return Err(error),
    }
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                          WHERE e.extname = 'pg_trgm' AND n.nspname = 'public') AS "exists!""#
    )
    .fetch_one(connection)
    .await
}

/// Runs statements that are made of constants and of names from this file.
pub(crate) async fn run(
    connection: &mut PgConnection,
    statements: String,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_on_the_search_path_once() {
        let path = search_path();
        for model in Model::ALL {
            assert_eq!(path.matches(&model.schema()).count(), 1, "{path}");
        }
    }

    #[test]
    fn names_are_those_of_the_projections() {
        for model in Model::ALL {
            let name = with_projection!(model, P => P::NAME);
            assert_eq!(name, model.as_str());
        }
    }

    #[test]
    fn the_substring_index_is_found_in_the_schema() {
        let (_, indexes) = Model::Workflows.tables_and_indexes();
        let found: Vec<_> = indexes
            .lines()
            .filter_map(|line| line.strip_prefix(TRIGRAM))
            .filter_map(parse_trigram)
            .collect();
        assert_eq!(found, [("workflows_search_idx", "workflows", "search")]);
    }
}
