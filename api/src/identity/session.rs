//! Sessions: one for each signed-in device, with a family of refresh tokens of which only the newest is unspent.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    audit::{SessionEnd, SessionEnded, SessionsEnded, SignInMethod, SignedIn},
    event::Actor,
    id::{SessionId, UserId},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Identity,
    account::{self, User},
    audit,
    device::device,
    token,
};
use crate::{config::MAX_SESSIONS, problem::Problem};

/// How long a WebSocket ticket is good.
const TICKET_TTL: TimeDelta = TimeDelta::seconds(30);

/// The longest user agent that is kept.
const MAX_USER_AGENT_CHARS: usize = 255;

/// From where somebody signs in.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The network address, as far as it is known.
    pub ip: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
}

/// What somebody gets who signs in.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenAnswer {
    /// Goes with every request as `Authorization: Bearer …`.
    pub access_token: String,
    /// Exchanged once for the next pair at `POST /auth/refresh`.
    pub refresh_token: String,
    /// Always `bearer`.
    #[schema(example = "bearer")]
    pub token_type: &'static str,
    /// For how many seconds the access token is good.
    #[schema(example = 900)]
    pub expires_in: u32,
    /// Who signed in.
    pub user: User,
}

/// A session as its owner sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: SessionId,
    /// The network address it was opened from.
    pub ip: Option<String>,
    /// What the client called itself.
    pub user_agent: Option<String>,
    /// The same in the words of people, as far as it is known.
    #[schema(example = "Firefox on Linux")]
    pub device: Option<String>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    pub refreshed_at: DateTime<Utc>,
    /// When it was last used, to about a minute.
    pub last_active_at: DateTime<Utc>,
    /// When it ends unless it is refreshed.
    pub expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// What holds for sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long one lives after its last refresh.
    pub(super) ttl: TimeDelta,
    /// How many one person has at once.
    pub(super) most: u32,
}

/// Opens a session and returns it with its first refresh token. The oldest one ends where there would be too many.
pub(super) async fn open(
    connection: &mut PgConnection,
    user: UserId,
    method: SignInMethod,
    client: &Client,
    rules: Rules,
    now: DateTime<Utc>,
) -> Result<(SessionId, SecretString), Problem> {
    let Rules { ttl, most } = rules;
    // Of two that sign in at once the second one waits, and counts the first one's session.
    sqlx::query_scalar!("SELECT user_id FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user.0)
        .fetch_optional(&mut *connection)
        .await?;
    let session = SessionId(Uuid::now_v7());
    let user_agent = client.user_agent.as_deref().map(told_agent);
    sqlx::query!(
        "INSERT INTO sessions (session_id, user_id, ip, user_agent, created_at, refreshed_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $5, $6)",
        session.0,
        user.0,
        client.ip.map(|ip| ip.to_canonical().to_string()),
        user_agent,
        now,
        now + ttl
    )
    .execute(&mut *connection)
    .await?;
    let too_many = sqlx::query!(
        "UPDATE sessions SET revoked_at = $3, revoked_because = $4 WHERE session_id IN (
             SELECT session_id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $3
             ORDER BY created_at DESC, session_id DESC OFFSET $2
         )",
        user.0,
        i64::from(most),
        now,
        SessionEnd::TooMany.as_str()
    )
    .execute(&mut *connection)
    .await?;
    if too_many.rows_affected() > 0 {
        let (count, because) = (too_many.rows_affected(), SessionEnd::TooMany);
        let ended = SessionsEnded { user_id: user, count, because, at: now };
        audit::note(connection, ended, user, client, now).await?;
    }
    // Those that are over are kept for a while, so that a spent token that comes back finds them; of them too there is an end.
    sqlx::query!(
        "DELETE FROM sessions WHERE session_id IN (
             SELECT session_id FROM sessions WHERE user_id = $1 ORDER BY created_at DESC, session_id DESC OFFSET $2
         )",
        user.0,
        i64::from(MAX_SESSIONS)
    )
    .execute(&mut *connection)
    .await?;
    let signed_in = SignedIn { user_id: user, session_id: session, method, at: now };
    audit::note(connection, signed_in, user, client, now).await?;
    let refresh = add_refresh_token(connection, session, ttl, now).await?;
    Ok((session, refresh))
}

