//! Reading the log: `position > $1 ORDER BY position` and nothing cleverer, along the index that fits the filter.
//!
//! Positions rise along a workspace's own numbers and along a stream's versions, so a reader of one workspace or one stream
//! walks that index alone. What is left of a filter (categories, types) is looked for in windows of a bounded size, so that a
//! sparse filter over a long log costs many short statements and not one endless one.

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::json_text::JsonText;
use crate::{Filter, Position, RecordedEvent, StoreError, StreamId, StreamVersion, Workspace};

/// How many events along an index one statement looks at, at most.
const WINDOW: i64 = 10_000;

/// How many events are handed on at once, and how many such pieces an export reads ahead of its consumer.
const PIECE: usize = 64;
const READ_AHEAD: usize = 16;

/// How many windows one call of `read` looks through before it says how far it came.
const WINDOWS_PER_READ: usize = 10;

struct EventRow {
    position: i64,
    version: i64,
    workspace_seq: i64,
    recorded_at: chrono::DateTime<chrono::Utc>,
    stream_id: Uuid,
    workspace_id: Uuid,
    event_id: Uuid,
    schema_version: i16,
    category: String,
    r#type: String,
    payload: JsonText,
    metadata: JsonText,
}

impl From<EventRow> for RecordedEvent {
    fn from(row: EventRow) -> Self {
        Self {
            position: Position(row.position),
            stream: StreamId(row.stream_id),
            version: StreamVersion(row.version),
            workspace: Workspace(row.workspace_id),
            workspace_seq: row.workspace_seq,
            category: row.category,
            r#type: row.r#type,
            schema_version: row.schema_version,
            event_id: row.event_id,
            payload: row.payload.0,
            metadata: row.metadata.0,
            recorded_at: row.recorded_at,
        }
    }
}

/// A stretch of the index that a filter walks along.
#[derive(Clone, Copy)]
struct Window {
    /// Numbers along the index: positions, workspace numbers or versions, first excluded, last included.
    low: i64,
    high: i64,
    /// No event past this is returned, and once the window is read everything up to here has been looked through.
    upto: Position,
}

/// See [`crate::EventLog::read`].
pub(crate) async fn read(
    pool: &PgPool,
    after: Position,
    limit: usize,
    filter: &Filter,
) -> Result<(Vec<RecordedEvent>, Position), StoreError> {
    if *filter == Filter::default() {
        let events = rows(
            pool,
            filter,
            Window { low: after.0, high: i64::MAX, upto: after },
            limit_of(limit),
        )
        .try_collect::<Vec<_>>()
        .await?;
        let upto = events.last().map_or(after, |event| event.position);
        return Ok((events, upto));
    }
    let head = head_position(pool).await?;
    let mut events = Vec::new();
    let mut upto = after;
    for _ in 0..WINDOWS_PER_READ {
        let Some(window) = window(pool, filter, upto, head).await? else { break };
        let room = limit - events.len();
        let mut found = rows(pool, filter, window, limit_of(room));
        let mut found_here = 0;
        while let Some(event) = found.try_next().await? {
            found_here += 1;
            upto = event.position;
            events.push(event);
        }
        if found_here == room {
            break;
        }
        upto = window.upto;
    }
    Ok((events, upto))
}

/// Every event after a position and up to another that passes the filter, in order and in constant memory.
pub(crate) fn stream(
    pool: &PgPool,
    after: Position,
    until: Position,
    filter: Filter,
) -> BoxStream<'static, Result<RecordedEvent, StoreError>> {
    let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
    let pool = pool.clone();
    // The rows borrow the pool, so one future owns both and hands the events over; it runs inside the stream that it fills.
    let produce = async move {
        let produced = send_all(&pool, after, until, &filter, &sender).await;
        if let Err(error) = produced {
            let _nobody_reads = sender.send(Err(error)).await;
        }
    };
    let received = stream::poll_fn(move |context| receiver.poll_recv(context));
    let received = received.map_ok(|piece| stream::iter(piece).map(Ok)).try_flatten();
    let producer = produce.into_stream().filter_map(|()| std::future::ready(None));
    stream::select(received, producer).boxed()
}

