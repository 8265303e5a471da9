//! A server as the command line sees it: the API over HTTP, and its feeds.

use std::{path::PathBuf, sync::Mutex, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures_util::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{environment::Environment, roles::secret_file};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Frames of a feed that wait to be shown.
const QUEUE: usize = 256;

/// How long to wait before a feed that broke off is resumed.
const RESUME_AFTER: Duration = Duration::from_millis(500);

/// The longest line of a feed: an event is at most half of it.
const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;

/// What `ledgerline login` keeps.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct SignedIn {
    /// The server.
    pub(super) url: String,
    /// Who.
    pub(super) email: String,
    access_token: String,
    refresh_token: String,
}

/// What a step of signing in leads to.
pub(super) enum Step {
    /// A session.
    SignedIn(SignedIn),
    /// A code of the second factor is needed, with this challenge.
    NeedsCode(String),
}

/// The answer to a sign-in or a refresh.
#[derive(Debug, Deserialize)]
struct Tokens {
    access_token: String,
    refresh_token: String,
}

/// A server and how we are signed in to it.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    access: Mutex<Option<String>>,
    refresh: Mutex<Option<String>>,
    /// Where renewed tokens are kept.
    kept: Option<(PathBuf, SignedIn)>,
}

/// The file with the sign-in.
pub(super) fn login_file(environment: &Environment) -> anyhow::Result<PathBuf> {
    let home = environment.config_home.as_ref();
    let home = home
        .context("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for a sign-in")?;
    Ok(home.join("ledgerline/login.json"))
}

impl Client {
    /// A server, not signed in.
    pub(super) fn new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("ledgerline/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            access: Mutex::new(None),
            refresh: Mutex::new(None),
            kept: None,
        })
    }

    /// The server that was named, or the one that `login` was done to; signed in with the token that was named, or by `login`.
    pub(super) fn of(
        url: Option<&str>,
        token: Option<&SecretString>,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        if let Some(token) = token {
            let client = Self::new(url.unwrap_or(DEFAULT_URL))?;
            client.hold(token.expose_secret(), None);
            return Ok(client);
        }
        let path = login_file(environment)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!(
                    "not signed in: use `ledgerline login`, or set LEDGERLINE_URL and LEDGERLINE_TOKEN, or --embedded"
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let signed_in: SignedIn = serde_json::from_str(&text).with_context(|| {
            format!("{} is not a sign-in; use `ledgerline login` again", path.display())
        })?;
        if let Some(url) = url
            && url.trim_end_matches('/') != signed_in.url
        {
            bail!(
                "signed in to {}, not to {url}: use `ledgerline login --url {url}`",
                signed_in.url
            );
        }
        let mut client = Self::new(&signed_in.url)?;
        client.hold(&signed_in.access_token, Some(&signed_in.refresh_token));
        client.kept = Some((path, signed_in));
        Ok(client)
    }

    /// The server's address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    fn hold(&self, access: &str, refresh: Option<&str>) {
        *self.access.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(access.to_owned());
        *self.refresh.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            refresh.map(str::to_owned);
    }

    fn access(&self) -> Option<String> {
        self.access.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Signs in with what `path` (login, register) takes, and gives what can be kept.
    pub(super) async fn sign_in(
        &self,
        path: &str,
        email: &str,
        body: &Value,
    ) -> anyhow::Result<Step> {
        let request = self.http.post(self.url(path)).json(body).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if !status.is_success() {
            let problem: Value = response.json().await.unwrap_or_default();
            return match problem.get("challenge").and_then(Value::as_str) {
                Some(challenge) => Ok(Step::NeedsCode(challenge.to_owned())),
                None => Err(told(status, &problem)),
            };
        }
        let tokens: Tokens = response.json().await?;
        self.hold(&tokens.access_token, Some(&tokens.refresh_token));
        Ok(Step::SignedIn(SignedIn {
            url: self.base.clone(),
            email: email.to_owned(),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
        }))
    }

    /// Renews the access token; false when that is not possible.
    async fn renew(&self) -> anyhow::Result<bool> {
        let refresh =
            self.refresh.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let Some(refresh) = refresh else { return Ok(false) };
        let body = serde_json::json!({ "refresh_token": refresh });
        let request = self.http.post(self.url("/auth/refresh")).json(&body).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Ok(false);
        }
        let tokens: Tokens = response.json().await?;
        self.hold(&tokens.access_token, Some(&tokens.refresh_token));
        if let Some((path, signed_in)) = &self.kept {
            let renewed = SignedIn {
                access_token: tokens.access_token,
                refresh_token: tokens.refresh_token,
                ..signed_in.clone()
            };
            secret_file::write(path, &serde_json::to_string_pretty(&renewed)?)?;
        }
        Ok(true)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.base)
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> RequestBuilder {
        let mut request = self.http.request(method.clone(), self.url(path));
        if let Some(access) = self.access() {
            request = request.bearer_auth(access);
        }
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// Asks, and asks again with a renewed token when the first one has run out.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let response = self.answered(&method, path, body).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        Ok(response.json().await?)
    }

    /// What is at a path, as text.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.answered(&Method::GET, path, None).await?.text().await?)
    }

    async fn answered(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        let send = || self.request(method, path, body).timeout(ANSWER_TIMEOUT).send();
        let mut response = send().await;
        if let Ok(answered) = &response
            && answered.status() == StatusCode::UNAUTHORIZED
            && self.renew().await?
        {
            response = send().await;
        }
        self.answer(response).await
    }

    /// An answer that is no problem; a problem as words for a person.
    async fn answer(&self, response: Result<Response, reqwest::Error>) -> anyhow::Result<Response> {
        let response = response.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(told(status, &response.json().await.unwrap_or_default()))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        anyhow::Error::from(error.without_url())
            .context(format!("no server answers at {}; is it running there?", self.base))
    }

    /// A feed's frames, resumed where it was whenever the line breaks. Ends when the receiver is dropped or the server refuses.
    pub(super) async fn follow(
        &self,
        path: String,
        sender: mpsc::Sender<Value>,
    ) -> anyhow::Result<()> {
        let mut last_id: Option<String> = None;
        loop {
            let mut request = self.request(&Method::GET, &path, None);
            if let Some(id) = &last_id {
                request = request.header("Last-Event-ID", id);
            }
            match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    if !self.renew().await? {
                        self.answer(Ok(response)).await?;
                    }
                    continue;
                }
                Ok(response) if response.status().is_server_error() => {}
                Ok(response) => {
                    let response = self.answer(Ok(response)).await?;
                    if !read_feed(response, &sender, &mut last_id).await {
                        return Ok(());
                    }
                }
                Err(error) => tracing::debug!(%error, "a feed broke off"),
            }
            tokio::time::sleep(RESUME_AFTER).await;
        }
    }

    /// Starts to follow a feed in the background of the caller's own future.
    pub(super) fn feed(
        &self,
        path: String,
    ) -> (mpsc::Receiver<Value>, impl Future<Output = anyhow::Result<()>> + '_) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (receiver, self.follow(path, sender))
    }
}

