//! The deletion of a workspace: nothing is taken in from the first moment, it can be taken back, and in the end nothing is left but the
//! log.

use ledgerline_api::purge;
use ledgerline_domain::permission::Role;
use ledgerline_projections::with_search_path;
use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::http::{Answer, Deployment, Person, waiting};

/// A workspace of Ada's with an open run, a secret and a webhook.
struct Shop {
    workspace: String,
    workflow: String,
    execution: String,
    hook: String,
}

async fn send(person: &Person, method: Method, path: &str, shop: &str) -> Answer {
    person.send(method, path, None, &[("ledgerline-workspace", shop)]).await
}

impl Shop {
    async fn of(ada: &Person) -> Self {
        let workspace = ada.make_workspace("Shop").await;
        let there = [("ledgerline-workspace", workspace.as_str())];
        let secret = json!({ "value": "a secret value" });
        ada.send(Method::PUT, "/secrets/TOKEN", Some(&secret), &there).await.expect(200);
        let body = waiting("Wait");
        let workflow = ada.send(Method::POST, "/workflows", Some(&body), &there).await;
        let workflow = workflow.expect(201).id();
        let execution = ada.command(&format!("/workflows/{workflow}/start")).await.expect(202).id();
        let body = json!({ "name": "Hook", "nodes": [
            { "id": "hook", "type": "trigger.webhook", "config": {} },
        ] });
        let hooked =
            ada.send(Method::POST, "/workflows", Some(&body), &there).await.expect(201).id();
        ada.command(&format!("/workflows/{hooked}/publish")).await.expect(200);
        ada.command(&format!("/workflows/{hooked}/resume")).await.expect(200);
        let hooks = format!("/webhooks?workspace_id={workspace}");
        let listed = ada.until(&hooks, |body| body["items"][0]["state"] == "armed").await;
        let hook = listed.items()[0]["id"].as_str().unwrap().to_owned();
        Self { workspace, workflow, execution, hook }
    }

    /// The path of a service account, and the program that has its key.
    async fn program(&self, ada: &Person) -> (String, Person) {
        let body = json!({ "name": "nightly import", "role": "editor" });
        let there = [("ledgerline-workspace", self.workspace.as_str())];
        let made = ada.send(Method::POST, "/auth/service-accounts", Some(&body), &there).await;
        let account = format!("/auth/service-accounts/{}", made.expect(201).id());
        let key = json!({ "name": "k", "scopes": ["read"] });
        let key = ada.post(&format!("{account}/api-keys"), &key).await.expect(201);
        let program = ada.clone().with_token(key.text("key"));
        program.get(&account).await.expect(200);
        (account, program)
    }

