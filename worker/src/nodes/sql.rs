//! `action.sql`: one statement on a database of a named connection, in a transaction of its own.
//!
//! The transaction is read-only unless the node says otherwise, the server ends the statement when the node's time is over, and a cancel
//! is sent to the server itself, so that nothing goes on there for a run that is gone.

mod pool;
mod value;

use std::time::Instant;

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    node::ResolvedSql,
    vault::{ConnectionKind, ConnectionSettings, PostgresSettings},
};
use ledgerline_store::LogLevel;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio_postgres::{Statement, Transaction, error::SqlState, types::ToSql};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::pool::Pools;
use self::{
    pool::{Background, Lent, MAX_READ_BYTES, SessionError, connect},
    value::{Found, Param},
};
use super::Try;
use crate::{
    connections::{DoesNotWork, FailedStep, OpenedConnection},
    outbound::Reach,
    values::{detailed, failure},
};

/// How many rows are asked for at once.
const PAGE: usize = 200;
/// The rows of one result as the database sends them; more are left out, and the output says so.
const MAX_RESULT_BYTES: usize = 8 * 1024 * 1024;

pub(super) async fn perform(asked: ResolvedSql, of: &Try) -> Result<Value, NodeError> {
    let begun = Instant::now();
    let vaults = &of.equipment.vaults;
    let kind = ConnectionKind::Postgres;
    let opened = vaults.connection(of, &asked.connection, kind).await?;
    let mask = opened.stored.mask();
    let done = tokio::select! {
        done = run(&asked, &opened, of) => done,
        // The session is dropped with the work, which cancels the statement on the server.
        () = of.cancel.cancelled() => Err(failure(ErrorKind::Cancelled, "it was cancelled")),
    };
    let found = done.map_err(|error| mask.error(error))?;
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let said = format!("{}: {} rows in {duration_ms} ms", asked.connection, found.row_count);
    of.print(LogLevel::Info, &said, None).await;
    Ok(mask.value(json!({
        "columns": found.columns,
        "rows": found.rows,
        "row_count": found.row_count,
        "truncated": found.truncated,
        "duration_ms": duration_ms,
    })))
}

/// What a statement gave.
struct Rows {
    columns: Vec<Value>,
    rows: Vec<Value>,
    /// Rows that are given, or that were changed where none are.
    row_count: u64,
    truncated: bool,
}

async fn run(asked: &ResolvedSql, opened: &OpenedConnection, of: &Try) -> Result<Rows, NodeError> {
    let ConnectionSettings::Postgres(settings) = &opened.stored.settings else {
        return Err(failure(ErrorKind::Validation, "the connection leads to no database"));
    };
    let pools = &of.equipment.databases;
    let password = opened.stored.password.as_ref();
    let session = pools.session(opened.id, opened.version, settings, password).await;
    let mut lent = session.map_err(|error| not_let_in(&error))?;
    let done = statement(asked, &mut lent, of.timeout_ms).await;
    match done {
        Ok(found) => {
            lent.give_back().await;
            Ok(found)
        }
        Err(_) if lent.said_too_much() => {
            lent.close();
            let limit = format!("the database says more than {MAX_READ_BYTES} bytes");
            Err(failure(ErrorKind::Permanent, limit))
        }
        Err(Failed { error, broken: true }) => {
            lent.close();
            Err(error)
        }
        Err(Failed { error, broken: false }) => {
            lent.give_back().await;
            Err(error)
        }
    }
}

/// A failure, and whether the session is of no more use after it.
struct Failed {
    error: NodeError,
    broken: bool,
}

impl Failed {
    fn of(error: &tokio_postgres::Error) -> Self {
        Self { broken: error.as_db_error().is_none(), error: recorded(error) }
    }

    fn said(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { error: failure(kind, message), broken: false }
    }
}

