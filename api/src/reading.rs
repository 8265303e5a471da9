//! Reads: which position an answer must reflect, and which one it does.
//!
//! A handler takes a [`Reading`], asks it for the position *before* it queries (so the rows are never older than what the answer says),
//! demands its permission ([`crate::access::demand`]), and answers with [`Reading::answer`].

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use chrono::{DateTime, Utc};
use ledgerline_commands::recorder;
use ledgerline_domain::{
    audit::{Export, Tally},
    event::DecodeError,
    id::WorkspaceId,
};
use ledgerline_projections::{Model, Page, PageRequest, QueryError, execution_nodes::PastError};
use ledgerline_store::Position;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    answer::Answer,
    app::AppState,
    extract::{AsOf, Caller, ListQuery, MinPosition, RequestContext},
    ledger::{Ledger, LogName},
    problem::Problem,
};

/// The longest text that is searched for.
const MAX_SEARCH_CHARS: usize = 255;

/// Who reads, and what the answer must reflect at least.
#[derive(Clone)]
pub struct Reading {
    /// Who.
    pub caller: Caller,
    request: RequestContext,
    at_least: Position,
    ledger: Ledger,
    log: LogName,
}

impl FromRequestParts<AppState> for Reading {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let MinPosition(wanted) = MinPosition::from_request_parts(parts, state).await?;
        let log = state.ledger.name().await?;
        let wanted = match wanted {
            Some(token) => state.ledger.resolve(token).await?,
            None => Position::START,
        };
        let at_least = wanted.max(state.ledger.acknowledged(caller.user_id));
        let request = RequestContext::from_request_parts(parts, state).await?;
        Ok(Self { caller, request, at_least, ledger: state.ledger.clone(), log })
    }
}

impl Reading {
    /// Waits until these read models reflect what the caller may expect; gives the position that they all reflect.
    ///
    /// # Errors
    /// 503 when they don't get there within two seconds.
    pub async fn rows(&self, models: &[Model]) -> Result<Position, Problem> {
        self.ledger.reflecting(models, self.at_least).await
    }

    /// The same, until they also reflect a position that the answer itself made.
    ///
    /// # Errors
    /// 503 when they don't get there within two seconds.
    pub async fn rows_from(&self, models: &[Model], least: Position) -> Result<Position, Problem> {
        self.ledger.reflecting(models, self.at_least.max(least)).await
    }

    /// The position that a look at the log itself reflects at least. Nothing is waited for: the log is what the rows follow.
    #[must_use]
    pub fn log(&self) -> Position {
        self.at_least.max(self.ledger.head())
    }

    /// Counts for the audit that the caller takes data out as a whole. Programs do so again and again, so none is an event by itself.
    pub fn took_out(
        &self,
        state: &AppState,
        workspace_id: Option<WorkspaceId>,
        what: Export,
        id: Option<Uuid>,
    ) {
        let tally = Tally::DataExported {
            user_id: self.caller.user_id,
            service_account: self.caller.is_service_account(),
            workspace_id,
            what,
        };
        let RequestContext { ip, now, .. } = self.request;
        recorder::count(state.commands.tallies(), &tally, id, ip, now);
    }

    /// An answer that reflects a position.
    pub fn answer<T>(&self, body: T, position: Position) -> Answer<T> {
        Answer::new(StatusCode::OK, body, position, self.log)
    }

    /// The moment of the past that is asked about, none for now: how to load a state, and the position of the answer.
    ///
    /// # Errors
    /// 422 for a position above the head or of another log; 503 when the database is away.
    pub async fn past(
        &self,
        state: &AppState,
        at: AsOf,
    ) -> Result<Option<(ledgerline_commands::AsOf, Position)>, Problem> {
        let position = match at {
            AsOf::Now => return Ok(None),
            AsOf::Time(time) => state.commands.log().position_at(time).await?,
            AsOf::Position(token) => self.ledger.resolve(token).await?,
        };
        Ok(Some((ledgerline_commands::AsOf::Position(position), position)))
    }
}

