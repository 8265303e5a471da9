//! Applies batches of the log to one schema: rows and checkpoint in one transaction, and faults kept to the stream they are of.

use std::collections::{HashMap, HashSet};

use ledgerline_store::{Lease, Position, StoreError, advance_in};
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    feed::{Content, Entry},
    model,
    projection::{Poison, Projection},
};

/// Why a batch was not applied to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Another process leads, or somebody else moved the checkpoint.
    #[error("the lease was taken over")]
    Fenced,
    /// An event of a newer build.
    #[error("{0}")]
    Unknown(String),
    /// Postgres is away or refuses for a reason that is no row's.
    #[error("the read model cannot be written")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a transaction failed.
enum Fault {
    /// One of its events cannot be applied, or a row it leads to cannot be stored.
    Poison(Poison),
    Stop(Stop),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match poison(&error) {
            Some(poison) => Self::Poison(poison),
            None => Self::Stop(Stop::Unavailable(Box::new(error))),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Stop(match error {
            StoreError::Fenced { .. } => Stop::Fenced,
            StoreError::DiskFull | StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                Stop::Unavailable(Box::new(error))
            }
        })
    }
}

/// Whether an error is that of a value: data exceptions (22), integrity (23), limits of an index entry or row (54), and a row
/// that cannot be read back.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's errors are an open set; none of the others is about a value"
)]
pub(crate) fn poison(error: &sqlx::Error) -> Option<Poison> {
    match error {
        sqlx::Error::Database(database) => {
            let class = database.code().map(|code| code.chars().take(2).collect::<String>());
            matches!(class.as_deref(), Some("22" | "23" | "54"))
                .then(|| Poison::new(database.message()))
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => {
            Some(Poison::new(error.to_string()))
        }
        _ => None,
    }
}

/// A projection with the connection it writes by.
pub(crate) struct Applier<P> {
    pool: PgPool,
    schema: String,
    connection: Option<PgConnection>,
    projection: P,
    /// The name under which events are set aside.
    reader: String,
    /// Streams whose events wait, by the position of the first one.
    waiting: HashMap<Uuid, i64>,
    /// Positions that an operator has decided to leave out.
    skipped: HashSet<i64>,
}

impl<P: Projection> Applier<P> {
    pub(crate) fn new(pool: PgPool, schema: String) -> Self {
        Self {
            pool,
            reader: model::reader(&schema),
            schema,
            connection: None,
            projection: P::default(),
            waiting: HashMap::new(),
            skipped: HashSet::new(),
        }
    }

    /// Forgets what is held, and reads what is set aside: after a lease was taken, since another process may have changed both.
    /// What was skipped under `reader_of_skips` is skipped here too.
    pub(crate) async fn restart(&mut self, reader_of_skips: &str) -> Result<(), Stop> {
        self.reset();
        let set_aside = sqlx::query!(
            "SELECT model, key, position, skipped_at FROM quarantine WHERE model = ANY ($1) ORDER BY position",
            &[self.reader.clone(), reader_of_skips.to_owned()]
        );
        let connection = self.connection().await.map_err(unavailable)?;
        let rows = set_aside.fetch_all(connection).await.map_err(unavailable)?;
        self.waiting.clear();
        self.skipped.clear();
        for row in rows {
            if row.skipped_at.is_some() {
                self.skipped.insert(row.position);
            } else if row.model == self.reader {
                self.waiting.entry(row.key).or_insert(row.position);
            }
        }
        Ok(())
    }

    /// How many streams wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether any of these events is wanted here; if not, the checkpoint may move without a transaction of its own.
    pub(crate) fn concerns(&self, entries: &[&Entry]) -> bool {
        entries.iter().any(|entry| self.wants(entry))
    }

    fn wants(&self, entry: &Entry) -> bool {
        P::CATEGORIES.contains(&entry.category.as_str())
            && !(self.waiting.contains_key(&entry.stream) || self.skipped.contains(&entry.position))
    }

    /// Applies consecutive events and moves the checkpoint to the last one. A batch with an event that cannot be applied is
    /// halved until that event stands alone, and its stream is set aside.
    pub(crate) async fn apply(
        &mut self,
        lease: &mut Lease,
        entries: &[&Entry],
    ) -> Result<(), Stop> {
        let unknown = entries
            .iter()
            .position(|entry| matches!(entry.content, Content::Unknown(_)) && self.wants(entry));
        let known = &entries[..unknown.unwrap_or(entries.len())];
        let mut parts = vec![known];
        while let Some(part) = parts.pop() {
            match self.commit(lease, part).await {
                Ok(()) => {}
                Err(Fault::Stop(stop)) => {
                    self.reset();
                    return Err(stop);
                }
                Err(Fault::Poison(poison)) => {
                    self.reset();
                    match part {
                        [entry] => self.set_aside(lease, entry, &poison).await?,
                        _ => {
                            let (first, second) = part.split_at(part.len() / 2);
                            parts.push(second);
                            parts.push(first);
                        }
                    }
                }
            }
        }
        match unknown.map(|at| &entries[at].content) {
            Some(Content::Unknown(what)) => Err(Stop::Unknown(what.clone())),
            Some(Content::Event(_) | Content::Broken(_) | Content::Unwanted) | None => Ok(()),
        }
    }

    /// Moves the checkpoint over events that nobody here wants.
    pub(crate) async fn advance(&mut self, lease: &mut Lease, to: Position) -> Result<(), Stop> {
        let connection = self.connection().await.map_err(unavailable)?;
        match advance_in(connection, lease, to).await {
            Ok(()) => {
                lease.position = to;
                Ok(())
            }
            Err(error) => {
                self.reset();
                Err(match Fault::from(error) {
                    Fault::Stop(stop) => stop,
                    Fault::Poison(poison) => unavailable(poison),
                })
            }
        }
    }

    async fn commit(&mut self, lease: &mut Lease, entries: &[&Entry]) -> Result<(), Fault> {
        let Some(last) = entries.last() else { return Ok(()) };
        let to = Position(last.position);
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries.iter().filter(|entry| self.wants(entry)) {
            match &entry.content {
                Content::Event(event) => events.push(&**event),
                Content::Broken(reason) => return Err(Fault::Poison(Poison::new(reason.clone()))),
                Content::Unwanted => {}
                // Cut off by the caller.
                Content::Unknown(what) => {
                    return Err(Fault::Stop(Stop::Unknown(what.clone())));
                }
            }
        }
        for event in &events {
            self.projection.want(event);
        }
        self.connection().await?;
        let connection = self.connection.as_mut().expect("it was just made");
        let mut transaction = connection.begin().await?;
        self.projection.load(&mut transaction).await?;
        for event in &events {
            self.projection.apply(event).map_err(Fault::Poison)?;
        }
        self.projection.write(&mut transaction).await?;
        advance_in(&mut transaction, lease, to).await?;
        transaction.commit().await?;
        lease.position = to;
        Ok(())
    }

    /// Sets a stream aside from this event on.
    async fn set_aside(
        &mut self,
        lease: &mut Lease,
        entry: &Entry,
        poison: &Poison,
    ) -> Result<(), Stop> {
        tracing::error!(
            reader = self.reader, position = entry.position, stream = %entry.stream, reason = poison.reason,
            "an event cannot be applied: its stream waits in the quarantine"
        );
        let to = Position(entry.position);
        let reader = self.reader.clone();
        let connection = self.connection().await.map_err(unavailable)?;
        let mut transaction = connection.begin().await.map_err(unavailable)?;
        sqlx::query!(
            "INSERT INTO quarantine (model, key, position, error) VALUES ($1, $2, $3, $4)",
            reader,
            entry.stream,
            entry.position,
            poison.reason.replace('\0', "\u{fffd}")
        )
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        advance_in(&mut transaction, lease, to).await.map_err(|error| match error {
            StoreError::Fenced { .. } => Stop::Fenced,
            StoreError::DiskFull | StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                unavailable(error)
            }
        })?;
        transaction.commit().await.map_err(unavailable)?;
        lease.position = to;
        self.waiting.insert(entry.stream, entry.position);
        Ok(())
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.connection.is_none() {
            self.connection = Some(model::connect(&self.pool, &self.schema).await?);
        }
        Ok(self.connection.as_mut().expect("it was just made"))
    }

    /// Forgets every row that is held. A connection in an unknown state goes too.
    fn reset(&mut self) {
        self.projection = P::default();
        self.connection = None;
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Stop {
    Stop::Unavailable(Box::new(error))
}
