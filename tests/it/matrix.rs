//! Every route × everybody who may ask it: anonymous, expired, in the wrong workspace, viewer, editor, administrator, owner, removed, revoked, and by
//! keys of each scope.
//!
//! The routes are read from the OpenAPI document; what each needs stands in [`NEEDS`]. A route that is not there fails the first test, so a new one
//! is placed by whoever makes it. Commands are asked as dry runs: they authorise like the real ones and change nothing.

use std::collections::BTreeMap;

use axum::{body::Body, http::Request};
use chrono::TimeDelta;
use ledgerline_api::router;
use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    coverage::{Belongings, Route, UPGRADE, answers_for_ever, ask, routes, routes_of},
    support::{
        app::App,
        http::{Answer, Deployment, PASSWORD, Person},
    },
};

/// What somebody must be to ask a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nobody.
    Nothing,
    /// Signed in; everybody has an own one.
    Person,
    /// The one whose it is; for others there is none.
    Mine,
    /// A member.
    View,
    /// An editor; by key, one that may write.
    Edit,
    /// An editor; by key, one that may execute.
    Run,
    /// An administrator.
    Manage,
    /// An administrator who is signed in, not one's key: it gives somebody new access.
    Appoint,
    /// An owner.
    Own,
    /// A member, about the own membership; by key, one that may administer.
    Belong,
    /// An operator of the deployment.
    Operate,
}

use Need::{
    Appoint, Belong, Edit, Manage, Mine, Nothing, Operate, Own, Person as Signed, Run, View,
};

