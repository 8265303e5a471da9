//! Facts for the audit on their way into the log, and from where they came, which must never be in it.
//!
//! A fact is written ([`note`]) in the transaction of what it tells of and appended afterwards under the id it has from the start, so that
//! none is lost, none is told of what did not happen, and nobody who signs in waits for the log. What happens too often to be told each
//! time is counted in memory ([`Tallies`]), added up over all processes by window ([`Facts::add`]), and becomes one fact when its window is over
//! ([`Facts::close`]). A process that dies loses what it counted since it last added up: seconds of a count, never a fact.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::StoreError;

/// How many ids and how many network addresses are kept of one fact: enough to know where to look.
pub const MAX_KEPT: usize = 20;

/// What one process tells apart at once; what is beyond that is counted under its folded name, or not at all.
const MAX_TALLIES: usize = 10_000;

/// How long after the end of a window its sum is told: by then every process has added what it counted.
const GRACE: TimeDelta = TimeDelta::seconds(30);

/// How long it is kept from where something came.
const ORIGINS_KEPT: TimeDelta = TimeDelta::days(90);

/// How many facts are taken at once.
const TAKEN_AT_ONCE: i64 = 200;

/// How many sums are told at once.
const CLOSED_AT_ONCE: i64 = 5_000;

/// A fact as its event will hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The id that the event will have.
    pub event_id: Uuid,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Stored type name.
    pub r#type: String,
    /// Version of the payload's shape.
    pub schema_version: i16,
    /// JSON text.
    pub payload: String,
    /// JSON text.
    pub actor: String,
}

/// From where something came: personal, and kept beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// With whose account it goes.
    pub user_id: Option<Uuid>,
    /// The network addresses.
    pub ips: Vec<IpAddr>,
    /// What the client called itself.
    pub user_agent: Option<String>,
}

/// Something that is counted.
#[derive(Clone, Debug)]
pub struct Count {
    /// What.
    pub tally: String,
    /// What it is counted as when there are too many; none where it is then left out.
    pub folded: Option<String>,
    /// Over how long it is counted.
    pub window: TimeDelta,
    /// Whom it is about.
    pub user_id: Option<Uuid>,
    /// What it is about.
    pub id: Option<Uuid>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// When.
    pub at: DateTime<Utc>,
}

/// What was counted over a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// What.
    pub tally: String,
    /// Whom it is about.
    pub user_id: Option<Uuid>,
    /// How often.
    pub count: i64,
    /// The first time.
    pub first_at: DateTime<Utc>,
    /// The last time.
    pub last_at: DateTime<Utc>,
    /// Some of what it was about.
    pub ids: Vec<Uuid>,
    /// Some of where it came from.
    pub ips: Vec<IpAddr>,
}

