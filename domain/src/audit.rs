//! What a security engineer asks about afterwards: who came in, who was refused, which keys and secrets were used, what was taken out.
//!
//! A trail is a stream of such facts about one person, one workspace, or the deployment, in a category of its own. Its events belong to
//! no workspace, so that only operators read them raw, and owners through the audit of their workspace. They hold ids and counts: network
//! addresses and user agents stand in an erasable table by event id.
//!
//! What happens often is no event each time, because the log never forgets and must not grow by what somebody reads or guesses: a
//! [`Tally`] is counted over a window, and one event says how often.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Aggregate,
    event::{Actor, events},
    id::{ApiKeyId, SessionId, UserId, WorkspaceId, derived},
};

events! {
    /// What happened that matters for security.
    AuditEvent in "audit" {
        "signed_in" 1 => SignedIn,
        "sign_ins_refused" 1 => SignInsRefused,
        "session_ended" 1 => SessionEnded,
        "sessions_ended" 1 => SessionsEnded,
        "password_set" 1 => PasswordSet,
        "api_key_made" 1 => ApiKeyMade,
        "api_key_ended" 1 => ApiKeyEnded,
        "api_key_used" 1 => ApiKeyUsed,
        "operator_added" 1 => OperatorAdded,
        "data_exported" 1 => DataExported,
        "secret_used" 1 => SecretUsed,
        "account_erased" 1 => AccountErased,
        "subject_erased" 1 => SubjectErased,
    }
}

/// How somebody came in, or tried to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInMethod {
    /// With a password.
    Password,
    /// With a one-time code.
    Code,
    /// By making an account.
    Registration,
    /// With another provider.
    Provider,
    /// With a code of the second factor, after the first one was right.
    SecondFactor,
}

impl SignInMethod {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Code => "code",
            Self::Registration => "registration",
            Self::Provider => "provider",
            Self::SecondFactor => "second_factor",
        }
    }

    /// The method of a word; none for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let all =
            [Self::Password, Self::Code, Self::Registration, Self::Provider, Self::SecondFactor];
        all.into_iter().find(|method| method.as_str() == word)
    }
}

/// Why sessions ended before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// The person signed out.
    Logout,
    /// The person ended it from another one.
    Revoked,
    /// The password was changed.
    PasswordChanged,
    /// The password was set anew with a code.
    PasswordReset,
    /// A spent refresh token came back: somebody had a copy.
    RefreshTokenReused,
    /// The person signed in once more, and has as many as may be at once.
    TooMany,
    /// A second factor was turned on, and they were opened without it.
    SecondFactorOn,
}

impl SessionEnd {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Revoked => "revoked",
            Self::PasswordChanged => "password_changed",
            Self::PasswordReset => "password_reset",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::TooMany => "too_many",
            Self::SecondFactorOn => "second_factor_on",
        }
    }
}

/// What allowed a new password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordProof {
    /// The password so far.
    OldPassword,
    /// A code that was sent to the address.
    Code,
}

/// What was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// Executions with all that belongs to them.
    Executions,
    /// Workflows as documents.
    Workflows,
    /// Events of the log, as a stream without bound.
    Events,
    /// Log lines, as a stream without bound.
    LogLines,
}

/// How often something happened, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How often.
    pub count: u64,
    /// The first time.
    pub first_at: DateTime<Utc>,
    /// The last time.
    pub last_at: DateTime<Utc>,
}

/// Somebody came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    /// Who.
    pub user_id: UserId,
    /// The session that was opened.
    pub session_id: SessionId,
    /// How.
    pub method: SignInMethod,
    /// When.
    pub at: DateTime<Utc>,
}

/// Somebody tried to come in and was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInsRefused {
    /// Whose account it was; none for addresses without one, and for accounts beyond those that are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// With what.
    pub method: SignInMethod,
    /// How often and when.
    pub counted: Counted,
}