/// The matrix, a line a route.
#[rustfmt::skip]
const NEEDS: &[(&str, Need)] = &[
    ("DELETE /api/v1/auth/api-keys/{id}", Mine),
    ("DELETE /api/v1/auth/me", Signed),
    ("DELETE /api/v1/auth/service-accounts/{id}", Manage),
    ("DELETE /api/v1/auth/service-accounts/{id}/api-keys/{key_id}", Manage),
    ("DELETE /api/v1/auth/sessions/{id}", Mine),
    ("DELETE /api/v1/connections/{id}", Manage),
    ("DELETE /api/v1/imported-executions/{id}", Edit),
    ("DELETE /api/v1/invitations/{id}", Manage),
    ("DELETE /api/v1/secrets/{name}", Manage),
    ("DELETE /api/v1/system/users/{user_id}", Operate),
    ("DELETE /api/v1/workflows/{id}", Edit),
    ("DELETE /api/v1/workspaces/{id}", Own),
    ("DELETE /api/v1/workspaces/{id}/members/{user_id}", Manage),
    ("DELETE /api/v1/workspaces/{id}/subjects/{subject}", Manage),
    ("GET /.well-known/jwks.json", Nothing),
    ("GET /.well-known/security.txt", Nothing),
    ("GET /api/v1/activity", View),
    ("GET /api/v1/approvals", View),
    ("GET /api/v1/auth/api-keys", Signed),
    ("GET /api/v1/auth/me", Signed),
    ("GET /api/v1/auth/oidc", Nothing),
    ("GET /api/v1/auth/oidc/{provider}/callback", Nothing),
    ("GET /api/v1/auth/oidc/{provider}/start", Nothing),
    ("GET /api/v1/auth/service-accounts", View),
    ("GET /api/v1/auth/service-accounts/{id}", View),
    ("GET /api/v1/auth/service-accounts/{id}/api-keys", Manage),
    ("GET /api/v1/auth/sessions", Signed),
    ("GET /api/v1/auth/totp", Signed),
    ("GET /api/v1/connections", Edit),
    ("GET /api/v1/connections/{id}", Edit),
    ("GET /api/v1/event-triggers", View),
    ("GET /api/v1/event-triggers/{id}", View),
    ("GET /api/v1/event-triggers/{id}/history", View),
    ("GET /api/v1/executions", View),
    ("GET /api/v1/executions/bulk/{id}", View),
    ("GET /api/v1/executions/bulk/{id}/results", View),
    ("GET /api/v1/executions/stuck", View),
    ("GET /api/v1/executions/{id}", View),
    ("GET /api/v1/executions/{id}/children", View),
    ("GET /api/v1/executions/{id}/diff", View),
    ("GET /api/v1/executions/{id}/events", View),
    ("GET /api/v1/executions/{id}/export", View),
    ("GET /api/v1/executions/{id}/logs", View),
    ("GET /api/v1/executions/{id}/nodes", View),
    ("GET /api/v1/executions/{id}/nodes/{node}/scope", View),
    ("GET /api/v1/executions/{id}/output", View),
    ("GET /api/v1/executions/{id}/why", View),
    ("GET /api/v1/imported-executions", View),
    ("GET /api/v1/imported-executions/{id}", View),
    ("GET /api/v1/imported-executions/{id}/events", View),
    ("GET /api/v1/imported-executions/{id}/logs", View),
    ("GET /api/v1/imported-executions/{id}/nodes", View),
    ("GET /api/v1/imported-executions/{id}/regressions", View),
    ("GET /api/v1/imported-executions/{id}/regressions/{execution_id}", View),
    ("GET /api/v1/invitations", Signed),
    ("GET /api/v1/log/events", View),
    ("GET /api/v1/log/streams/{id}", View),
    ("GET /api/v1/node-kinds", Signed),
    ("GET /api/v1/projections/{name}", Operate),
    ("GET /api/v1/schedules", View),
    ("GET /api/v1/schedules/{id}", View),
    ("GET /api/v1/schedules/{id}/history", View),
    ("GET /api/v1/secrets", Manage),
    ("GET /api/v1/secrets/{name}", Manage),
    ("GET /api/v1/stream", View),
    ("GET /api/v1/system", Operate),
    ("GET /api/v1/system/audit", Operate),
    ("GET /api/v1/system/outbox", Operate),
    ("GET /api/v1/webhooks", View),
    ("GET /api/v1/webhooks/{id}", View),
    ("GET /api/v1/webhooks/{id}/deliveries", View),
    ("GET /api/v1/workflows", View),
    ("GET /api/v1/workflows/templates", Signed),
    ("GET /api/v1/workflows/{id}", View),
    ("GET /api/v1/workflows/{id}/export", View),
    ("GET /api/v1/workflows/{id}/versions", View),
    ("GET /api/v1/workflows/{id}/versions/diff", View),
    ("GET /api/v1/workflows/{id}/versions/{version}", View),
    ("GET /api/v1/workspaces", Signed),
    ("GET /api/v1/workspaces/{id}", View),
    ("GET /api/v1/workspaces/{id}/audit", Own),
    ("GET /api/v1/workspaces/{id}/invitations", Manage),
    ("GET /api/v1/workspaces/{id}/members", View),
    ("GET /api/v1/ws", Signed),
    ("GET /docs", Nothing),
    ("GET /docs/problems", Nothing),
    ("GET /docs/problems/{slug}", Nothing),
    ("GET /docs/style.css", Nothing),
    ("GET /health", Nothing),
    ("GET /health/ready", Nothing),
    ("GET /metrics", Nothing),
    ("GET /openapi.json", Nothing),
    ("GET /redoc", Nothing),
    ("GET /ws/analytics", Signed),
    ("GET /ws/collaboration/{workspace_id}", View),
    ("GET /ws/executions/{id}", View),
    ("GET /ws/updates", View),
    ("PATCH /api/v1/auth/me", Signed),
    ("PATCH /api/v1/workflows/{id}/status", Edit),
    ("PATCH /api/v1/workflows/{id}/versions/{version}", Edit),
    ("PATCH /api/v1/workspaces/{id}", Manage),
    ("PATCH /api/v1/workspaces/{id}/members/{user_id}", Manage),
    ("POST /api/v1/auth/api-keys", Signed),
    ("POST /api/v1/auth/login", Nothing),
    ("POST /api/v1/auth/login/continue", Nothing),
    ("POST /api/v1/auth/logout", Signed),
    ("POST /api/v1/auth/password", Signed),
    ("POST /api/v1/auth/refresh", Nothing),
    ("POST /api/v1/auth/register", Nothing),
    ("POST /api/v1/auth/request-otp", Nothing),
    ("POST /api/v1/auth/request-verification", Signed),
    ("POST /api/v1/auth/service-accounts", Appoint),
    ("POST /api/v1/auth/service-accounts/{id}/api-keys", Appoint),
    ("POST /api/v1/auth/service-accounts/{id}/disable", Manage),
    ("POST /api/v1/auth/service-accounts/{id}/enable", Appoint),
    ("POST /api/v1/auth/totp", Signed),
    ("POST /api/v1/auth/totp/confirm", Signed),
    ("POST /api/v1/auth/totp/recovery-codes", Signed),
    ("POST /api/v1/auth/totp/remove", Signed),
    ("POST /api/v1/auth/verify-email", Nothing),
    ("POST /api/v1/auth/verify-otp", Nothing),
    ("POST /api/v1/auth/ws-ticket", Signed),
    ("POST /api/v1/connections", Manage),
    ("POST /api/v1/connections/{id}/test", Manage),
    ("POST /api/v1/event-triggers/{id}/executions/{execution_id}/replay", Run),
    ("POST /api/v1/event-triggers/{id}/pause", Edit),
    ("POST /api/v1/event-triggers/{id}/resume", Edit),
    ("POST /api/v1/executions", Run),
    ("POST /api/v1/executions/bulk", Run),
    ("POST /api/v1/executions/import", Edit),
    ("POST /api/v1/executions/{id}/approvals/{node}", Run),
    ("POST /api/v1/executions/{id}/cancel", Run),
    ("POST /api/v1/executions/{id}/fork", Run),
    ("POST /api/v1/executions/{id}/nodes/{node}/resolve", Run),
    ("POST /api/v1/executions/{id}/pause", Run),
    ("POST /api/v1/executions/{id}/rerun", Run),
    ("POST /api/v1/executions/{id}/resume", Run),
    ("POST /api/v1/executions/{id}/retry", Run),
    ("POST /api/v1/executions/{id}/signals/{name}", Run),
    ("POST /api/v1/imported-executions/{id}/regressions", Run),
    ("POST /api/v1/invitations/{id}/resend", Manage),
    ("POST /api/v1/invitations/{token}/accept", Mine),
    ("POST /api/v1/projections/{name}/rebuild", Operate),
    ("POST /api/v1/schedules/preview", Signed),
    ("POST /api/v1/schedules/{id}/pause", Edit),
    ("POST /api/v1/schedules/{id}/resume", Edit),
    ("POST /api/v1/schedules/{id}/run", Run),
    ("POST /api/v1/secrets/rotate-key", Manage),
    ("POST /api/v1/system/dispatch/pause", Operate),
    ("POST /api/v1/system/dispatch/resume", Operate),
    ("POST /api/v1/system/projections/{name}/quarantine/{key}/retry", Operate),
    ("POST /api/v1/system/projections/{name}/quarantine/{key}/skip", Operate),
    ("POST /api/v1/webhooks/{id}/deliveries/{delivery_id}/replay", Run),
    ("POST /api/v1/webhooks/{id}/pause", Edit),
    ("POST /api/v1/webhooks/{id}/resume", Edit),
    ("POST /api/v1/webhooks/{id}/rotate", Edit),
    ("POST /api/v1/worker-tasks/poll", Run),
    ("POST /api/v1/worker-tasks/{id}/complete", Run),
    ("POST /api/v1/worker-tasks/{id}/fail", Run),
    ("POST /api/v1/worker-tasks/{id}/heartbeat", Run),
    ("POST /api/v1/workflows", Edit),
    ("POST /api/v1/workflows/import", Edit),
    ("POST /api/v1/workflows/templates/{template}", Edit),
    ("POST /api/v1/workflows/validate", Signed),
    ("POST /api/v1/workflows/{id}/duplicate", Edit),
    ("POST /api/v1/workflows/{id}/nodes/{node}/run", Run),
    ("POST /api/v1/workflows/{id}/pause", Edit),
    ("POST /api/v1/workflows/{id}/publish", Edit),
    ("POST /api/v1/workflows/{id}/resume", Edit),
    ("POST /api/v1/workflows/{id}/start", Run),
    ("POST /api/v1/workflows/{id}/stop", Edit),
    ("POST /api/v1/workflows/{id}/versions/{version}/restore", Edit),
    ("POST /api/v1/workspaces", Signed),
    ("POST /api/v1/workspaces/{id}/invite", Manage),
    ("POST /api/v1/workspaces/{id}/leave", Belong),
    ("POST /api/v1/workspaces/{id}/pause", Manage),
    ("POST /api/v1/workspaces/{id}/restore", Own),
    ("POST /api/v1/workspaces/{id}/resume", Manage),
    ("POST /api/v1/workspaces/{id}/transfer", Own),
    ("POST /hooks/{token}", Nothing),
    ("PUT /api/v1/connections/{id}", Manage),
    ("PUT /api/v1/secrets/{name}", Manage),
    ("PUT /api/v1/workflows/{id}", Edit),
];

