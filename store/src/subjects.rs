//! The keys of people whom data in the log is about: one each a workspace, wrapped by the master key. To erase a person is to erase the
//! key: what it sealed stays in the log byte for byte, and nobody reads it any more.
//!
//! The name by which a workspace knows somebody stands here and goes with the key; the log knows them by an id that says nothing.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    seal::{DataKey, MasterKey, SealError, SealPurpose},
    sealed::SealedError,
};

/// How many keys are wrapped again between two commits.
const REWRAPPED_AT_ONCE: i64 = 500;

/// The key of a person.
#[derive(Debug)]
pub struct SubjectKey {
    /// The person, by an id that says nothing.
    pub subject: Uuid,
    /// The key's own id.
    pub id: Uuid,
    /// The key.
    pub key: DataKey,
}

impl SubjectKey {
    /// Seals a value: its nonce and its ciphertext in base64. The same value is sealed alike each time.
    ///
    /// # Errors
    /// When the cipher refuses, which it has no reason to.
    pub fn seal(&self, workspace: Uuid, plain: &[u8]) -> Result<(String, String), SealError> {
        let (nonce, ct) = self.key.seal_alike(&place(workspace, self.subject), plain)?;
        Ok((BASE64.encode(nonce), BASE64.encode(ct)))
    }

    /// Opens what [`SubjectKey::seal`] sealed in the same workspace.
    ///
    /// # Errors
    /// When the key or the workspace is another one, or the value was altered.
    pub fn open(&self, workspace: Uuid, nonce: &str, ct: &str) -> Result<Vec<u8>, SealError> {
        let bytes = |text: &str| BASE64.decode(text).map_err(|_| SealError);
        let sealed = [bytes(nonce)?, bytes(ct)?].concat();
        self.key.open(&place(workspace, self.subject), &sealed)
    }
}

/// What a value is bound to, so that none opens in another workspace or as another person's.
fn place(workspace: Uuid, subject: Uuid) -> String {
    format!("{workspace}\n{subject}")
}

/// The keys of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Subjects {
    pool: PgPool,
    master: MasterKey,
}

impl Subjects {
    /// The keys in a database, under a master key.
    #[must_use]
    pub fn new(pool: PgPool, master: MasterKey) -> Self {
        Self { pool, master }
    }

    /// The keys of people by name, made where there is none.
    ///
    /// # Errors
    /// [`SealedError`].
    pub async fn of_names(
        &self,
        workspace: Uuid,
        names: &[String],
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<String, SubjectKey>, SealedError> {
        let (mut subjects, mut ids, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
        for _ in names {
            let subject = Uuid::now_v7();
            let key = DataKey::random();
            wrapped.push(key.wrapped(&self.master, SealPurpose::SubjectKey, &key_name(subject))?);
            subjects.push(subject);
            ids.push(Uuid::now_v7());
        }
        sqlx::query!(
            "INSERT INTO subject_keys (workspace_id, name, subject, key_id, wrapped, made_at)
             SELECT $1, name, subject, key_id, wrapped, $6
             FROM unnest($2::text[], $3::uuid[], $4::uuid[], $5::bytea[]) AS new (name, subject, key_id, wrapped)
             ORDER BY name
             ON CONFLICT (workspace_id, name) DO NOTHING",
            workspace,
            names,
            &subjects,
            &ids,
            &wrapped,
            now
        )
        .execute(&self.pool)
        .await?;
        let rows = sqlx::query!(
            "SELECT name, subject, key_id, wrapped FROM subject_keys WHERE workspace_id = $1 AND name = ANY ($2)",
            workspace,
            names
        )
        .fetch_all(&self.pool)
        .await?;
        let mut keys = BTreeMap::new();
        for row in rows {
            let key = self.unwrapped(row.subject, &row.wrapped)?;
            keys.insert(row.name, SubjectKey { subject: row.subject, id: row.key_id, key });
        }
        Ok(keys)
    }

    /// The keys of people by id. Those who were erased, and those of other workspaces, are left out.
    ///
    /// # Errors
    /// [`SealedError`].
    pub async fn of_ids(
        &self,
        workspace: Uuid,
        subjects: &[Uuid],
    ) -> Result<HashMap<Uuid, SubjectKey>, SealedError> {
        let rows = sqlx::query!(
            "SELECT subject, key_id, wrapped FROM subject_keys WHERE workspace_id = $1 AND subject = ANY ($2)",
            workspace,
            subjects
        )
        .fetch_all(&self.pool)
        .await?;
        let mut keys = HashMap::new();
        for row in rows {
            let key = self.unwrapped(row.subject, &row.wrapped)?;
            keys.insert(row.subject, SubjectKey { subject: row.subject, id: row.key_id, key });
        }
        Ok(keys)
    }

    /// The id of a person by name; none where nothing of theirs was sealed, or it was erased.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn find(&self, workspace: Uuid, name: &str) -> Result<Option<Uuid>, SealedError> {
        let found = sqlx::query_scalar!(
            "SELECT subject FROM subject_keys WHERE workspace_id = $1 AND name = $2",
            workspace,
            name
        );
        Ok(found.fetch_optional(&self.pool).await?)
    }

    /// Wraps every key again under the present master key. What was done stays done when it breaks off. Gives how many there are.
    ///
    /// # Errors
    /// [`SealedError`]; one key that none of the master keys opens ends it.
    pub async fn rewrap(&self) -> Result<u64, SealedError> {
        let (mut after, mut count) = (Uuid::nil(), 0_u64);
        loop {
            let mut transaction = self.pool.begin().await?;
            let rows = sqlx::query!(
                "SELECT subject, wrapped FROM subject_keys WHERE subject > $1 ORDER BY subject LIMIT $2 FOR UPDATE",
                after,
                REWRAPPED_AT_ONCE
            )
            .fetch_all(&mut *transaction)
            .await?;
            let Some(last) = rows.last() else { return Ok(count) };
            after = last.subject;
            for row in rows {
                let key = self.unwrapped(row.subject, &row.wrapped)?;
                let name = key_name(row.subject);
                sqlx::query!(
                    "UPDATE subject_keys SET wrapped = $2 WHERE subject = $1",
                    row.subject,
                    key.wrapped(&self.master, SealPurpose::SubjectKey, &name)?
                )
                .execute(&mut *transaction)
                .await?;
                count += 1;
            }
            transaction.commit().await?;
        }
    }

    fn unwrapped(&self, subject: Uuid, wrapped: &[u8]) -> Result<DataKey, SealedError> {
        let name = key_name(subject);
        Ok(DataKey::unwrapped(&self.master, SealPurpose::SubjectKey, &name, wrapped)?)
    }
}

fn key_name(subject: Uuid) -> String {
    format!("subject\n{subject}")
}