/// A session ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnded {
    /// Whose.
    pub user_id: UserId,
    /// Which.
    pub session_id: SessionId,
    /// Why.
    pub because: SessionEnd,
    /// When.
    pub at: DateTime<Utc>,
}

/// All sessions of a person ended, or all but the one that asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsEnded {
    /// Whose.
    pub user_id: UserId,
    /// How many.
    pub count: u64,
    /// Why.
    pub because: SessionEnd,
    /// When.
    pub at: DateTime<Utc>,
}

/// A person has another password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSet {
    /// Who.
    pub user_id: UserId,
    /// What allowed it.
    pub proof: PasswordProof,
    /// When.
    pub at: DateTime<Utc>,
}

/// A person made a key for programs, of the person's own or of a service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyMade {
    /// Whose.
    pub user_id: UserId,
    /// Which.
    pub api_key_id: ApiKeyId,
    /// What it may do at most.
    pub scopes: Vec<String>,
    /// The only workspace that it reaches; none for all of its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
    /// When it was made.
    pub at: DateTime<Utc>,
}

/// A key was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyEnded {
    /// Whose.
    pub user_id: UserId,
    /// Which.
    pub api_key_id: ApiKeyId,
    /// The only workspace that it reaches; none for all of its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// When.
    pub at: DateTime<Utc>,
}

/// A key was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyUsed {
    /// Whose.
    pub user_id: UserId,
    /// Which.
    pub api_key_id: ApiKeyId,
    /// The only workspace that it reaches; none for all of its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// How often and when.
    pub counted: Counted,
}

/// A person was made an operator of the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorAdded {
    /// Who.
    pub user_id: UserId,
    /// When.
    pub at: DateTime<Utc>,
}

/// Somebody took data out as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataExported {
    /// Who.
    pub user_id: UserId,
    /// Of which workspace; none for the whole log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// What.
    pub what: Export,
    /// Ids of what was taken, as far as they are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// How often and when.
    pub counted: Counted,
}

/// A secret or a connection was opened to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUsed {
    /// In which workspace.
    pub workspace_id: WorkspaceId,
    /// `secret:<name>` or `connection:<id>`.
    pub holder: String,
    /// The executions that used it, as far as they are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub execution_ids: Vec<Uuid>,
    /// How often and when.
    pub counted: Counted,
}

/// A person was erased: what is left is this id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountErased {
    /// Who.
    pub user_id: UserId,
    /// When.
    pub at: DateTime<Utc>,
}

/// Somebody was erased whom runs of a workspace hold data about: what was sealed about them opens no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectErased {
    /// In which workspace.
    pub workspace_id: WorkspaceId,
    /// Who, by the id that stands beside what was sealed.
    pub subject: Uuid,
    /// When.
    pub at: DateTime<Utc>,
}

impl AuditEvent {
    /// The person it is about.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::SignedIn(event) => Some(event.user_id),
            Self::SignInsRefused(event) => event.user_id,
            Self::SessionEnded(event) => Some(event.user_id),
            Self::SessionsEnded(event) => Some(event.user_id),
            Self::PasswordSet(event) => Some(event.user_id),
            Self::ApiKeyMade(event) => Some(event.user_id),
            Self::ApiKeyEnded(event) => Some(event.user_id),
            Self::ApiKeyUsed(event) => Some(event.user_id),
            Self::OperatorAdded(event) => Some(event.user_id),
            Self::DataExported(event) => Some(event.user_id),
            Self::AccountErased(event) => Some(event.user_id),
            Self::SecretUsed(_) | Self::SubjectErased(_) => None,
        }
    }

    /// The workspace whose owners may read it; none for what only operators do.
    #[must_use]
    pub fn workspace(&self) -> Option<WorkspaceId> {
        match self {
            Self::ApiKeyMade(event) => event.workspace_id,
            Self::ApiKeyEnded(event) => event.workspace_id,
            Self::ApiKeyUsed(event) => event.workspace_id,
            Self::DataExported(event) => event.workspace_id,
            Self::SecretUsed(event) => Some(event.workspace_id),
            Self::SubjectErased(event) => Some(event.workspace_id),
            Self::SignedIn(_)
            | Self::SignInsRefused(_)
            | Self::SessionEnded(_)
            | Self::SessionsEnded(_)
            | Self::PasswordSet(_)
            | Self::OperatorAdded(_)
            | Self::AccountErased(_) => None,
        }
    }

    /// The stream that it goes to: that of the person it is about, else of the workspace, else of the deployment.
    #[must_use]
    pub fn trail(&self) -> Uuid {
        match (self.user(), self.workspace()) {
            (Some(user), _) => derived(&["audit", "user", &user.to_string()]),
            (None, Some(workspace)) => derived(&["audit", "workspace", &workspace.to_string()]),
            (None, None) => derived(&["audit", "deployment"]),
        }
    }
}

