//! Events and lines as newline-delimited JSON: any number of them, a few at a time in memory.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use ledgerline_nats::envelope::{EventSource, encode};
use ledgerline_store::{
    EventLog, Filter, Position, RecordedEvent, StoreError, StreamId, StreamVersion,
};
use tokio_util::sync::CancellationToken;

use crate::{answer::Answer, app::AppState, extract::ListQuery, problem::Problem};

/// The media type of one JSON value a line.
const NDJSON: &str = "application/x-ndjson";

/// About how many bytes of events are in memory at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How many events the first read takes; later ones follow from how large those were.
const FIRST_READ: usize = 100;

/// The bounds of a read.
const READ_EVENTS: std::ops::RangeInclusive<usize> = 2..=2_000;

/// Whether the caller asks for a stream in place of a page.
pub(crate) fn wants_ndjson(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case(NDJSON))
}

/// A streamed answer, with the headers that a page has.
pub(crate) fn ndjson(answer: Answer<()>, body: Body) -> Response {
    let (mut parts, _) = answer.into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Response::from_parts(parts, body)
}

/// Why a stream ends in the middle: the connection is cut, so that the caller can't take it for the whole.
pub(crate) fn broke_off(error: &StoreError) -> io::Error {
    tracing::warn!(error = %crate::problem::chain(error), "a streamed answer broke off");
    io::Error::other("the log is away")
}

/// Which events are streamed.
pub(crate) enum Part {
    /// Of one stream.
    OfStream {
        /// Which.
        stream: StreamId,
        /// After this version.
        after: StreamVersion,
        /// Up to this one.
        until: StreamVersion,
    },
    /// Of the log.
    OfLog {
        /// After this position.
        after: Position,
        /// Up to this one.
        until: Position,
        /// Those that pass.
        filter: Filter,
    },
}

impl Part {
    /// A stream from where the caller's cursor stands to the version that it has.
    ///
    /// # Errors
    /// 422 for what is no cursor.
    pub(crate) fn of_stream(
        stream: StreamId,
        paging: &ListQuery,
        until: StreamVersion,
    ) -> Result<Self, Problem> {
        Ok(Self::OfStream { stream, after: version_cursor(paging)?, until })
    }
}

/// The version that a cursor of a stream's events names.
///
/// # Errors
/// 422 for what is none.
pub(crate) fn version_cursor(paging: &ListQuery) -> Result<StreamVersion, Problem> {
    let Some(cursor) = &paging.cursor else { return Ok(StreamVersion::NEW) };
    match cursor.parse() {
        Ok(version @ 0..) => Ok(StreamVersion(version)),
        _ => Err(Problem::invalid("/cursor", "invalid", "is not a cursor of this list")),
    }
}

/// The version of the stream that an event begins.
pub(crate) async fn version_of(
    log: &dyn EventLog,
    first: &RecordedEvent,
) -> Result<StreamVersion, Problem> {
    // Versions have no gaps, so the last one is found by doubling and halving in a few reads of one event.
    let exists = async |version: i64| {
        let found = log.read_stream(first.stream, StreamVersion(version - 1), 1).await?;
        Ok::<bool, StoreError>(!found.is_empty())
    };
    let mut known = 1;
    while exists(known * 2).await? {
        known *= 2;
    }
    let mut beyond = known * 2;
    while beyond - known > 1 {
        let middle = known + (beyond - known) / 2;
        if exists(middle).await? {
            known = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(StreamVersion(known))
}

/// Reads a part of the log bit by bit.
pub(crate) struct Feed {
    log: Arc<dyn EventLog>,
    source: EventSource,
    stop: CancellationToken,
    part: Part,
    read: usize,
}

impl Feed {
    /// A part of this process's log.
    ///
    /// # Errors
    /// When the database is away.
    pub(crate) async fn new(
        log: Arc<dyn EventLog>,
        state: &AppState,
        part: Part,
    ) -> Result<Self, Problem> {
        let source = EventSource::of_log(state.ledger.name().await?.id);
        Ok(Self { log, source, stop: state.stop.clone(), part, read: FIRST_READ })
    }

    /// The events as the body of an answer.
    pub(crate) fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut feed| async move {
            let chunk = feed.next().await?;
            Ok::<_, io::Error>(chunk.map(|chunk| (chunk, feed)))
        }))
    }

    /// The next lines; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, io::Error> {
        let mut events = Vec::new();
        while events.is_empty() {
            if self.stop.is_cancelled() {
                return Err(io::Error::other("the process stops"));
            }
            match self.events().await.map_err(|error| broke_off(&error))? {
                Some(found) => events = found,
                None => return Ok(None),
            }
        }
        let mut chunk = Vec::new();
        for event in &events {
            chunk.extend(encode(event, &self.source));
            chunk.push(b'\n');
        }
        if let Some(each) = chunk.len().checked_div(events.len()) {
            let fitting = CHUNK_BYTES / each.max(1);
            self.read = fitting.clamp(*READ_EVENTS.start(), *READ_EVENTS.end());
        }
        Ok(Some(chunk))
    }

    async fn events(&mut self) -> Result<Option<Vec<RecordedEvent>>, StoreError> {
        let mut events;
        match &mut self.part {
            Part::OfStream { stream, after, until } => {
                if after >= until {
                    return Ok(None);
                }
                events = self.log.read_stream(*stream, *after, self.read).await?;
                events.retain(|event| event.version <= *until);
                *after = events.last().map_or(*until, |event| event.version);
            }
            Part::OfLog { after, until, filter } => {
                if after >= until {
                    return Ok(None);
                }
                let upto;
                (events, upto) = self.log.read(*after, self.read, filter).await?;
                events.retain(|event| event.position <= *until);
                *after = if upto == *after { *until } else { upto };
            }
        }
        Ok(Some(events))
    }
}
