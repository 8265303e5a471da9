//! Pages of lists: limits, opaque cursors that stay stable under writes, and totals.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder, Row, postgres::PgRow};
use utoipa::ToSchema;
use uuid::Uuid;

/// The most items of one page.
pub const MAX_LIMIT: i64 = 200;

/// Items of a page when none were asked for.
pub const DEFAULT_LIMIT: i64 = 50;

/// Totals of filtered lists are counted up to here; more is an estimate.
pub const EXACT_TOTAL: i64 = 10_000;

/// Why a list could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The cursor was not made by this list in this order.
    #[error("the cursor does not belong to this list")]
    InvalidCursor,
    /// Postgres is away or refused.
    #[error("the read model cannot be queried")]
    Database(#[from] sqlx::Error),
}

/// Which page is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<S> {
    /// At most this many items; brought to `1..=`[`MAX_LIMIT`].
    pub limit: i64,
    /// How many items to leave out; not beside a cursor.
    pub offset: i64,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// In which order.
    pub sort: S,
}

impl<S: Default> Default for PageRequest<S> {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, offset: 0, cursor: None, sort: S::default() }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// Asks for the page after it; none on the last one.
    pub next_cursor: Option<String>,
    /// How many items the whole list has.
    pub total: i64,
    /// True when there are more than could be counted at once.
    pub total_is_estimate: bool,
    /// The limit that was applied.
    pub limit: i64,
    /// The offset that was applied.
    pub offset: i64,
}

/// The value that a list is sorted by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum SortKey {
    Time(DateTime<Utc>),
    Text(String),
    Number(i64),
}

/// The order of a list: the column, then the tie-breaking one in the same direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// The word in `sort=`.
    pub(crate) word: &'static str,
    pub(crate) column: &'static str,
    pub(crate) tie: &'static str,
    pub(crate) descending: bool,
}

/// A row that can say where in an order it stands.
pub(crate) trait Sorted {
    fn sort_key(&self, order: Order) -> (SortKey, Uuid);
}

#[derive(Serialize, Deserialize)]
struct Cursor(String, SortKey, Uuid);

impl Cursor {
    /// Hex of JSON: opaque to callers and safe in a URL.
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a cursor has no keys, so it always serialises");
        json.iter().fold(String::with_capacity(json.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn decode(text: &str) -> Option<Self> {
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect();
        serde_json::from_slice(&bytes?).ok()
    }
}

/// Appends conditions, each introduced by ` AND `.
pub(crate) type Conditions<'a> = &'a (dyn Fn(&mut QueryBuilder<Postgres>) + Sync);

/// What a list is made of: statement fragments that are constants of the read model, and conditions that bind what callers gave.
pub(crate) struct List<'a> {
    /// `SELECT …` without `FROM`.
    pub(crate) columns: &'static str,
    /// `FROM … WHERE …` with at least one condition.
    pub(crate) from: &'static str,
    pub(crate) conditions: Conditions<'a>,
    /// A scalar subquery over kept counts, when they answer this filter; else the rows are counted up to [`EXACT_TOTAL`].
    pub(crate) kept_total: Option<Conditions<'a>>,
    pub(crate) order: Order,
}

impl List<'_> {
    /// Reads one page. Items and total come from one statement, so they are of one moment.
    pub(crate) async fn page<T, S>(
        &self,
        pool: &PgPool,
        request: &PageRequest<S>,
    ) -> Result<Page<T>, QueryError>
    where
        T: Sorted + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let limit = request.limit.clamp(1, MAX_LIMIT);
        let cursor = request.cursor.as_deref().map(|text| self.cursor(text)).transpose()?;
        let offset = if cursor.is_some() { 0 } else { request.offset.max(0) };

        let mut query = QueryBuilder::new(self.columns);
        query.push(", (");
        self.push_total(&mut query);
        query.push(") AS total_of_list ").push(self.from);
        (self.conditions)(&mut query);
        self.push_order(&mut query, cursor);
        query.push(" LIMIT ").push_bind(limit + 1);
        if offset > 0 {
            query.push(" OFFSET ").push_bind(offset);
        }
        let rows = query.build().fetch_all(pool).await?;

