//! What a process remembers of the log for its callers: which log it is, what was acknowledged to whom, and who made what when.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use ledgerline_commands::{Commands, definitions::at_hand};
use ledgerline_domain::{
    event::Metadata,
    id::{UserId, WorkflowId},
    workflow::{Content, SavedVersion, WorkflowVersion},
};
use ledgerline_projections::{Behind, Model, Positions};
use ledgerline_store::{Filter, Position, Receipt, RecordedEvent, StreamId, StreamVersion};
use moka::sync::Cache;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    extract::PositionToken,
    problem::{Problem, ProblemKind},
};

/// For how many callers the last acknowledged position is remembered. Somebody beyond them passes the position along.
const MAX_CALLERS: u64 = 100_000;
/// For how long: by then every read model that is kept up at all has it.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many events' times and authors are kept.
const MAX_TOUCHES: u64 = 100_000;
/// How many versions' times and authors are kept.
const MAX_DRAFTS: u64 = 200_000;
/// How many drafts are read at once for their times: each holds a definition.
const DRAFTS_READ: usize = 20;
/// How long a read waits for the rows that it must reflect.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Which log, and how often it was restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName {
    /// Made once, when the log was.
    pub id: Uuid,
    /// Raised by every restore.
    pub epoch: i32,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.epoch)
    }
}

/// When an event was recorded, and which person caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// When.
    pub at: DateTime<Utc>,
    /// Who; none where a program did.
    pub by: Option<UserId>,
}

/// The memory of a process. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    commands: Commands,
    positions: Positions,
    name: OnceCell<LogName>,
    acknowledged: Cache<UserId, Position>,
    touches: Cache<(StreamId, StreamVersion), Touch>,
    drafts: Cache<StreamId, Arc<Drafts>>,
}

/// When the versions of a workflow were saved, in order, and up to where its history was looked through for them.
#[derive(Debug, Default)]
struct Drafts {
    seen: Position,
    touches: Vec<Touch>,
}

impl Ledger {
    /// The memory over a process's log and read models.
    #[must_use]
    pub fn new(commands: Commands, positions: Positions) -> Self {
        let acknowledged = Cache::builder()
            .max_capacity(MAX_CALLERS)
            .time_to_live(REMEMBERED)
            .name("acknowledged positions")
            .build();
        let touches = Cache::builder().max_capacity(MAX_TOUCHES).name("touches").build();
        let drafts = Cache::builder()
            .max_capacity(MAX_DRAFTS)
            .weigher(|_, drafts: &Arc<Drafts>| {
                u32::try_from(drafts.touches.len()).unwrap_or(u32::MAX).saturating_add(1)
            })
            .name("saved versions")
            .build();
        let name = OnceCell::new();
        Self(Arc::new(Inner { commands, positions, name, acknowledged, touches, drafts }))
    }

