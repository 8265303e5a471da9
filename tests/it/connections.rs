//! Connections over HTTP, and what nodes do with them: statements on a real Postgres, mail to a server that speaks SMTP.

use std::time::{Duration, Instant};

use ledgerline_api::config::{Config, WorkerConfig};
use ledgerline_domain::permission::Role;
use serde_json::{Value, json};
use sqlx::{Executor as _, PgPool};

use crate::support::{
    http::{Answer, Deployment, Person},
    services::{self, TestDatabase},
    smtp::MailServer,
};

const PASSWORD: &str = "pa55-word-of-the-connection";

/// A deployment whose workflows may reach this machine.
async fn deployment() -> Deployment {
    Deployment::start_with(|usual| Config {
        worker: WorkerConfig {
            allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            ..usual.worker
        },
        ..usual
    })
    .await
}

fn postgres(database: &TestDatabase) -> Value {
    let options = database.options();
    json!({
        "kind": "postgres", "host": "127.0.0.1", "port": options.get_port(),
        "database": options.get_database(), "user": options.get_username(), "tls": "off",
    })
}

fn smtp(server: &MailServer, user: Option<&str>) -> Value {
    let mut settings = json!({
        "kind": "smtp", "host": "127.0.0.1", "port": server.port, "tls": "off", "from": "Ledger <ledger@example.com>",
    });
    if let Some(user) = user {
        settings["user"] = user.into();
    }
    settings
}

async fn connect(person: &Person, name: &str, settings: &Value) -> Answer {
    let body = json!({ "name": name, "settings": settings, "password": PASSWORD });
    person.post("/connections", &body).await
}

/// A workflow of one node.
async fn one(person: &Person, kind: &str, config: Value) -> String {
    let node = json!({ "id": "it", "type": kind, "config": config, "retry": { "max_retries": 0 } });
    person.make_workflow(&json!({ "name": "One", "nodes": [node] })).await
}

async fn run(person: &Person, workflow: &str, input: &Value) -> Value {
    let body = json!({ "input": input });
    let started = person.post(&format!("/workflows/{workflow}/start"), &body).await;
    let run = started.expect(202).id();
    let path = format!("/executions/{run}");
    person.until(&path, |run| run["finished_at"].is_string()).await.body
}

/// A database with some rows, and a connection to it.
struct Orders {
    ada: Person,
    pool: PgPool,
    _house: Deployment,
    // Dropped last.
    _database: TestDatabase,
}

impl Orders {
    async fn start() -> Self {
        let house = deployment().await;
        let ada = house.sign_up("ada").await;
        let database = services::database().await;
        let pool = database.pool().await;
        pool.execute("CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, total numeric(20, 2))")
            .await
            .expect("a table");
        pool.execute(
            "INSERT INTO orders SELECT n, 'c' || n, n * 1.5 FROM generate_series(1, 2000) n",
        )
        .await
        .expect("rows");
        connect(&ada, "db", &postgres(&database)).await.expect(201);
        Self { ada, pool, _house: house, _database: database }
    }

    async fn ask(&self, config: Value) -> Value {
        let mut all = json!({ "connection": "db" });
        for (name, value) in config.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let workflow = one(&self.ada, "action.sql", all).await;
        run(&self.ada, &workflow, &json!({})).await
    }

