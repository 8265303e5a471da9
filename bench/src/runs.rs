//! Very many runs of one workflow on the real program: started over several connections, and looked at in the log itself.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{latency::Latency, server::Server, servers::Servers};

/// Requests are made over so many connections.
pub(crate) const CONNECTIONS: usize = 32;
/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the log is looked at: rarely enough that the looks are not what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The log of a running program, followed by the types of its events.
pub(crate) struct Watch {
    pub(crate) pool: PgPool,
    position: i64,
    seen: HashMap<String, usize>,
}

impl Watch {
    /// Follows the log of a program from its start.
    pub(crate) async fn of(servers: &Servers, name: &str) -> anyhow::Result<Self> {
        let pool = PgPool::connect_with(servers.options(name)?).await?;
        Ok(Self { pool, position: 0, seen: HashMap::new() })
    }

    /// Returns when so many events of a type are in the log, counted from its start.
    pub(crate) async fn until(&mut self, r#type: &str, count: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.read().await?;
            let seen = self.seen.get(r#type).copied().unwrap_or_default();
            if seen >= count {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "{seen} of {count} {type} after minutes");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT type, count(*), max(position) FROM events WHERE position > $1 GROUP BY type",
        )
        .bind(self.position)
        .fetch_all(&self.pool)
        .await?;
        for (r#type, count, last) in rows {
            *self.seen.entry(r#type).or_default() += usize::try_from(count)?;
            self.position = self.position.max(last);
        }
        Ok(())
    }

    /// How far the log was read.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    /// When the events of a type after a position were committed, by their runs.
    pub(crate) async fn times(
        &self,
        r#type: &str,
        after: i64,
    ) -> anyhow::Result<HashMap<Uuid, DateTime<Utc>>> {
        let rows: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
            "SELECT stream_id, recorded_at FROM events WHERE position > $2 AND type = $1",
        )
        .bind(r#type)
        .bind(after)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }
}

/// Times of runs, from what began them to what came of it.
pub(crate) fn between(
    begun: &HashMap<Uuid, DateTime<Utc>>,
    ended: &HashMap<Uuid, DateTime<Utc>>,
) -> Latency {
    let mut latency = Latency::default();
    for (id, begun) in begun {
        if let Some(ended) = ended.get(id) {
            latency.record((*ended - *begun).to_std().unwrap_or_default());
        }
    }
    latency
}

/// Saves a workflow and gives its id.
pub(crate) async fn workflow(server: &Server, definition: &Value) -> anyhow::Result<String> {
    let mut client = server.client().await?;
    let (status, answer) =
        client.send("POST", "/api/v1/workflows", &definition.to_string()).await?;
    anyhow::ensure!(status == 201, "{status}: {answer}");
    Ok(id_in(&answer)?.to_string())
}

/// Starts a run for each of these inputs.
pub(crate) async fn start(
    server: &Server,
    workflow: &str,
    inputs: Vec<Value>,
) -> anyhow::Result<Vec<Uuid>> {
    let path: Arc<str> = format!("/api/v1/workflows/{workflow}/start").into();
    let bodies = inputs.into_iter().map(|input| {
        let body = serde_json::json!({ "input": input }).to_string();
        (Arc::clone(&path), body)
    });
    let answers = post_all(server, bodies.collect()).await?;
    answers.iter().map(|(_, answer)| id_in(answer)).collect()
}

/// Posts to each of these paths, many beside each other; gives when each was asked, and the answers.
pub(crate) async fn post_all(
    server: &Server,
    requests: Vec<(Arc<str>, String)>,
) -> anyhow::Result<Vec<(DateTime<Utc>, String)>> {
    let (count, requests) = (requests.len(), Arc::new(requests));
    let mut callers = JoinSet::new();
    for caller in 0..CONNECTIONS.min(count) {
        let (mut client, requests) = (server.client().await?, Arc::clone(&requests));
        callers.spawn(async move {
            let mut answers = Vec::new();
            for (index, (path, body)) in
                requests.iter().enumerate().skip(caller).step_by(CONNECTIONS)
            {
                let asked = Utc::now();
                let (status, answer) = client.send("POST", path, body).await?;
                anyhow::ensure!(status < 300, "{path} answered {status}: {answer}");
                answers.push((index, (asked, answer)));
            }
            anyhow::Ok(answers)
        });
    }
    let mut answers = Vec::with_capacity(count);
    while let Some(given) = callers.join_next().await {
        answers.extend(given??);
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

fn id_in(answer: &str) -> anyhow::Result<Uuid> {
    let body: Value = serde_json::from_str(answer)?;
    Ok(body["id"].as_str().context("an id")?.parse()?)
}