/// Where and how much of a list is wanted, as the document describes it; read by [`ListQuery`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the extractor reads the parameters, this only describes them")]
pub struct PageParams {
    /// How many items at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many items to pass over; not beside a cursor.
    #[param(maximum = 10_000, default = 0)]
    offset: Option<u64>,
    /// By which field; with `-` before it the largest comes first.
    #[param(example = "-created_at")]
    sort: Option<String>,
}

/// Which moment a read asks about, as the document describes it; read by [`AsOf`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the extractor reads the parameters, this only describes them")]
pub struct AsOfParams {
    /// As it was at this time.
    at: Option<DateTime<Utc>>,
    /// As it was at this position of the log; not beside `at`.
    at_position: Option<String>,
}

/// In which workspace, as the document describes it; read by [`crate::extract::WorkspaceSelector`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the extractor reads the parameters, this only describes them")]
pub struct WorkspaceParams {
    /// The workspace; your personal one where none is named here or in the header `Ledgerline-Workspace`.
    workspace_id: Option<Uuid>,
}

/// A text to search by, within bounds; none where it is empty.
///
/// # Errors
/// 422 when it is too long.
pub fn search(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.chars().count() > MAX_SEARCH_CHARS => {
            let detail = format!("must have at most {MAX_SEARCH_CHARS} characters");
            Err(Problem::invalid("/search", "out_of_range", detail))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

/// The page that is asked for, in an order of the read model's own.
///
/// # Errors
/// 422 for an order that the list does not offer; `offered` names those it does.
pub fn page<S>(list: ListQuery, offered: &[(&str, S)]) -> Result<PageRequest<S>, Problem>
where
    S: Copy + Default,
{
    let sort = match &list.sort {
        None => S::default(),
        Some(sort) => {
            let sign = if sort.descending { "-" } else { "" };
            let word = format!("{sign}{}", sort.field);
            let found = offered.iter().find(|(offer, _)| *offer == word);
            found.map(|(_, sort)| *sort).ok_or_else(|| {
                let words: Vec<&str> = offered.iter().map(|(word, _)| *word).collect();
                let detail = format!("must be one of {}", words.join(", "));
                Problem::invalid("/sort", "unknown_value", detail)
            })?
        }
    };
    Ok(PageRequest {
        limit: i64::from(list.limit),
        offset: i64::try_from(list.offset).unwrap_or(i64::MAX),
        cursor: list.cursor,
        sort,
    })
}

impl From<PastError> for Problem {
    fn from(error: PastError) -> Self {
        match &error {
            PastError::Event(DecodeError::Unknown { .. }) => {
                Self::away("a build that is new enough", &error)
            }
            PastError::Event(DecodeError::Payload { .. }) | PastError::Value(_) => {
                Self::internal(&error)
            }
        }
    }
}

/// A page of a list that is in memory as a whole, in its own order; its cursor is an offset.
///
/// # Errors
/// 422 for a cursor that is none of this list.
pub fn page_of<T, S>(all: Vec<T>, wanted: &PageRequest<S>) -> Result<Page<T>, Problem> {
    let offset = match &wanted.cursor {
        None => wanted.offset,
        Some(cursor) => cursor
            .parse::<u32>()
            .map(i64::from)
            .map_err(|_| Problem::invalid("/cursor", "invalid", "is not a cursor of this list"))?,
    };
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let limit = usize::try_from(wanted.limit).unwrap_or(1);
    let total = all.len();
    let next = start.saturating_add(limit);
    Ok(Page {
        items: all.into_iter().skip(start).take(limit).collect(),
        next_cursor: (next < total).then(|| next.to_string()),
        total: i64::try_from(total).unwrap_or(i64::MAX),
        total_is_estimate: false,
        limit: wanted.limit,
        offset,
    })
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::InvalidCursor => {
                Self::invalid("/cursor", "invalid", "is not a cursor of this list in this order")
            }
            QueryError::Database(error) => error.into(),
        }
    }
}