async fn statement(
    asked: &ResolvedSql,
    lent: &mut Lent,
    timeout_ms: Option<u64>,
) -> Result<Rows, Failed> {
    let client = &mut lent.session().client;
    let begin = client.build_transaction().read_only(asked.read_only).start();
    let transaction = begin.await.map_err(|error| Failed::of(&error))?;
    if let Some(limit) = timeout_ms {
        let limit = limit.min(u64::from(u32::MAX / 2));
        let set = format!("SET LOCAL statement_timeout = {limit}");
        transaction.batch_execute(&set).await.map_err(|error| Failed::of(&error))?;
    }
    let prepared =
        transaction.prepare(&asked.statement).await.map_err(|error| Failed::of(&error))?;
    let wanted = prepared.params().len();
    if wanted != asked.params.len() {
        let given = asked.params.len();
        let message = format!("the statement has {wanted} parameters, and {given} are given");
        return Err(Failed::said(ErrorKind::Validation, message));
    }
    let found = rows(asked, &transaction, &prepared).await?;
    match transaction.commit().await {
        Ok(()) => Ok(found),
        // The answer to a commit was lost: it may have happened, and only somebody who looks can know.
        Err(error) if !asked.read_only && error.as_db_error().is_none() => Err(Failed {
            error: failure(
                ErrorKind::UnknownOutcome,
                format!("the connection broke while the change was committed: {error}"),
            ),
            broken: true,
        }),
        Err(error) => Err(Failed::of(&error)),
    }
}

async fn rows(
    asked: &ResolvedSql,
    transaction: &Transaction<'_>,
    prepared: &Statement,
) -> Result<Rows, Failed> {
    let params: Vec<Param<'_>> = asked.params.iter().map(Param).collect();
    let params: Vec<&(dyn ToSql + Sync)> =
        params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
    if prepared.columns().is_empty() {
        let changed = transaction.execute(prepared, &params).await;
        let row_count = changed.map_err(|error| Failed::of(&error))?;
        return Ok(Rows { columns: vec![], rows: vec![], row_count, truncated: false });
    }
    let names = names(prepared);
    let limit = usize::try_from(asked.row_limit).unwrap_or(usize::MAX);
    let portal = transaction.bind(prepared, &params).await.map_err(|error| Failed::of(&error))?;
    let (mut rows, mut bytes, mut truncated) = (Vec::new(), 0_usize, false);
    'pages: loop {
        // One more than is given tells whether there are more.
        let page = PAGE.min(limit + 1 - rows.len());
        let size = i32::try_from(page).unwrap_or(i32::MAX);
        let found = transaction.query_portal(&portal, size).await;
        let found = found.map_err(|error| Failed::of(&error))?;
        let last = found.len() < page;
        for row in found {
            bytes = bytes.saturating_add(row.raw_size_bytes());
            if rows.len() == limit || bytes > MAX_RESULT_BYTES {
                truncated = true;
                break 'pages;
            }
            let mut fields = Map::new();
            for (index, name) in names.iter().enumerate() {
                let value = row.try_get::<_, Found>(index).map_err(|error| {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    let why = why.unwrap_or_else(|| error.to_string());
                    Failed::said(ErrorKind::Permanent, format!("column `{name}`: {why}"))
                })?;
                fields.insert(name.clone(), value.0);
            }
            rows.push(Value::Object(fields));
        }
        if last {
            break;
        }
    }
    let columns = prepared.columns().iter().zip(&names);
    let columns =
        columns.map(|(column, name)| json!({"name": name, "type": column.type_().name()}));
    let row_count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    Ok(Rows { columns: columns.collect(), rows, row_count, truncated })
}

/// The names of the columns, each once: a second `id` is `id_2`.
fn names(prepared: &Statement) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for column in prepared.columns() {
        let mut name = column.name().to_owned();
        let mut count = 1;
        while names.contains(&name) {
            count += 1;
            name = format!("{}_{count}", column.name());
        }
        names.push(name);
    }
    names
}