    async fn hook_is(&self, ada: &Person, state: &str) {
        let path = format!("/webhooks/{}", self.hook);
        ada.until(&path, |body| body["state"] == state).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_stops_everything_at_once_and_can_be_taken_back() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);
    let shop = Shop::of(&ada).await;
    house.let_in(&ada, &shop.workspace, &bob, Role::Administrator).await;
    let path = format!("/workspaces/{}", shop.workspace);
    bob.delete(&path).await.is_problem(403, "forbidden");
    ada.delete(&format!("/workspaces/{}", ada.workspace)).await.refused_by("personal_workspace");
    let plan = ada.delete(&format!("{path}?dry_run=true")).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "workspace_deletion_requested");
    assert_eq!(plan.body["side_effects"][0]["kind"], "executions_cancelled");

    ada.delete(&path).await.expect(204);
    let shown = bob.get(&path).await.expect(200);
    assert!(shown.body["deletion_ends_at"].is_string(), "{shown:?}");
    let listed = ada.get("/workspaces?search=shop").await.expect(200);
    assert_eq!(listed.items()[0]["deletion_ends_at"], shown.body["deletion_ends_at"]);
    let rule = "workspace_being_deleted";
    let start = format!("/workflows/{}/start", shop.workflow);
    ada.command(&start).await.refused_by(rule);
    ada.patch(&path, &json!({ "name": "Other" })).await.refused_by(rule);
    ada.command(&format!("{path}/leave")).await.refused_by(rule);
    let body = json!({ "value": "another secret value" });
    let there = [("ledgerline-workspace", shop.workspace.as_str())];
    ada.send(Method::PUT, "/secrets/TOKEN", Some(&body), &there).await.refused_by(rule);
    let invite = json!({ "email": "guest@example.com", "role": "viewer" });
    ada.post(&format!("{path}/invite"), &invite).await.refused_by(rule);
    let run = format!("/executions/{}", shop.execution);
    let ended = ada.until(&run, |body| body["status"] == "cancelled").await;
    assert_eq!(ended.body["cancel_reason"], "workspace_deleted", "{ended:?}");
    shop.hook_is(&ada, "off").await;
    // Asked for again, it is what it is.
    ada.delete(&path).await.expect(204);

    bob.command(&format!("{path}/restore")).await.is_problem(403, "forbidden");
    let restored = ada.command(&format!("{path}/restore")).await.expect(200);
    assert!(restored.body["deletion_ends_at"].is_null(), "{restored:?}");
    shop.hook_is(&ada, "armed").await;
    ada.command(&start).await.expect(202);
    let feed = format!("/activity?workspace_id={}&resource_id={}", shop.workspace, shop.workspace);
    let feed = ada.get(&feed).await.expect(200);
    assert_eq!(feed.each("action")[..2], ["workspace_restored", "workspace_deletion_requested"]);
    assert_eq!(feed.items()[1]["actor"]["user_id"], ada.user_id.to_string());
    // Who was told by nobody is named for what it is.
    let feed = format!("/activity?workspace_id={}&action=execution_cancelled", shop.workspace);
    let feed = ada.get(&feed).await.expect(200);
    assert_eq!(feed.items()[0]["actor"], json!({ "kind": "system", "name": "policies" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_grace_is_over_nothing_is_left_but_the_log() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let shop = Shop::of(&ada).await;
    // One that finds the read models too, as the process's own does.
    let options = (*house.pool().await.connect_options()).clone();
    let pool = PgPool::connect_with(with_search_path(options)).await.unwrap();
    let id: Uuid = shop.workspace.parse().unwrap();
    let key = json!({ "name": "k", "scopes": ["read"], "workspace_id": shop.workspace });
    let key = ada.with_key(&key).await;
    let (account, program) = shop.program(&ada).await;
    let path = format!("/workspaces/{}", shop.workspace);
    let head = ada.delete(&path).await.expect(204).position();
    ada.until(&format!("/executions/{}", shop.execution), |body| body["status"] == "cancelled")
        .await;
    shop.hook_is(&ada, "off").await;

    // Its time comes.
    let moved = sqlx::query!(
        "UPDATE due_times SET due_at = now() WHERE kind = 'workspace_grace' AND stream_id = $1",
        id
    );
    assert_eq!(moved.execute(&pool).await.unwrap().rows_affected(), 1);
    ada.until("/workspaces?search=shop", |body| body["total"] == 0).await;
    for path in [
        path.clone(),
        format!("{path}/members"),
        format!("/workflows/{}", shop.workflow),
        format!("/executions/{}", shop.execution),
        format!("/webhooks/{}", shop.hook),
        format!("/workflows?workspace_id={id}"),
        format!("/activity?workspace_id={id}"),
    ] {
        ada.get(&path).await.is_problem(404, "not-found");
    }
    key.get(&path).await.is_problem(404, "not-found");
    ada.get(&account).await.is_problem(404, "not-found");
    ada.command(&format!("{path}/restore")).await.is_problem(404, "not-found");
    send(&ada, Method::GET, "/secrets", &shop.workspace).await.is_problem(404, "not-found");

    // All read models have seen the end before what is left of them is cleared away.
    let seen = house.elsewhere().log().head().await.unwrap().position;
    let wait = [("ledgerline-min-position", seen.to_string())];
    let wait: Vec<(&str, &str)> =
        wait.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for list in ["/workflows", "/executions", "/activity", "/webhooks", "/approvals"] {
        ada.send(Method::GET, list, None, &wait).await.expect(200);
    }
    // The process itself may have been there first.
    purge::clear(&pool).await.unwrap();
    assert_eq!(purge::clear(&pool).await.unwrap(), Vec::<Uuid>::new(), "one look is enough");
    program.get(&path).await.is_problem(401, "unauthenticated");
    let left = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM executions WHERE workspace_id = $1) AS "executions!",
                  (SELECT count(*) FROM workflows WHERE workspace_id = $1) AS "workflows!",
                  (SELECT count(*) FROM triggers WHERE workspace_id = $1) AS "triggers!",
                  (SELECT count(*) FROM members WHERE workspace_id = $1) AS "members!",
                  (SELECT count(*) FROM activity WHERE workspace_id = $1) AS "activity!",
                  (SELECT count(*) FROM workspace_keys WHERE workspace_id = $1) AS "keys!",
                  (SELECT count(*) FROM sealed_values WHERE workspace_id = $1) AS "sealed!",
                  (SELECT count(*) FROM api_keys WHERE workspace_id = $1) AS "api_keys!",
                  (SELECT count(*) FROM service_accounts WHERE workspace_id = $1) AS "accounts!""#,
        id
    );
    let left = left.fetch_one(&pool).await.unwrap();
    let rows = [left.executions, left.workflows, left.triggers, left.members];
    assert_eq!(rows, [0; 4], "{left:?}");
    let rows = [left.activity, left.keys, left.sealed, left.api_keys, left.accounts];
    assert_eq!(rows, [0; 5], "{left:?}");
    let kept = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events WHERE workspace_id = $1 AND position <= $2"#,
        id,
        head
    );
    assert!(kept.fetch_one(&pool).await.unwrap() > 5, "the log keeps what happened");
}
