//! Values that are sealed at rest, beside the log: written once a version, opened by whoever does the work, and never listed.
//!
//! Each workspace has a data key that the master key wraps. A value is bound to its workspace, its holder and its version, so that a row
//! which somebody moves to another place does not open there. Writers of one workspace and the rotation of its key take turns on the
//! row of the key; readers need no turn, because one statement reads the key and the values.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use secrecy::{SecretBox, zeroize::Zeroize as _};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    StoreError,
    seal::{DataKey, MasterKey, SealError, SealPurpose},
    subjects::Subjects,
};

/// What the data keys are wrapped for.
const PURPOSE: SealPurpose = SealPurpose::WorkspaceKey;

/// How many keys are wrapped again between two commits.
const REWRAPPED_AT_ONCE: i64 = 500;

/// Why a sealed value can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The database can't be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master key is another one than it was sealed under, or the row was altered or moved.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

impl From<sqlx::Error> for SealedError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// One value that is wanted: who holds it, in which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `secret:<name>` or `connection:<id>`.
    pub holder: String,
    /// The version that counts.
    pub version: i32,
}

/// The sealed values of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedValues {
    pool: PgPool,
    master: MasterKey,
}

impl SealedValues {
    /// The values in a database, under a master key.
    #[must_use]
    pub fn new(pool: PgPool, master: MasterKey) -> Self {
        Self { pool, master }
    }

    /// The master key.
    #[must_use]
    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// The keys of people whom data in the log is about, under the same master key.
    #[must_use]
    pub fn subjects(&self) -> Subjects {
        Subjects::new(self.pool.clone(), self.master.clone())
    }

