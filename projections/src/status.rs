//! How the projectors are: what `/system` shows and what the gauges say.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use ledgerline_store::{EventLog, Filter, Position, StoreError};
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::{model::Model, wait::Positions};

/// What a projector does in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "state", content = "detail")]
pub enum State {
    /// This process does not run it.
    Elsewhere,
    /// Another process leads, and this one would take over.
    Standby,
    /// It applies events here.
    Leading {
        /// Streams that wait behind an event that cannot be applied.
        quarantined: usize,
    },
    /// It fills a fresh schema first.
    Rebuilding,
    /// It met this event of a newer build and does not go on.
    StoodDown(String),
    /// This is away; it tries again.
    Failed(String),
    /// The process stops.
    Stopped,
}

/// How one projector is, over all processes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ProjectorStatus {
    /// The read model.
    pub name: Model,
    /// The version of its rows.
    pub version: i32,
    /// What it does in the process that was asked.
    #[serde(flatten)]
    pub state: State,
    /// The process that leads, when one does.
    pub owner: Option<String>,
    /// Up to where its rows reflect the log.
    pub position: i64,
    /// How many events it has still to apply.
    pub lag_events: i64,
    /// How old the first of them is; 0 when there is none.
    pub lag_seconds: f64,
    /// How many streams wait in the quarantine.
    pub quarantined: i64,
}

/// How every projector is.
///
/// # Errors
/// When the log or its checkpoints cannot be read.
pub async fn status(
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    positions: &Positions,
    now: DateTime<Utc>,
) -> Result<Vec<ProjectorStatus>, StoreError> {
    let readers: Vec<String> = Model::ALL.iter().map(|model| model.reader()).collect();
    let owners: HashMap<String, Option<String>> = sqlx::query!(
        "SELECT reader, CASE WHEN expires_at > clock_timestamp() THEN owner END AS owner
         FROM checkpoints WHERE reader = ANY ($1)",
        &readers
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| (row.reader, row.owner))
    .collect();
    let quarantined: HashMap<String, i64> = sqlx::query!(
        r#"SELECT model, count(DISTINCT key) AS "count!" FROM quarantine WHERE skipped_at IS NULL GROUP BY model"#
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| (row.model, row.count))
    .collect();

    let mut all = Vec::with_capacity(Model::ALL.len());
    for model in Model::ALL {
        let lag = lag(log, positions, *model, now).await?;
        let reader = model.reader();
        all.push(ProjectorStatus {
            name: *model,
            version: model.version(),
            state: positions.state(*model),
            owner: owners.get(&reader).cloned().flatten(),
            position: lag.position.0,
            lag_events: lag.events,
            lag_seconds: lag.seconds,
            quarantined: quarantined.get(&reader).copied().unwrap_or_default(),
        });
    }
    Ok(all)
}

/// Sets the gauges of every projector.
pub(crate) async fn measure(
    log: &Arc<dyn EventLog>,
    positions: &Positions,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for model in Model::ALL {
        let lag = lag(log, positions, *model, now).await?;
        let name = model.as_str();
        #[expect(clippy::cast_precision_loss, reason = "a lag of 2^53 events will not be seen")]
        let events = lag.events as f64;
        metrics::gauge!("ledgerline_projection_lag_events", "projection" => name).set(events);
        metrics::gauge!("ledgerline_projection_lag_seconds", "projection" => name).set(lag.seconds);
    }
    Ok(())
}

struct Lag {
    position: Position,
    events: i64,
    seconds: f64,
}

/// The lag is that of the first event that is not applied, so it is true also while a projector stands still.
async fn lag(
    log: &Arc<dyn EventLog>,
    positions: &Positions,
    model: Model,
    now: DateTime<Utc>,
) -> Result<Lag, StoreError> {
    let position = positions.current(&[model]).await?;
    let head = log.head().await?.position.max(position);
    let events = head.0 - position.0;
    if events == 0 {
        return Ok(Lag { position, events, seconds: 0.0 });
    }
    let (next, _) = log.read(position, 1, &Filter::default()).await?;
    let age = next.first().map(|event| now - event.recorded_at).unwrap_or_default();
    Ok(Lag { position, events, seconds: age.as_seconds_f64().max(0.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_its_state_beside_its_lag() {
        let status = ProjectorStatus {
            name: Model::Workflows,
            version: 1,
            state: State::StoodDown("newer".to_owned()),
            owner: None,
            position: 4,
            lag_events: 2,
            lag_seconds: 0.5,
            quarantined: 0,
        };
        let json = serde_json::to_value(&status).expect("a status serialises");
        assert_eq!(
            (json["state"].as_str(), json["detail"].as_str()),
            (Some("stood_down"), Some("newer"))
        );
        assert_eq!(
            (json["name"].as_str(), json["lag_events"].as_i64()),
            (Some("workflows"), Some(2))
        );
    }
}