        let total = match rows.first() {
            Some(row) => row.try_get::<i64, _>("total_of_list")?,
            None if cursor_or_offset(request) => self.total(pool).await?,
            None => 0,
        };
        let kept = usize::try_from(limit).unwrap_or(usize::MAX);
        let items =
            rows.iter().take(kept).map(T::from_row).collect::<Result<Vec<T>, sqlx::Error>>()?;
        let next_cursor =
            (rows.len() > kept).then(|| items.last().map(|item| self.cursor_after(item))).flatten();
        let total_is_estimate = self.kept_total.is_none() && total > EXACT_TOTAL;
        let total = if total_is_estimate { EXACT_TOTAL } else { total };
        Ok(Page { items, next_cursor, total, total_is_estimate, limit, offset })
    }

    async fn total(&self, pool: &PgPool) -> Result<i64, QueryError> {
        let mut query = QueryBuilder::new("SELECT (");
        self.push_total(&mut query);
        query.push(")");
        Ok(query.build_query_scalar::<i64>().fetch_one(pool).await?)
    }

    fn push_total(&self, query: &mut QueryBuilder<Postgres>) {
        match self.kept_total {
            Some(kept_total) => kept_total(query),
            None => {
                query.push("SELECT count(*) FROM (SELECT 1 ").push(self.from);
                (self.conditions)(query);
                query.push(" LIMIT ").push_bind(EXACT_TOTAL + 1).push(") AS counted");
            }
        }
    }

    fn push_order(&self, query: &mut QueryBuilder<Postgres>, cursor: Option<(SortKey, Uuid)>) {
        let Order { column, tie, descending, .. } = self.order;
        if let Some((key, id)) = cursor {
            let sign = if descending { '<' } else { '>' };
            match key {
                SortKey::Number(number) => {
                    query.push(format_args!(" AND {column} {sign} ")).push_bind(number);
                }
                SortKey::Time(time) => {
                    query.push(format_args!(" AND ({column}, {tie}) {sign} ("));
                    query.push_bind(time).push(", ").push_bind(id).push(")");
                }
                SortKey::Text(text) => {
                    query.push(format_args!(" AND ({column}, {tie}) {sign} ("));
                    query.push_bind(text).push(", ").push_bind(id).push(")");
                }
            }
        }
        let direction = if descending { "DESC" } else { "ASC" };
        query.push(format_args!(" ORDER BY {column} {direction}"));
        if !tie.is_empty() {
            query.push(format_args!(", {tie} {direction}"));
        }
    }

    fn cursor(&self, text: &str) -> Result<(SortKey, Uuid), QueryError> {
        let Cursor(word, key, id) = Cursor::decode(text).ok_or(QueryError::InvalidCursor)?;
        if word == self.order.word { Ok((key, id)) } else { Err(QueryError::InvalidCursor) }
    }

    fn cursor_after(&self, item: &impl Sorted) -> String {
        let (key, id) = item.sort_key(self.order);
        Cursor(self.order.word.to_owned(), key, id).encode()
    }
}

fn cursor_or_offset<S>(request: &PageRequest<S>) -> bool {
    request.cursor.is_some() || request.offset > 0
}

/// The text that a search by name and description looks in. Made lower-case here, because what Postgres makes of letters
/// beyond ASCII depends on the locale of the cluster.
pub(crate) fn searched(name: &str, description: &str) -> String {
    format!("{name}\n{description}").to_lowercase()
}

/// A `LIKE` pattern that finds a text anywhere, with its wildcards taken literally. The column holds lower-case text.
pub(crate) fn substring_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let cursor = Cursor("name".to_owned(), SortKey::Text("Ärger".to_owned()), Uuid::nil());
        let decoded = Cursor::decode(&cursor.encode()).expect("it was encoded here");
        assert_eq!((decoded.0, decoded.1, decoded.2), (cursor.0, cursor.1, cursor.2));
    }

    #[test]
    fn a_made_up_cursor_is_refused() {
        for text in ["", "zz", "abc", "é", "00", "5b5d"] {
            assert!(Cursor::decode(text).is_none(), "{text}");
        }
    }

    #[test]
    fn wildcards_are_taken_literally() {
        assert_eq!(substring_pattern("50%_A\\"), "%50\\%\\_a\\\\%");
    }
}
