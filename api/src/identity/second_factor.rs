//! The second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes for who has lost it.
//!
//! A code counts for its step of 30 seconds and the one before and after it, for clocks that differ, and once: the last step that was
//! taken is kept, so that a code that somebody watched being typed is of no use. How often codes are tried is bounded for each person,
//! exactly and over all processes ([`Allowance::SecondFactorTried`]): of a million codes three are right, so guessing gets nowhere.

use aws_lc_rs::rand;
use chrono::{DateTime, Utc};
use ledgerline_domain::{audit::SessionEnd, id::UserId};
use ledgerline_store::seal::{MasterKey, SealPurpose};
use secrecy::SecretString;
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use totp_rs::{Builder, Secret, Totp};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Identity, SessionId,
    account::User,
    allowance::{self, Allowance},
    keys::KeyError,
    session, token,
};
use crate::problem::{Problem, ProblemKind};

/// The length of a secret: what RFC 4226 recommends.
const SECRET_BYTES: usize = 20;
/// How many recovery codes there are.
const RECOVERY_CODES: usize = 10;
/// How many characters a recovery code has, each of five random bits.
const RECOVERY_CHARS: usize = 16;
/// Letters and digits that are not taken for each other (RFC 4648 base32).
const RECOVERY_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// What authenticator apps show beside the address.
const APP_LABEL: &str = "Ledgerline";

/// What an authenticator app is told, once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Enrolment {
    /// The secret, in base32, to type where nothing can be scanned. It is not shown again.
    #[schema(example = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")]
    pub secret: String,
    /// The same for scanning: draw it as a QR code.
    #[schema(example = "otpauth://totp/Ledgerline:ada@example.com?secret=…&issuer=Ledgerline")]
    pub otpauth_uri: String,
}

/// How the second factor of an account stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SecondFactorView {
    /// Whether it is asked for at sign-in.
    pub enabled: bool,
    /// Since when.
    pub enabled_at: Option<DateTime<Utc>>,
    /// How many recovery codes are left.
    pub recovery_codes_left: i64,
}

/// Codes for who has lost the app: shown once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecoveryCodes {
    /// Each is good once in place of a code of the app. Keep them apart from the app.
    pub recovery_codes: Vec<String>,
}

fn wrong_code() -> Problem {
    Problem::new(ProblemKind::WrongCredentials, "the code is wrong, used, or too old")
}

fn not_on() -> Problem {
    Problem::rule_refused("second_factor_off", "the account has no second factor")
}

/// Whether somebody has to show a second factor.
pub(super) async fn is_on(connection: &mut PgConnection, user: UserId) -> Result<bool, Problem> {
    let on = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM second_factors WHERE user_id = $1 AND confirmed_at IS NOT NULL) AS "on!""#,
        user.0
    )
    .fetch_one(connection)
    .await?;
    Ok(on)
}

/// Which of a second factor's codes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmed {
    /// Of one that is being set up.
    No,
    /// Of one that is asked for.
    Yes,
}

