//! Everything that a database holds, as text, to be searched for what must not be in it.

use sqlx::{AssertSqlSafe, Executor as _, PgPool, Row as _};

/// Every row of every table, with the table's name.
pub(crate) async fn all_rows(pool: &PgPool) -> Vec<(String, String)> {
    let tables = "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
                  WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let tables = pool.fetch_all(tables).await.expect("the tables");
    let mut rows = Vec::new();
    for table in tables {
        let name: String = table.get("name");
        let statement = format!("SELECT t::text AS row FROM {name} t");
        let all = pool.fetch_all(AssertSqlSafe(statement)).await.expect("readable");
        rows.extend(all.iter().map(|row| (name.clone(), row.get("row"))));
    }
    rows
}

/// The tables whose rows hold one of these texts, in any letters, also as the bytes of a column.
pub(crate) async fn tables_with(pool: &PgPool, texts: &[&str]) -> Vec<String> {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let wanted: Vec<String> =
        texts.iter().flat_map(|text| [(*text).to_owned(), hex(text)]).collect();
    let mut found = Vec::new();
    for (table, row) in all_rows(pool).await {
        let row = row.to_lowercase();
        for text in wanted.iter().filter(|text| row.contains(text.as_str())) {
            found.push(format!("{table} holds {text}: {row}"));
        }
    }
    found
}