/// What the owner's own answer is a 404 to, because the workspace of this test has no such thing: there the answer to another member says only
/// whether it is refused.
const NOT_THERE: &[&str] = &[
    "GET /api/v1/executions/bulk/{id}",
    "GET /api/v1/executions/bulk/{id}/results",
    "DELETE /api/v1/workspaces/{id}/subjects/{subject}",
    "GET /api/v1/executions/{id}/output",
    "POST /api/v1/event-triggers/{id}/executions/{execution_id}/replay",
    "POST /api/v1/webhooks/{id}/deliveries/{delivery_id}/replay",
];

fn need(route: &Route) -> Need {
    let found = NEEDS.iter().find(|(name, _)| *name == route.name);
    found.unwrap_or_else(|| panic!("{} needs a line in NEEDS", route.name)).1
}

/// The least role that a need asks for; none where it is no role of a workspace.
fn least(need: Need) -> Option<Role> {
    match need {
        Nothing | Signed | Mine | Operate => None,
        View | Belong => Some(Role::Viewer),
        Edit | Run => Some(Role::Editor),
        Manage | Appoint => Some(Role::Administrator),
        Own => Some(Role::Owner),
    }
}

/// What ada has, with a member of her workspace where a route is about one.
async fn with_a_member(house: &Deployment, ada: &Person) -> Belongings {
    let mut belongings = Belongings::of(ada).await;
    let mia = house.sign_up("mia").await;
    house.let_in(ada, &belongings.workspace, &mia, Role::Viewer).await;
    belongings.user = mia.user_id.to_string();
    belongings
}

