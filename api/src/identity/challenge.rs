//! From a first factor that was right to a session: at once, or through a challenge.
//!
//! Every way in (password, code by mail, another provider) ends in [`Identity::admit`]. Where a person has a second factor, it answers
//! with a challenge instead of a session: a secret that is good for five minutes, five tries and one answer. A browser that comes back
//! from another provider always gets a challenge, because a redirect can carry no tokens; that one is bound to a cookie of the browser
//! that began, so that nobody can be signed in to somebody else's account by a link.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{audit::SignInMethod, id::UserId};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{PgConnection, PgPool};

use super::{
    Identity, account, second_factor,
    session::{self, Client, TokenAnswer},
    token,
};
use crate::problem::{Problem, ProblemKind};

/// How long a challenge is good.
pub const CHALLENGE_TTL: TimeDelta = TimeDelta::minutes(5);
/// After how many tries a challenge is dead.
const MAX_TRIES: i32 = 5;
/// The first letters of a challenge.
const PREFIX: &str = "llc_";

fn refused() -> Problem {
    Problem::new(
        ProblemKind::WrongCredentials,
        "the challenge is unknown, used, or too old; sign in again",
    )
}

/// Makes a challenge.
pub(super) async fn put(
    connection: &mut PgConnection,
    user: UserId,
    method: SignInMethod,
    browser: Option<&str>,
    now: DateTime<Utc>,
) -> Result<SecretString, Problem> {
    let challenge = token::opaque(PREFIX);
    let hash = token::hash(challenge.expose_secret());
    let browser = browser.map(|cookie| token::hash(cookie).to_vec());
    sqlx::query!(
        "INSERT INTO sign_in_challenges (challenge_hash, user_id, browser_hash, method, expires_at) VALUES ($1, $2, $3, $4, $5)",
        hash.as_slice(),
        user.0,
        browser,
        method.as_str(),
        now + CHALLENGE_TTL
    )
    .execute(connection)
    .await?;
    Ok(challenge)
}

impl Identity {
    /// Opens a session for somebody whose first factor was right, or asks for the second one.
    ///
    /// # Errors
    /// 401 with a challenge when the person has a second factor.
    pub(super) async fn admit(
        &self,
        user: UserId,
        method: SignInMethod,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let mut transaction = self.pool().begin().await?;
        if second_factor::is_on(&mut transaction, user).await? {
            let challenge = put(&mut transaction, user, method, None, now).await?;
            transaction.commit().await?;
            metrics::counter!("auth_logins_total", "outcome" => "challenged").increment(1);
            return Err(Problem::second_factor_required(&challenge, CHALLENGE_TTL.num_seconds()));
        }
        let rules = self.session_rules();
        let opened = session::open(&mut transaction, user, method, client, rules, now);
        let (session, refresh) = opened.await?;
        let account = account::read(&mut transaction, user).await?.ok_or_else(Problem::broken)?;
        transaction.commit().await?;
        metrics::counter!("auth_logins_total", "outcome" => "accepted").increment(1);
        self.token_answer(account, session, &refresh, now)
    }

    /// Answers a challenge: with a code where the person has a second factor, and with the cookie of the browser that it was made for.
    ///
    /// # Errors
    /// 401 when the challenge or the code is not good, 401 with the challenge when a code is needed and none was given, 429 after many
    /// tries.
    pub async fn answer_challenge(
        &self,
        challenge: &SecretString,
        code: Option<&str>,
        browser: Option<&str>,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        if !token::looks_like(challenge.expose_secret(), PREFIX) {
            return Err(refused());
        }
        let hash = token::hash(challenge.expose_secret());
        let (user, method) = self.open_challenge(&hash, code.is_some(), browser, now).await?;
        if code.is_some() {
            self.count_code_try(user, now).await?;
        }
        let mut transaction = self.pool().begin().await?;
        if second_factor::is_on(&mut transaction, user).await? {
            let seconds = CHALLENGE_TTL.num_seconds();
            let needed = || Problem::second_factor_required(challenge, seconds);
            let code = code.ok_or_else(needed)?;
            let master = &self.0.master_key;
            if !second_factor::accept(&mut transaction, master, user, code, now).await? {
                self.count_refusal(Some(user), SignInMethod::SecondFactor, client, now);
                metrics::counter!("auth_logins_total", "outcome" => "refused").increment(1);
                let detail = "the code is wrong, used, or too old";
                return Err(Problem::new(ProblemKind::WrongCredentials, detail));
            }
        }
        let answered = sqlx::query!(
            "DELETE FROM sign_in_challenges WHERE challenge_hash = $1",
            hash.as_slice()
        )
        .execute(&mut *transaction)
        .await?;
        // Of two answers at once, one finds it gone.
        if answered.rows_affected() == 0 {
            return Err(refused());
        }
        let rules = self.session_rules();
        let opened = session::open(&mut transaction, user, method, client, rules, now);
        let (session, refresh) = opened.await?;
        let account = account::read(&mut transaction, user).await?.ok_or_else(refused)?;
        transaction.commit().await?;
        metrics::counter!("auth_logins_total", "outcome" => "accepted").increment(1);
        self.token_answer(account, session, &refresh, now)
    }

    /// Whose a challenge is; with a code it counts as a try, whatever comes of it.
    async fn open_challenge(
        &self,
        hash: &[u8; 32],
        with_code: bool,
        browser: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(UserId, SignInMethod), Problem> {
        let row = sqlx::query!(
            "UPDATE sign_in_challenges SET tries = tries + $4
             WHERE challenge_hash = $1 AND expires_at > $2 AND tries < $3 RETURNING user_id, browser_hash, method",
            hash.as_slice(),
            now,
            MAX_TRIES,
            i32::from(with_code)
        )
        .fetch_optional(self.pool())
        .await?
        .ok_or_else(refused)?;
        let fits = match (&row.browser_hash, browser) {
            (None, _) => true,
            (Some(hash), Some(cookie)) => token::same_hash(hash, &token::hash(cookie)),
            (Some(_), None) => false,
        };
        let method = SignInMethod::parse(&row.method).filter(|_| fits).ok_or_else(refused)?;
        Ok((UserId(row.user_id), method))
    }
}

/// Removes challenges that nobody answered.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM sign_in_challenges WHERE expires_at <= $1", now)
        .execute(pool)
        .await?;
    Ok(())
}
