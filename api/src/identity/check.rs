//! Whether a session or an API key is still good: looked up for every request, so that revocation acts on the next one.
//!
//! A cache would answer faster and be wrong just after a revocation by another process. Instead requests share their reads, as
//! commands share a flush of the log: while one statement is under way the next requests gather, and one statement answers all of them.
//! A request's read always begins after the request came in, so it sees every revocation that was answered before; and the
//! database sees a few hundred statements a second however many requests there are.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::id::{ApiKeyId, SessionId, UserId, WorkspaceId};
use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{api_key::Scope, token};
use crate::{clock::Clock, problem::Problem};

/// How many requests may wait for their answer; more are refused as overloaded.
const MAX_WAITING: usize = 4_096;
/// How many of them one statement answers.
const MAX_BATCH: usize = 512;
/// How often it is noted which sessions are in use.
const NOTE_AFTER: TimeDelta = TimeDelta::minutes(1);
/// The same while nobody asks anything.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// How many sessions wait for that at most.
const MAX_USED: usize = 10_000;

/// What a request may be signed in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// The session of an access token whose signature was verified.
    Session(SessionId),
    /// An API key and the hash of the secret that came with it.
    ApiKey(ApiKeyId, [u8; 32]),
}

/// A session or key that is good at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Whose.
    pub user_id: UserId,
    /// Whether that person is an operator of the deployment.
    pub operator: bool,
    /// Until when it is good, unless it is refreshed or revoked.
    pub expires_at: DateTime<Utc>,
    /// What a key may do; None for a session, which may do all that its person may.
    pub scopes: Option<Vec<Scope>>,
    /// The only workspace that a key reaches.
    pub workspace_id: Option<WorkspaceId>,
    /// Whether it is a key of a service account, which is a member of that workspace and no person.
    pub service_account: bool,
}

#[derive(Clone, Debug)]
struct Row {
    live: Live,
    secret_hash: Option<Vec<u8>>,
}

type Answer = Result<Option<Row>, Problem>;

struct Question {
    id: Uuid,
    of_key: bool,
    answer: oneshot::Sender<Answer>,
}

/// Asks whether sessions and keys are good. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checker(mpsc::Sender<Question>);

impl Checker {
    /// Starts the reader on the process's tasks; it ends with them.
    #[must_use]
    pub fn start(
        pool: PgPool,
        clock: Clock,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(answer_all(pool, clock, receiver)).await;
        });
        Self(sender)
    }

    /// What is known of a session or key that is good now; None when it is not.
    ///
    /// # Errors
    /// 503 when the database is away or too many others wait.
    pub async fn check(&self, presented: Presented) -> Result<Option<Live>, Problem> {
        let (id, of_key) = match presented {
            Presented::Session(id) => (id.0, false),
            Presented::ApiKey(id, _) => (id.0, true),
        };
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Question { id, of_key, answer }).map_err(|_| overloaded())?;
        let row = answered.await.map_err(|_| overloaded())??;
        Ok(row.filter(|row| secret_fits(row, presented)).map(|row| row.live))
    }
}

fn secret_fits(row: &Row, presented: Presented) -> bool {
    match (presented, &row.secret_hash) {
        (Presented::Session(_), None) => true,
        (Presented::ApiKey(_, hash), Some(stored)) => token::same_hash(stored, &hash),
        _ => false,
    }
}

fn overloaded() -> Problem {
    Problem::new(
        crate::problem::ProblemKind::Overloaded,
        "more requests arrive than can be looked at",
    )
}

async fn answer_all(pool: PgPool, clock: Clock, mut questions: mpsc::Receiver<Question>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let mut used = Used { sessions: HashSet::new(), noted_at: clock.now() };
    loop {
        match timeout(NOTE_EVERY, questions.recv_many(&mut batch, MAX_BATCH)).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => {
                used.note(&pool, clock.now()).await;
                continue;
            }
        }
        let now = clock.now();
        let outcome = read(&pool, now, &batch).await;
        if let Ok(rows) = &outcome {
            used.take_in(rows);
        }
        for question in batch.drain(..) {
            let answer = match &outcome {
                Ok(rows) => Ok(rows.get(&question.id).cloned()),
                Err(problem) => Err(problem.clone()),
            };
            // A caller that hung up no longer listens.
            let _gone = question.answer.send(answer);
        }
        if used.is_full() || now - used.noted_at >= NOTE_AFTER {
            used.note(&pool, now).await;
        }
    }
}

/// Sessions that were used since that was noted last, so that it costs one statement a minute and not one a request.
struct Used {
    sessions: HashSet<Uuid>,
    noted_at: DateTime<Utc>,
}

impl Used {
    fn take_in(&mut self, rows: &HashMap<Uuid, Row>) {
        let sessions = rows.iter().filter(|(_, row)| row.secret_hash.is_none());
        self.sessions.extend(sessions.map(|(id, _)| *id));
    }

    fn is_full(&self) -> bool {
        self.sessions.len() >= MAX_USED
    }

    /// What fails now is forgotten: nothing rests on it but a list that a person looks at.
    async fn note(&mut self, pool: &PgPool, now: DateTime<Utc>) {
        self.noted_at = now;
        let ids: Vec<Uuid> = self.sessions.drain().collect();
        if ids.is_empty() {
            return;
        }
        let noted = sqlx::query!(
            "UPDATE sessions SET last_active_at = greatest(last_active_at, $2) WHERE session_id = ANY ($1)",
            &ids,
            now
        );
        if let Err(error) = noted.execute(pool).await {
            tracing::debug!(%error, "which sessions are in use cannot be noted now");
        }
    }
}

async fn read(
    pool: &PgPool,
    now: DateTime<Utc>,
    batch: &[Question],
) -> Result<HashMap<Uuid, Row>, Problem> {
    let ids = |of_key: bool| {
        let mut ids: Vec<Uuid> = batch
            .iter()
            .filter(|question| question.of_key == of_key)
            .map(|question| question.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let rows =
        sqlx::query_file!("sql/identity/check_credentials.sql", &ids(false), &ids(true), now)
            .fetch_all(pool)
            .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let live = Live {
                user_id: UserId(row.user_id),
                operator: row.operator,
                expires_at: row.expires_at,
                scopes: row.scopes.map(|scopes| Scope::parse_all(&scopes)),
                workspace_id: row.workspace_id.map(WorkspaceId),
                service_account: row.service_account,
            };
            (row.credential_id, Row { live, secret_hash: row.secret_hash })
        })
        .collect())
}