/// What the database says, as it is recorded.
fn recorded(error: &tokio_postgres::Error) -> NodeError {
    let Some(said) = error.as_db_error() else {
        let source = std::error::Error::source(error).map(ToString::to_string);
        // What never left us: a parameter that could not be written.
        let kind = match error.to_string().starts_with("error serializing parameter") {
            true => ErrorKind::Validation,
            false => ErrorKind::Transient,
        };
        let why = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        return failure(kind, why);
    };
    let mut details = json!({"code": said.code().code()});
    for (name, text) in [("detail", said.detail()), ("hint", said.hint())] {
        if let Some(text) = text {
            details[name] = text.into();
        }
    }
    let mut message = said.message().to_owned();
    if *said.code() == SqlState::READ_ONLY_SQL_TRANSACTION {
        message.push_str(" (set `read_only` to false to allow it)");
    }
    detailed(kind_of(said.code()), message, &details)
}

/// By the classes of SQLSTATE (Postgres, appendix A).
fn kind_of(code: &SqlState) -> ErrorKind {
    match code.code() {
        "57014" => ErrorKind::Timeout,
        // Lost races, locks that are held, and files or programs that are in use.
        "55P03" | "55006" | "25P03" => ErrorKind::Transient,
        code => match code.get(..2).unwrap_or_default() {
            // Connection, rollback for a lost race, resources, operator, system.
            "08" | "40" | "53" | "57" | "58" => ErrorKind::Transient,
            // A value that its type does not have.
            "22" => ErrorKind::Validation,
            _ => ErrorKind::Permanent,
        },
    }
}

fn not_let_in(error: &SessionError) -> NodeError {
    match error {
        SessionError::Dial(error) => {
            let kind = if error.may_pass() { ErrorKind::Transient } else { ErrorKind::Permanent };
            failure(kind, error.to_string())
        }
        SessionError::Login(error) => recorded(error),
        SessionError::TimedOut => failure(ErrorKind::Transient, error.to_string()),
    }
}

/// Signs in to a database and asks it who it is.
pub(crate) async fn test(
    settings: &PostgresSettings,
    password: Option<&SecretString>,
    reach: &Reach,
) -> Result<String, DoesNotWork> {
    let over = CancellationToken::new();
    let background = Background { tasks: TaskTracker::new(), over: over.clone() };
    let _ends = over.drop_guard();
    let session =
        connect(settings, password, reach, &background).await.map_err(|error| match &error {
            SessionError::Dial(error) => error.into(),
            SessionError::TimedOut => DoesNotWork::at(FailedStep::Timeout, error.to_string()),
            SessionError::Login(said) => {
                let step = match said.as_db_error() {
                    Some(said) if said.code().code().starts_with("28") => FailedStep::Login,
                    Some(said) if *said.code() == SqlState::UNDEFINED_DATABASE => FailedStep::Login,
                    Some(_) => FailedStep::Server,
                    None => step_of(said),
                };
                DoesNotWork::at(step, recorded(said).message)
            }
        })?;
    let asked = session.client.query_one("SELECT version()", &[]).await;
    let row =
        asked.map_err(|error| DoesNotWork::at(FailedStep::Server, recorded(&error).message))?;
    Ok(row.try_get::<_, String>(0).unwrap_or_else(|_| "Postgres".to_owned()))
}

/// What went wrong before the server said anything: it has no encryption, or it is no Postgres.
fn step_of(error: &tokio_postgres::Error) -> FailedStep {
    let text = error.to_string();
    if text.contains("TLS") { FailedStep::Tls } else { FailedStep::Server }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_wrong_is_not() {
        let table = [
            ("40001", ErrorKind::Transient),
            ("40P01", ErrorKind::Transient),
            ("53300", ErrorKind::Transient),
            ("57P01", ErrorKind::Transient),
            ("55P03", ErrorKind::Transient),
            ("08006", ErrorKind::Transient),
            ("57014", ErrorKind::Timeout),
            ("22P02", ErrorKind::Validation),
            ("22003", ErrorKind::Validation),
            ("42601", ErrorKind::Permanent),
            ("42P01", ErrorKind::Permanent),
            ("23505", ErrorKind::Permanent),
            ("25006", ErrorKind::Permanent),
            ("28P01", ErrorKind::Permanent),
            ("P0001", ErrorKind::Permanent),
        ];
        for (code, kind) in table {
            assert_eq!(kind_of(&SqlState::from_code(code)), kind, "{code}");
        }
    }
}