/// Whether somebody was found out and not refused.
fn let_in(answer: &Answer) -> bool {
    ![401, 403].contains(&answer.status.as_u16())
}

/// Every cell of the matrix that is not as it should be, so that one run shows all.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, route: &str, who: &str, answer: &Answer) {
        if !holds {
            self.0.push(format!("{route} {who}: {} {}", answer.status, answer.body));
        }
    }

    #[track_caller]
    fn demand_none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Asks a route about ada's workspace; a command as a dry run.
async fn of(person: &Person, route: &Route, belongings: &Belongings) -> Answer {
    let mut headers = vec![("ledgerline-workspace", belongings.workspace.as_str())];
    if route.name.contains("/ws") {
        headers.extend(UPGRADE);
    }
    let body = route.takes_body.then(|| belongings.body_of(&route.name));
    if route.method == Method::GET {
        return ask(person, route, body.as_ref(), &headers).await;
    }
    let joint = if route.path.contains('?') { '&' } else { '?' };
    let dry = Route { path: format!("{}{joint}dry_run=true", route.path), ..route.clone() };
    ask(person, &dry, body.as_ref(), &headers).await
}

#[test]
fn every_route_is_in_the_matrix() {
    let known: BTreeMap<&str, Need> = NEEDS.iter().copied().collect();
    assert_eq!(known.len(), NEEDS.len(), "each route has one line");
    let made_up = Belongings::made_up();
    let document = serde_json::to_value(router::openapi()).unwrap();
    let routes = routes_of(&document, &made_up);
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let missing: Vec<_> = names.iter().filter(|name| !known.contains_key(**name)).collect();
    assert!(missing.is_empty(), "say in NEEDS who may ask: {missing:#?}");
    let gone: Vec<_> = known.keys().filter(|name| !names.contains(name)).collect();
    assert!(gone.is_empty(), "there is no such route: {gone:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_every_role_may_do_what_the_matrix_says_and_nothing_else() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = with_a_member(&house, &ada).await;
    let theirs = [("ledgerline-workspace", belongings.workspace.as_str())];
    let secret = json!({ "value": "a secret value" });
    ada.send(Method::PUT, "/secrets/workflows", Some(&secret), &theirs).await.expect(200);
    let mut members = vec![];
    for (name, role) in [("amy", Role::Administrator), ("ed", Role::Editor), ("vic", Role::Viewer)]
    {
        let person = house.sign_up(name).await;
        house.let_in(&ada, &belongings.workspace, &person, role).await;
        members.push((person, role));
    }
    let rob = house.sign_up("rob").await;
    house.let_in(&ada, &belongings.workspace, &rob, Role::Administrator).await;
    rob.get(&format!("/workflows/{}", belongings.workflow)).await.expect(200);
    house.take_out(&ada, &belongings.workspace, &rob).await;

    let mut wrong = Wrong::default();
    for route in routes(&house, &belongings).await {
        let name = &route.name;
        let need = need(&route);
        match (need, least(need)) {
            (Mine, _) => {
                let answer = of(&members[0].0, &route, &belongings).await;
                wrong.unless(answer.status == 404, name, "of another person", &answer);
            }
            (Operate, _) => {
                let answer = of(&members[0].0, &route, &belongings).await;
                wrong.unless(answer.status == 403, name, "by who is no operator", &answer);
            }
            (_, None) => {}
            (_, Some(least)) => {
                let answer = of(&rob, &route, &belongings).await;
                let hidden = [403, 404].contains(&answer.status.as_u16());
                wrong.unless(hidden, name, "by who was removed", &answer);
                let owners = match answers_for_ever(&route) {
                    true => None,
                    false => Some(of(&ada, &route, &belongings).await),
                };
                if let Some(owners) = &owners {
                    let there = !NOT_THERE.contains(&name.as_str());
                    let fits = let_in(owners) && (owners.status != 404) == there;
                    wrong.unless(fits, name, "by its owner", owners);
                }
                for (person, role) in &members {
                    if *role > least {
                        let answer = of(person, &route, &belongings).await;
                        wrong.unless(answer.status == 403, name, role.as_str(), &answer);
                    } else if let Some(owners) = &owners {
                        let answer = of(person, &route, &belongings).await;
                        let may = let_in(&answer) && (answer.status != 404 || owners.status == 404);
                        wrong.unless(may, name, role.as_str(), &answer);
                    }
                }
            }
        }
    }
    wrong.demand_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_key_does_what_its_scopes_say_where_it_may() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = with_a_member(&house, &ada).await;
    let scoped = |scopes: &[&str]| json!({ "name": "k", "scopes": scopes });
    let keys = [
        (ada.with_key(&scoped(&["read"])).await, &[View][..]),
        (ada.with_key(&scoped(&["read", "write"])).await, &[View, Edit][..]),
        (ada.with_key(&scoped(&["read", "execute"])).await, &[View, Run][..]),
        (ada.with_key(&scoped(&["read", "admin"])).await, &[View, Manage, Own, Belong][..]),
    ];
    let elsewhere = json!({
        "name": "k", "scopes": ["read", "write", "execute", "admin"], "workspace_id": ada.workspace.to_string(),
    });
    let elsewhere = ada.with_key(&elsewhere).await;
    let mut wrong = Wrong::default();
    for route in routes(&house, &belongings).await {
        let (name, need) = (&route.name, need(&route));
        if need == Operate {
            let answer = of(&keys[3].0, &route, &belongings).await;
            wrong.unless(answer.status == 403, name, "by a key of an operator", &answer);
        }
        if least(need).is_none() {
            continue;
        }
        let answer = of(&elsewhere, &route, &belongings).await;
        wrong.unless(answer.status == 404, name, "by a key of another workspace", &answer);
        for (key, may) in &keys {
            let by = format!("by a key for {may:?}");
            if !may.contains(&need) {
                let answer = of(key, &route, &belongings).await;
                wrong.unless(answer.status == 403, name, &by, &answer);
            } else if !answers_for_ever(&route) {
                let answer = of(key, &route, &belongings).await;
                wrong.unless(let_in(&answer), name, &by, &answer);
            }
        }
    }
    wrong.demand_none();
}

/// Leaving changes who belongs to a workspace as a removal does, though every member may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_only_writes_makes_nobody_leave() {
    let house = Deployment::start().await;
    let (ada, eve) = (house.sign_up("ada").await, house.sign_up("eve").await);
    let workspace = ada.make_workspace("Operations").await;
    house.let_in(&ada, &workspace, &eve, Role::Viewer).await;
    let key = json!({ "name": "k", "scopes": ["read", "write", "execute"] });
    let key = eve.with_key(&key).await;
    let membership = format!("/workspaces/{workspace}/members/{}", eve.user_id);
    key.delete(&membership).await.is_problem(403, "forbidden");
    eve.delete(&membership).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_what_was_revoked_or_has_run_out_opens_no_route() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let belongings = Belongings::of(&ada).await;
    let pool = house.pool().await;

    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let again = async || {
        let answer = house.nobody().post("/auth/login", &login).await.expect(200);
        ada.clone().with_token(answer.text("access_token"))
    };
    let (signed_out, run_out) = (again().await, again().await);
    signed_out.get("/auth/me").await.expect(200);
    signed_out.command("/auth/logout").await.expect(204);
    // Its access token is good for minutes more; the session behind it is not.
    let newest = "UPDATE sessions SET expires_at = now() - interval '1 second'
        WHERE session_id = (SELECT session_id FROM sessions ORDER BY created_at DESC LIMIT 1)";
    sqlx::raw_sql(newest).execute(&pool).await.unwrap();

    let key = json!({ "name": "k", "scopes": ["read", "write", "execute", "admin"] });
    let key_of = async |outcome: &str| {
        let made = ada.post("/auth/api-keys", &key).await.expect(201);
        let id = made.body["api_key"]["id"].as_str().unwrap().to_owned();
        let person = ada.clone().with_token(made.text("key"));
        person.get("/auth/me").await.expect(200);
        if outcome == "ended" {
            ada.delete(&format!("/auth/api-keys/{id}")).await.expect(204);
        } else {
            let id: uuid::Uuid = id.parse().unwrap();
            sqlx::query!(
                "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE api_key_id = $1",
                id
            )
            .execute(&pool)
            .await
            .unwrap();
        }
        person
    };
    let (ended_key, old_key) = (key_of("ended").await, key_of("expired").await);

    for route in routes(&house, &belongings).await {
        if need(&route) == Nothing {
            continue;
        }
        for (person, what) in [
            (&signed_out, "a session that was ended"),
            (&run_out, "a session that has run out"),
            (&ended_key, "a key that was ended"),
            (&old_key, "a key that has run out"),
        ] {
            let answer = of(person, &route, &belongings).await;
            assert_eq!(answer.status, 401, "{} by {what}: {answer:?}", route.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_an_access_token_that_has_run_out_opens_no_route() {
    let app = App::start().await;
    let routes_of_app = router::router(&app.state);
    let send = async |method: &Method, path: &str, token: &str, body: Option<&Value>| {
        let mut request = Request::builder().method(method.as_str()).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        routes_of_app.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    };
    let ada = json!({ "email": "ada@example.com", "password": PASSWORD, "full_name": "Ada" });
    let registered = send(&Method::POST, "/api/v1/auth/register", "", Some(&ada)).await;
    assert_eq!(registered.status(), 201);
    let bytes = axum::body::to_bytes(registered.into_body(), 64 * 1024).await.unwrap();
    let registered: Value = serde_json::from_slice(&bytes).unwrap();
    let token = registered["access_token"].as_str().unwrap();
    let me = send(&Method::GET, "/api/v1/auth/me", token, None).await;
    assert_eq!(me.status(), 200);
    app.state.clock.advance(TimeDelta::minutes(15) + TimeDelta::seconds(1));
    let made_up = Belongings::made_up();
    let document = serde_json::to_value(router::openapi()).unwrap();
    for route in routes_of(&document, &made_up) {
        if need(&route) == Nothing {
            continue;
        }
        let body = route.takes_body.then(|| made_up.body_of(&route.name));
        let answer = send(&route.method, &route.path, token, body.as_ref()).await;
        assert_eq!(answer.status(), 401, "{}", route.name);
    }
}