    #[track_caller]
    fn output(run: &Value) -> &Value {
        assert_eq!(run["status"], "completed", "{run}");
        &run["output"]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_kept_tried_out_changed_and_deleted() {
    let house = deployment().await;
    let ada = house.sign_up("ada").await;
    let database = services::database().await;
    let settings = postgres(&database);
    let made = connect(&ada, "orders", &settings).await.expect(201);
    let path = format!("/connections/{}", made.id());
    assert_eq!(made.header("location"), format!("/api/v1{path}"));
    assert_eq!(
        (&made.body["kind"], &made.body["has_password"]),
        (&json!("postgres"), &json!(true))
    );
    let tried = ada.command(&format!("{path}/test")).await.expect(200);
    assert!(tried.text("server").starts_with("PostgreSQL"), "{tried:?}");
    connect(&ada, "orders", &settings).await.refused_by("connection_name_taken");

    // Each thing that can be wrong is said by its name.
    let with = |field: &str, value: Value| {
        let mut settings = settings.clone();
        settings[field] = value;
        settings
    };
    let closed = crate::support::program::free_port();
    let table = [
        (with("port", closed.into()), "unreachable"),
        (with("user", "nobody-here".into()), "login_refused"),
        (with("database", "none-here".into()), "login_refused"),
        (with("host", "169.254.169.254".into()), "address_forbidden"),
        (with("host", "10.0.0.1".into()), "address_forbidden"),
        (with("tls", "verify".into()), "tls_failed"),
    ];
    for (settings, step) in table {
        let body = json!({ "name": "orders", "settings": settings, "password": PASSWORD });
        ada.put(&path, &body).await.expect(200);
        let answer = ada.command(&format!("{path}/test")).await;
        answer.is_problem(422, "connection-failed");
        assert_eq!(answer.body["rule"], step, "{answer:?}");
        assert!(!answer.body.to_string().contains(PASSWORD));
    }
    // A password stays, but goes to no other host than it was for.
    let elsewhere = json!({ "name": "orders", "settings": with("host", "127.0.0.2".into()) });
    assert_eq!(ada.put(&path, &elsewhere).await.pointers(), ["/password"]);
    let renamed = json!({ "name": "sales", "settings": settings, "password": PASSWORD });
    ada.put(&path, &renamed).await.expect(200);
    let renamed = json!({ "name": "sales-2", "settings": settings });
    assert_eq!(ada.put(&path, &renamed).await.expect(200).body["has_password"], true);
    ada.command(&format!("{path}/test")).await.expect(200);
    let mail = json!({ "kind": "smtp", "host": "127.0.0.1", "from": "a@b.co" });
    let other = json!({ "name": "sales-2", "settings": mail, "password": PASSWORD });
    ada.put(&path, &other).await.refused_by("connection_kind_changed");
    let wrong = json!({ "name": "a b", "settings": with("host", "/tmp".into()) });
    assert_eq!(ada.post("/connections", &wrong).await.pointers(), ["/settings/host"]);

    let all = ada.get("/connections").await.expect(200);
    assert_eq!(all.each("name"), ["sales-2"]);
    assert!(!all.body.to_string().contains(PASSWORD));
    ada.delete(&path).await.expect(204);
    ada.get(&path).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_builds_workflows_sees_names_and_who_manages_sees_where_they_lead() {
    let house = deployment().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let at = |path: &str| format!("{path}?workspace_id={workspace}");
    let settings =
        json!({ "kind": "smtp", "host": "mail.example.com", "from": "a@b.co", "user": "u" });
    let body = json!({ "name": "mail", "settings": settings, "password": PASSWORD });
    let id = ada.post(&at("/connections"), &body).await.expect(201).id();
    let path = format!("/connections/{id}");
    let expected = [
        ("anna", Some(Role::Administrator), 200, 200),
        ("ed", Some(Role::Editor), 200, 403),
        ("vi", Some(Role::Viewer), 403, 403),
        ("eve", None, 404, 404),
    ];
    for (name, role, sees, changes) in expected {
        let person = house.sign_up(name).await;
        if let Some(role) = role {
            house.let_in(&ada, &workspace, &person, role).await;
        }
        let seen = person.get(&path).await.expect(sees);
        person.get(&at("/connections")).await.expect(sees);
        assert_eq!(seen.body["settings"]["host"] == "mail.example.com", changes == 200, "{seen:?}");
        person.put(&path, &body).await.expect(changes);
        let tried = person.command(&format!("{path}/test")).await;
        // What an administrator tries is forbidden by the network, not by the role.
        assert_eq!(tried.status.as_u16(), if changes == 200 { 422 } else { changes }, "{tried:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_gives_every_type_as_json() {
    let orders = Orders::start().await;
    let statement = "SELECT $1::int AS a_int, $2::bigint AS a_big, 1.5::float8 AS a_float, 'NaN'::float8 AS a_nan, \
        12.50::numeric AS a_number, 12345678901234567890.123::numeric AS an_exact, 'x'::text AS a_text, true AS a_bool, \
        $3::jsonb AS a_json, '2026-11-21T10:00:00Z'::timestamptz AS a_time, '2026-11-21'::date AS a_date, \
        '1 year 2 days 03:04:05.5'::interval AS an_interval, '6f2c1a4e-0000-4000-8000-000000000001'::uuid AS a_uuid, \
        '\\x00ff'::bytea AS a_bytea, $4::int[] AS an_array, ARRAY[['a','b'],['c',NULL]] AS a_matrix, \
        NULL::text AS a_null, '10.1.0.0/16'::cidr AS a_net, $5::text[] AS texts, 1 AS twice, 2 AS twice";
    let params = json!([7, 9_007_199_254_740_993_i64, { "a": ["b", null] }, [1, null, 3], ["a\"b", "c\\d", "é,{}"]]);
    let run = orders.ask(json!({ "statement": statement, "params": params })).await;
    let output = Orders::output(&run);
    let expected = json!([{
        "a_int": 7, "a_big": 9_007_199_254_740_993_i64, "a_float": 1.5, "a_nan": "NaN", "a_number": 12.5,
        "an_exact": "12345678901234567890.123", "a_text": "x", "a_bool": true, "a_json": { "a": ["b", null] },
        "a_time": "2026-11-21T10:00:00Z", "a_date": "2026-11-21", "an_interval": "P1Y2DT3H4M5.5S",
        "a_uuid": "6f2c1a4e-0000-4000-8000-000000000001", "a_bytea": "AP8=", "an_array": [1, null, 3],
        "a_matrix": [["a", "b"], ["c", null]], "a_null": null, "a_net": "10.1.0.0/16",
        "texts": ["a\"b", "c\\d", "é,{}"], "twice": 1, "twice_2": 2,
    }]);
    assert_eq!(output["rows"], expected);
    assert_eq!((&output["row_count"], &output["truncated"]), (&json!(1), &json!(false)));
    assert_eq!(output["columns"][0], json!({ "name": "a_int", "type": "int4" }));
    let odd = orders.ask(json!({ "statement": "SELECT point(1, 2) AS p" })).await;
    assert_eq!(odd["error"]["kind"], "permanent");
    assert!(odd["error"]["message"].as_str().is_some_and(|text| text.contains("::text")), "{odd}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_bounded_and_nothing_is_changed_unless_it_may_be() {
    let orders = Orders::start().await;
    let all = orders.ask(json!({ "statement": "SELECT id FROM orders ORDER BY id" })).await;
    let output = Orders::output(&all);
    assert_eq!((&output["row_count"], &output["truncated"]), (&json!(1_000), &json!(true)));
    let few = orders
        .ask(json!({ "statement": "SELECT id FROM orders ORDER BY id", "row_limit": 3 }))
        .await;
    assert_eq!(Orders::output(&few)["rows"], json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }]));
    let large = "SELECT repeat('x', 100000) AS x FROM generate_series(1, 900)";
    let large = orders.ask(json!({ "statement": large })).await;
    assert_eq!(large["status"], "completed", "{}", large["error"]);
    let huge = orders.ask(json!({ "statement": "SELECT repeat('x', 60000000) AS x" })).await;
    assert_eq!(huge["error"]["kind"], "permanent", "{}", huge["error"]);

    let insert = "INSERT INTO orders VALUES (9000, $1, $2)";
    let params = json!(["'; DROP TABLE orders; --", "12345678901234567.89"]);
    let refused = orders.ask(json!({ "statement": insert, "params": params })).await;
    assert_eq!(refused["error"]["kind"], "permanent");
    assert!(
        refused["error"]["message"].as_str().is_some_and(|text| text.contains("read_only")),
        "{refused}"
    );
    for statement in [
        "SELECT set_config('transaction_read_only', 'off', false)",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
        "DROP TABLE orders",
        "SET default_transaction_read_only = off",
    ] {
        orders.ask(json!({ "statement": statement })).await;
        let count: i64 = sqlx::Row::get(
            &orders.pool.fetch_one("SELECT count(*) FROM orders").await.expect("a count"),
            0,
        );
        assert_eq!(count, 2_000, "{statement}");
    }
    let written =
        orders.ask(json!({ "statement": insert, "params": params, "read_only": false })).await;
    assert_eq!(Orders::output(&written)["row_count"], 1);
    let read = "SELECT customer, total FROM orders WHERE id = $1";
    let read = orders.ask(json!({ "statement": read, "params": [9000] })).await;
    let rows = json!([{ "customer": "'; DROP TABLE orders; --", "total": "12345678901234567.89" }]);
    assert_eq!(Orders::output(&read)["rows"], rows);
    let returning = "UPDATE orders SET customer = 'x' WHERE id < 3 RETURNING id";
    let returning = orders.ask(json!({ "statement": returning, "read_only": false })).await;
    assert_eq!(Orders::output(&returning)["row_count"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_of_a_statement_has_its_kind() {
    let orders = Orders::start().await;
    let table = [
        (json!({ "statement": "SELEC 1" }), "permanent", "42601"),
        (json!({ "statement": "SELECT * FROM nowhere" }), "permanent", "42P01"),
        (
            json!({ "statement": "INSERT INTO orders VALUES (1, 'x', 1)", "read_only": false }),
            "permanent",
            "23505",
        ),
        (json!({ "statement": "SELECT $1::int", "params": ["seven"] }), "validation", "22P02"),
        (
            json!({ "statement": "SELECT $1::int", "params": [99_999_999_999_i64] }),
            "validation",
            "22003",
        ),
        (json!({ "statement": "SELECT $1::int + $2::int", "params": [1] }), "validation", ""),
        (json!({ "statement": "SELECT 1; SELECT 2" }), "permanent", "42601"),
        (
            json!({ "statement": "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$" }),
            "transient",
            "40001",
        ),
        (
            json!({ "statement": "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$" }),
            "transient",
            "40P01",
        ),
    ];
    for (config, kind, code) in table {
        let run = orders.ask(config.clone()).await;
        assert_eq!(run["error"]["kind"], kind, "{config}: {}", run["error"]);
        if !code.is_empty() {
            assert_eq!(run["error"]["details"]["code"], code, "{config}: {}", run["error"]);
        }
    }
    // After all of that the sessions are as good as new.
    let fine = orders.ask(json!({ "statement": "SELECT 1 AS one" })).await;
    assert_eq!(Orders::output(&fine)["rows"], json!([{ "one": 1 }]));
    let set =
        orders.ask(json!({ "statement": "SELECT set_config('my.setting', 'kept', false)" })).await;
    Orders::output(&set);
    let seen = orders
        .ask(
            json!({ "statement": "SELECT coalesce(current_setting('my.setting', true), '') AS s" }),
        )
        .await;
    assert_eq!(Orders::output(&seen)["rows"][0]["s"], "", "a session forgets");

    let unknown = json!({ "name": "x", "nodes": [{ "id": "it", "type": "action.sql", "config": { "connection": "none", "statement": "SELECT 1" } }] });
    let refused = orders.ada.post("/workflows", &unknown).await;
    assert_eq!(refused.pointers(), ["/nodes/0/config/connection"]);
    assert_eq!(refused.body["errors"][0]["code"], "connection_unknown");
    let mail = json!({ "name": "x", "nodes": [{ "id": "it", "type": "action.email", "config": {
        "connection": "db", "to": "a@b.co", "subject": "s", "text": "t" } }] });
    assert_eq!(
        orders.ada.post("/workflows", &mail).await.pointers(),
        ["/nodes/0/config/connection"]
    );
}

/// Waits until the database runs a statement with this mark, or none any more.
async fn running(pool: &PgPool, mark: &str, wanted: bool) {
    let statement = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{mark}%' AND pid <> pg_backend_pid()"
    );
    let waiting = async {
        loop {
            let row =
                pool.fetch_one(sqlx::AssertSqlSafe(statement.clone())).await.expect("readable");
            if sqlx::Row::get::<bool, _>(&row, 0) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it comes to that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_on_the_server_when_its_run_is_cancelled_or_its_time_is_over() {
    let orders = Orders::start().await;
    let ada = &orders.ada;
    let slow = json!({ "connection": "db", "statement": "SELECT pg_sleep(60) AS cancelled_one" });
    let workflow = one(ada, "action.sql", slow).await;
    let started = ada.command(&format!("/workflows/{workflow}/start")).await.expect(202).id();
    running(&orders.pool, "cancelled_one", true).await;
    let begun = Instant::now();
    ada.command(&format!("/executions/{started}/cancel")).await.expect(202);
    running(&orders.pool, "cancelled_one", false).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let path = format!("/executions/{started}");
    let ended = ada.until(&path, |run| run["finished_at"].is_string()).await;
    assert_eq!(ended.body["status"], "cancelled");

    let node = json!({ "id": "it", "type": "action.sql", "timeout_ms": 500, "retry": { "max_retries": 0 }, "config": {
        "connection": "db", "statement": "SELECT pg_sleep(60) AS timed_one" } });
    let workflow = ada.make_workflow(&json!({ "name": "Late", "nodes": [node] })).await;
    let late = run(ada, &workflow, &json!({})).await;
    assert_eq!(late["error"]["kind"], "timeout", "{late}");
    running(&orders.pool, "timed_one", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_as_it_was_written() {
    let house = deployment().await;
    let ada = house.sign_up("ada").await;
    let server = MailServer::start().await;
    server.demands(PASSWORD);
    let made = connect(&ada, "mail", &smtp(&server, Some("ledger"))).await.expect(201);
    let tried = ada.command(&format!("/connections/{}/test", made.id())).await.expect(200);
    assert_eq!(tried.body["server"], "mail.test");
    let file = json!({ "id": "file", "type": "action.file", "config": {
        "operation": "write", "path": "out/report.csv", "content": "a,b\n1,2\n" } });
    let mail = json!({ "id": "mail", "type": "action.email", "config": {
        "connection": "mail", "to": "{{ input.to }}", "cc": ["Cee <cc@example.com>"], "bcc": "secret@example.com",
        "reply_to": "answers@example.com", "subject": "Zahlen für {{ input.name }}", "text": "Grüße, {{ input.name }}",
        "html": "<p>Hello</p>", "headers": { "X-Campaign": "{{ input.name }}" }, "attachments": "out/report.csv",
    } });
    let connections = json!([{ "from": "file", "to": "mail" }]);
    let body = json!({ "name": "Mail", "nodes": [file, mail], "connections": connections });
    let workflow = ada.make_workflow(&body).await;
    let done = run(
        &ada,
        &workflow,
        &json!({ "to": ["one@example.com", "two@example.com"], "name": "Ada" }),
    )
    .await;
    assert_eq!(done["status"], "completed", "{done}");
    let taken = server.taken();
    assert_eq!(taken.len(), 1);
    let message = &taken[0];
    assert_eq!(
        (message.from.as_str(), message.user.as_deref()),
        ("ledger@example.com", Some("ledger"))
    );
    let to = ["one@example.com", "two@example.com", "cc@example.com", "secret@example.com"];
    assert_eq!(message.to, to);
    assert_eq!(done["output"]["accepted"], json!(to));
    let id = done["output"]["message_id"].as_str().expect("an id");
    assert!(message.data.contains(&format!("Message-ID: {id}")), "{}", message.data);
    for part in [
        "From: Ledger <ledger@example.com>",
        "Reply-To: answers@example.com",
        "X-Campaign: Ada",
        "report.csv",
        "Subject: Zahlen =?utf-8?",
    ] {
        assert!(message.data.contains(part), "{part} in {}", message.data);
    }
    assert!(!message.data.contains("secret@example.com"), "nobody sees who else got it");

    // A line break can make no header of its own.
    for input in [
        json!({ "to": ["a@b.co\r\nBcc: x@y.zz"], "name": "Ada" }),
        json!({ "to": ["a@b.co"], "name": "Ada\r\nBcc: x@y.zz" }),
        json!({ "to": "nobody", "name": "Ada" }),
        json!({ "to": [], "name": 7 }),
        json!({ "to": vec!["a@b.co"; 60], "name": "Ada" }),
    ] {
        let refused = run(&ada, &workflow, &input).await;
        let kind = &refused["error"]["kind"];
        // With one recipient in cc and bcc an empty list is fine.
        if input["to"] == json!([]) {
            assert_eq!(refused["status"], "completed");
        } else {
            assert_eq!(kind, "validation", "{input}: {refused}");
        }
    }
    assert_eq!(server.taken().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mail_server_refuses_is_tried_again_or_not_as_it_says() {
    let house = deployment().await;
    let ada = house.sign_up("ada").await;
    let server = MailServer::start().await;
    let id = connect(&ada, "mail", &smtp(&server, None)).await.expect(201).id();
    let config = json!({ "connection": "mail", "to": "a@b.co", "subject": "s", "text": "t" });
    let workflow = one(&ada, "action.email", config.clone()).await;
    let table = [
        ("greeting", "421 closing", "transient"),
        ("RCPT", "450 4.2.1 mailbox busy", "transient"),
        ("RCPT", "550 5.1.1 no such user", "permanent"),
        ("MAIL", "552 too much", "permanent"),
        ("end of data", "451 4.3.0 try later", "transient"),
        ("end of data", "554 5.7.1 spam", "permanent"),
    ];
    for (command, answer, kind) in table {
        server.answers(command, answer);
        let failed = run(&ada, &workflow, &json!({})).await;
        assert_eq!(failed["error"]["kind"], kind, "{command} {answer}: {failed}");
        server.relents();
    }
    assert!(server.taken().is_empty());
    // Whether a message was taken that nobody answered for is not known.
    server.falls_silent();
    let node = json!({ "id": "it", "type": "action.email", "config": config, "retry": { "max_retries": 3 } });
    let silent = ada.make_workflow(&json!({ "name": "Silent", "nodes": [node] })).await;
    let started = ada.command(&format!("/workflows/{silent}/start")).await.expect(202).id();
    server.heard().await;
    let begun = Instant::now();
    ada.command(&format!("/executions/{started}/cancel")).await.expect(202);
    let path = format!("/executions/{started}");
    let ended = ada.until(&path, |run| run["finished_at"].is_string()).await;
    assert_eq!(ended.body["status"], "cancelled");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    server.relents();

    // A wrong password is the connection's fault, and is not shown.
    server.demands("another password");
    let body =
        json!({ "name": "mail", "settings": smtp(&server, Some("ledger")), "password": PASSWORD });
    ada.put(&format!("/connections/{id}"), &body).await.expect(200);
    let tried = ada.command(&format!("/connections/{id}/test")).await;
    tried.is_problem(422, "connection-failed");
    assert_eq!(tried.body["rule"], "login_refused");
    let failed = run(&ada, &workflow, &json!({})).await;
    assert_eq!(failed["error"]["kind"], "permanent", "{failed}");
    assert!(!failed.to_string().contains(PASSWORD));
}
