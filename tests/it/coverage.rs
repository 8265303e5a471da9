//! Every route of the OpenAPI document: closed to the anonymous and to strangers, and never broken by what anybody sends.
//!
//! The routes are read from the document, so one that is added is covered here without a line; one that takes a body needs a sound one
//! in [`body_of`], or the test says so.

use std::collections::BTreeMap;

use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, PASSWORD, Person, greeting, waiting};

/// What anybody may ask.
const PUBLIC: &[&str] = &[
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/login/continue",
    "GET /api/v1/auth/oidc",
    "GET /api/v1/auth/oidc/{provider}/start",
    "GET /api/v1/auth/oidc/{provider}/callback",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/request-otp",
    "POST /api/v1/auth/verify-otp",
    "POST /api/v1/auth/verify-email",
    "GET /health",
    "GET /health/ready",
    "GET /metrics",
    // The address is the secret, and a delivery is signed.
    "POST /hooks/{token}",
    "GET /.well-known/jwks.json",
    "GET /.well-known/security.txt",
    "GET /openapi.json",
    "GET /docs",
    "GET /redoc",
    "GET /docs/problems",
    "GET /docs/problems/{slug}",
    "GET /docs/style.css",
];

/// What everybody has an own one of, so that a stranger is answered with the stranger's.
const OWN: &[&str] = &[
    "POST /api/v1/auth/logout",
    "GET /api/v1/auth/me",
    "PATCH /api/v1/auth/me",
    "DELETE /api/v1/auth/me",
    "POST /api/v1/auth/password",
    "POST /api/v1/auth/request-verification",
    "GET /api/v1/auth/sessions",
    "GET /api/v1/auth/api-keys",
    "POST /api/v1/auth/api-keys",
    "GET /api/v1/auth/totp",
    "POST /api/v1/auth/totp",
    "POST /api/v1/auth/totp/confirm",
    "POST /api/v1/auth/totp/recovery-codes",
    "POST /api/v1/auth/totp/remove",
    "POST /api/v1/auth/ws-ticket",
    "GET /api/v1/invitations",
    "GET /api/v1/workspaces",
    "POST /api/v1/workspaces",
    "GET /api/v1/node-kinds",
    "POST /api/v1/schedules/preview",
    "POST /api/v1/workflows/validate",
    "GET /api/v1/workflows/templates",
    // What a socket listens to is asked for, and refused, on the socket itself.
    "GET /api/v1/ws",
    "GET /ws/analytics",
];

/// A connection to nowhere.
fn connection(name: &str) -> Value {
    let settings = json!({ "kind": "postgres", "host": "127.0.0.1", "database": "d", "user": "u" });
    json!({ "name": name, "settings": settings, "password": "a password" })
}

/// A published workflow with a trigger of each kind; gives their ids once they are known.
async fn triggers(person: &Person, workspace: &str) -> [String; 3] {
    let of_workspace = [("ledgerline-workspace", workspace)];
    let body = json!({ "name": "By itself", "nodes": [
        { "id": "clock", "type": "trigger.cron", "config": { "cron": "0 0 1 1 *" } },
        { "id": "hook", "type": "trigger.webhook", "config": {} },
        { "id": "hear", "type": "trigger.event", "config": { "event_type": "member_added" } },
    ] });
    let made = person.send(Method::POST, "/workflows", Some(&body), &of_workspace).await;
    let workflow = made.expect(201).id();
    person.command(&format!("/workflows/{workflow}/publish")).await.expect(200);
    let mut ids = Vec::new();
    for noun in ["schedules", "webhooks", "event-triggers"] {
        let path = format!("/{noun}?workspace_id={workspace}");
        let listed = person.until(&path, |body| body["total"] == 1).await;
        ids.push(listed.items()[0]["id"].as_str().expect("an id").to_owned());
    }
    ids.try_into().expect("there are three")
}

/// Exports an execution and imports it again; gives the id of that.
async fn import(person: &Person, workspace: &str, execution: &str) -> String {
    let file = person.get(&format!("/executions/{execution}/export")).await.expect(200);
    let file = file.body.as_str().expect("several lines are not one JSON value").to_owned();
    let headers = [("ledgerline-workspace", workspace), ("content-type", "application/x-ndjson")];
    let path = "/api/v1/executions/import";
    let sent = person.send_raw(Method::POST, path, Some(file.into_bytes()), &headers).await;
    sent.expect(201).body["imported"]["id"].as_str().expect("an id").to_owned()
}

