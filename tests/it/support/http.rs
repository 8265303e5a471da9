//! A whole deployment for one test, served over HTTP from a database of its own, and the people who use it.

use std::{path::Path, time::Duration};

use ledgerline_api::{
    config::{AuthConfig, Config, DatabaseConfig, EmbeddedConfig, HttpConfig, Role},
    environment::Environment,
    rate_limit::quota::{Limit, RateLimitsConfig},
    roles::{Options, Process},
};
use ledgerline_commands::{Clock, Commands, Context, Settings, Target};
use ledgerline_domain::{
    event::Actor,
    id::{UserId, WorkspaceId},
    permission::Role as MemberRole,
    workspace::{AddMember, RemoveMember, Workspace, WorkspaceCommand},
};
use ledgerline_store::{LogConfig, PostgresLog};
use reqwest::{Method, StatusCode, header::HeaderMap};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::services::{self, TestDatabase};

/// The password of everybody.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process with all that an API needs.
pub(crate) struct Deployment {
    base: String,
    client: reqwest::Client,
    elsewhere: Commands,
    stop: CancellationToken,
    // Dropped last, when nobody uses them any more.
    _process: Process,
    _folder: tempfile::TempDir,
    database: TestDatabase,
}

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    base: String,
    client: reqwest::Client,
    /// The access token, or an API key.
    pub(crate) token: String,
    pub(crate) user_id: UserId,
    /// The personal workspace.
    pub(crate) workspace: WorkspaceId,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The JSON body; a string where it is none.
    pub(crate) body: Value,
}

