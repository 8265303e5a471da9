//! Accounts: registering, signing in, and what a person may change of the own account.

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    audit::{OperatorAdded, PasswordProof, PasswordSet, SessionEnd, SignInMethod},
    event::Actor,
    id::{UserId, WorkspaceId},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Identity, Registered, audit,
    backoff::{self, Subject},
    registration::{MAX_PASSWORD_BYTES, Registration, address_key, check_password, clean_name},
    session::{self, Client, TokenAnswer},
};
use crate::problem::{Problem, ProblemKind};

/// A person, as that person sees the own account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// The id by which events name this person.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// The address, as it was typed.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// The name.
    #[schema(example = "Ada Lovelace")]
    pub full_name: String,
    /// Whether the address was verified.
    pub email_verified: bool,
    /// Whether this person is an operator of the deployment.
    pub is_operator: bool,
    /// The workspace that is this person's own.
    #[schema(value_type = Uuid)]
    pub personal_workspace_id: WorkspaceId,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// The account of a person, None when there is none.
pub(super) async fn read(
    connection: &mut PgConnection,
    user: UserId,
) -> Result<Option<User>, Problem> {
    let row = sqlx::query!(
        r#"SELECT u.user_id, u.email, u.full_name, u.email_verified_at, u.created_at, u.updated_at,
                  o.user_id IS NOT NULL AS "operator!"
           FROM users u LEFT JOIN operators o ON o.user_id = u.user_id WHERE u.user_id = $1"#,
        user.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| User {
        id: user,
        email: row.email,
        full_name: row.full_name,
        email_verified: row.email_verified_at.is_some(),
        is_operator: row.operator,
        personal_workspace_id: WorkspaceId::personal(user),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }))
}

