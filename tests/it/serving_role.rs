//! Who may change the shape of the database, and the log: `serve` runs as a role that may do neither, and commands that look
//! change nothing.

use std::process::Output;

use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
    postgres::PgConnectOptions,
};
use uuid::Uuid;

use crate::support::{
    program::{MASTER_KEY, Program, command, post, register, said},
    services::{self, TestDatabase},
};

/// Runs a command on a database to its end.
fn on(url: &str, args: &[&str]) -> Output {
    let mut command = command(args);
    command.env("DATABASE_URL", url).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    command.output().expect("the program can be started")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a role and gives the options to connect as it.
async fn role(database: &TestDatabase) -> (String, PgConnectOptions) {
    let name = format!("serve_{}", Uuid::now_v7().simple());
    let mut owner = PgConnection::connect_with(&database.options()).await.unwrap();
    let make = format!("CREATE ROLE {name} LOGIN PASSWORD 'serves'");
    owner.execute(AssertSqlSafe(make)).await.unwrap();
    owner.close().await.unwrap();
    let options = database.options().username(&name).password("serves");
    (name, options)
}

async fn schemas(database: &TestDatabase) -> i64 {
    let mut owner = PgConnection::connect_with(&database.options()).await.unwrap();
    let count = "SELECT count(*) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'";
    let count = owner.fetch_one(count).await.unwrap().get(0);
    owner.close().await.unwrap();
    count
}

/// The code with which Postgres refuses a statement to somebody.
async fn refusal(as_role: &PgConnectOptions, statement: &'static str) -> Option<String> {
    let mut connection = PgConnection::connect_with(as_role).await.unwrap();
    let refused = connection.execute(statement).await.err()?;
    connection.close().await.unwrap();
    refused.as_database_error()?.code().map(|code| code.into_owned())
}

#[tokio::test]
async fn what_only_looks_changes_nothing_and_asks_for_a_migration() {
    let database = services::database().await;
    let (before, url) = (schemas(&database).await, database.url());
    for args in [
        vec!["events"],
        vec!["outbox"],
        vec!["operator", "add", "ada@example.com"],
        vec!["keys", "rewrap"],
        vec!["rebuild", "all"],
    ] {
        let refused = on(&url, &args);
        assert_eq!(refused.status.code(), Some(69), "{args:?}: {}", said(&refused));
        let words = said(&refused);
        assert!(words.contains("run `ledgerline migrate`"), "{args:?}: {words}");
        assert!(words.contains("no tables for"), "{args:?}: {words}");
    }
    let doctor = on(&url, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{}", printed(&doctor));
    assert!(printed(&doctor).contains("→ run `ledgerline migrate`"), "{}", printed(&doctor));
    assert_eq!(schemas(&database).await, before);

    let migrated = on(&url, &["migrate", "--json"]);
    assert!(migrated.status.success(), "{}", said(&migrated));
    let migrated: Value = serde_json::from_slice(&migrated.stdout).unwrap();
    assert_eq!(migrated, json!({ "epoch": 1, "serving_role": null }));
    assert!(schemas(&database).await > before);
    let events = on(&url, &["events"]);
    assert!(events.status.success(), "{}", said(&events));
    let restored = on(&url, &["migrate", "--restored"]);
    assert!(said(&restored).contains("the log is in epoch 2 now"), "{}", said(&restored));
}

#[tokio::test]
async fn a_role_that_serves_can_run_and_rebuild_and_not_change_the_log() {
    let (database, folder) = (services::database().await, tempfile::tempdir().unwrap());
    let owner = database.url();
    let nobody = on(&owner, &["migrate", "--serving-role", "nobody_of_this_name"]);
    assert_eq!(nobody.status.code(), Some(69), "{}", said(&nobody));
    assert!(said(&nobody).contains("make it first"), "{}", said(&nobody));

    let same = database.options();
    let same = on(&owner, &["migrate", "--serving-role", same.get_username()]);
    assert!(said(&same).contains("there would be no wall"), "{}", said(&same));

    let (name, options) = role(&database).await;
    let granted = on(&owner, &["migrate", "--serving-role", &name]);
    assert!(granted.status.success(), "{}", said(&granted));
    assert!(said(&granted).contains(&format!("{name} may serve")), "{}", said(&granted));

    let url = options.to_url_lossy().to_string();
    let data = folder.path().to_str().unwrap();
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data]);
    serve.env("DATABASE_URL", &url).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    let program = Program::start(serve);
    let ada = register(&program.base, "ada").await;
    let file = folder.path().join("greets.json");
    let greeting = crate::support::http::greeting("Greets").to_string();
    std::fs::write(&file, greeting).unwrap();
    let mut run = command(&["run", file.to_str().unwrap(), "--input", r#"{"name":"Ada"}"#]);
    run.env("LEDGERLINE_URL", &program.base).env("LEDGERLINE_TOKEN", &ada.token);
    let ran = run.output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(printed(&ran).contains("Hello, Ada"), "{}", printed(&ran));

    let rebuilt = on(&url, &["rebuild", "all", "--json"]);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    for line in printed(&rebuilt).lines() {
        let done: Value = serde_json::from_str(line).unwrap();
        assert_eq!(done["progress"]["phase"], "done", "{done}");
    }
    // The rows of the rebuilt model are written to as before.
    let body = json!({ "name": "Operations" });
    post(&program.base, "/workspaces", Some(&ada.token), &body).await;
    let doctor = on(&url, &["doctor"]);
    assert!(doctor.status.success(), "{}", printed(&doctor));

    for statement in [
        "UPDATE events SET type = 'nothing' WHERE position = 1",
        "DELETE FROM events WHERE position = 1",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "UPDATE log_epochs SET began_after = 0",
        "DELETE FROM _sqlx_migrations",
    ] {
        let code = refusal(&options, statement).await;
        assert_eq!(code.as_deref(), Some("42501"), "{statement}");
    }
    // Even the owner is refused a change of the log, by the trigger.
    let code = refusal(&database.options(), "DELETE FROM events WHERE position = 1").await;
    assert!(code.is_some_and(|code| code != "42501"));
    assert!(program.stop().success());
}