/// A route with its ids filled in.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// As the document names it.
    pub(crate) name: String,
    pub(crate) method: Method,
    /// As it is asked for.
    pub(crate) path: String,
    pub(crate) takes_body: bool,
}

/// What one person has, for others to want.
pub(crate) struct Belongings {
    pub(crate) workspace: String,
    pub(crate) workflow: String,
    execution: String,
    schedule: String,
    webhook: String,
    listener: String,
    session: String,
    api_key: String,
    service_account: String,
    service_key: String,
    pub(crate) user: String,
    connection: String,
    invitation: String,
    imported: String,
}

impl Belongings {
    /// Ids of nothing, for where the answer does not depend on what there is.
    pub(crate) fn made_up() -> Self {
        let id = || uuid::Uuid::now_v7().to_string();
        Self {
            connection: id(),
            workspace: id(),
            workflow: id(),
            execution: id(),
            schedule: id(),
            webhook: id(),
            listener: id(),
            session: id(),
            api_key: id(),
            service_account: id(),
            service_key: id(),
            user: id(),
            invitation: id(),
            imported: id(),
        }
    }

    pub(crate) async fn of(person: &Person) -> Self {
        let workspace = person.make_workspace("Operations").await;
        let of_workspace = [("ledgerline-workspace", workspace.as_str())];
        let body = waiting("Wait");
        let made = person.send(Method::POST, "/workflows", Some(&body), &of_workspace).await;
        let workflow = made.expect(201).id();
        let execution =
            person.command(&format!("/workflows/{workflow}/start")).await.expect(202).id();
        let [schedule, webhook, listener] = triggers(person, &workspace).await;
        let sessions = person.get("/auth/sessions").await.expect(200);
        let session = sessions.each("id")[0].to_owned();
        let key = json!({ "name": "k", "scopes": ["read"] });
        let key = person.post("/auth/api-keys", &key).await.expect(201);
        let api_key = key.body["api_key"]["id"].as_str().expect("an id").to_owned();
        let body = json!({ "name": "robot", "role": "viewer" });
        let robots = "/auth/service-accounts";
        let made = person.send(Method::POST, robots, Some(&body), &of_workspace).await;
        let service_account = made.expect(201).id();
        let key = json!({ "name": "k", "scopes": ["read"] });
        let key = person.post(&format!("{robots}/{service_account}/api-keys"), &key).await;
        let service_key = key.expect(201).body["api_key"]["id"].as_str().expect("an id").to_owned();
        let body = connection("db");
        let made = person.send(Method::POST, "/connections", Some(&body), &of_workspace);
        let connection = made.await.expect(201).id();
        let invite = json!({ "email": "guest@example.com", "role": "viewer" });
        let sent = person.post(&format!("/workspaces/{workspace}/invite"), &invite).await;
        let invitation = sent.expect(201).id();
        let user = person.user_id.to_string();
        let imported = import(person, &workspace, &execution).await;
        Self {
            imported,
            connection,
            invitation,
            workspace,
            workflow,
            execution,
            schedule,
            webhook,
            listener,
            session,
            api_key,
            service_account,
            service_key,
            user,
        }
    }

    /// A path with these in place of its parameters.
    fn fill(&self, path: &str) -> String {
        // The first try of the node `wait` of the execution, as the API names tasks.
        let task = format!("{}.1.77616974", self.execution);
        let id = match path.split('/').nth(3) {
            Some("workspaces") => &self.workspace,
            Some("workflows") => &self.workflow,
            Some("executions") => &self.execution,
            Some("imported-executions") => &self.imported,
            Some("worker-tasks") => &task,
            Some("connections") => &self.connection,
            Some("invitations") => &self.invitation,
            Some("schedules") => &self.schedule,
            Some("webhooks") => &self.webhook,
            Some("event-triggers") => &self.listener,
            Some("auth") if path.contains("sessions") => &self.session,
            Some("auth") if path.contains("service-accounts") => &self.service_account,
            Some("auth") => &self.api_key,
            _ => &self.workspace,
        };
        let known: BTreeMap<&str, &str> = BTreeMap::from([
            ("{id}", id.as_str()),
            ("{user_id}", self.user.as_str()),
            ("{key_id}", self.service_key.as_str()),
            ("{version}", "1"),
            ("{template}", "greeting"),
            ("{slug}", "invalid-value"),
            ("{name}", "workflows"),
            ("{node}", "wait"),
            ("{key}", self.workspace.as_str()),
            ("{token}", "hook_none"),
            ("{delivery_id}", "none"),
            ("{subject}", "nobody"),
            ("{provider}", "none"),
            ("{execution_id}", self.execution.as_str()),
            ("{workspace_id}", self.workspace.as_str()),
        ]);
        let parts = path.split('/').map(|part| match part.starts_with('{') {
            true => known.get(part).copied().unwrap_or_else(|| panic!("fill in {part} of {path}")),
            false => part,
        });
        parts.collect::<Vec<_>>().join("/")
    }

