//! Postgres under the log: its version, its connections, who holds up whom, and whether it has room for another event.

use ledgerline_store::MAX_PAYLOAD_BYTES;
use sqlx::{Connection as _, PgPool};

use super::{Finding, Report};
use crate::problem::chain;

/// What Postgres says when its disk is full.
const DISK_FULL: &str = "53100";

/// What it says when somebody may not do something.
const NOT_ALLOWED: &str = "42501";

/// Looks at Postgres.
pub(super) async fn look(pool: &PgPool, report: &mut Report) {
    if look_at_server(pool, report).await {
        look_at_room(pool, report).await;
        look_at_blockers(pool, report).await;
    }
}

/// Version, size and connections. False when it takes no writes.
async fn look_at_server(pool: &PgPool, report: &mut Report) -> bool {
    let row = sqlx::query!(
        r#"SELECT current_setting('server_version') AS "version!",
                  current_setting('server_version_num')::int AS "number!",
                  current_setting('max_connections')::bigint AS "max_connections!",
                  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS "connections!",
                  pg_is_in_recovery() AS "standby!",
                  pg_database_size(current_database()) AS "size_bytes!""#
    )
    .fetch_one(pool)
    .await;
    let row = match row {
        Ok(row) => row,
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "database", chain(&error), mend);
            return false;
        }
    };
    let size = row.size_bytes / (1024 * 1024);
    let detail = format!("PostgreSQL {}, {size} MiB", row.version);
    if row.number < 150_000 {
        report.found(Finding::Wrong, "database", detail, "upgrade to PostgreSQL 15 or later");
    } else if row.standby {
        let detail = detail + ", a standby";
        let mend = "use the primary: a standby takes no writes";
        report.found(Finding::Wrong, "database", detail, mend);
    } else {
        report.ok("database", detail);
    }
    let detail = format!("{} of {} in use", row.connections, row.max_connections);
    if row.connections * 10 >= row.max_connections * 9 {
        let mend = "raise max_connections, or lower database.max_connections of the processes";
        report.found(Finding::Warning, "connections", detail, mend);
    } else {
        report.ok("connections", detail);
    }
    !row.standby
}

/// Whether the largest event would find room: written, and rolled back.
async fn look_at_room(pool: &PgPool, report: &mut Report) {
    let probed = async {
        let mut connection = pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let bytes = i32::try_from(MAX_PAYLOAD_BYTES).unwrap_or(i32::MAX);
        sqlx::query_file!("sql/doctor/write_largest_event.sql", bytes)
            .execute(&mut *transaction)
            .await?;
        transaction.rollback().await
    };
    let error: sqlx::Error = match probed.await {
        Ok(()) => return report.ok("room", "the largest event finds room"),
        Err(error) => error,
    };
    let code = error.as_database_error().and_then(|error| error.code());
    let (finding, mend) = match code.as_deref() {
        Some(DISK_FULL) => (
            Finding::Wrong,
            "make room on the database's disk: writes are refused meanwhile, nothing is lost, and they go on by themselves",
        ),
        Some(NOT_ALLOWED) => {
            (Finding::Warning, "run this as the role that serves to have it tried out")
        }
        _ => (Finding::Wrong, "look at Postgres's own log"),
    };
    report.found(finding, "room", chain(&error), mend);
}

/// Statements that wait for a lock hold their connections, and with enough of them a process has none left.
async fn look_at_blockers(pool: &PgPool, report: &mut Report) {
    let blockers = sqlx::query_file!("sql/doctor/blockers.sql").fetch_all(pool).await;
    let blockers = match blockers {
        Ok(blockers) => blockers,
        Err(error) => {
            let mend = "look at Postgres's own log";
            return report.found(Finding::Wrong, "locks", chain(&error), mend);
        }
    };
    if blockers.is_empty() {
        return report.ok("locks", "nobody is held up");
    }
    for blocker in blockers {
        let detail = format!(
            "{} statements wait for pid {} ({}, {}), up to {:.0} s: their connections are missing in the pools",
            blocker.waiting, blocker.pid, blocker.application, blocker.state, blocker.seconds
        );
        let mend = format!("end what it does, or SELECT pg_terminate_backend({})", blocker.pid);
        report.found(Finding::Warning, "locks", detail, mend);
    }
}