impl Deployment {
    /// Starts one, without messaging: its worker hears from the log.
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// Starts one that is configured otherwise.
    pub(crate) async fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let database = services::database().await;
        let folder = tempfile::tempdir().expect("a folder");
        let config = change(config(&database, folder.path()));
        let stop = CancellationToken::new();
        let environment = Environment::default();
        let process = Process::start(config, &environment, Options::default(), &stop);
        let process = process.await.expect("the deployment starts");
        let elsewhere = elsewhere(&database, &stop).await;
        let base = format!("http://{}", process.address());
        // No connection is used twice: a refused body that was not read to its end closes the one it came on, and the next
        // request must not meet that.
        let client = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build();
        let client = client.expect("a client");
        Self { base, client, elsewhere, stop, _process: process, _folder: folder, database }
    }

    /// The deployment's database.
    pub(crate) async fn pool(&self) -> sqlx::PgPool {
        self.database.pool().await
    }

    /// Where it listens: a host and a port.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The commands of another process on the same database.
    pub(crate) fn elsewhere(&self) -> &Commands {
        &self.elsewhere
    }

    /// Registers somebody.
    pub(crate) async fn sign_up(&self, name: &str) -> Person {
        let body = json!({
            "email": format!("{name}@example.com"), "password": PASSWORD, "full_name": name,
        });
        let nobody = self.nobody();
        let answer = nobody.post("/auth/register", &body).await.expect(201);
        let id = |value: &Value| value.as_str().expect("an id").parse().expect("a UUID");
        Person {
            token: answer.text("access_token").to_owned(),
            user_id: UserId(id(&answer.body["user"]["id"])),
            workspace: WorkspaceId(id(&answer.body["user"]["personal_workspace_id"])),
            ..nobody
        }
    }

    /// Somebody who is not signed in.
    pub(crate) fn nobody(&self) -> Person {
        Person {
            base: self.base.clone(),
            client: self.client.clone(),
            token: String::new(),
            user_id: UserId(uuid::Uuid::nil()),
            workspace: WorkspaceId(uuid::Uuid::nil()),
        }
    }

    /// Lets somebody into a workspace, by another process.
    pub(crate) async fn let_in(
        &self,
        by: &Person,
        workspace: &str,
        who: &Person,
        role: MemberRole,
    ) {
        let add = AddMember { by: by.user_id, user_id: who.user_id, role };
        self.tell(by, workspace, WorkspaceCommand::AddMember(add)).await;
    }

    /// Takes somebody out of a workspace, by another process.
    pub(crate) async fn take_out(&self, by: &Person, workspace: &str, who: &Person) {
        let remove = RemoveMember { by: by.user_id, user_id: who.user_id };
        self.tell(by, workspace, WorkspaceCommand::RemoveMember(remove)).await;
    }

    async fn tell(&self, by: &Person, workspace: &str, command: WorkspaceCommand) {
        let target = Target::existing(workspace.parse::<uuid::Uuid>().expect("an id"));
        let context = Context::new(Actor::Human { user_id: by.user_id });
        let told = self.elsewhere.execute::<Workspace>(target, &command, &context).await;
        told.expect("another process may change the workspace");
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn config(database: &TestDatabase, folder: &Path) -> Config {
    let usual = Config::default();
    Config {
        roles: vec![Role::Api, Role::Projector, Role::Policies, Role::Worker],
        http: HttpConfig { listen: ([127, 0, 0, 1], 0).into(), ..usual.http },
        database: DatabaseConfig {
            url: Some(SecretString::from(database.url())),
            max_connections: 16,
            ..usual.database
        },
        auth: AuthConfig {
            master_key: Some(SecretString::from("A".repeat(43) + "=")),
            ..usual.auth
        },
        // A test asks more in a second than a person in an hour.
        rate_limits: RateLimitsConfig {
            reads: Limit::Off,
            writes: Limit::Off,
            requests: Limit::Off,
        },
        embedded: EmbeddedConfig { enabled: false, data_dir: folder.to_owned(), ..usual.embedded },
        ..usual
    }
}

async fn elsewhere(database: &TestDatabase, stop: &CancellationToken) -> Commands {
    let (tasks, pool) = (TaskTracker::new(), database.pool().await);
    let log = PostgresLog::connect(pool, LogConfig::default(), &tasks, stop.clone()).await;
    Commands::new(log.expect("a log"), Clock::system(), Settings::default())
}

impl Person {
    /// Where the deployment is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body), &[]).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(body), &[]).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some(body), &[]).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// A POST without a body.
    pub(crate) async fn command(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None, &[]).await
    }

    /// Any request with a JSON body or none, to a path under the API's base.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut sent = headers.to_vec();
        let bytes = body.map(|body| body.to_string().into_bytes());
        if bytes.is_some() {
            sent.push(("content-type", "application/json"));
        }
        self.send_raw(method, &format!("/api/v1{path}"), bytes, &sent).await
    }

    /// Any request with whatever bytes.
    pub(crate) async fn send_raw(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.expect("the body arrives");
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }

    /// The same person with another token.
    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self }
    }

    /// The same person with a key of the own account.
    pub(crate) async fn with_key(&self, key: &Value) -> Self {
        let made = self.post("/auth/api-keys", key).await.expect(201);
        Self { token: made.text("key").to_owned(), ..self.clone() }
    }

    /// Makes a workspace and gives its id.
    pub(crate) async fn make_workspace(&self, name: &str) -> String {
        self.post("/workspaces", &json!({ "name": name })).await.expect(201).id()
    }

    /// Makes a workflow in the personal workspace and gives its id.
    pub(crate) async fn make_workflow(&self, body: &Value) -> String {
        self.post("/workflows", body).await.expect(201).id()
    }

    /// Asks again until an answer fits. For what follows on its own, like a run's end.
    pub(crate) async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Answer {
        let asked = async {
            let mut position = 0;
            loop {
                let answer = self.get(path).await.expect(200);
                if fits(&answer.body) {
                    return answer;
                }
                // The next answer that can differ reflects a later position: wait for the log to move, not for time to pass.
                position = position.max(answer.position());
                let next = (position + 1).to_string();
                let wait = [("ledgerline-min-position", next.as_str())];
                self.send(Method::GET, path, None, &wait).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{path} never fits"))
    }
}

impl Answer {
    /// Demands a status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// A header, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The position that it reflects.
    #[track_caller]
    pub(crate) fn position(&self) -> i64 {
        self.header("ledgerline-position").parse().unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// A text of the body.
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }

    /// The id of what it shows.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.text("id").to_owned()
    }

    /// The items of a list.
    #[track_caller]
    pub(crate) fn items(&self) -> &[Value] {
        self.body["items"].as_array().unwrap_or_else(|| panic!("no list: {self:?}"))
    }

    /// One field of each item of a list.
    #[track_caller]
    pub(crate) fn each(&self, field: &str) -> Vec<&str> {
        let text = |item: &'_ Value| -> bool { item[field].is_string() };
        assert!(self.items().iter().all(text), "no {field} in {self:?}");
        self.items().iter().filter_map(|item| item[field].as_str()).collect()
    }

    /// Demands a problem document of a kind.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, slug: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["type"], format!("/docs/problems/{slug}"), "{self:?}");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["correlation_id"], self.header("x-correlation-id"));
    }

    /// Demands the refusal of a rule of the domain.
    #[track_caller]
    pub(crate) fn refused_by(&self, rule: &str) {
        self.is_problem(409, "rule-refused");
        assert_eq!(self.body["rule"], rule, "{self:?}");
    }

    /// Where the values are that are not valid.
    #[track_caller]
    pub(crate) fn pointers(&self) -> Vec<&str> {
        self.is_problem(422, "invalid-value");
        let errors = self.body["errors"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        errors.iter().map(|error| error["pointer"].as_str().expect("a pointer")).collect()
    }
}

/// A workflow that greets: one node without an effect.
pub(crate) fn greeting(name: &str) -> Value {
    json!({
        "name": name,
        "description": "Greets whoever it is started for.",
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {} },
            { "id": "greet", "type": "logic.transform", "config": { "expression": "'Hello, ' + input.name" } },
        ],
        "connections": [{ "from": "start", "to": "greet" }],
    })
}

/// A workflow that waits for an hour.
pub(crate) fn waiting(name: &str) -> Value {
    json!({
        "name": name,
        "nodes": [{ "id": "wait", "type": "logic.wait", "config": { "duration_ms": 3_600_000 } }],
    })
}
