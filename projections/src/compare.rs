//! Compares two schemas of a read model row by row: what a rebuild made, beside what was there before.

use sqlx::{PgPool, Postgres, QueryBuilder};

/// A row that only one of two schemas has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// Whether the first schema has it; else the second does.
    pub in_first: bool,
    /// The row as Postgres prints it.
    pub row: String,
}

/// The rows that only one of two schemas with the same tables has, at most `limit` a table and side. Meant for a test and for an
/// operator: it reads every row.
///
/// # Errors
/// When Postgres is away, or a table is missing in the second schema.
pub async fn compare(
    pool: &PgPool,
    first: &str,
    second: &str,
    limit: i64,
) -> Result<Vec<Difference>, sqlx::Error> {
    let tables = sqlx::query_scalar!(
        r#"SELECT tablename::text AS "name!" FROM pg_tables WHERE schemaname = $1 ORDER BY tablename"#,
        first
    )
    .fetch_all(pool)
    .await?;
    let mut differences = Vec::new();
    for table in tables {
        for (in_first, left, right) in [(true, first, second), (false, second, first)] {
            let mut query: QueryBuilder<Postgres> = QueryBuilder::new("SELECT kept::text FROM ");
            query.push(format_args!("{}.{} AS kept", quoted(left), quoted(&table)));
            query.push(" EXCEPT ALL SELECT kept::text FROM ");
            query.push(format_args!("{}.{} AS kept", quoted(right), quoted(&table)));
            query.push(" ORDER BY 1 LIMIT ").push_bind(limit);
            let rows: Vec<String> = query.build_query_scalar().fetch_all(pool).await?;
            let table = &table;
            differences.extend(rows.into_iter().map(|row| Difference {
                table: table.clone(),
                in_first,
                row,
            }));
        }
    }
    Ok(differences)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
