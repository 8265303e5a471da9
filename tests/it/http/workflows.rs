//! Workflows over HTTP: from a draft to a run and its end, and every refusal on the way with its reason.

use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Deployment, greeting, waiting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_made_and_seen_at_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let mut body = greeting("Greet");
    body["tags"] = json!(["sample", "hello"]);
    let made = ada.post("/workflows", &body).await.expect(201);
    let id = made.id();
    assert_eq!(made.header("location"), format!("/api/v1/workflows/{id}"));
    assert_eq!(made.header("etag"), "\"1\"");
    let log = made.header("ledgerline-log");
    assert!(log.split_once(':').is_some_and(|(id, _)| uuid::Uuid::parse_str(id).is_ok()), "{log}");
    for (field, value) in [
        ("status", json!("draft")),
        ("intake", json!("inactive")),
        ("version", json!(1)),
        ("published_version", Value::Null),
        ("nodes", body["nodes"].clone()),
        ("connections", body["connections"].clone()),
        ("settings", json!({})),
        ("created_by", json!(ada.user_id)),
        ("workspace_id", json!(ada.workspace)),
    ] {
        assert_eq!(made.body[field], value, "{field}");
    }

    let list = ada.get("/workflows").await.expect(200);
    assert!(list.position() >= made.position());
    assert_eq!(list.each("id"), [id.as_str()]);
    assert_eq!(list.body["total"], 1);
    assert!(list.items()[0].get("nodes").is_none(), "lists leave the definition out");
    let one = ada.get(&format!("/workflows/{id}")).await.expect(200);
    assert_eq!(one.header("etag"), "\"1\"");
    for field in ["name", "nodes", "created_at", "updated_at", "created_by", "tags"] {
        assert_eq!(one.body[field], made.body[field], "{field}");
    }
    assert_eq!(one.body["execution_count"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_wrong_with_a_definition_is_said_at_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!({
        "name": "",
        "nodes": [
            { "id": "a", "type": "no.such", "config": {} },
            { "id": "b", "type": "logic.transform", "config": { "expression": "1 +" } },
            { "id": "b", "type": "logic.transform", "config": { "expression": "1" } },
        ],
        "connections": [{ "from": "a", "to": "nowhere" }],
    });
    let refused = ada.post("/workflows", &body).await;
    let pointers = refused.pointers();
    for pointer in
        ["/name", "/nodes/0/type", "/nodes/1/config/expression", "/nodes/2/id", "/connections/0/to"]
    {
        assert!(pointers.contains(&pointer), "{pointer} is not among {pointers:?}");
    }
    let errors = refused.body["errors"].as_array().unwrap();
    let parse = errors.iter().find(|error| error["pointer"] == "/nodes/1/config/expression");
    assert!(parse.unwrap()["detail"].as_str().unwrap().contains("`b`"), "the node is named");

    let verdict = ada.post("/workflows/validate", &body).await.expect(200);
    assert_eq!(verdict.body["valid"], false);
    assert_eq!(verdict.body["errors"], refused.body["errors"]);
    let sound = ada.post("/workflows/validate", &json!({ "nodes": [] })).await.expect(200);
    assert_eq!(sound.body, json!({ "valid": true, "errors": [] }));
    assert_eq!(ada.get("/workflows").await.expect(200).body["total"], 0);

    let long = json!({ "name": "x".repeat(256) });
    assert_eq!(ada.post("/workflows", &long).await.pointers(), ["/name"]);
    let unknown = json!({ "name": "x", "status": "published" });
    assert_eq!(ada.post("/workflows", &unknown).await.pointers(), ["/status"]);
    let large = json!({ "name": "x", "nodes": [{ "id": "a", "type": "x".repeat(9_000_000) }] });
    assert_eq!(ada.post("/workflows", &large).await.pointers(), ["/nodes"]);
    let kinds = ada.get("/node-kinds").await.expect(200);
    assert!(kinds.each("type").contains(&"action.http"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_under_a_key_is_answered_like_the_first_one() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let key = [("idempotency-key", "order 7")];
    let body = greeting("Greet");
    let first = ada.send(Method::POST, "/workflows", Some(&body), &key).await.expect(201);
    let again = ada.send(Method::POST, "/workflows", Some(&body), &key).await.expect(201);
    assert_eq!(again.body, first.body);
    for header in ["location", "etag", "ledgerline-position"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    assert_eq!(ada.get("/workflows").await.expect(200).body["total"], 1);
    let other = ada.send(Method::POST, "/workflows", Some(&greeting("Other")), &key).await;
    other.is_problem(422, "idempotency-key-reused");

    let path = format!("/workflows/{}", first.id());
    let archived = json!({ "status": "archived" });
    let status = format!("{path}/status");
    let put = ada.send(Method::PATCH, &status, Some(&archived), &key).await.expect(200);
    ada.patch(&status, &json!({ "status": "draft" })).await.expect(200);
    let repeat = ada.send(Method::PATCH, &status, Some(&archived), &key).await.expect(200);
    assert_eq!(repeat.body, put.body, "also when it was undone since");
    assert_eq!(ada.get(&path).await.body["status"], "draft");

    let start = format!("{path}/start");
    let input = json!({ "input": { "name": "Ada" } });
    let run = ada.send(Method::POST, &start, Some(&input), &key).await.expect(202);
    ada.command(&format!("{path}/pause")).await.expect(200);
    let repeat = ada.send(Method::POST, &start, Some(&input), &key).await.expect(202);
    assert_eq!(repeat.id(), run.id(), "also when a start would be refused now");
    ada.command(&start).await.refused_by("intake_paused");

    let deletes = format!("{path}?cancel_open=true");
    ada.send(Method::DELETE, &deletes, None, &key).await.expect(204);
    ada.send(Method::DELETE, &deletes, None, &key).await.expect(204);
    for bad in ["", &"k".repeat(256)] {
        let bad = [("idempotency-key", bad)];
        assert_eq!(ada.send(Method::POST, "/workflows", Some(&body), &bad).await.status, 422);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_save_is_a_version_and_each_can_be_had_back() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&greeting("First")).await;
    let path = format!("/workflows/{id}");
    let second = ada.put(&path, &waiting("Second")).await.expect(200);
    assert_eq!(second.body["version"], 2);
    assert_eq!(second.header("etag"), "\"2\"");
    let same = ada.put(&path, &waiting("Second")).await.expect(200);
    assert_eq!(same.body["version"], 2, "what it already holds is no new version");
    let stale = [("if-match", "\"1\"")];
    let refused = ada.send(Method::PUT, &path, Some(&greeting("Lost")), &stale).await;
    refused.is_problem(412, "stale-version");

    let versions = ada.get(&format!("{path}/versions")).await.expect(200);
    assert_eq!(versions.each("name"), ["Second", "First"]);
    assert_eq!(versions.items()[0]["created_by"], json!(ada.user_id));
    assert_eq!(versions.items()[0]["created_at"], second.body["updated_at"]);
    let newest = ada.get(&format!("{path}/versions?limit=1")).await.expect(200);
    let next = format!("{path}/versions?limit=1&cursor={}", newest.text("next_cursor"));
    let oldest = ada.get(&next).await.expect(200);
    assert_eq!(oldest.each("name"), ["First"]);
    assert!(oldest.body["next_cursor"].is_null());

    let first = ada.get(&format!("{path}/versions/1")).await.expect(200);
    assert_eq!(first.body["nodes"], greeting("First")["nodes"]);
    assert_eq!(first.body["published"], false);
    ada.get(&format!("{path}/versions/3")).await.is_problem(404, "not-found");
    ada.get(&format!("{path}/versions/x")).await.is_problem(422, "invalid-value");

    let restored = ada.command(&format!("{path}/versions/1/restore")).await.expect(200);
    assert_eq!(restored.body["version"], 3);
    assert_eq!(restored.body["name"], "First");
    ada.command(&format!("{path}/versions/9/restore")).await.is_problem(404, "not-found");

    let then = ada.get(&format!("{path}?at_position={}", second.position())).await.expect(200);
    assert_eq!(then.body["name"], "Second");
    assert_eq!(then.header("etag"), "\"2\"");
    let copy = ada.command(&format!("{path}/duplicate")).await.expect(201);
    assert_eq!(copy.body["name"], "Copy of First");
    assert_eq!(copy.body["parent_workflow_id"], id.as_str());
    assert_eq!(copy.body["version"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_and_archiving_keep_their_rules() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let empty = ada.make_workflow(&json!({ "name": "Empty" })).await;
    ada.command(&format!("/workflows/{empty}/publish")).await.refused_by("graph_empty");
    ada.command(&format!("/workflows/{empty}/start")).await.refused_by("graph_empty");

    let id = ada.make_workflow(&greeting("Greet")).await;
    let path = format!("/workflows/{id}");
    let published = ada.command(&format!("{path}/publish")).await.expect(200);
    assert_eq!(published.body["status"], "published");
    assert_eq!(published.body["published_version"], 1);
    ada.put(&path, &waiting("Next")).await.expect(200);
    let one = ada.get(&path).await.expect(200);
    assert_eq!((&one.body["version"], &one.body["published_version"]), (&json!(2), &json!(1)));
    let version = json!({ "version": 7 });
    ada.post(&format!("{path}/publish"), &version).await.is_problem(404, "not-found");

    let status =
        async |word: &str| ada.patch(&format!("{path}/status"), &json!({ "status": word })).await;
    assert_eq!(status("archived").await.expect(200).body["status"], "archived");
    ada.put(&path, &greeting("Edit")).await.refused_by("workflow_archived");
    ada.command(&format!("{path}/start")).await.refused_by("workflow_archived");
    ada.command(&format!("{path}/publish")).await.refused_by("workflow_archived");
    assert_eq!(status("draft").await.expect(200).body["status"], "draft");
    assert_eq!(status("published").await.expect(200).body["published_version"], 2);
    assert_eq!(status("gone").await.status, 422);
    let listed = ada.get("/workflows?status=published").await.expect(200);
    assert_eq!(listed.each("id"), [id.as_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_runs_it_and_makes_its_intake_active_in_one_append() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&greeting("Greet")).await;
    let path = format!("/workflows/{id}");
    let start = format!("{path}/start");
    let body = json!({ "input": { "name": "Ada" }, "priority": "high" });

    let plan = ada.post(&format!("{start}?dry_run=true"), &body).await.expect(200);
    let types: Vec<&str> = plan.body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["type"].as_str().unwrap())
        .collect();
    assert!(
        types.starts_with(&["execution_requested"]) && types.ends_with(&["intake_activated"]),
        "{types:?}"
    );
    assert_eq!(plan.body["permissions"], json!(["start_execution"]));
    assert_eq!(ada.get(&path).await.body["intake"], "inactive");

    let if_plan = [("if-plan", plan.text("plan_hash"))];
    let run = ada.send(Method::POST, &start, Some(&body), &if_plan).await.expect(202);
    assert_eq!(run.body["workflow_id"], id.as_str());
    assert_eq!(run.body["queue"], "high");
    assert_eq!(run.header("location"), format!("/api/v1/executions/{}", run.id()));
    assert_eq!(ada.get(&path).await.expect(200).body["intake"], "active");
    let of_run = format!("/executions/{}", run.id());
    let ended = ada.until(&of_run, |run| run["status"] == "completed").await;
    assert_eq!(ended.body["output"], "Hello, Ada");

    let one = ada.until(&path, |flow| flow["last_execution"]["status"] == "completed").await;
    assert_eq!(one.body["execution_count"], 1);
    assert_eq!(one.body["success_rate"], 1.0);
    assert_eq!(one.body["progress"], 1.0);

    let stale = [("if-match", "\"1\"")];
    ada.send(Method::POST, &start, Some(&body), &stale).await.is_problem(412, "stale-version");
    let wrong = json!({ "input": {}, "priority": "urgent" });
    assert_eq!(ada.post(&start, &wrong).await.pointers(), ["/priority"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_holds_starts_and_runs_and_stopping_ends_them() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&waiting("Wait")).await;
    let path = format!("/workflows/{id}");
    let run = ada.command(&format!("{path}/start")).await.expect(202).id();
    let of_run = format!("/executions/{run}");

    let paused = ada.command(&format!("{path}/pause")).await.expect(200);
    assert_eq!(paused.body["intake"], "paused");
    ada.command(&format!("{path}/start")).await.refused_by("intake_paused");
    ada.until(&of_run, |run| run["status"] == "paused").await;
    let resumed = ada.command(&format!("{path}/resume")).await.expect(200);
    assert_eq!(resumed.body["intake"], "active");
    ada.until(&of_run, |run| run["status"] != "paused").await;

    ada.delete(&path).await.refused_by("open_executions");
    ada.command(&format!("{path}/stop")).await.expect(200);
    let ended = ada.until(&of_run, |run| run["status"] == "cancelled").await;
    assert_eq!(ended.body["cancel_reason"], "workflow_stopped");
    ada.delete(&path).await.expect(204);
    ada.get(&path).await.is_problem(404, "not-found");
    ada.delete(&path).await.expect(204);
    ada.put(&path, &greeting("Again")).await.is_problem(404, "not-found");
    assert_eq!(ada.get("/workflows").await.expect(200).body["total"], 0);
    ada.get(&of_run).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_what_was_started_while_nothing_was_taken_in() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&waiting("Wait")).await;
    for _ in 0..2 {
        let run = ada.post("/executions", &json!({ "workflow_id": id })).await.expect(202).id();
        assert_eq!(ada.get(&format!("/workflows/{id}")).await.body["intake"], "inactive");
        ada.command(&format!("/workflows/{id}/stop")).await.expect(200);
        let of_run = format!("/executions/{run}");
        let ended = ada.until(&of_run, |run| run["status"] == "cancelled").await;
        assert_eq!(ended.body["cancel_reason"], "workflow_stopped");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_with_cancel_open_ends_the_runs() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let path = format!("/workflows/{}", ada.make_workflow(&waiting("Wait")).await);
    let run = ada.command(&format!("{path}/start")).await.expect(202).id();
    let plan = ada.delete(&format!("{path}?cancel_open=true&dry_run=true")).await.expect(200);
    assert_eq!(plan.body["side_effects"][0]["kind"], "executions_cancelled");
    ada.delete(&format!("{path}?cancel_open=true")).await.expect(204);
    let ended = ada.until(&format!("/executions/{run}"), |run| run["status"] == "cancelled").await;
    assert_eq!(ended.body["cancel_reason"], "workflow_deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_filtered_sorted_and_paged() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    for (name, tags) in
        [("Alpha", json!(["x", "y"])), ("beta_1", json!(["x"])), ("Gamma 100%", json!([]))]
    {
        let mut body = greeting(name);
        body["tags"] = tags;
        body["description"] = json!(format!("about {name}"));
        ada.make_workflow(&body).await;
    }
    let names = async |query: &str| {
        let list = ada.get(&format!("/workflows?{query}")).await.expect(200);
        list.each("name").iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["Gamma 100%", "beta_1", "Alpha"]);
    assert_eq!(names("sort=name").await, ["Alpha", "beta_1", "Gamma 100%"]);
    assert_eq!(names("tag=x&sort=name").await, ["Alpha", "beta_1"]);
    assert_eq!(names("tag=x&tag=y").await, ["Alpha"]);
    assert_eq!(names("search=ABOUT+BETA").await, ["beta_1"]);
    assert_eq!(names("search=%25").await, ["Gamma 100%"], "a wildcard is a letter");
    assert_eq!(names("search=a_1").await, ["beta_1"]);
    assert_eq!(names("intake=active").await, Vec::<String>::new());
    assert_eq!(names(&format!("created_by={}", ada.user_id)).await.len(), 3);
    assert_eq!(names("sort=name&offset=1&limit=1").await, ["beta_1"]);

    let page = ada.get("/workflows?sort=name&limit=2").await.expect(200);
    assert_eq!((&page.body["total"], &page.body["limit"]), (&json!(3), &json!(2)));
    ada.make_workflow(&greeting("Aaa")).await;
    let rest = format!("sort=name&limit=2&cursor={}", page.text("next_cursor"));
    assert_eq!(names(&rest).await, ["Gamma 100%"], "a page is stable under writes");
    let other_order = format!("/workflows?sort=-name&cursor={}", page.text("next_cursor"));
    assert_eq!(ada.get(&other_order).await.pointers(), ["/cursor"]);

    for (query, pointer) in [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("sort=id", "/sort"),
        ("status=gone", "/status"),
        ("cursor=zz", "/cursor"),
        ("taag=x", "/taag"),
        ("created_by=me", "/created_by"),
    ] {
        assert_eq!(ada.get(&format!("/workflows?{query}")).await.pointers(), [pointer]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_definition_is_shown_to_everybody_and_its_runs_to_nobody_else() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);
    let mut body = greeting("Greet");
    body["is_public"] = json!(true);
    let id = ada.make_workflow(&body).await;
    let path = format!("/workflows/{id}");
    ada.post(&format!("{path}/start"), &json!({ "input": { "name": "Ada" } })).await.expect(202);

    let seen = bob.get(&path).await.expect(200);
    assert_eq!(seen.body["nodes"], body["nodes"]);
    assert!(seen.body["execution_count"].is_null() && seen.body["last_execution"].is_null());
    bob.get(&format!("{path}/versions")).await.is_problem(404, "not-found");
    bob.put(&path, &body).await.is_problem(404, "not-found");
    bob.command(&format!("{path}/start")).await.is_problem(404, "not-found");
    bob.delete(&path).await.is_problem(404, "not-found");
    let copy = bob.post(&format!("{path}/duplicate"), &json!({ "name": "Mine" })).await.expect(201);
    assert_eq!(copy.body["workspace_id"], json!(bob.workspace));
    assert_eq!(copy.body["is_public"], false);
    house.nobody().get(&path).await.is_problem(401, "unauthenticated");

    body["is_public"] = json!(false);
    let before = ada.put(&path, &body).await.expect(200).position() - 1;
    bob.get(&path).await.is_problem(404, "not-found");
    let past = bob.get(&format!("{path}?at_position={before}")).await;
    past.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_looks_and_an_editor_works() {
    let house = Deployment::start().await;
    let (ada, eve) = (house.sign_up("ada").await, house.sign_up("eve").await);
    let workspace = ada.make_workspace("Operations").await;
    let of_workspace = [("ledgerline-workspace", workspace.as_str())];
    let made = ada.send(Method::POST, "/workflows", Some(&greeting("Greet")), &of_workspace).await;
    let path = format!("/workflows/{}", made.expect(201).id());
    house.let_in(&ada, &workspace, &eve, Role::Viewer).await;
    eve.get(&path).await.expect(200);
    eve.get(&format!("{path}/versions")).await.expect(200);
    for command in
        ["publish", "start", "stop", "pause", "resume", "versions/1/restore", "duplicate"]
    {
        eve.command(&format!("{path}/{command}")).await.is_problem(403, "forbidden");
    }
    eve.put(&path, &greeting("Mine")).await.is_problem(403, "forbidden");
    eve.patch(&format!("{path}/status"), &json!({ "status": "archived" }))
        .await
        .is_problem(403, "forbidden");
    eve.delete(&path).await.is_problem(403, "forbidden");
    let role = json!({ "role": "editor" });
    ada.patch(&format!("/workspaces/{workspace}/members/{}", eve.user_id), &role).await.expect(200);
    eve.command(&format!("{path}/publish")).await.expect(200);
    let differ = [("ledgerline-workspace", workspace.as_str())];
    let two = format!("/workflows?workspace_id={}", ada.workspace);
    ada.send(Method::GET, &two, None, &differ).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_reflects_the_position_that_is_asked_for() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let made = ada.post("/workflows", &greeting("Greet")).await.expect(201);
    let position = made.position();
    let at_least = [("ledgerline-min-position", &*position.to_string())];
    let list = ada.send(Method::GET, "/workflows", None, &at_least).await.expect(200);
    assert!(list.position() >= position);
    let token = format!("{}:{position}", made.header("ledgerline-log"));
    ada.get(&format!("/workflows?min_position={token}")).await.expect(200);
    ada.get("/workflows?min_position=1000000").await.is_problem(422, "position-unknown");
    let other = format!("/workflows?min_position={}:1:1", uuid::Uuid::now_v7());
    ada.get(&other).await.is_problem(422, "position-unknown");
    for bad in ["-1", "x", "1:2"] {
        let bad = format!("/workflows?min_position={bad}");
        assert_eq!(ada.get(&bad).await.pointers(), ["/min_position"]);
    }
}