    /// Writes a value under a version of its own, which is `at_least` or above: nobody reads it until the log names that version.
    ///
    /// # Errors
    /// [`SealedError`].
    pub async fn put(
        &self,
        workspace: Uuid,
        holder: &str,
        at_least: i32,
        plain: &[u8],
        now: DateTime<Utc>,
    ) -> Result<i32, SealedError> {
        let mut transaction = self.pool.begin().await?;
        let key = self.own_key(&mut transaction, workspace, now).await?;
        let last = sqlx::query_scalar!(
            "SELECT max(version) FROM sealed_values WHERE workspace_id = $1 AND holder = $2",
            workspace,
            holder
        )
        .fetch_one(&mut *transaction)
        .await?;
        let version = at_least.max(last.map_or(1, |last| last.saturating_add(1)));
        let sealed = key.seal(&place(workspace, holder, version), plain)?;
        sqlx::query!(
            "INSERT INTO sealed_values (workspace_id, holder, version, sealed, made_at) VALUES ($1, $2, $3, $4, $5)",
            workspace,
            holder,
            version,
            sealed,
            now
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(version)
    }

    /// Opens values, by holder. One that is not there is left out.
    ///
    /// # Errors
    /// [`SealedError`]; one value that doesn't open fails all.
    pub async fn open(
        &self,
        workspace: Uuid,
        wanted: &[Wanted],
    ) -> Result<BTreeMap<String, SecretBox<Vec<u8>>>, SealedError> {
        let holders: Vec<String> = wanted.iter().map(|wanted| wanted.holder.clone()).collect();
        let versions: Vec<i32> = wanted.iter().map(|wanted| wanted.version).collect();
        let rows = sqlx::query!(
            r#"SELECT k.version AS key_version, k.wrapped, v.holder, v.version, v.sealed
               FROM sealed_values v JOIN workspace_keys k USING (workspace_id)
               JOIN unnest($2::text[], $3::integer[]) AS w (holder, version) ON w.holder = v.holder AND w.version = v.version
               WHERE v.workspace_id = $1"#,
            workspace,
            &holders,
            &versions
        )
        .fetch_all(&self.pool)
        .await?;
        let Some(first) = rows.first() else { return Ok(BTreeMap::new()) };
        let key = self.unwrapped(workspace, first.key_version, &first.wrapped)?;
        let mut opened = BTreeMap::new();
        for row in rows {
            let plain = key.open(&place(workspace, &row.holder, row.version), &row.sealed)?;
            opened.insert(row.holder, SecretBox::new(Box::new(plain)));
        }
        Ok(opened)
    }

    /// Erases the versions of a holder before one that the log names now.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn erase_before(
        &self,
        workspace: Uuid,
        holder: &str,
        version: i32,
    ) -> Result<(), SealedError> {
        sqlx::query!(
            "DELETE FROM sealed_values WHERE workspace_id = $1 AND holder = $2 AND version < $3",
            workspace,
            holder,
            version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Erases one version of a holder: of a write that the log did not take.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn erase_version(
        &self,
        workspace: Uuid,
        holder: &str,
        version: i32,
    ) -> Result<(), SealedError> {
        sqlx::query!(
            "DELETE FROM sealed_values WHERE workspace_id = $1 AND holder = $2 AND version = $3",
            workspace,
            holder,
            version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Erases what was written for a holder up to a version: what was written after that is somebody else's.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn erase(
        &self,
        workspace: Uuid,
        holder: &str,
        up_to: i32,
    ) -> Result<(), SealedError> {
        self.erase_before(workspace, holder, up_to.saturating_add(1)).await
    }

    /// The workspace that a holder belongs to, for ids that are unique in the deployment.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn workspace_of(&self, holder: &str) -> Result<Option<Uuid>, SealedError> {
        let found = sqlx::query_scalar!(
            "SELECT workspace_id FROM sealed_values WHERE holder = $1 LIMIT 1",
            holder
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// Gives a workspace a new data key and seals all of its values again under it, in one transaction. Gives the key's version.
    ///
    /// # Errors
    /// [`SealedError`]; then nothing has changed.
    pub async fn rotate_key(
        &self,
        workspace: Uuid,
        now: DateTime<Utc>,
    ) -> Result<i32, SealedError> {
        let mut transaction = self.pool.begin().await?;
        let old = self.own_key(&mut transaction, workspace, now).await?;
        let rows = sqlx::query!(
            "SELECT holder, version, sealed FROM sealed_values WHERE workspace_id = $1",
            workspace
        )
        .fetch_all(&mut *transaction)
        .await?;
        let new = DataKey::random();
        let (mut holders, mut versions, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let name = place(workspace, &row.holder, row.version);
            let mut plain = old.open(&name, &row.sealed)?;
            sealed.push(new.seal(&name, &plain)?);
            plain.zeroize();
            holders.push(row.holder);
            versions.push(row.version);
        }
        sqlx::query!(
            "UPDATE sealed_values v SET sealed = n.sealed
             FROM unnest($2::text[], $3::integer[], $4::bytea[]) AS n (holder, version, sealed)
             WHERE v.workspace_id = $1 AND v.holder = n.holder AND v.version = n.version",
            workspace,
            &holders,
            &versions,
            &sealed
        )
        .execute(&mut *transaction)
        .await?;
        let version = sqlx::query_scalar!(
            "SELECT version + 1 AS \"next!\" FROM workspace_keys WHERE workspace_id = $1",
            workspace
        )
        .fetch_one(&mut *transaction)
        .await?;
        let wrapped = new.wrapped(&self.master, PURPOSE, &key_name(workspace, version))?;
        sqlx::query!(
            "UPDATE workspace_keys SET version = $2, wrapped = $3, made_at = $4 WHERE workspace_id = $1",
            workspace,
            version,
            wrapped,
            now
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(version)
    }

    /// Wraps every workspace's data key again under the present master key. What was done stays done when it breaks off, and a
    /// repeat goes over it once more. Gives how many there are.
    ///
    /// # Errors
    /// [`SealedError`]; one key that none of the master keys opens ends it.
    pub async fn rewrap(&self) -> Result<u64, SealedError> {
        let (mut after, mut count) = (Uuid::nil(), 0_u64);
        loop {
            let mut transaction = self.pool.begin().await?;
            let rows = sqlx::query!(
                "SELECT workspace_id, version, wrapped FROM workspace_keys WHERE workspace_id > $1
                 ORDER BY workspace_id LIMIT $2 FOR UPDATE",
                after,
                REWRAPPED_AT_ONCE
            )
            .fetch_all(&mut *transaction)
            .await?;
            let Some(last) = rows.last() else { return Ok(count) };
            after = last.workspace_id;
            for row in rows {
                let key = self.unwrapped(row.workspace_id, row.version, &row.wrapped)?;
                let name = key_name(row.workspace_id, row.version);
                sqlx::query!(
                    "UPDATE workspace_keys SET wrapped = $2 WHERE workspace_id = $1",
                    row.workspace_id,
                    key.wrapped(&self.master, PURPOSE, &name)?
                )
                .execute(&mut *transaction)
                .await?;
                count += 1;
            }
            transaction.commit().await?;
        }
    }

    /// The data key of a workspace, made when there is none, and nobody else's turn until the transaction ends.
    async fn own_key(
        &self,
        connection: &mut PgConnection,
        workspace: Uuid,
        now: DateTime<Utc>,
    ) -> Result<DataKey, SealedError> {
        let first = DataKey::random().wrapped(&self.master, PURPOSE, &key_name(workspace, 1))?;
        sqlx::query!(
            "INSERT INTO workspace_keys (workspace_id, version, wrapped, made_at) VALUES ($1, 1, $2, $3)
             ON CONFLICT (workspace_id) DO NOTHING",
            workspace,
            first,
            now
        )
        .execute(&mut *connection)
        .await?;
        let row = sqlx::query!(
            "SELECT version, wrapped FROM workspace_keys WHERE workspace_id = $1 FOR UPDATE",
            workspace
        )
        .fetch_one(connection)
        .await?;
        Ok(self.unwrapped(workspace, row.version, &row.wrapped)?)
    }

    fn unwrapped(
        &self,
        workspace: Uuid,
        version: i32,
        wrapped: &[u8],
    ) -> Result<DataKey, SealError> {
        DataKey::unwrapped(&self.master, PURPOSE, &key_name(workspace, version), wrapped)
    }
}

/// What a value is bound to. The parts can't run into each other: a UUID and a number have no line feed.
fn place(workspace: Uuid, holder: &str, version: i32) -> String {
    format!("{workspace}\n{version}\n{holder}")
}

fn key_name(workspace: Uuid, version: i32) -> String {
    format!("{workspace}\n{version}")
}