/// What a client calls itself, as far as it is kept.
pub(super) fn told_agent(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT_CHARS).collect()
}

async fn add_refresh_token(
    connection: &mut PgConnection,
    session: SessionId,
    ttl: TimeDelta,
    now: DateTime<Utc>,
) -> Result<SecretString, Problem> {
    let refresh = token::opaque(token::REFRESH_PREFIX);
    let hash = token::hash(refresh.expose_secret());
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, session_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        hash.as_slice(),
        session.0,
        now,
        now + ttl
    )
    .execute(connection)
    .await?;
    Ok(refresh)
}

/// Ends all sessions of a person, or all but one.
pub(super) async fn revoke_all(
    connection: &mut PgConnection,
    user: UserId,
    but: Option<SessionId>,
    because: SessionEnd,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let ended = sqlx::query!(
        "UPDATE sessions SET revoked_at = $3, revoked_because = $4
         WHERE user_id = $1 AND revoked_at IS NULL AND session_id IS DISTINCT FROM $2",
        user.0,
        but.map(|session| session.0),
        now,
        because.as_str()
    )
    .execute(&mut *connection)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(());
    }
    let count = ended.rows_affected();
    let ended = SessionsEnded { user_id: user, count, because, at: now };
    audit::note(connection, ended, user, &Client::default(), now).await
}

impl Identity {
    /// Exchanges a refresh token for the next pair. A token that was spent before proves a copy: the whole session ends.
    ///
    /// # Errors
    /// 401 when it is unknown, expired or spent, or its session is over.
    pub async fn refresh(
        &self,
        refresh_token: &str,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let refused = || Problem::unauthenticated("the refresh token is not good; sign in again");
        if !token::looks_like(refresh_token, token::REFRESH_PREFIX) {
            return Err(refused());
        }
        let hash = token::hash(refresh_token);
        let ttl = self.refresh_ttl();
        let mut transaction = self.pool().begin().await?;
        let spent = sqlx::query_scalar!(
            "UPDATE refresh_tokens SET spent_at = $2
             WHERE token_hash = $1 AND spent_at IS NULL AND expires_at > $2 RETURNING session_id",
            hash.as_slice(),
            now
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(session) = spent else {
            drop(transaction);
            self.end_family_of(&hash, now).await?;
            return Err(refused());
        };
        let user = sqlx::query_scalar!(
            "UPDATE sessions SET refreshed_at = $2, expires_at = $3
             WHERE session_id = $1 AND revoked_at IS NULL AND expires_at > $2 RETURNING user_id",
            session,
            now,
            now + ttl
        )
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(refused)?;
        let session = SessionId(session);
        let refresh = add_refresh_token(&mut transaction, session, ttl, now).await?;
        let user = account::read(&mut transaction, UserId(user)).await?.ok_or_else(refused)?;
        transaction.commit().await?;
        self.token_answer(user, session, &refresh, now)
    }

    /// Ends the session whose spent token came back.
    async fn end_family_of(&self, hash: &[u8; 32], now: DateTime<Utc>) -> Result<(), Problem> {
        let because = SessionEnd::RefreshTokenReused;
        let mut transaction = self.pool().begin().await?;
        let ended = sqlx::query!(
            "UPDATE sessions SET revoked_at = $2, revoked_because = $3
             WHERE revoked_at IS NULL AND session_id = (
                 SELECT session_id FROM refresh_tokens WHERE token_hash = $1 AND spent_at IS NOT NULL
             ) RETURNING session_id, user_id",
            hash.as_slice(),
            now,
            because.as_str()
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(row) = ended {
            let (session, user_id) = (SessionId(row.session_id), UserId(row.user_id));
            let ended = SessionEnded { user_id, session_id: session, because, at: now };
            let (actor, nowhere) = (Actor::system("identity"), Client::default());
            audit::note_by(&mut transaction, ended, user_id, &actor, &nowhere, now).await?;
            transaction.commit().await?;
            tracing::warn!(%session, "a spent refresh token came back; its session was ended");
            metrics::counter!("auth_refresh_reuse_total").increment(1);
        }
        Ok(())
    }

    /// The tokens of a session.
    pub(super) fn token_answer(
        &self,
        user: User,
        session: SessionId,
        refresh: &SecretString,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let access_token = self
            .keys()
            .sign(user.id, session, &user.email, now)
            .map_err(|error| Problem::internal(&error))?;
        Ok(TokenAnswer {
            access_token,
            refresh_token: refresh.expose_secret().to_owned(),
            token_type: "bearer",
            expires_in: self.config().access_token_ttl_s,
            user,
        })
    }

    /// The open sessions of a person, the newest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn sessions(
        &self,
        user: UserId,
        current: Option<SessionId>,
        now: DateTime<Utc>,
    ) -> Result<Vec<SessionView>, Problem> {
        let rows = sqlx::query!(
            "SELECT session_id, ip, user_agent, created_at, refreshed_at, expires_at, last_active_at FROM sessions
             WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY created_at DESC, session_id DESC",
            user.0,
            now
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| SessionView {
                id: SessionId(row.session_id),
                ip: row.ip,
                device: row.user_agent.as_deref().and_then(device),
                user_agent: row.user_agent,
                created_at: row.created_at,
                refreshed_at: row.refreshed_at,
                last_active_at: row
                    .last_active_at
                    .map_or(row.refreshed_at, |active| active.max(row.refreshed_at)),
                expires_at: row.expires_at,
                current: current == Some(SessionId(row.session_id)),
            })
            .collect())
    }