/// What is counted over a window in place of being told each time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tally")]
pub enum Tally {
    /// Anybody can cause this as often as they like.
    SignInsRefused {
        /// Whose account it was; none for addresses without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_id: Option<UserId>,
        /// With what.
        method: SignInMethod,
    },
    /// Every request of a program.
    ApiKeyUsed {
        /// Whose.
        user_id: UserId,
        /// Whether that is a service account.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        service_account: bool,
        /// Which.
        api_key_id: ApiKeyId,
        /// The only workspace that it reaches; none for all of its owner's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workspace_id: Option<WorkspaceId>,
    },
    /// Programs read the log again and again.
    DataExported {
        /// Who.
        user_id: UserId,
        /// Whether that is a service account.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        service_account: bool,
        /// Of which workspace; none for the whole log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workspace_id: Option<WorkspaceId>,
        /// What.
        what: Export,
    },
    /// Every step that names one.
    SecretUsed {
        /// In which workspace.
        workspace_id: WorkspaceId,
        /// `secret:<name>` or `connection:<id>`.
        holder: String,
    },
}

impl Tally {
    /// Over how long it is counted. What may be an attack, or data that leaves, is told sooner than what is everyday work.
    #[must_use]
    pub const fn window(&self) -> TimeDelta {
        match self {
            Self::SignInsRefused { .. } | Self::DataExported { .. } => TimeDelta::minutes(15),
            Self::ApiKeyUsed { .. } | Self::SecretUsed { .. } => TimeDelta::hours(1),
        }
    }

    /// The tally that it is counted under when there are too many to be told apart; none for what strangers cannot make many of.
    #[must_use]
    pub fn folded(&self) -> Option<Self> {
        match self {
            Self::SignInsRefused { user_id: Some(_), method } => {
                Some(Self::SignInsRefused { user_id: None, method: *method })
            }
            Self::SignInsRefused { user_id: None, .. }
            | Self::ApiKeyUsed { .. }
            | Self::DataExported { .. }
            | Self::SecretUsed { .. } => None,
        }
    }

    /// The person it is about, whose network addresses go with their account.
    #[must_use]
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::SignInsRefused { user_id, .. } => *user_id,
            Self::ApiKeyUsed { user_id, .. } | Self::DataExported { user_id, .. } => Some(*user_id),
            Self::SecretUsed { .. } => None,
        }
    }

    /// Who did it; none where that is not one member. Whoever guesses at an account is not its owner.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::ApiKeyUsed { user_id, service_account, .. }
            | Self::DataExported { user_id, service_account, .. } => Some(match service_account {
                false => Actor::Human { user_id: *user_id },
                true => Actor::service_account(*user_id),
            }),
            Self::SignInsRefused { .. } | Self::SecretUsed { .. } => None,
        }
    }

    /// What is told when its window is over. `ids` are those of what it was about.
    #[must_use]
    pub fn told(self, counted: Counted, ids: Vec<Uuid>) -> AuditEvent {
        match self {
            Self::SignInsRefused { user_id, method } => {
                SignInsRefused { user_id, method, counted }.into()
            }
            Self::ApiKeyUsed { user_id, api_key_id, workspace_id, .. } => {
                ApiKeyUsed { user_id, api_key_id, workspace_id, counted }.into()
            }
            Self::DataExported { user_id, workspace_id, what, .. } => {
                DataExported { user_id, workspace_id, what, ids, counted }.into()
            }
            Self::SecretUsed { workspace_id, holder } => {
                SecretUsed { workspace_id, holder, execution_ids: ids, counted }.into()
            }
        }
    }
}

