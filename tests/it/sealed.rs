//! Sealed values on a real Postgres: bound to their place, rotated in one step, and out of reach without the master key.

use chrono::Utc;
use ledgerline_store::{
    seal::MasterKey,
    sealed::{SealedError, SealedValues, Wanted},
};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Row as _};
use uuid::Uuid;

use crate::support::services::{self, TestDatabase};

const HOLDER: &str = "secret:KEY";

struct Vaults {
    values: SealedValues,
    pool: PgPool,
    workspace: Uuid,
    // Dropped last.
    _database: TestDatabase,
}

async fn vaults() -> Vaults {
    let database = services::database().await;
    let pool = database.pool().await;
    let values = SealedValues::new(pool.clone(), MasterKey::new([1; 32]));
    Vaults { values, pool, workspace: Uuid::now_v7(), _database: database }
}

impl Vaults {
    async fn put(&self, workspace: Uuid, holder: &str, value: &str) -> i32 {
        let put = self.values.put(workspace, holder, 1, value.as_bytes(), Utc::now()).await;
        put.expect("it is kept")
    }

    async fn opened(
        &self,
        values: &SealedValues,
        workspace: Uuid,
        holder: &str,
        version: i32,
    ) -> Result<Option<String>, SealedError> {
        let wanted = [Wanted { holder: holder.to_owned(), version }];
        let opened = values.open(workspace, &wanted).await?;
        let text = |value: &Vec<u8>| String::from_utf8(value.clone()).expect("a text");
        Ok(opened.get(holder).map(|value| text(value.expose_secret())))
    }

    async fn run(&self, statement: String) {
        self.pool.execute(AssertSqlSafe(statement)).await.expect("it runs");
    }

    async fn sealed(&self) -> Vec<Vec<u8>> {
        let statement = "SELECT sealed FROM sealed_values ORDER BY holder, version";
        let rows = self.pool.fetch_all(statement).await.expect("readable");
        rows.iter().map(|row| row.get("sealed")).collect()
    }
}

#[tokio::test]
async fn a_value_opens_in_its_place_only() {
    let vaults = vaults().await;
    let (ours, theirs) = (vaults.workspace, Uuid::now_v7());
    assert_eq!(vaults.put(ours, HOLDER, "ours").await, 1);
    vaults.put(theirs, "secret:OTHER", "theirs").await;
    let values = &vaults.values;
    assert_eq!(vaults.opened(values, ours, HOLDER, 1).await.unwrap().as_deref(), Some("ours"));
    assert_eq!(vaults.opened(values, ours, HOLDER, 2).await.unwrap(), None);
    assert_eq!(vaults.opened(values, theirs, HOLDER, 1).await.unwrap(), None);

    // Each row is moved somewhere by whoever can write the table.
    let moves = [
        format!("UPDATE sealed_values SET workspace_id = '{theirs}' WHERE workspace_id = '{ours}'"),
        format!("UPDATE sealed_values SET holder = 'secret:B' WHERE holder = '{HOLDER}'"),
        format!("UPDATE sealed_values SET version = 9 WHERE holder = '{HOLDER}'"),
        format!(
            "UPDATE sealed_values SET sealed = overlay(sealed placing '\\x00' from octet_length(sealed)) WHERE holder = '{HOLDER}'"
        ),
    ];
    let places = [(theirs, HOLDER, 1), (ours, "secret:B", 1), (ours, HOLDER, 9), (ours, HOLDER, 1)];
    for (statement, (workspace, holder, version)) in moves.into_iter().zip(places) {
        vaults.run("DELETE FROM sealed_values".to_owned()).await;
        vaults.put(ours, HOLDER, "ours").await;
        vaults.run(statement.clone()).await;
        let opened = vaults.opened(values, workspace, holder, version).await;
        assert!(matches!(opened, Err(SealedError::Sealed(_))), "{statement}: {opened:?}");
    }
    // Nor does another workspace's key open anything.
    vaults.run("DELETE FROM sealed_values".to_owned()).await;
    vaults.put(ours, HOLDER, "ours").await;
    vaults.run(format!("UPDATE workspace_keys k SET wrapped = o.wrapped FROM workspace_keys o WHERE k.workspace_id = '{ours}' AND o.workspace_id = '{theirs}'")).await;
    let opened = vaults.opened(values, ours, HOLDER, 1).await;
    assert!(matches!(opened, Err(SealedError::Sealed(_))), "{opened:?}");
}

#[tokio::test]
async fn a_workspaces_key_is_rotated_with_all_it_sealed() {
    let vaults = vaults().await;
    let workspace = vaults.workspace;
    for name in 0..20 {
        vaults.put(workspace, &format!("secret:S{name}"), &format!("value {name}")).await;
    }
    let before = vaults.sealed().await;
    assert_eq!(vaults.values.rotate_key(workspace, Utc::now()).await.expect("it rotates"), 2);
    let after = vaults.sealed().await;
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    for name in 0..20 {
        let opened =
            vaults.opened(&vaults.values, workspace, &format!("secret:S{name}"), 1).await.unwrap();
        assert_eq!(opened, Some(format!("value {name}")));
    }
    // Writers and rotations take turns: whatever the order, everything opens in the end.
    let writes = (0..6).map(|n| {
        let (values, holder) = (vaults.values.clone(), format!("secret:S{n}"));
        async move {
            match n % 2 {
                0 => values.rotate_key(workspace, Utc::now()).await.map(|_| ()),
                _ => values.put(workspace, &holder, 1, b"again", Utc::now()).await.map(|_| ()),
            }
        }
    });
    for done in futures_util::future::join_all(writes).await {
        done.expect("it is done");
    }
    for n in [1, 3, 5] {
        let opened = vaults.opened(&vaults.values, workspace, &format!("secret:S{n}"), 2).await;
        assert_eq!(opened.unwrap().as_deref(), Some("again"));
    }
}

#[tokio::test]
async fn the_master_key_is_changed_without_a_gap() {
    let vaults = vaults().await;
    vaults.put(vaults.workspace, HOLDER, "kept").await;
    let (old, new) = (MasterKey::new([1; 32]), MasterKey::new([2; 32]));
    let with = |master: MasterKey| SealedValues::new(vaults.pool.clone(), master);
    let both = with(new.clone().replacing([old.clone()]));
    let opens = async |values: &SealedValues| {
        vaults.opened(values, vaults.workspace, HOLDER, 1).await.map(|value| value.is_some())
    };
    assert!(opens(&with(new.clone())).await.is_err(), "not without the old one");
    assert!(opens(&both).await.unwrap());
    assert_eq!(both.rewrap().await.expect("all are wrapped again"), 1);
    assert!(opens(&with(new.clone())).await.unwrap());
    assert!(opens(&with(old)).await.is_err(), "the old one opens nothing any more");
    assert_eq!(with(new).rewrap().await.expect("a repeat changes nothing"), 1);
    let other = with(MasterKey::new([3; 32])).rewrap().await;
    assert!(matches!(other, Err(SealedError::Sealed(_))));
}