    /// Ends one session of a person. False when that person has no such open session.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn end_session(
        &self,
        user: UserId,
        session: SessionId,
        because: SessionEnd,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let mut transaction = self.pool().begin().await?;
        let ended = sqlx::query!(
            "UPDATE sessions SET revoked_at = $3, revoked_because = $4
             WHERE session_id = $1 AND user_id = $2 AND revoked_at IS NULL",
            session.0,
            user.0,
            now,
            because.as_str()
        )
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(false);
        }
        let ended = SessionEnded { user_id: user, session_id: session, because, at: now };
        audit::note(&mut transaction, ended, user, &Client::default(), now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A ticket that opens one WebSocket within 30 seconds, and for how many seconds it is good.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn make_ticket(
        &self,
        session: SessionId,
        now: DateTime<Utc>,
    ) -> Result<(SecretString, i64), Problem> {
        let ticket = token::opaque(token::TICKET_PREFIX);
        let hash = token::hash(ticket.expose_secret());
        sqlx::query!(
            "INSERT INTO ws_tickets (ticket_hash, session_id, expires_at) VALUES ($1, $2, $3)",
            hash.as_slice(),
            session.0,
            now + TICKET_TTL
        )
        .execute(self.pool())
        .await?;
        Ok((ticket, TICKET_TTL.num_seconds()))
    }

    /// Uses a ticket up and returns its session. None when it is unknown, used or too old.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn take_ticket(
        &self,
        ticket: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<SessionId>, Problem> {
        if !token::looks_like(ticket, token::TICKET_PREFIX) {
            return Ok(None);
        }
        let hash = token::hash(ticket);
        let taken = sqlx::query!(
            "DELETE FROM ws_tickets WHERE ticket_hash = $1 RETURNING session_id, expires_at",
            hash.as_slice()
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(taken.filter(|row| row.expires_at > now).map(|row| SessionId(row.session_id)))
    }
}

/// Removes what has run out. Called at intervals; a repeat changes nothing.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM ws_tickets WHERE expires_at <= $1", now).execute(pool).await?;
    sqlx::query!("DELETE FROM refresh_tokens WHERE expires_at <= $1", now).execute(pool).await?;
    // An ended session stays for a week, so that a spent token that comes back still finds it.
    sqlx::query!("DELETE FROM sessions WHERE expires_at <= $1", now - TimeDelta::days(7))
        .execute(pool)
        .await?;
    sqlx::query!(
        "DELETE FROM login_attempts WHERE attempted_at <= $1 AND blocked_until <= $1",
        now - TimeDelta::hours(2)
    )
    .execute(pool)
    .await?;
    Ok(())
}