/// The fold of a trail. Nothing is decided on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditTrail {
    /// How many facts it holds.
    pub facts: u64,
}

/// What a trail is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum AuditCommand {
    /// Keep a fact.
    Record(AuditEvent),
}

/// A trail refuses nothing: what happened has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditRejection {}

impl Aggregate for AuditTrail {
    type Command = AuditCommand;
    type Event = AuditEvent;
    type Rejection = AuditRejection;

    const SNAPSHOT: &'static str = "audit/1";

    fn decide(
        &self,
        command: &AuditCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<AuditEvent>, AuditRejection> {
        let AuditCommand::Record(event) = command;
        Ok(vec![event.clone()])
    }

    fn evolve(self, _event: &AuditEvent) -> Self {
        Self { facts: self.facts + 1 }
    }

    fn weight(&self) -> usize {
        size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> Counted {
        let at = DateTime::UNIX_EPOCH;
        Counted { count: 3, first_at: at, last_at: at }
    }

    #[test]
    fn what_strangers_cause_folds_into_one_tally_that_names_nobody() {
        let of = |user_id| Tally::SignInsRefused { user_id, method: SignInMethod::Password };
        let someone = of(Some(UserId(Uuid::from_u128(7))));
        assert_eq!(someone.folded(), Some(of(None)));
        assert_eq!(of(None).folded(), None);
        assert_eq!(of(None).told(counted(), Vec::new()).trail(), derived(&["audit", "deployment"]));
    }

    #[test]
    fn a_fact_goes_to_the_trail_of_whom_it_is_about() {
        let (user, workspace) = (UserId(Uuid::from_u128(1)), WorkspaceId(Uuid::from_u128(2)));
        let exported = Tally::DataExported {
            user_id: user,
            service_account: false,
            workspace_id: Some(workspace),
            what: Export::Events,
        };
        let exported = exported.told(counted(), Vec::new());
        assert_eq!(exported.trail(), derived(&["audit", "user", &user.to_string()]));
        assert_eq!(exported.workspace(), Some(workspace));
        let used = Tally::SecretUsed { workspace_id: workspace, holder: "secret:A".to_owned() };
        let used = used.told(counted(), Vec::new());
        assert_eq!(used.trail(), derived(&["audit", "workspace", &workspace.to_string()]));
        assert_eq!(used.user(), None);
    }

    #[test]
    fn a_tally_reads_back_from_its_text() {
        let tally = Tally::SignInsRefused { user_id: None, method: SignInMethod::Code };
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(text, r#"{"tally":"sign_ins_refused","method":"code"}"#);
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
    }

    #[test]
    fn the_word_for_the_end_of_a_session_is_the_stored_one() {
        for end in [
            SessionEnd::Logout,
            SessionEnd::Revoked,
            SessionEnd::PasswordChanged,
            SessionEnd::PasswordReset,
            SessionEnd::RefreshTokenReused,
            SessionEnd::TooMany,
        ] {
            assert_eq!(serde_json::to_value(end).unwrap(), end.as_str());
        }
    }

    #[test]
    fn every_fact_is_kept() {
        let event: AuditEvent =
            OperatorAdded { user_id: UserId(Uuid::nil()), at: DateTime::UNIX_EPOCH }.into();
        let trail = AuditTrail { facts: 4 };
        let decided = trail.decide(&AuditCommand::Record(event.clone()), DateTime::UNIX_EPOCH);
        assert_eq!(decided.unwrap(), std::slice::from_ref(&event));
        assert_eq!(trail.evolve(&event).facts, 5);
    }
}