/// Gives an account a password, its first one or another.
pub(super) async fn set_password(
    connection: &mut PgConnection,
    user: UserId,
    hash: &str,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    sqlx::query!(
        "INSERT INTO credentials (user_id, password_hash, changed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash, changed_at = excluded.changed_at",
        user.0,
        hash,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn on_constraint(
    error: sqlx::Error,
    constraint: &str,
    problem: impl FnOnce() -> Problem,
) -> Problem {
    match error.as_database_error().and_then(|error| error.constraint()) {
        Some(name) if name == constraint => problem(),
        _ => error.into(),
    }
}

impl Identity {
    /// Makes an account, its first session and its personal workspace. The first account of a deployment is its operator. Whoever was
    /// invited shows the token of the mail: the address is verified by that, and registration need not be open.
    ///
    /// # Errors
    /// 422 for values that are not valid, 409 when the address is taken, 403 when registration is closed, 429 after many tries.
    pub async fn register(
        &self,
        mut registration: Registration,
        invitation_token: Option<&SecretString>,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        registration.check()?;
        let place: Vec<Subject<'_>> = client.ip.map(Subject::Ip).into_iter().collect();
        let attempt = backoff::count(self.pool(), &place, now).await?;
        let verified_at = match invitation_token {
            Some(token) => {
                let (token, email) = (token.expose_secret(), &registration.email);
                self.demand_invited(token, email, now).await?;
                Some(now)
            }
            None => {
                self.demand_open_registration().await?;
                None
            }
        };
        let answer = self.make_account(registration, verified_at, client, now).await?;
        attempt.forgive(self.pool()).await?;
        Ok(answer)
    }

    /// Makes an account whose address is verified at a time, or else gets a link to do so.
    pub(super) async fn make_account(
        &self,
        registration: Registration,
        email_verified_at: Option<DateTime<Utc>>,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let hash = match &registration.password {
            Some(password) => Some(self.passwords().hash(password.clone()).await?),
            None => None,
        };
        let user = UserId(Uuid::now_v7());
        let rules = self.session_rules();
        let mut transaction = self.pool().begin().await?;
        self.insert_account(&mut transaction, user, &registration, email_verified_at, now).await?;
        if let Some(hash) = &hash {
            set_password(&mut transaction, user, hash, now).await?;
        }
        if email_verified_at.is_none() {
            self.put_verification(&mut transaction, user, &registration.email, now).await?;
        }
        let method = match email_verified_at {
            Some(_) => SignInMethod::Code,
            None => SignInMethod::Registration,
        };
        let opened = session::open(&mut transaction, user, method, client, rules, now);
        let (session, refresh) = opened.await?;
        let account = read(&mut transaction, user).await?.ok_or_else(Problem::broken)?;
        transaction.commit().await?;
        self.make_personal_workspace(user, &registration.full_name, now).await?;
        metrics::counter!("auth_registrations_total").increment(1);
        self.token_answer(account, session, &refresh, now)
    }

    pub(super) async fn demand_open_registration(&self) -> Result<(), Problem> {
        if self.config().open_registration {
            return Ok(());
        }
        let anybody = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM users) AS "anybody!""#)
            .fetch_one(self.pool())
            .await?;
        if anybody {
            return Err(Problem::forbidden("registration is closed; ask for an invitation"));
        }
        Ok(())
    }

    pub(super) async fn insert_account(
        &self,
        connection: &mut PgConnection,
        user: UserId,
        registration: &Registration,
        email_verified_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        sqlx::query!(
            "INSERT INTO users (user_id, email, email_key, full_name, email_verified_at, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $6)",
            user.0,
            registration.email,
            address_key(&registration.email),
            registration.full_name,
            email_verified_at,
            now
        )
        .execute(&mut *connection)
        .await
        .map_err(|error| {
            on_constraint(error, "users_email_key_key", || {
                Problem::new(ProblemKind::AddressTaken, "an account with this address exists")
            })
        })?;
        // True is unique and the row is never removed, so of two first registrations at once one waits and is then not the first.
        let first = sqlx::query!(
            "INSERT INTO operators (user_id, first_registered, added_at) VALUES ($1, true, $2)
             ON CONFLICT (first_registered) DO NOTHING",
            user.0,
            now
        )
        .execute(&mut *connection)
        .await?;
        if first.rows_affected() == 0 {
            return Ok(());
        }
        let added = OperatorAdded { user_id: user, at: now };
        audit::note(connection, added, user, &Client::default(), now).await
    }

    /// Signs somebody in. An unknown address gets the same answer after the same work as a wrong password.
    ///
    /// # Errors
    /// 401 when address or password is wrong, 401 with a challenge when the person has a second factor, 429 after many tries.
    pub async fn login(
        &self,
        email: &str,
        password: SecretString,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let key = address_key(email);
        let mut subjects: Vec<Subject<'_>> = client.ip.map(Subject::Ip).into_iter().collect();
        subjects.push(Subject::Address(&key));
        let attempt = backoff::count(self.pool(), &subjects, now).await?;
        let row = sqlx::query!(
            "SELECT u.user_id, u.full_name, u.personal_workspace_at, c.password_hash
             FROM users u JOIN credentials c ON c.user_id = u.user_id WHERE u.email_key = $1",
            key
        )
        .fetch_optional(self.pool())
        .await?;
        let hash = row.as_ref().map(|row| row.password_hash.clone());
        // Longer ones cannot be registered; the work is done all the same, on what would be hashed anyhow.
        let possible = password.expose_secret().len() <= MAX_PASSWORD_BYTES;
        let password = if possible { password } else { SecretString::from("") };
        let right = self.passwords().verify(password, hash).await? && possible;
        let known = row.as_ref().map(|row| UserId(row.user_id));
        let Some(row) = row.filter(|_| right) else {
            self.count_refusal(known, SignInMethod::Password, client, now);
            metrics::counter!("auth_logins_total", "outcome" => "refused").increment(1);
            return Err(Problem::new(
                ProblemKind::WrongCredentials,
                "no account has this address with this password",
            ));
        };
        attempt.forgive(self.pool()).await?;
        let user = UserId(row.user_id);
        if row.personal_workspace_at.is_none() {
            self.make_personal_workspace(user, &row.full_name, now).await?;
        }
        self.admit(user, SignInMethod::Password, client, now).await
    }

    /// Creates the personal workspace of somebody whose registration was cut short before it.
    pub(super) async fn ensure_personal_workspace(
        &self,
        user: UserId,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let missing = sqlx::query_scalar!(
            "SELECT full_name FROM users WHERE user_id = $1 AND personal_workspace_at IS NULL",
            user.0
        )
        .fetch_optional(self.pool())
        .await?;
        match missing {
            Some(full_name) => self.make_personal_workspace(user, &full_name, now).await,
            None => Ok(()),
        }
    }

    /// Tells the log of a new person: creates the personal workspace, once for ever, however often this is tried.
    async fn make_personal_workspace(
        &self,
        user: UserId,
        full_name: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let registered = Registered {
            user_id: user,
            personal_workspace_id: WorkspaceId::personal(user),
            full_name: full_name.to_owned(),
            at: now,
        };
        self.tell_registered(registered).await?;
        sqlx::query!(
            "UPDATE users SET personal_workspace_at = $2 WHERE user_id = $1 AND personal_workspace_at IS NULL",
            user.0,
            now
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The account of a person; None when it is gone.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn user(&self, user: UserId) -> Result<Option<User>, Problem> {
        let mut connection = self.pool().acquire().await?;
        read(&mut connection, user).await
    }

    /// The person with an address; None when there is none.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn user_by_address(&self, email: &str) -> Result<Option<User>, Problem> {
        let user = sqlx::query_scalar!(
            "SELECT user_id FROM users WHERE email_key = $1",
            address_key(email)
        )
        .fetch_optional(self.pool())
        .await?;
        match user {
            None => Ok(None),
            Some(user) => self.user(UserId(user)).await,
        }
    }

    /// Names and addresses of people by id, for lists that hold ids only. Those who are gone are left out.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn people(&self, ids: &[UserId]) -> Result<Vec<Person>, Problem> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            "SELECT user_id, email, full_name FROM users WHERE user_id = ANY ($1)",
            &ids
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Person {
                id: UserId(row.user_id),
                email: row.email,
                full_name: row.full_name,
            })
            .collect())
    }

    /// Changes the name of a person.
    ///
    /// # Errors
    /// 422 when the name is not valid.
    pub async fn rename(
        &self,
        user: UserId,
        full_name: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<User>, Problem> {
        let name = clean_name(full_name).map_err(|error| Problem::invalid_values(vec![error]))?;
        sqlx::query!(
            "UPDATE users SET full_name = $2, updated_at = $3 WHERE user_id = $1 AND full_name <> $2",
            user.0,
            name,
            now
        )
        .execute(self.pool())
        .await?;
        self.user(user).await
    }

    /// Changes a password; all other sessions of the person end.
    ///
    /// # Errors
    /// 401 when the old password is wrong, 422 when the new one is too short, 429 after many tries.
    pub async fn change_password(
        &self,
        user: &User,
        current: super::SessionId,
        old: SecretString,
        new: SecretString,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        if let Some(error) = check_password("/new_password", &new) {
            return Err(Problem::invalid_values(vec![error]));
        }
        let key = address_key(&user.email);
        let attempt = backoff::count(self.pool(), &[Subject::Address(&key)], now).await?;
        let hash = sqlx::query_scalar!(
            "SELECT password_hash FROM credentials WHERE user_id = $1",
            user.id.0
        )
        .fetch_optional(self.pool())
        .await?;
        if !self.passwords().verify(old, hash).await? {
            return Err(Problem::new(
                ProblemKind::WrongCredentials,
                "the old password is not the account's",
            ));
        }
        let hash = self.passwords().hash(new).await?;
        let mut transaction = self.pool().begin().await?;
        set_password(&mut transaction, user.id, &hash, now).await?;
        let set = PasswordSet { user_id: user.id, proof: PasswordProof::OldPassword, at: now };
        audit::note(&mut transaction, set, user.id, client, now).await?;
        let because = SessionEnd::PasswordChanged;
        session::revoke_all(&mut transaction, user.id, Some(current), because, now).await?;
        transaction.commit().await?;
        attempt.forgive(self.pool()).await
    }

    /// Makes the person with an address an operator (`ledgerline operator add`). False when nobody has it.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn add_operator(&self, email: &str, now: DateTime<Utc>) -> Result<bool, Problem> {
        let Some(user) = self.user_by_address(email).await? else { return Ok(false) };
        let mut transaction = self.pool().begin().await?;
        let added = sqlx::query!(
            "INSERT INTO operators (user_id, added_at) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING",
            user.id.0,
            now
        )
        .execute(&mut *transaction)
        .await?;
        if added.rows_affected() > 0 {
            let (event, actor) =
                (OperatorAdded { user_id: user.id, at: now }, Actor::system("command line"));
            let nowhere = Client::default();
            audit::note_by(&mut transaction, event, user.id, &actor, &nowhere, now).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// A person as others in the same workspace see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Person {
    /// The id.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// The address.
    pub email: String,
    /// The name.
    pub full_name: String,
}