    /// What the route demands in its query.
    fn query_of(&self, path: &str) -> String {
        match path {
            "/api/v1/executions/{id}/diff" => format!("?with={}", self.execution),
            "/api/v1/stream" => format!("?channel=workflow:{}", self.workflow),
            _ => String::new(),
        }
    }

    /// A body that the route would take from its owner.
    pub(crate) fn body_of(&self, route: &str) -> Value {
        match route {
            "POST /api/v1/auth/register" => {
                json!({ "email": "x@example.com", "password": PASSWORD, "full_name": "x" })
            }
            "POST /api/v1/auth/login" => json!({ "email": "x@example.com", "password": PASSWORD }),
            "POST /api/v1/auth/login/continue" => json!({ "challenge": "none", "code": "000000" }),
            "POST /api/v1/auth/totp" => json!({ "password": PASSWORD }),
            "POST /api/v1/auth/totp/confirm" | "POST /api/v1/auth/totp/recovery-codes" => {
                json!({ "code": "000000" })
            }
            "POST /api/v1/auth/totp/remove" => json!({ "password": PASSWORD, "code": "000000" }),
            "POST /api/v1/auth/refresh" => json!({ "refresh_token": "none" }),
            "PATCH /api/v1/auth/me" => json!({ "full_name": "x" }),
            // Of somebody else: it is refused.
            "DELETE /api/v1/auth/me" => json!({ "email": "x@example.com" }),
            "POST /api/v1/auth/password" => {
                json!({ "old_password": "none", "new_password": PASSWORD })
            }
            "POST /api/v1/auth/request-otp" => {
                json!({ "email": "x@example.com", "purpose": "login" })
            }
            "POST /api/v1/auth/verify-otp" => {
                json!({ "email": "x@example.com", "purpose": "login", "code": "000000" })
            }
            "POST /api/v1/auth/verify-email" => json!({ "token": "none" }),
            "POST /api/v1/auth/api-keys" | "POST /api/v1/auth/service-accounts/{id}/api-keys" => {
                json!({ "name": "x", "scopes": ["read"] })
            }
            "POST /api/v1/auth/service-accounts" => json!({ "name": "x", "role": "viewer" }),
            "POST /api/v1/workspaces" | "PATCH /api/v1/workspaces/{id}" => json!({ "name": "x" }),
            "PATCH /api/v1/workspaces/{id}/members/{user_id}" => json!({ "role": "viewer" }),
            "POST /api/v1/workspaces/{id}/invite" => {
                json!({ "email": "other@example.com", "role": "viewer" })
            }
            "POST /api/v1/workspaces/{id}/transfer" => json!({ "user_id": self.user }),
            "POST /api/v1/workflows" | "PUT /api/v1/workflows/{id}" => greeting("x"),
            "POST /api/v1/workflows/validate" | "POST /api/v1/workflows/import" => greeting("x"),
            "PATCH /api/v1/workflows/{id}/status" => json!({ "status": "published" }),
            "PUT /api/v1/secrets/{name}" => json!({ "value": "a secret value" }),
            "POST /api/v1/connections" | "PUT /api/v1/connections/{id}" => connection("other"),
            "POST /api/v1/executions/bulk" => {
                json!({ "action": "rerun", "filter": { "ids": [] } })
            }
            "POST /api/v1/schedules/preview" => json!({ "cron": "* * * * *" }),
            "POST /api/v1/webhooks/{id}/rotate" => json!({ "url": true }),
            "POST /api/v1/executions/{id}/nodes/{node}/resolve" => json!({ "action": "retry" }),
            "POST /api/v1/executions/{id}/fork" => json!({ "at_position": 1 }),
            "POST /api/v1/executions" => json!({ "workflow_id": self.workflow }),
            "POST /api/v1/worker-tasks/poll" => json!({ "queue": "images" }),
            "POST /api/v1/worker-tasks/{id}/complete"
            | "POST /api/v1/worker-tasks/{id}/heartbeat" => {
                json!({ "lease": 1 })
            }
            "POST /api/v1/worker-tasks/{id}/fail" => {
                json!({ "lease": 1, "error": { "message": "x" } })
            }
            "POST /api/v1/executions/{id}/approvals/{node}" => json!({ "decision": "approved" }),
            "POST /api/v1/system/projections/{name}/quarantine/{key}/skip" => {
                json!({ "reason": "x" })
            }
            _ => json!({}),
        }
    }
}

