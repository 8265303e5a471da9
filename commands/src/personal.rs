//! Personal data on its way into the log and out of it; see [`ledgerline_domain::personal`] for what it is.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::WorkspaceId,
    json::Json,
    personal::{self, MarkError, Marked, Sealed},
};
use ledgerline_store::{
    seal::SealError,
    sealed::SealedError,
    subjects::{SubjectKey, Subjects},
};
use serde_json::Value;
use uuid::Uuid;

/// Why what is marked can't be sealed.
#[derive(Debug, thiserror::Error)]
pub enum PersonalError {
    /// A mark is none.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The keys can't be read.
    #[error(transparent)]
    Keys(#[from] SealedError),
}

impl From<SealError> for PersonalError {
    fn from(error: SealError) -> Self {
        Self::Keys(error.into())
    }
}

/// A value with everything sealed that is marked in it. The same value of the same person is sealed alike each time, so that a dry run
/// shows exactly what will be appended.
///
/// # Errors
/// [`PersonalError`].
pub async fn seal(
    subjects: &Subjects,
    workspace: WorkspaceId,
    value: Json,
    now: DateTime<Utc>,
) -> Result<Json, PersonalError> {
    if !personal::may_be_marked(value.as_str()) {
        return Ok(value);
    }
    let value = value.to_value();
    let names: Vec<String> = personal::subjects_marked(&value)?.into_iter().collect();
    let keys = subjects.of_names(workspace.0, &names, now).await?;
    let mut seal = |marked: &Marked| {
        // It is missing when the person is erased at this very moment.
        let key = keys.get(&marked.subject).ok_or(SealError)?;
        let (nonce, ct) = key.seal(workspace.0, marked.value.to_string().as_bytes())?;
        Ok::<_, SealError>(Sealed { subject: key.subject, key: key.id, nonce, ct })
    };
    Ok(Json::from_value(&personal::seal_marked(value, &mut seal)?))
}

/// What opens the sealed values of one value.
#[derive(Debug)]
pub struct Opener {
    workspace: WorkspaceId,
    keys: HashMap<Uuid, SubjectKey>,
}

impl Opener {
    /// What opens those in this value, as far as the people they are about were not erased.
    ///
    /// # Errors
    /// When the keys can't be read.
    pub async fn of(
        subjects: &Subjects,
        workspace: WorkspaceId,
        value: &Value,
    ) -> Result<Self, SealedError> {
        let wanted: Vec<Uuid> = personal::subjects_sealed(value).into_iter().collect();
        let keys = match wanted.is_empty() {
            true => HashMap::new(),
            false => subjects.of_ids(workspace.0, &wanted).await?,
        };
        Ok(Self { workspace, keys })
    }

    /// What was sealed; none when the person was erased, or it was sealed in another workspace.
    #[must_use]
    pub fn open(&self, sealed: &Sealed) -> Option<Value> {
        let key = self.keys.get(&sealed.subject)?;
        let plain = key.open(self.workspace.0, &sealed.nonce, &sealed.ct).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}