    /// Which log it is; asked of the database once.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn name(&self) -> Result<LogName, Problem> {
        let ask = || async {
            let head = self.0.commands.log().head().await?;
            Ok::<_, Problem>(LogName { id: head.log_id, epoch: head.epoch })
        };
        self.0.name.get_or_try_init(ask).await.copied()
    }

    /// The last position that this process knows to be committed.
    #[must_use]
    pub fn head(&self) -> Position {
        *self.0.commands.log().watch_head().borrow()
    }

    /// Remembers that a caller was told of a position, so that the caller's reads reflect it.
    pub fn acknowledge(&self, caller: UserId, position: Position) {
        self.0
            .acknowledged
            .entry(caller)
            .and_upsert_with(|held| held.map_or(position, |held| position.max(held.into_value())));
    }

    /// The last position that a caller was told of by this process.
    #[must_use]
    pub fn acknowledged(&self, caller: UserId) -> Position {
        self.0.acknowledged.get(&caller).unwrap_or(Position::START)
    }

    /// The position of a token, when it is one of this log and within it.
    ///
    /// # Errors
    /// 422 for another log or a position above the head; 503 when the database is away.
    pub async fn resolve(&self, token: PositionToken) -> Result<Position, Problem> {
        let name = self.name().await?;
        if let Some((id, epoch)) = token.log
            && (id, epoch) != (name.id, name.epoch)
        {
            return Err(self.of_another(name, id, epoch, token.position).await?);
        }
        if token.position > self.head() {
            let head = self.0.commands.log().head().await?.position;
            if token.position > head {
                return Err(Problem::new(
                    ProblemKind::PositionUnknown,
                    format!("the log ends at {head}, before {}", token.position),
                ));
            }
        }
        Ok(token.position)
    }

    /// Why a position of another log or epoch is refused, with the position to begin again at.
    async fn of_another(
        &self,
        name: LogName,
        id: Uuid,
        epoch: i32,
        position: Position,
    ) -> Result<Problem, Problem> {
        let refused = |detail| Problem::new(ProblemKind::PositionUnknown, detail);
        if id != name.id {
            let detail = format!("the position is of another log than this one, {name}");
            return Ok(refused(detail).with_restart_position(Position::START));
        }
        let restart = self.0.commands.log().common_with(epoch).await?.min(position);
        let detail = format!(
            "the log was restored since epoch {epoch}; begin again after {name}:{restart}, and take back what came after it"
        );
        Ok(refused(detail).with_rule("rewound").with_restart_position(restart))
    }

    /// Waits until read models reflect a position; gives the one that they all reflect then.
    ///
    /// # Errors
    /// 503 when they don't get there within [`PATIENCE`].
    pub async fn reflecting(
        &self,
        models: &[Model],
        at_least: Position,
    ) -> Result<Position, Problem> {
        if at_least == Position::START {
            return Ok(self.0.positions.current(models).await?);
        }
        self.0.positions.wait(models, at_least, PATIENCE).await.map_err(|behind: Behind| {
            let Behind { at, wanted, .. } = behind;
            tracing::debug!(%behind, "a read was not answered");
            let detail = format!("the rows reflect {at} by now, before {wanted}; try again");
            Problem::new(ProblemKind::NotYetVisible, detail)
        })
    }

    /// Takes note of what a caller just appended, so that its answer need not read it.
    pub fn remember(&self, receipt: &Receipt, by: UserId) {
        let touch = Touch { at: receipt.recorded_at, by: Some(by) };
        for (stream, version) in &receipt.versions {
            self.0.touches.insert((*stream, *version), touch);
        }
    }

    /// When an event of a stream was recorded, and by whom. An event never changes, so each is read once.
    ///
    /// # Errors
    /// When the database is away; 404 where there is no such event.
    pub async fn touch(&self, stream: StreamId, version: StreamVersion) -> Result<Touch, Problem> {
        if let Some(touch) = self.0.touches.get(&(stream, version)) {
            return Ok(touch);
        }
        let before = StreamVersion(version.0 - 1);
        let events = self.0.commands.log().read_stream(stream, before, 1).await?;
        let event = events.first().ok_or_else(|| Problem::not_found("version"))?;
        let touch = touch_of(event)?;
        self.0.touches.insert((stream, version), touch);
        Ok(touch)
    }

    /// Puts the definition of a version at hand in a state of its workflow, and gives the version.
    ///
    /// # Errors
    /// 404 where there is no such version; when the database is away.
    pub async fn stored<'a>(
        &self,
        id: WorkflowId,
        content: &'a Content,
        version: WorkflowVersion,
    ) -> Result<&'a SavedVersion, Problem> {
        at_hand(self.0.commands.log().as_ref(), id, content, version).await?;
        content.version(version).ok_or_else(|| Problem::not_found("version"))
    }

    /// When each version of a workflow was saved and by whom, at least up to a number; the first is version 1.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn drafts(&self, workflow: StreamId, up_to: i32) -> Result<Vec<Touch>, Problem> {
        let known = self.0.drafts.get(&workflow).unwrap_or_default();
        let wanted = usize::try_from(up_to).unwrap_or(0);
        if known.touches.len() >= wanted {
            return Ok(known.touches.clone());
        }
        let filter = Filter {
            stream: Some(workflow),
            types: vec!["workflow_created".to_owned(), "draft_saved".to_owned()],
            ..Filter::default()
        };
        let head = self.0.commands.log().head().await?.position;
        let mut drafts = Drafts { seen: known.seen, touches: known.touches.clone() };
        while drafts.touches.len() < wanted && drafts.seen < head {
            let (events, seen) =
                self.0.commands.log().read(drafts.seen, DRAFTS_READ, &filter).await?;
            for event in &events {
                drafts.touches.push(touch_of(event)?);
            }
            if seen == drafts.seen {
                break;
            }
            drafts.seen = seen;
        }
        let touches = drafts.touches.clone();
        self.0.drafts.insert(workflow, Arc::new(drafts));
        Ok(touches)
    }
}

fn touch_of(event: &RecordedEvent) -> Result<Touch, Problem> {
    let metadata: Metadata = serde_json::from_str(&event.metadata).map_err(|error| {
        tracing::error!(stream = %event.stream, position = %event.position, "metadata cannot be read");
        Problem::internal(&error)
    })?;
    Ok(Touch { at: event.recorded_at, by: metadata.actor.member() })
}
