//! `.sqlx` is what the schema says now. A statement without its file does not compile; here the files are asked in turn whether
//! the database still answers as recorded, and whether anybody still sends the statement.

use std::fs;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use crate::support::{services, tree};

/// The statements on file, by the name of the file.
fn recorded() -> Vec<(String, Value)> {
    let files = tree::files().into_iter().filter(|(name, _)| name.starts_with(".sqlx/query-"));
    let read = |(name, path)| {
        let text = fs::read_to_string(path).expect("metadata are UTF-8");
        (name, serde_json::from_str(&text).expect("metadata are JSON"))
    };
    let recorded: Vec<_> = files.map(read).collect();
    assert!(recorded.len() > 100, "only {} statements: run make sqlx", recorded.len());
    recorded
}

/// The text of a statement as its file has it.
fn text(statement: &Value) -> &str {
    statement["query"].as_str().expect("a statement has a text")
}

/// Lets a connection find all tables by their names alone, as the development database does.
async fn see_all_schemas(connection: &mut PgConnection) {
    let set = "SELECT set_config('search_path', string_agg(quote_ident(nspname), ', ' \
               ORDER BY nspname <> 'public', nspname <> 'projections', nspname), false) \
               FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    connection.execute(set).await.expect("the catalogue is readable");
}

/// Whether an outer join leaves a column empty is read off the plan, which depends on what the planner knows of the tables. The
/// statement says it itself, by `?` or `!` after the column's name, where it matters.
fn forget_what_depends_on_the_plan(answer: &mut Value, recorded: &Value) {
    let columns = answer["columns"].as_array().expect("a list of columns").clone();
    for (index, column) in columns.iter().enumerate() {
        let name = column["name"].as_str().expect("a column has a name");
        let name = name.split(':').next().unwrap_or(name);
        if name.ends_with(['?', '!']) {
            answer["nullable"][index] = recorded["nullable"][index].clone();
        }
    }
}

#[tokio::test]
async fn the_database_answers_every_statement_as_recorded() {
    let database = services::database().await;
    let pool = database.pool().await;
    ledgerline_projections::prepare(&pool).await.expect("the read models have their tables");
    let mut connection = pool.acquire().await.expect("a connection");
    see_all_schemas(&mut connection).await;
    let mut stale = Vec::new();
    for (name, statement) in recorded() {
        let sql = AssertSqlSafe(text(&statement).to_owned()).into_sql_str();
        match connection.describe(sql).await {
            Ok(answer) => {
                let mut answer = serde_json::to_value(&answer).expect("a description is JSON");
                forget_what_depends_on_the_plan(&mut answer, &statement["describe"]);
                if answer != statement["describe"] {
                    stale.push(format!("{name}: {answer}, recorded {}", statement["describe"]));
                }
            }
            Err(error) => stale.push(format!("{name}: {error}")),
        }
    }
    tree::none(".sqlx is stale, run make sqlx and commit the result", &stale);
}

#[test]
fn every_statement_on_file_is_sent_by_somebody() {
    // Line breaks of a source are not those of its text, and neither are the marks of what is quoted.
    let packed = |text: &str| -> String {
        text.chars().filter(|char| !char.is_whitespace() && *char != '\\').collect()
    };
    let mut sources = String::new();
    for (name, path) in tree::files() {
        if matches!(tree::extension(&name), "rs" | "sql") {
            sources += &packed(&fs::read_to_string(path).expect("sources are UTF-8"));
        }
    }
    let statements = recorded().into_iter();
    let unused = statements.filter(|(_, statement)| !sources.contains(&packed(text(statement))));
    let unused: Vec<String> =
        unused.map(|(name, statement)| format!("{name}: {}", text(&statement))).collect();
    tree::none("nobody sends these, run make sqlx and commit the result", &unused);
}