/// Writes a fact down, in the transaction of what it tells of.
///
/// # Errors
/// When the database can't be asked.
pub async fn note(
    connection: &mut PgConnection,
    fact: &Fact,
    origin: &Origin,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO facts (event_id, at, schema_version, type, payload, actor) VALUES ($1, $2, $3, $4, $5, $6)",
        fact.event_id,
        fact.at,
        fact.schema_version,
        fact.r#type,
        fact.payload,
        fact.actor
    )
    .execute(&mut *connection)
    .await?;
    if origin.ips.is_empty() && origin.user_agent.is_none() {
        return Ok(());
    }
    // Of a person who was erased while this was counted nothing is kept.
    sqlx::query!(
        "INSERT INTO fact_origins (event_id, user_id, at, ips, user_agent)
         SELECT $1, $2, $3, $4, $5 WHERE $2::uuid IS NULL OR EXISTS (SELECT 1 FROM users WHERE user_id = $2)
             OR EXISTS (SELECT 1 FROM service_accounts WHERE account_id = $2)",
        fact.event_id,
        origin.user_id,
        fact.at,
        &texts(&origin.ips),
        origin.user_agent
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets from where a person came.
///
/// # Errors
/// When the database can't be asked.
pub async fn forget(connection: &mut PgConnection, user: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM fact_origins WHERE user_id = $1", user)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("UPDATE fact_sums SET ips = '{}' WHERE user_id = $1", user)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets from where things came that are long over.
///
/// # Errors
/// When the database can't be asked.
pub async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM fact_origins WHERE at <= $1", now - ORIGINS_KEPT)
        .execute(pool)
        .await?;
    Ok(())
}

fn texts(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().take(MAX_KEPT).map(|ip| ip.to_canonical().to_string()).collect()
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[derive(Debug)]
struct Counted {
    ends_at: DateTime<Utc>,
    user_id: Option<Uuid>,
    count: i64,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    ids: BTreeSet<Uuid>,
    ips: BTreeSet<IpAddr>,
}

impl Counted {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
        let room = MAX_KEPT.saturating_sub(self.ids.len());
        self.ids.extend(other.ids.into_iter().take(room));
        let room = MAX_KEPT.saturating_sub(self.ips.len());
        self.ips.extend(other.ips.into_iter().take(room));
    }
}

/// By what is counted, and when its window began.
type Counts = HashMap<(String, DateTime<Utc>), Counted>;

/// What a process counts. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<Counts>>);

impl Tallies {
    /// Counts once more. Costs no statement.
    pub fn count(&self, counted: Count) {
        let Count { tally, folded, window, user_id, id, ip, at } = counted;
        let window_ms = window.num_milliseconds().max(1);
        let past_ms = at.timestamp_millis().rem_euclid(window_ms);
        let began = DateTime::from_timestamp_millis(at.timestamp_millis() - past_ms).unwrap_or(at);
        let mut counts = self.counts();
        let (mut key, mut user_id) = ((tally, began), user_id);
        if counts.len() >= MAX_TALLIES && !counts.contains_key(&key) {
            let Some(folded) = folded else { return };
            (key.0, user_id) = (folded, None);
        }
        let once = Counted {
            ends_at: began + window,
            user_id,
            count: 1,
            first_at: at,
            last_at: at,
            ids: id.into_iter().collect(),
            ips: ip.map(|ip| ip.to_canonical()).into_iter().collect(),
        };
        Self::merge(&mut counts, key, once);
    }

    fn merge(counts: &mut Counts, key: (String, DateTime<Utc>), more: Counted) {
        match counts.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut kept) => kept.get_mut().add(more),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(more);
            }
        }
    }

    fn take(&self) -> Counts {
        std::mem::take(&mut *self.counts())
    }

    fn give_back(&self, taken: Counts) {
        let mut counts = self.counts();
        for (key, counted) in taken {
            Self::merge(&mut counts, key, counted);
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The facts of a deployment that are not in the log yet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Facts {
    pool: PgPool,
}

impl Facts {
    /// Those in a database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Adds what a process counted to the sums of all.
    ///
    /// # Errors
    /// When the database can't be asked; then it is still counted.
    pub async fn add(&self, tallies: &Tallies) -> Result<(), StoreError> {
        let taken = tallies.take();
        if taken.is_empty() {
            return Ok(());
        }
        let added = self.add_all(&taken).await;
        if added.is_err() {
            tallies.give_back(taken);
        }
        added
    }

    async fn add_all(&self, taken: &Counts) -> Result<(), StoreError> {
        // In one order, so that two processes never wait for each other.
        let mut keys: Vec<_> = taken.iter().collect();
        keys.sort_by(|a, b| a.0.cmp(b.0));
        let mut transaction = self.pool.begin().await?;
        for ((tally, window_at), counted) in keys {
            let ips: Vec<IpAddr> = counted.ips.iter().copied().collect();
            let ids: Vec<Uuid> = counted.ids.iter().copied().collect();
            sqlx::query_file!(
                "sql/add_to_fact_sum.sql",
                tally,
                window_at,
                counted.ends_at,
                counted.user_id,
                counted.count,
                counted.first_at,
                counted.last_at,
                &ids,
                &texts(&ips),
                i32::try_from(MAX_KEPT).unwrap_or(i32::MAX)
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Makes facts of the sums whose window is over, the largest first. `tell` says which facts they come to.
    ///
    /// # Errors
    /// When the database can't be asked; then the sums are as they were.
    pub async fn close(
        &self,
        now: DateTime<Utc>,
        tell: impl FnOnce(Vec<Sum>) -> Vec<(Fact, Origin)> + Send,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query_file!("sql/close_fact_sums.sql", now - GRACE, CLOSED_AT_ONCE)
            .fetch_all(&mut *transaction)
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let sums = rows.into_iter().map(|row| Sum {
            tally: row.tally,
            user_id: row.user_id,
            count: row.count,
            first_at: row.first_at,
            last_at: row.last_at,
            ids: row.ids,
            ips: addresses(&row.ips),
        });
        let mut sums: Vec<Sum> = sums.collect();
        sums.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tally.cmp(&b.tally)));
        for (fact, origin) in tell(sums) {
            note(&mut transaction, &fact, &origin).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Takes the oldest facts, for as long as what is returned lives: another process that asks waits for it.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn take(&self) -> Result<Taken, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query!(
            "SELECT event_id, at, schema_version, type, payload, actor FROM facts ORDER BY at, event_id LIMIT $1 FOR UPDATE",
            TAKEN_AT_ONCE
        )
        .fetch_all(&mut *transaction)
        .await?;
        let facts = rows.into_iter().map(|row| Fact {
            event_id: row.event_id,
            at: row.at,
            r#type: row.r#type,
            schema_version: row.schema_version,
            payload: row.payload,
            actor: row.actor,
        });
        Ok(Taken { facts: facts.collect(), transaction })
    }

    /// From where these events came, as far as it is known.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn origins(&self, events: &[Uuid]) -> Result<HashMap<Uuid, Origin>, StoreError> {
        let rows = sqlx::query!(
            "SELECT event_id, user_id, ips, user_agent FROM fact_origins WHERE event_id = ANY ($1)",
            events
        )
        .fetch_all(&self.pool)
        .await?;
        let origins = rows.into_iter().map(|row| {
            let ips = addresses(&row.ips);
            (row.event_id, Origin { user_id: row.user_id, ips, user_agent: row.user_agent })
        });
        Ok(origins.collect())
    }
}

/// Facts that nobody else appends meanwhile.
#[derive(Debug)]
pub struct Taken {
    /// The oldest first.
    pub facts: Vec<Fact>,
    transaction: Transaction<'static, Postgres>,
}

impl Taken {
    /// Whether there may be more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        i64::try_from(self.facts.len()).unwrap_or(i64::MAX) >= TAKEN_AT_ONCE
    }

    /// Lets go of them; these are in the log and go away.
    ///
    /// # Errors
    /// When the database can't be asked; then all of them are taken again, and the log refuses their ids.
    pub async fn done(mut self, appended: &[Uuid]) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM facts WHERE event_id = ANY ($1)", appended)
            .execute(&mut *self.transaction)
            .await?;
        self.transaction.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(tally: &str, at_s: i64, ip: u8) -> Count {
        Count {
            tally: tally.to_owned(),
            folded: Some("all".to_owned()),
            window: TimeDelta::minutes(15),
            user_id: None,
            id: None,
            ip: Some(IpAddr::from([192, 0, 2, ip])),
            at: DateTime::from_timestamp(at_s, 0).unwrap(),
        }
    }

    #[test]
    fn what_falls_into_one_window_is_one_count() {
        let tallies = Tallies::default();
        for (at, ip) in [(900, 1), (1_000, 1), (1_799, 2), (1_800, 3)] {
            tallies.count(count("a", at, ip));
        }
        let taken = tallies.take();
        let of = |at| &taken[&("a".to_owned(), DateTime::from_timestamp(at, 0).unwrap())];
        assert_eq!((of(900).count, of(900).ips.len()), (3, 2));
        assert_eq!((of(1_800).count, of(1_800).ips.len()), (1, 1));
        assert_eq!(of(900).last_at.timestamp(), 1_799);
        assert!(tallies.take().is_empty());
    }

    #[test]
    fn however_many_there_are_memory_holds_a_bound_of_them_and_no_count_is_lost() {
        let tallies = Tallies::default();
        let many = MAX_TALLIES + 500;
        for n in 0..many {
            tallies.count(count(&format!("t{n}"), 900, u8::try_from(n % 250).unwrap()));
        }
        let taken = tallies.take();
        assert_eq!(taken.len(), MAX_TALLIES + 1);
        assert_eq!(taken.values().map(|it| it.count).sum::<i64>(), i64::try_from(many).unwrap());
        assert!(taken.values().all(|it| it.ips.len() <= MAX_KEPT));
    }

    #[test]
    fn what_could_not_be_added_is_counted_on() {
        let tallies = Tallies::default();
        tallies.count(count("a", 900, 1));
        let taken = tallies.take();
        tallies.count(count("a", 901, 2));
        tallies.give_back(taken);
        let taken = tallies.take();
        assert_eq!(taken.values().map(|it| it.count).collect::<Vec<_>>(), [2]);
    }
}