/// Each window is a statement of its own: an export that takes hours holds no snapshot and no connection for hours.
async fn send_all(
    pool: &PgPool,
    after: Position,
    until: Position,
    filter: &Filter,
    sender: &mpsc::Sender<Result<Vec<RecordedEvent>, StoreError>>,
) -> Result<(), StoreError> {
    let mut after = after;
    loop {
        let head = head_position(pool).await?.min(until);
        let Some(window) = window(pool, filter, after, head).await? else { return Ok(()) };
        let mut events = rows(pool, filter, window, WINDOW);
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            while piece.len() < PIECE
                && let Some(event) = events.try_next().await?
            {
                piece.push(event);
            }
            let is_last = piece.len() < PIECE;
            if sender.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
            if is_last {
                break;
            }
        }
        after = window.upto;
    }
}

/// Up to `limit` events of one stream after a version.
pub(crate) async fn read_stream(
    pool: &PgPool,
    stream: StreamId,
    after: StreamVersion,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let filter = Filter { stream: Some(stream), ..Filter::default() };
    let window = Window { low: after.0, high: i64::MAX, upto: Position(i64::MAX) };
    rows(pool, &filter, window, limit_of(limit)).try_collect().await
}

/// The event with this id.
pub(crate) async fn event(
    pool: &PgPool,
    event_id: Uuid,
) -> Result<Option<RecordedEvent>, StoreError> {
    let place =
        sqlx::query!(r#"SELECT stream_id, version FROM events WHERE event_id = $1"#, event_id)
            .fetch_optional(pool)
            .await?;
    let Some(place) = place else { return Ok(None) };
    let before = StreamVersion(place.version - 1);
    Ok(read_stream(pool, StreamId(place.stream_id), before, 1).await?.pop())
}

async fn head_position(pool: &PgPool) -> Result<Position, StoreError> {
    let position =
        sqlx::query_scalar!("SELECT position FROM log_head WHERE one").fetch_one(pool).await?;
    Ok(Position(position))
}

/// The next window after a position, or `None` at the head. The head was read in an earlier statement, so everything up to it
/// is visible to the statement that reads the window.
async fn window(
    pool: &PgPool,
    filter: &Filter,
    after: Position,
    head: Position,
) -> Result<Option<Window>, StoreError> {
    if after >= head {
        return Ok(None);
    }
    let (low, upto) = if let Some(stream) = filter.stream {
        let found = sqlx::query_file!("sql/window_of_stream.sql", stream.0, after.0, WINDOW)
            .fetch_one(pool);
        let found = found.await?;
        (found.low, found.upto)
    } else if let Some(workspace) = filter.workspace {
        let found = sqlx::query_file!("sql/window_of_workspace.sql", workspace.0, after.0, WINDOW)
            .fetch_one(pool);
        let found = found.await?;
        (found.low, found.upto)
    } else {
        (after.0, Some(after.0 + WINDOW))
    };
    let upto = upto.map_or(head, |upto| Position(upto).min(head));
    // Along positions the window ends at the head as well.
    let along_positions = filter.stream.is_none() && filter.workspace.is_none();
    let high = if along_positions { upto.0 } else { low + WINDOW };
    Ok(Some(Window { low, high, upto }))
}

/// The events of a window that pass the filter.
fn rows<'a>(
    pool: &'a PgPool,
    filter: &Filter,
    window: Window,
    limit: i64,
) -> BoxStream<'a, Result<RecordedEvent, StoreError>> {
    let Window { low, high, upto: Position(upto) } = window;
    let (categories, types) = (&filter.categories, &filter.types);
    let rows = match (filter.stream, filter.workspace) {
        (Some(stream), workspace) => sqlx::query_file_as!(
            EventRow,
            "sql/read_stream.sql",
            stream.0,
            low,
            high,
            categories,
            types,
            workspace.map(|workspace| workspace.0),
            upto,
            limit,
        )
        .fetch(pool),
        (None, Some(workspace)) => sqlx::query_file_as!(
            EventRow,
            "sql/read_workspace.sql",
            workspace.0,
            low,
            high,
            categories,
            types,
            upto,
            limit,
        )
        .fetch(pool),
        (None, None) => {
            sqlx::query_file_as!(EventRow, "sql/read_log.sql", low, high, categories, types, limit,)
                .fetch(pool)
        }
    };
    rows.map(|row| row.map(RecordedEvent::from).map_err(StoreError::from)).boxed()
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
