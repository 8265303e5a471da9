//! Who may come in: accounts, credentials, sessions, tokens and keys, in ordinary tables that can be erased.
//!
//! Nothing here is event-sourced: it is personal or secret, and the log never forgets. Events name a person by id only. The only
//! thing the log hears is that a person exists ([`OnRegistered`]: the personal workspace).
//!
//! Reading order: [`account`] (register, login), [`challenge`] (second step), [`session`] (refresh, revoke), [`keys`] (access tokens), [`check`] (every request).

pub mod account;
pub mod allowance;
pub mod api_key;
mod audit;
pub mod backoff;
pub mod challenge;
pub mod check;
pub mod code;
mod device;
mod erasure;
pub mod federated;
pub mod invitation;
pub mod keys;
mod link;
pub mod mail;
pub mod password;
pub mod registration;
pub mod second_factor;
pub mod service_account;
pub mod session;
pub mod token;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
pub use ledgerline_domain::id::{SessionId, UserId, WorkspaceId};
use ledgerline_store::{
    StoreError,
    facts::{self, Tallies},
    seal::MasterKey,
};
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use self::{
    check::{Checker, Live, Presented},
    keys::{KeyError, KeyRing},
    mail::deliver::{Deliverer, MailConfigError},
    password::Passwords,
};
use crate::{
    clock::Clock,
    config::{AuthConfig, MAX_SESSIONS, MailConfig},
    problem::Problem,
};

/// How often keys are looked after and what has run out is removed.
const UPKEEP_EVERY: Duration = Duration::from_secs(600);

/// A person has registered; the log has to hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Who.
    pub user_id: UserId,
    /// The workspace to create, with the person as its owner. The id follows from the person's, so it is made once for ever.
    pub personal_workspace_id: WorkspaceId,
    /// The name, for the name of the workspace.
    pub full_name: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// What happens when somebody has registered. May be called again for the same person and must then change nothing.
pub type OnRegistered =
    Arc<dyn Fn(Registered) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

/// Accounts and sessions of the deployment. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    pool: PgPool,
    config: AuthConfig,
    mail: MailConfig,
    master_key: MasterKey,
    public_url: Url,
    passwords: Passwords,
    keys: KeyRing,
    checker: Checker,
    on_registered: OnRegistered,
    tallies: Tallies,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// What [`Identity::start`] is built from.
pub struct IdentityParts {
    /// The database with the migrated tables.
    pub pool: PgPool,
    /// The section of the configuration.
    pub config: AuthConfig,
    /// How mails go out.
    pub mail: MailConfig,
    /// Under which signing keys are sealed.
    pub master_key: MasterKey,
    /// How users reach the deployment: the issuer of access tokens, and where links in mails lead.
    pub public_url: Url,
    /// Where the time comes from.
    pub clock: Clock,
    /// What happens when somebody has registered.
    pub on_registered: OnRegistered,
    /// Where refused sign-ins are counted.
    pub tallies: Tallies,
}

/// Why what has run out is still there.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why accounts cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The keys that sign tokens.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The mail settings.
    #[error(transparent)]
    Mail(#[from] MailConfigError),
}

impl Identity {
    /// Reads or makes the signing keys and starts the background work on the process's tasks.
    ///
    /// # Errors
    /// When the database is away, the signing keys were sealed under another master key, or the mail settings cannot be used.
    pub async fn start(
        parts: IdentityParts,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, IdentityError> {
        let IdentityParts {
            pool,
            config,
            mail,
            master_key,
            public_url,
            clock,
            on_registered,
            tallies,
        } = parts;
        let deliverer = Deliverer::new(&mail)?;
        let keys = KeyRing::open(
            pool.clone(),
            master_key.clone(),
            public_url.to_string(),
            TimeDelta::days(i64::from(config.signing_key_days)),
            TimeDelta::seconds(i64::from(config.access_token_ttl_s)),
            clock.now(),
        )
        .await?;
        let identity = Self(Arc::new(Inner {
            passwords: Passwords::new(config.password_hash_concurrency),
            checker: Checker::start(pool.clone(), clock.clone(), tasks, stop),
            pool,
            config,
            mail,
            master_key,
            public_url,
            keys,
            on_registered,
            tallies,
        }));
        if let Some(deliverer) = deliverer {
            let (pool, clock) = (identity.pool().clone(), clock.clone());
            tasks.spawn(deliverer.run(pool, clock, stop.clone()));
        }
        let (upkeep, stop) = (identity.clone(), stop.clone());
        tasks.spawn(async move { upkeep.look_after(clock, stop).await });
        Ok(identity)
    }

    async fn look_after(self, clock: Clock, stop: CancellationToken) {
        let mut tick = tokio::time::interval(UPKEEP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Err(error) = self.0.keys.upkeep(clock.now()).await {
                tracing::warn!(%error, "the signing keys could not be looked after");
            }
            if let Err(error) = self.prune(clock.now()).await {
                tracing::warn!(%error, "what has run out could not be removed");
            }
        }
    }

    async fn prune(&self, now: DateTime<Utc>) -> Result<(), PruneError> {
        session::prune(self.pool(), now).await?;
        code::prune(self.pool(), now).await?;
        allowance::prune(self.pool(), now).await?;
        challenge::prune(self.pool(), now).await?;
        federated::prune(self.pool(), now).await?;
        invitation::prune(self.pool(), now).await?;
        mail::prune(self.pool(), now).await?;
        Ok(facts::prune(self.pool(), now).await?)
    }

    /// What is known of a session or key that is good now; None when it is not. See [`check`].
    ///
    /// # Errors
    /// 503 when the database is away or too many others wait.
    pub async fn check(&self, presented: Presented) -> Result<Option<Live>, Problem> {
        self.0.checker.check(presented).await
    }

    /// The keys that sign access tokens.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// Whether the database answers, for `/health/ready`.
    ///
    /// # Errors
    /// 503 when it does not.
    pub async fn ping(&self) -> Result<(), Problem> {
        sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(self.pool()).await?;
        Ok(())
    }

    fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    fn config(&self) -> &AuthConfig {
        &self.0.config
    }

    fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    fn refresh_ttl(&self) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.0.config.refresh_token_ttl_s))
    }

    fn session_rules(&self) -> session::Rules {
        let most = self.config().max_sessions.unwrap_or(MAX_SESSIONS);
        session::Rules { ttl: self.refresh_ttl(), most }
    }

    async fn tell_registered(&self, registered: Registered) -> Result<(), Problem> {
        (self.0.on_registered)(registered).await
    }
}