/// The server that is meant when none is named.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Reads one answer of server-sent events. False when nobody listens any more.
async fn read_feed(
    response: Response,
    sender: &mpsc::Sender<Value>,
    last_id: &mut Option<String>,
) -> bool {
    let mut bytes = response.bytes_stream();
    let (mut buffer, mut frame, mut id) = (Vec::new(), None, None);
    while let Some(Ok(chunk)) = bytes.next().await {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id:") {
                id = Some(text.trim().to_owned());
            } else if let Some(data) = line.strip_prefix("data:") {
                frame = serde_json::from_str(data.trim()).ok();
            } else if line.is_empty()
                && let Some(frame) = frame.take()
            {
                if sender.send(frame).await.is_err() {
                    return false;
                }
                // Only what was handed on counts as seen.
                *last_id = id.take().or_else(|| last_id.take());
            }
        }
        if buffer.len() > MAX_LINE_BYTES {
            return true;
        }
    }
    true
}

/// A problem as words for a person.
fn told(status: StatusCode, problem: &Value) -> anyhow::Error {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut told = match text("detail") {
        "" => format!("the server answers {status}"),
        detail => detail.to_owned(),
    };
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        told.push_str(&format!("\n  {}: {}", text("pointer"), text("detail")));
    }
    // A password that is wrong is told to somebody who is using `ledgerline login`.
    let at_login = text("type").ends_with("/wrong-credentials");
    if status == StatusCode::UNAUTHORIZED && !at_login {
        told.push_str(" (use `ledgerline login` again)");
    }
    anyhow!(told)
}