/// What opens a socket.
pub(crate) const UPGRADE: &[(&str, &str)] = &[
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// All operations of the document that a deployment serves.
pub(crate) async fn routes(house: &Deployment, belongings: &Belongings) -> Vec<Route> {
    let document = house.nobody().send_raw(Method::GET, "/openapi.json", None, &[]).await;
    routes_of(&document.body, belongings)
}

/// All operations of a document.
pub(crate) fn routes_of(document: &Value, belongings: &Belongings) -> Vec<Route> {
    let paths = document["paths"].as_object().expect("the document has paths");
    let mut routes = Vec::new();
    for (path, item) in paths {
        for (word, operation) in item.as_object().expect("a path has operations") {
            let word = word.to_uppercase();
            let Ok(method) = Method::from_bytes(word.as_bytes()) else { continue };
            if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&word.as_str()) {
                continue;
            }
            routes.push(Route {
                name: format!("{method} {path}"),
                method,
                path: format!("{}{}", belongings.fill(path), belongings.query_of(path)),
                takes_body: operation.get("requestBody").is_some(),
            });
        }
    }
    assert!(routes.len() > 50, "the document names all routes: {}", routes.len());
    routes
}

pub(crate) async fn ask(
    person: &Person,
    route: &Route,
    body: Option<&Value>,
    extra: &[(&str, &str)],
) -> Answer {
    let mut headers = extra.to_vec();
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let bytes = body.map(|body| body.to_string().into_bytes());
    person.send_raw(route.method.clone(), &route.path, bytes, &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_no_route_is_open_to_the_anonymous_unless_it_says_so() {
    let house = Deployment::start().await;
    let belongings = Belongings::of(&house.sign_up("ada").await).await;
    let routes = routes(&house, &belongings).await;
    for route in routes.iter().filter(|route| !PUBLIC.contains(&route.name.as_str())) {
        let body = route.takes_body.then(|| belongings.body_of(&route.name));
        let answer = ask(&house.nobody(), route, body.as_ref(), &[]).await;
        assert_eq!(answer.status, 401, "{}: {answer:?}", route.name);
        answer.is_problem(401, "unauthenticated");
        let forged = house.nobody().with_token("forged");
        let answer = ask(&forged, route, body.as_ref(), &[]).await;
        assert_eq!(answer.status, 401, "{}: {answer:?}", route.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_no_route_shows_or_gives_a_stranger_what_is_somebody_elses() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = Belongings::of(&ada).await;
    let eve = house.sign_up("eve").await;
    let theirs = [("ledgerline-workspace", belongings.workspace.as_str())];
    // That she signed in is hers, and told before anything is asked.
    ada.get("/system/audit").await.expect(200);
    let head = async || house.elsewhere().log().head().await.expect("the log answers").position;
    let before = head().await;
    let all = routes(&house, &belongings).await;
    let closed = all.iter().filter(|route| {
        !PUBLIC.contains(&route.name.as_str()) && !OWN.contains(&route.name.as_str())
    });
    for route in closed {
        let body = route.takes_body.then(|| belongings.body_of(&route.name));
        let mut headers = theirs.to_vec();
        if route.name.contains("/ws/") {
            headers.extend(UPGRADE);
        }
        let answer = ask(&eve, route, body.as_ref(), &headers).await;
        let status = answer.status.as_u16();
        assert!([403, 404].contains(&status), "{}: {answer:?}", route.name);
        assert!(!answer.body.to_string().contains("Operations"), "{}: {answer:?}", route.name);
        if route.method == Method::GET {
            continue;
        }
        let dry = Route { path: format!("{}?dry_run=true", route.path), ..route.clone() };
        let answer = ask(&eve, &dry, body.as_ref(), &theirs).await;
        let status = answer.status.as_u16();
        assert!([403, 404].contains(&status), "{} as a dry run: {answer:?}", route.name);
    }
    // Ada's own run may have gone on meanwhile; nothing of eve's is in the log.
    let filter = ledgerline_store::Filter::default();
    let (events, _) = house.elsewhere().log().read(before, 1_000, &filter).await.expect("a read");
    let eve = eve.user_id.to_string();
    assert!(events.iter().all(|event| !event.metadata.contains(&eve)), "{events:?}");
}

/// A viewer sees what is in the workspace, and no route lets a viewer change any of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_no_route_lets_a_viewer_change_anything() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = Belongings::of(&ada).await;
    let eve = house.sign_up("eve").await;
    house.let_in(&ada, &belongings.workspace, &eve, Role::Viewer).await;
    let theirs = [("ledgerline-workspace", belongings.workspace.as_str())];
    eve.get(&format!("/workflows/{}", belongings.workflow)).await.expect(200);
    eve.get(&format!("/executions/{}", belongings.execution)).await.expect(200);
    let all = routes(&house, &belongings).await;
    let changing = all.iter().filter(|route| {
        route.method != Method::GET
            && !PUBLIC.contains(&route.name.as_str())
            && !OWN.contains(&route.name.as_str())
    });
    for route in changing {
        // Everybody may leave, which is tested where it belongs.
        if route.name == "POST /api/v1/workspaces/{id}/leave" {
            continue;
        }
        let body = route.takes_body.then(|| belongings.body_of(&route.name));
        let answer = ask(&eve, route, body.as_ref(), &theirs).await;
        // 404 for what is not the workspace's at all, such as another's session, or an invitation that nobody has.
        let own = route.name.contains("/auth/") && !route.name.contains("/auth/service-accounts");
        let hidden = own || route.name.contains("/{token}/");
        assert_eq!(answer.status, if hidden { 404 } else { 403 }, "{}: {answer:?}", route.name);
    }
    let shown = ada.get(&format!("/workflows/{}", belongings.workflow)).await.expect(200);
    assert_eq!(shown.body["name"], "Wait");
}

/// Bodies that no route may take, and none may break on.
fn hostile_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let deep = |depth: usize| {
        format!("{{\"name\":{}1{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
    };
    vec![
        ("nothing", Vec::new()),
        ("no JSON", b"{".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a text", b"\"'; DROP TABLE events; --\"".to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"1e999".to_vec()),
        ("deep", deep(100)),
        ("very deep", deep(200_000)),
        ("U+0000", br#"{"name":"a\u0000b","email":"a\u0000b","input":"\u0000"}"#.to_vec()),
        ("no UTF-8", b"{\"name\":\"\xff\xfe\"}".to_vec()),
        ("a lone surrogate", br#"{"name":"\ud800"}"#.to_vec()),
        ("an unknown field", br#"{"__proto__":{"admin":true}}"#.to_vec()),
        ("a repeated field", br#"{"name":"a","name":"b","zz":1}"#.to_vec()),
        (
            "wrong types",
            br#"{"name":7,"email":[],"password":{},"status":1,"role":2,"input":3,"version":"x","workflow_id":4,"nodes":"x","scopes":5,"zz":6}"#
                .to_vec(),
        ),
        ("over 10 MB", vec![b' '; 10 * 1024 * 1024 + 1]),
    ]
}

/// What is put where ids and queries belong.
const HOSTILE_IDS: &[&str] = &[
    "0",
    "%27%3B%20DROP%20TABLE%20events%3B--",
    "..%2F..%2Fetc%2Fpasswd",
    "%00",
    "%FF%FE",
    "00000000-0000-0000-0000-000000000000",
    "%F0%9F%92%A9",
];

const HOSTILE_QUERIES: &[&str] = &[
    "limit=-1",
    "limit=99999999999999999999",
    "offset=-1",
    "sort=%27%3B--",
    "cursor=%27%20OR%201%3D1",
    "cursor=5b2266222c7b7d2c225d",
    "at=yesterday",
    "at_position=-1",
    "at=2020-01-01T00:00:00Z&at_position=1",
    "min_position=99999999999999999999",
    "workspace_id=%00",
    "search=%00",
    "dry_run=maybe",
    "zzz=1",
    "limit=1&limit=2",
    "after=-1&limit=0",
];

/// A stranger's answers are either fine or a problem of the stranger's own.
#[track_caller]
fn is_no_fault_of_ours(route: &Route, what: &str, answer: &Answer) {
    let status = answer.status.as_u16();
    assert!(status < 500, "{} with {what}: {answer:?}", route.name);
    if status >= 400 {
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{} with {what}: {answer:?}",
            route.name
        );
    }
}

/// Somebody to ask a route as, and to be thrown away where the route ends sessions.
async fn somebody(house: &Deployment, route: &Route, shared: &Person, count: &mut usize) -> Person {
    let ends = ["/auth/logout", "/auth/sessions/", "/auth/password", "DELETE /api/v1/auth/me"];
    if !ends.iter().any(|part| route.name.contains(part)) {
        return shared.clone();
    }
    *count += 1;
    house.sign_up(&format!("guest{count}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_breaks_a_route() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = Belongings::of(&ada).await;
    let mut guests = 0;
    for route in routes(&house, &belongings).await {
        if route.method == Method::GET {
            continue;
        }
        let person = somebody(&house, &route, &ada, &mut guests).await;
        for (what, body) in hostile_bodies() {
            if body.is_empty() && !route.takes_body {
                continue;
            }
            let json = [("content-type", "application/json")];
            let answer =
                person.send_raw(route.method.clone(), &route.path, Some(body.clone()), &json).await;
            is_no_fault_of_ours(&route, what, &answer);
            if route.takes_body && !body.is_empty() {
                let status = answer.status.as_u16();
                assert!((400..500).contains(&status), "{} took {what}: {answer:?}", route.name);
            }
        }
        // A webhook takes whatever others send.
        if route.takes_body && !route.name.starts_with("POST /hooks/") {
            let body = Some(b"name=x".to_vec());
            let form = [("content-type", "application/x-www-form-urlencoded")];
            let answer = person.send_raw(route.method.clone(), &route.path, body, &form).await;
            assert!([401, 415].contains(&answer.status.as_u16()), "{}: {answer:?}", route.name);
        }
    }
}

/// Whether a parameter of the path may be any text: then what is hostile elsewhere is as good as any other.
fn is_text(route: &Route, parameter: &str) -> bool {
    route.name.ends_with("/signals/{name}") && parameter == "{name}"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_query_or_header_breaks_a_route() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = Belongings::of(&ada).await;
    let mut guests = 0;
    for route in routes(&house, &belongings).await {
        let body = route.takes_body.then(|| belongings.body_of(&route.name));
        let person = somebody(&house, &route, &ada, &mut guests).await;
        let given = route.name.split('/').zip(route.path.split('/'));
        let ids: Vec<String> = given
            .filter(|(name, _)| name.starts_with('{') && !is_text(&route, name))
            .map(|(_, id)| id.to_owned())
            .collect();
        for id in &ids {
            for hostile in HOSTILE_IDS {
                let path = route.path.replacen(id.as_str(), hostile, 1);
                let asked = Route { path, ..route.clone() };
                let answer = ask(&person, &asked, body.as_ref(), &[]).await;
                is_no_fault_of_ours(&asked, hostile, &answer);
                let status = answer.status.as_u16();
                assert!((400..500).contains(&status), "{} at {hostile}: {answer:?}", route.name);
            }
        }
        if route.method != Method::GET {
            continue;
        }
        for query in HOSTILE_QUERIES {
            // A feed is answered for as long as somebody listens, so only what it refuses is asked of it.
            if answers_for_ever(&route) {
                continue;
            }
            let asked = Route { path: format!("{}?{query}", route.path), ..route.clone() };
            is_no_fault_of_ours(&asked, query, &ask(&person, &asked, None, &[]).await);
        }
        for (name, value) in [
            ("ledgerline-workspace", "'; --"),
            ("ledgerline-min-position", "-1"),
            ("if-match", "\"x\""),
            ("x-correlation-id", "\u{7f}'"),
            ("traceparent", "00-zz"),
            ("accept", "application/nothing"),
        ] {
            if answers_for_ever(&route) || value.contains('\u{7f}') {
                continue;
            }
            is_no_fault_of_ours(&route, name, &ask(&person, &route, None, &[(name, value)]).await);
        }
    }
}

/// Server-sent events and sockets.
pub(crate) fn answers_for_ever(route: &Route) -> bool {
    let path = route.name.trim_start_matches("GET ").trim_start_matches("/api/v1");
    path == "/stream" || path.starts_with("/ws")
}
