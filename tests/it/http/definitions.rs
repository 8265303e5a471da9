//! Definitions over HTTP: versions compared, named and restored; workflows as files; templates.

use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person, greeting, waiting};

/// Sends text as YAML.
async fn import_yaml(person: &Person, query: &str, text: &str) -> Answer {
    let path = format!("/api/v1/workflows/import{query}");
    let yaml = [("content-type", "application/yaml")];
    person.send_raw(Method::POST, &path, Some(text.as_bytes().to_vec()), &yaml).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_are_compared_field_by_field() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&greeting("First")).await;
    let path = format!("/workflows/{id}");
    let mut second = greeting("Second");
    second["nodes"][1]["config"]["expression"] = json!("'Good morning, ' + input.name");
    second["nodes"].as_array_mut().unwrap().push(json!({
        "id": "rest", "type": "logic.wait", "config": { "duration_ms": 5 },
    }));
    second["connections"].as_array_mut().unwrap().push(json!({ "from": "greet", "to": "rest" }));
    second["settings"] = json!({ "timeout_ms": 60_000 });
    ada.put(&path, &second).await.expect(200);

    let diff = ada.get(&format!("{path}/versions/diff?from=1&to=2")).await.expect(200);
    assert_eq!(diff.body["identical"], false);
    assert_eq!(
        diff.body["fields"],
        json!([
            { "pointer": "/name", "from": "First", "to": "Second" },
            { "pointer": "/settings/timeout_ms", "to": 60_000 },
        ])
    );
    assert_eq!(diff.body["nodes"]["added"][0]["value"]["id"], "rest");
    assert_eq!(diff.body["nodes"]["removed"], json!([]));
    let changed = &diff.body["nodes"]["changed"][0];
    assert_eq!((&changed["id"], &changed["moved"]), (&json!("greet"), &json!(false)));
    assert_eq!(changed["fields"][0]["pointer"], "/config/expression");
    assert_eq!(diff.body["connections"]["added"][0]["index"], 1);
    let usual = ada.get(&format!("{path}/versions/diff")).await.expect(200);
    assert_eq!(usual.body, diff.body, "the latest with the one before it");
    let back = ada.get(&format!("{path}/versions/diff?from=2&to=1")).await.expect(200);
    assert_eq!(back.body["nodes"]["removed"][0]["value"]["id"], "rest");
    let same = ada.get(&format!("{path}/versions/diff?from=2&to=2")).await.expect(200);
    assert_eq!(same.body["identical"], true);
    ada.get(&format!("{path}/versions/diff?from=1&to=9")).await.is_problem(404, "not-found");
    assert_eq!(ada.get(&format!("{path}/versions/diff?from=x")).await.pointers(), ["/from"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_have_names() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&greeting("First")).await;
    let path = format!("/workflows/{id}");
    ada.put(&path, &waiting("Second")).await.expect(200);
    let body = json!({ "version": 1, "label": "1.0", "note": "As delivered" });
    let plan = ada.post(&format!("{path}/publish?dry_run=true"), &body).await.expect(200);
    let types: Vec<&Value> =
        plan.body["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["version_named", "workflow_published"]);
    ada.post(&format!("{path}/publish"), &body).await.expect(200);
    let first = ada.get(&format!("{path}/versions/1")).await.expect(200);
    assert_eq!(
        (&first.body["label"], &first.body["note"]),
        (&json!("1.0"), &json!("As delivered"))
    );

    let two = format!("{path}/versions/2");
    ada.patch(&two, &json!({ "label": "1.0" })).await.refused_by("label_taken");
    ada.patch(&two, &json!({ "label": "2.0" })).await.expect(200);
    assert_eq!(ada.patch(&two, &json!({ "label": "x".repeat(65) })).await.pointers(), ["/label"]);
    assert_eq!(ada.patch(&two, &json!({ "note": "x".repeat(2_001) })).await.pointers(), ["/note"]);
    let list = ada.get(&format!("{path}/versions")).await.expect(200);
    assert_eq!(list.each("label"), ["2.0", "1.0"]);
    ada.patch(&two, &json!({ "label": "" })).await.expect(200);
    assert_eq!(ada.get(&two).await.expect(200).body["label"], Value::Null);
    let missing = ada.patch(&format!("{path}/versions/9"), &json!({ "label": "x" })).await;
    missing.is_problem(404, "not-found");
}

/// A workflow with every sort of value that the two formats write otherwise.
fn tricky() -> Value {
    json!({
        "name": "Nightly: totals", "description": "First line\nsecond: line # no comment\n", "tags": ["yes", "1.50"],
        "settings": { "timeout_ms": 60_000 },
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {}, "position": { "x": 1.5, "y": -20.0 } },
            { "id": "write", "type": "action.file", "config": {
                "operation": "write", "path": "a/{{ input.name }}.txt", "content": "null\n\n  - 1\n{{ input.text }}\n\n" } },
        ],
        "connections": [{ "from": "start", "to": "write" }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_imported_and_exported_as_the_same_text() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&tricky()).await;
    let one = ada.get(&format!("/workflows/{id}")).await.expect(200);
    for format in ["json", "yaml"] {
        let path = format!("/workflows/{id}/export?format={format}");
        let exported = ada.get(&path).await.expect(200);
        assert_eq!(exported.header("content-type"), format!("application/{format}"));
        let file = format!("attachment; filename=\"nightly-totals.{format}\"");
        assert_eq!(exported.header("content-disposition"), file);
        let imported = match format {
            "json" => ada.post("/workflows/import", &exported.body).await,
            _ => import_yaml(&ada, "", exported.body.as_str().unwrap()).await,
        };
        let imported = imported.expect(201);
        for field in ["name", "description", "tags", "nodes", "connections", "settings"] {
            assert_eq!(imported.body[field], one.body[field], "{format}: {field}");
        }
        let again = format!("/workflows/{}/export?format={format}", imported.id());
        assert_eq!(ada.get(&again).await.expect(200).body, exported.body, "{format}");
    }

    ada.put(&format!("/workflows/{id}"), &greeting("Next")).await.expect(200);
    let first = ada.get(&format!("/workflows/{id}/export?version=1")).await.expect(200);
    assert_eq!(first.body["name"], "Nightly: totals");
    ada.get(&format!("/workflows/{id}/export?version=9")).await.is_problem(404, "not-found");
    let unknown = ada.get(&format!("/workflows/{id}/export?format=toml")).await;
    assert_eq!(unknown.pointers(), ["/format"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_says_everything_that_is_wrong_at_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let wrong = "name: ''\nnodes:\n- {id: a, type: no.such}\n- {id: b, type: logic.transform, config: {expression: '1 +'}}\nconnections:\n- {from: a, to: nowhere}\n";
    let refused = import_yaml(&ada, "", wrong).await;
    let pointers = refused.pointers();
    for pointer in ["/name", "/nodes/0/type", "/nodes/1/config/expression", "/connections/0/to"] {
        assert!(pointers.contains(&pointer), "{pointer} is not among {pointers:?}");
    }
    assert_eq!(import_yaml(&ada, "", "name: x\nstatus: published\n").await.pointers(), ["/status"]);
    assert_eq!(import_yaml(&ada, "", "- 1\n").await.pointers(), [""]);
    assert_eq!(import_yaml(&ada, "", "name: \"a\\0b\"\n").await.status, 422);
    let torn = import_yaml(&ada, "", "name: x\nnodes: [\n").await;
    torn.is_problem(400, "malformed-request");
    assert!(torn.text("detail").contains("line "), "{torn:?}");
    let bomb = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let inner = vec![format!("*a{}", level - 1); 10].join(",");
        format!("{text}a{level}: &a{level} [{inner}]\n")
    });
    import_yaml(&ada, "", &bomb).await.is_problem(400, "malformed-request");
    assert_eq!(ada.get("/workflows").await.expect(200).body["total"], 0);

    let sound = "name: From a file\nnodes:\n- {id: start, type: trigger.manual}\n";
    let plan = import_yaml(&ada, "?dry_run=true", sound).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "workflow_created");
    assert_eq!(ada.get("/workflows").await.expect(200).body["total"], 0);
    let key = [("content-type", "text/yaml; charset=utf-8"), ("idempotency-key", "once")];
    let send = async || {
        let bytes = Some(sound.as_bytes().to_vec());
        ada.send_raw(Method::POST, "/api/v1/workflows/import", bytes, &key).await.expect(201)
    };
    assert_eq!(send().await.body, send().await.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_workflow_is_taken_by_anybody_without_its_past() {
    let house = Deployment::start().await;
    let (ada, eve) = (house.sign_up("ada").await, house.sign_up("eve").await);
    let mut body = greeting("Shown");
    body["is_public"] = json!(true);
    let id = ada.make_workflow(&body).await;
    let taken = eve.get(&format!("/workflows/{id}/export")).await.expect(200);
    assert_eq!(taken.body["name"], "Shown");
    let past = eve.get(&format!("/workflows/{id}/export?version=1")).await;
    past.is_problem(404, "not-found");
    let diff = eve.get(&format!("/workflows/{id}/versions/diff")).await;
    diff.is_problem(404, "not-found");
    let workspace = ada.make_workspace("Operations").await;
    house.let_in(&ada, &workspace, &eve, Role::Viewer).await;
    let there = [("ledgerline-workspace", workspace.as_str())];
    let refused = eve.send(Method::POST, "/workflows/import", Some(&body), &there).await;
    refused.is_problem(403, "forbidden");
}

/// The largest graph that is valid, in a text that no event can hold.
fn largest(name: &str) -> Value {
    let step = |n: usize| json!({ "id": format!("step-{n}"), "type": "logic.transform", "config": { "expression": "input.n" } });
    let mut nodes = vec![json!({ "id": "start", "type": "trigger.manual", "config": {} })];
    nodes.extend((1..10_000).map(step));
    // One after the other would be ten thousand rounds; all at once is what a wide graph asks of everything.
    let connections: Vec<Value> =
        (1..10_000).map(|n| json!({ "from": "start", "to": format!("step-{n}") })).collect();
    json!({ "name": name, "nodes": nodes, "connections": connections })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_of_ten_thousand_nodes_is_saved_published_compared_and_run() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = largest("Large");
    assert!(body.to_string().len() > 1024 * 1024);
    let made = ada.post("/workflows", &body).await.expect(201);
    let path = format!("/workflows/{}", made.id());
    assert_eq!(made.body["nodes"], body["nodes"]);
    let events = ada.get(&format!("/log/streams/{}", made.id())).await;
    assert!(!events.body.to_string().contains("step-9999"), "no event holds it");
    let mut next = body.clone();
    next["nodes"][9_999]["config"]["expression"] = json!("input.n + 1");
    assert_eq!(ada.put(&path, &next).await.expect(200).body["version"], 2);
    assert_eq!(ada.put(&path, &next).await.expect(200).body["version"], 2, "nothing is new");
    let diff = ada.get(&format!("{path}/versions/diff")).await.expect(200);
    assert_eq!(diff.body["nodes"]["changed"].as_array().unwrap().len(), 1);
    let first = json!({ "version": 1, "label": "large" });
    let published = ada.post(&format!("{path}/publish"), &first).await.expect(200);
    assert_eq!(published.body["published_version"], 1);
    let restored = ada.command(&format!("{path}/versions/1/restore")).await.expect(200);
    assert_eq!((&restored.body["version"], &restored.body["nodes"]), (&json!(3), &body["nodes"]));
    ada.command(&format!("{path}/duplicate")).await.expect(201);

    let run = ada.post(&format!("{path}/start"), &json!({ "input": { "n": 7 } })).await.expect(202);
    assert_eq!(run.body["workflow_version"], 1, "the published version runs");
    let run = format!("/executions/{}", run.id());
    let begun = |nodes: &Value| nodes["total"].as_i64().is_some_and(|total| total > 100);
    ada.until(&format!("{run}/nodes?limit=1"), begun).await;
    ada.command(&format!("{run}/cancel")).await.expect(202);

    let over = json!({ "name": "x", "nodes": [{ "id": "a", "type": "x".repeat(9_000_000) }] });
    assert_eq!(ada.post("/workflows", &over).await.pointers(), ["/nodes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_version_is_published_and_run_again() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workflow(&greeting("First")).await;
    let path = format!("/workflows/{id}");
    for name in ["Second", "Third"] {
        ada.put(&path, &waiting(name)).await.expect(200);
    }
    ada.post(&format!("{path}/publish"), &json!({ "version": 1 })).await.expect(200);
    let input = json!({ "input": { "name": "Ada" } });
    let run = ada.post(&format!("{path}/start"), &input).await.expect(202);
    let first = format!("/executions/{}", run.id());
    ada.until(&first, |run| run["status"] == "completed").await;
    ada.post(&format!("{path}/publish"), &json!({ "version": 3 })).await.expect(200);
    let again = ada.post(&format!("{first}/rerun"), &json!({})).await.expect(202);
    let again = format!("/executions/{}", again.id());
    let ended = ada.until(&again, |run| run["status"] == "completed").await;
    assert_eq!(ended.body["output"], "Hello, Ada", "it keeps the version that nothing new runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_begins_from_a_template() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let templates = ada.get("/workflows/templates").await.expect(200);
    assert!(templates.each("id").contains(&"greeting"));
    for template in templates.items() {
        let whole = ["name", "description", "tags", "nodes", "connections", "settings"];
        assert!(whole.iter().all(|field| !template[*field].is_null()), "{template}");
        let path = format!("/workflows/templates/{}", template["id"].as_str().unwrap());
        let made = ada.command(&path).await.expect(201);
        assert_eq!(
            (&made.body["name"], &made.body["nodes"]),
            (&template["name"], &template["nodes"])
        );
        assert_eq!(made.body["status"], "draft");
    }
    let named = json!({ "name": "Mine" });
    let made = ada.post("/workflows/templates/greeting", &named).await.expect(201);
    assert_eq!(made.body["name"], "Mine");
    let long = json!({ "name": "x".repeat(256) });
    assert_eq!(ada.post("/workflows/templates/greeting", &long).await.pointers(), ["/name"]);
    ada.command("/workflows/templates/none").await.is_problem(404, "not-found");
    let page = ada.get("/workflows/templates?limit=1&offset=1").await.expect(200);
    assert_eq!(page.items(), &templates.items()[1..2]);
}

/// A workflow of one script.
fn script(code: &str) -> Value {
    json!({
        "name": "Script",
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {} },
            { "id": "js", "type": "code.javascript", "config": { "code": code }, "retry": { "max_retries": 0 } },
        ],
        "connections": [{ "from": "start", "to": "js" }],
    })
}

/// Starts a workflow and gives the path of its run.
async fn start(person: &Person, body: &Value) -> String {
    let id = person.make_workflow(body).await;
    let input = json!({ "input": { "items": [3, 1, 2] } });
    let run = person.post(&format!("/workflows/{id}/start"), &input).await.expect(202);
    format!("/executions/{}", run.id())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_computes_and_prints_and_fails_with_its_place() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let code = "console.log('sorting', input.items.length);\nreturn { sorted: [...input.items].sort(), start: nodes.start.output.items[0] }";
    let run = start(&ada, &script(code)).await;
    let ended = ada.until(&run, |run| run["status"] == "completed").await;
    assert_eq!(ended.body["output"], json!({ "sorted": [1, 2, 3], "start": 3 }));
    let lines =
        ada.until(&format!("{run}/logs?node=js"), |page| page["items"][0].is_object()).await;
    assert_eq!(lines.items()[0]["message"], "sorting 3");

    let run = start(&ada, &script("const a = 1;\n  throw new TypeError('no luck')")).await;
    let ended = ada.until(&run, |run| run["status"] == "failed").await;
    let error = &ended.body["error"];
    assert_eq!(error["kind"], "permanent", "{ended:?}");
    assert_eq!(error["message"], "TypeError: no luck (line 2, column 13)");
    let memory = "const a = []; for (;;) a.push('x'.repeat(1e6) + a.length)";
    let run = start(&ada, &script(memory)).await;
    let ended = ada.until(&run, |run| run["status"] == "failed").await;
    assert_eq!(ended.body["error"]["kind"], "permanent", "{ended:?}");

    let mut endless = script("for (;;) {}");
    endless["nodes"][1]["timeout_ms"] = json!(300);
    let run = start(&ada, &endless).await;
    let ended = ada.until(&run, |run| run["status"] == "failed").await;
    assert_eq!(ended.body["error"]["kind"], "timeout", "{ended:?}");
    endless["nodes"][1]["timeout_ms"] = json!(3_600_000);
    let run = start(&ada, &endless).await;
    ada.until(&format!("{run}/nodes"), |nodes| nodes["total"] == 2).await;
    let told = std::time::Instant::now();
    ada.command(&format!("{run}/cancel")).await.expect(202);
    ada.until(&run, |run| run["status"] == "cancelled").await;
    assert!(told.elapsed().as_secs() < 10, "{:?}", told.elapsed());

    let refused = ada.post("/workflows", &script("return (")).await;
    assert_eq!(refused.pointers(), ["/nodes/1/config/code"]);
    assert!(
        refused.body["errors"][0]["detail"].as_str().unwrap().contains("(line "),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_run_with_what_is_given_pinned_or_was_there_before() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!({
        "name": "Parts",
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {} },
            { "id": "fetch", "type": "logic.transform", "config": { "expression": "{'a': input.a}" } },
            { "id": "sum", "type": "logic.transform", "config": { "expression": "nodes.fetch.output.a + 1" } },
            { "id": "after", "type": "logic.transform", "config": { "expression": "nodes.sum.output" } },
        ],
        "connections": [
            { "from": "start", "to": "fetch" }, { "from": "fetch", "to": "sum" }, { "from": "sum", "to": "after" },
        ],
    });
    let id = ada.make_workflow(&body).await;
    let run = format!("/workflows/{id}/nodes/sum/run");
    ada.command(&run).await.refused_by("output_unknown");
    let output_of = async |answer: Answer| {
        let path = format!("/executions/{}", answer.expect(202).id());
        let ended = ada.until(&path, |run| run["status"] == "completed").await;
        let nodes = format!("{path}/nodes?min_position={}", ended.body["position"]);
        let nodes = ada.get(&nodes).await.expect(200);
        let after = nodes.items().iter().find(|node| node["path"] == "after");
        assert!(after.is_none_or(|after| after["status"] == "skipped"), "{nodes:?}");
        let sum = nodes.items().iter().find(|node| node["path"] == "sum").expect("it ran");
        assert_eq!(ended.body["trigger_type"], "manual");
        sum["output"].clone()
    };
    let given = json!({ "outputs": { "fetch": { "a": 41 } } });
    assert_eq!(output_of(ada.post(&run, &given).await).await, 42);

    let mut pinned = body.clone();
    pinned["nodes"][1]["pinned_output"] = json!({ "a": 9 });
    ada.put(&format!("/workflows/{id}"), &pinned).await.expect(200);
    assert_eq!(output_of(ada.command(&run).await).await, 10, "what is pinned in the draft");
    let start = format!("/workflows/{id}/start");
    let whole = ada.post(&start, &json!({ "input": { "a": 1 } })).await.expect(202).id();
    let path = format!("/executions/{whole}");
    let ended = ada.until(&path, |run| run["status"] == "completed").await;
    assert_eq!(ended.body["output"], 2, "a run of the whole knows nothing of what is pinned");
    let seen = ada.get(&format!("{path}/nodes/sum/scope")).await.expect(200);
    assert_eq!(seen.body["input"], json!({ "a": 1 }));
    assert_eq!(seen.body["nodes"]["fetch"]["output"], json!({ "a": 1 }));
    assert!(seen.body["nodes"]["after"].is_null(), "it came later");
    ada.get(&format!("{path}/nodes/gone/scope")).await.is_problem(404, "not-found");
    let first = json!({ "version": 1, "from": whole });
    assert_eq!(output_of(ada.post(&run, &first).await).await, 2, "what the run had");

    for (body, rule) in [(json!({ "outputs": { "gone": 1 } }), "node_unknown")] {
        ada.post(&run, &body).await.refused_by(rule);
    }
    ada.command(&format!("/workflows/{id}/nodes/gone/run")).await.refused_by("node_unknown");
    let plan = ada.command(&format!("{run}?dry_run=true")).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "execution_requested");
    let other = ada.make_workflow(&greeting("Other")).await;
    let foreign =
        ada.post(&format!("/workflows/{other}/nodes/greet/run"), &json!({ "from": whole })).await;
    foreign.is_problem(404, "not-found");
}
