//! What an error of Postgres means for the log: did the transaction certainly not happen, or is that unknown?

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::{StoreError, StoreFault};

const DISK_FULL: &str = "53100";

/// How a flush failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Postgres refused the statement: its transaction was rolled back, the connection is fine.
    Refused(sqlx::Error),
    /// The disk is full; the transaction was rolled back.
    DiskFull,
    /// The connection broke or the reply could not be read: the transaction may have been committed.
    Lost(StoreFault),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = postgres_error(&error) else { return Self::Lost(error.into()) };
        let code = database.code();
        let ends_session = matches!(database.severity(), PgSeverity::Fatal | PgSeverity::Panic)
            || code.starts_with("08")
            || code.starts_with("57P")
            // The server became a replica: nothing was written, and only another connection can help.
            || code == "25006";
        if code == DISK_FULL {
            Self::DiskFull
        } else if ends_session {
            Self::Lost(error.into())
        } else {
            Self::Refused(error)
        }
    }
}

/// The constraint that a refused statement broke.
pub(crate) fn broken_constraint(error: &sqlx::Error) -> Option<&str> {
    postgres_error(error).and_then(PgDatabaseError::constraint)
}

/// Whether the values of a statement were at fault, not the server: data exceptions and broken constraints.
pub(crate) fn values_at_fault(error: &sqlx::Error) -> bool {
    postgres_error(error)
        .is_some_and(|error| error.code().starts_with("22") || error.code().starts_with("23"))
}

fn postgres_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if postgres_error(&error).is_some_and(|error| error.code() == DISK_FULL) {
            return Self::DiskFull;
        }
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Corrupt { reason: error.to_string() }
            }
            other => Self::Unavailable(other.into()),
        }
    }
}