/// The step of a code of the app, when it is right and was not used; the row stays locked until the transaction ends.
async fn step_of(
    connection: &mut PgConnection,
    master: &MasterKey,
    user: UserId,
    confirmed: Confirmed,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Problem> {
    let row = sqlx::query!(
        "SELECT sealed_secret, last_step FROM second_factors
         WHERE user_id = $1 AND (confirmed_at IS NOT NULL) = $2 FOR UPDATE",
        user.0,
        confirmed == Confirmed::Yes
    )
    .fetch_optional(connection)
    .await?
    .ok_or_else(not_on)?;
    let totp = totp(master, user, &row.sealed_secret)?;
    let time = u64::try_from(now.timestamp()).unwrap_or(0);
    let step = totp.check(code, time).and_then(|step| i64::try_from(step).ok());
    Ok(step.filter(|step| *step > row.last_step))
}

fn totp(master: &MasterKey, user: UserId, sealed: &[u8]) -> Result<Totp, Problem> {
    let opened = master.open(SealPurpose::SecondFactor, &user.to_string(), sealed);
    let secret = opened.map_err(|error| Problem::internal(&error))?;
    let built = Builder::new().with_secret(Secret::from(secret)).build();
    built.map_err(|error| Problem::internal(&error))
}

/// Uses a code of the app or a recovery code up. False when it is wrong, used or too old.
pub(super) async fn accept(
    connection: &mut PgConnection,
    master: &MasterKey,
    user: UserId,
    code: &str,
    now: DateTime<Utc>,
) -> Result<bool, Problem> {
    let code = plain(code);
    if code.len() == RECOVERY_CHARS {
        let hash = recovery_hash(user, &code);
        let used = sqlx::query!(
            "DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2",
            user.0,
            hash.as_slice()
        )
        .execute(connection)
        .await?;
        return Ok(used.rows_affected() > 0);
    }
    let step = step_of(&mut *connection, master, user, Confirmed::Yes, &code, now).await?;
    let Some(step) = step else { return Ok(false) };
    sqlx::query!("UPDATE second_factors SET last_step = $2 WHERE user_id = $1", user.0, step)
        .execute(connection)
        .await?;
    Ok(true)
}

/// A code without what people put into it to read it better.
fn plain(code: &str) -> String {
    let letters = code.chars().filter(|c| !c.is_whitespace() && *c != '-');
    letters.take(2 * RECOVERY_CHARS).flat_map(char::to_uppercase).collect()
}

/// What is stored of a recovery code; the person is part of it, so that no row is of use for another.
fn recovery_hash(user: UserId, code: &str) -> [u8; 32] {
    token::hash(&format!("recovery code\n{user}\n{code}"))
}

/// Gives somebody new recovery codes in place of those before.
async fn put_recovery_codes(
    connection: &mut PgConnection,
    user: UserId,
) -> Result<RecoveryCodes, Problem> {
    let mut codes = Vec::with_capacity(RECOVERY_CODES);
    for _ in 0..RECOVERY_CODES {
        codes.push(random_code()?);
    }
    let hashes: Vec<Vec<u8>> =
        codes.iter().map(|code| recovery_hash(user, code).to_vec()).collect();
    sqlx::query!("DELETE FROM recovery_codes WHERE user_id = $1", user.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "INSERT INTO recovery_codes (user_id, code_hash) SELECT $1, hash FROM unnest($2::bytea[]) AS hash",
        user.0,
        &hashes
    )
    .execute(connection)
    .await?;
    let readable = |code: &String| {
        let groups: Vec<&str> = [0, 4, 8, 12].iter().map(|at| &code[*at..at + 4]).collect();
        groups.join("-")
    };
    Ok(RecoveryCodes { recovery_codes: codes.iter().map(readable).collect() })
}

fn random_code() -> Result<String, Problem> {
    let mut bytes = [0_u8; RECOVERY_CHARS];
    rand::fill(&mut bytes).map_err(|_| Problem::internal(&KeyError::Crypto))?;
    // 32 divides 256, so every letter is as likely as every other.
    Ok(bytes.iter().map(|byte| char::from(RECOVERY_ALPHABET[usize::from(byte % 32)])).collect())
}

impl Identity {
    /// How the second factor of a person stands.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn second_factor(&self, user: UserId) -> Result<SecondFactorView, Problem> {
        let row = sqlx::query!(
            r#"SELECT confirmed_at AS "confirmed_at!",
                      (SELECT count(*) FROM recovery_codes r WHERE r.user_id = f.user_id) AS "left!"
               FROM second_factors f WHERE user_id = $1 AND confirmed_at IS NOT NULL"#,
            user.0
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(SecondFactorView {
            enabled: row.is_some(),
            enabled_at: row.as_ref().map(|row| row.confirmed_at),
            recovery_codes_left: row.map_or(0, |row| row.left),
        })
    }

    /// Begins a second factor: a secret for the app, which counts once a code of it was shown ([`Identity::confirm_second_factor`]).
    ///
    /// # Errors
    /// 401 when the password is wrong, 403 without a password in a session that is not fresh, 409 when there is a second factor already, 422 without a password where there
    /// is one.
    pub async fn begin_second_factor(
        &self,
        user: &User,
        session: SessionId,
        password: Option<SecretString>,
        now: DateTime<Utc>,
    ) -> Result<Enrolment, Problem> {
        self.demand_password(user, session, password, now).await?;
        let mut secret = [0_u8; SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| Problem::internal(&KeyError::Crypto))?;
        let name = user.id.to_string();
        let sealed = self.0.master_key.seal(SealPurpose::SecondFactor, &name, &secret);
        let sealed = sealed.map_err(|error| Problem::internal(&error))?;
        let begun = sqlx::query!(
            "INSERT INTO second_factors AS f (user_id, sealed_secret, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (user_id) DO UPDATE SET sealed_secret = excluded.sealed_secret, created_at = excluded.created_at
             WHERE f.confirmed_at IS NULL",
            user.id.0,
            sealed,
            now
        )
        .execute(self.pool())
        .await?;
        if begun.rows_affected() == 0 {
            let detail = "the account has a second factor; remove it before setting up another";
            return Err(Problem::rule_refused("second_factor_on", detail));
        }
        let totp = Builder::new()
            .with_secret(Secret::from(secret.to_vec()))
            .with_issuer(Some(APP_LABEL))
            // A colon would end the label.
            .with_account_name(user.email.replace(':', "_"))
            .build()
            .map_err(|error| Problem::internal(&error))?;
        let otpauth_uri = totp.to_url().map_err(|error| Problem::internal(&error))?;
        Ok(Enrolment { secret: totp.secret().to_base32(), otpauth_uri })
    }

    /// Turns a second factor on with a code of the app; all other sessions of the person end, because they were opened without it.
    ///
    /// # Errors
    /// 401 when the code is wrong, 409 when none was begun, 429 after many tries.
    pub async fn confirm_second_factor(
        &self,
        user: UserId,
        current: SessionId,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<RecoveryCodes, Problem> {
        self.count_code_try(user, now).await?;
        let mut transaction = self.pool().begin().await?;
        let master = &self.0.master_key;
        let step =
            step_of(&mut transaction, master, user, Confirmed::No, &plain(code), now).await?;
        let step = step.ok_or_else(wrong_code)?;
        sqlx::query!(
            "UPDATE second_factors SET confirmed_at = $2, last_step = $3 WHERE user_id = $1",
            user.0,
            now,
            step
        )
        .execute(&mut *transaction)
        .await?;
        let codes = put_recovery_codes(&mut transaction, user).await?;
        let because = SessionEnd::SecondFactorOn;
        session::revoke_all(&mut transaction, user, Some(current), because, now).await?;
        transaction.commit().await?;
        metrics::counter!("auth_second_factors_total", "change" => "on").increment(1);
        Ok(codes)
    }

    /// Gives new recovery codes; those before are good no more.
    ///
    /// # Errors
    /// 401 when the code is wrong, 409 when there is no second factor, 429 after many tries.
    pub async fn renew_recovery_codes(
        &self,
        user: UserId,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<RecoveryCodes, Problem> {
        self.count_code_try(user, now).await?;
        let mut transaction = self.pool().begin().await?;
        if !accept(&mut transaction, &self.0.master_key, user, code, now).await? {
            return Err(wrong_code());
        }
        let codes = put_recovery_codes(&mut transaction, user).await?;
        transaction.commit().await?;
        Ok(codes)
    }

    /// Turns the second factor off, with the password and a code.
    ///
    /// # Errors
    /// 401 when one of them is wrong, 409 when there is no second factor, 422 without a password where there is one, 429 after many
    /// tries.
    pub async fn remove_second_factor(
        &self,
        user: &User,
        session: SessionId,
        password: Option<SecretString>,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        self.demand_password(user, session, password, now).await?;
        self.count_code_try(user.id, now).await?;
        let mut transaction = self.pool().begin().await?;
        if !accept(&mut transaction, &self.0.master_key, user.id, code, now).await? {
            return Err(wrong_code());
        }
        sqlx::query!("DELETE FROM second_factors WHERE user_id = $1", user.id.0)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        metrics::counter!("auth_second_factors_total", "change" => "off").increment(1);
        Ok(())
    }

    /// Demands the password once more, so that a stolen session cannot do it; of an account without one, a session that was opened
    /// just now.
    async fn demand_password(
        &self,
        user: &User,
        session: SessionId,
        password: Option<SecretString>,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let has = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM credentials WHERE user_id = $1) AS "has!""#,
            user.id.0
        );
        let has = has.fetch_one(self.pool()).await?;
        if has && password.is_none() {
            return Err(Problem::invalid("/password", "required", "is needed for this"));
        }
        self.reconfirm(user, session, password.filter(|_| has), now).await
    }

    /// Counts a try before the code is looked at, so that a thousand at once are as few as in a row.
    pub(super) async fn count_code_try(
        &self,
        user: UserId,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        allowance::take(self.pool(), &[Allowance::SecondFactorTried(user)], now).await
    }
}

/// Seals every secret again under the present master key. Gives how many there are.
///
/// # Errors
/// When the table cannot be reached, or a secret was sealed under a master key that is not among those configured; then nothing changed.
pub async fn rewrap(pool: &PgPool, master: &MasterKey) -> Result<u64, KeyError> {
    let mut transaction = pool.begin().await?;
    let rows = sqlx::query!(
        "SELECT user_id, sealed_secret FROM second_factors ORDER BY user_id FOR UPDATE"
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut count = 0;
    for row in rows {
        let name = Uuid::to_string(&row.user_id);
        let secret = master.open(SealPurpose::SecondFactor, &name, &row.sealed_secret)?;
        sqlx::query!(
            "UPDATE second_factors SET sealed_secret = $2 WHERE user_id = $1",
            row.user_id,
            master.seal(SealPurpose::SecondFactor, &name, &secret)?
        )
        .execute(&mut *transaction)
        .await?;
        count += 1;
    }
    transaction.commit().await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, the last six of eight digits.
        let secret = b"12345678901234567890".to_vec();
        let totp = Builder::new().with_secret(Secret::from(secret)).build().unwrap();
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")]
        {
            assert_eq!(totp.generate(time).to_string(), code);
            assert_eq!(totp.check(code, time), Some(time / 30));
            assert_eq!(totp.check(code, time + 30), Some(time / 30), "a clock may differ");
            assert_eq!(totp.check(code, time + 90), None);
        }
        for nonsense in ["", "28708", "2870820", "abcdef", "２８７０８２", "-87082", "+87082"]
        {
            assert_eq!(totp.check(nonsense, 59), None, "{nonsense}");
        }
    }

    #[test]
    fn a_recovery_code_is_read_as_it_is_written_down() {
        let code = random_code().unwrap();
        assert_eq!(code.len(), RECOVERY_CHARS);
        let written = format!(" {}-{} {} {}\n", &code[..4], &code[4..8], &code[8..12], &code[12..]);
        assert_eq!(plain(&written.to_lowercase()), code);
        assert_ne!(random_code().unwrap(), code);
    }
}
