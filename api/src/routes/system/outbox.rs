//! The mails that the deployment wrote.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::AppState, extract::Caller, identity::mail::MailView, problem::Problem};

/// The newest mails.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outbox {
    /// The newest first, at most 100.
    pub items: Vec<MailView>,
}

/// The newest mails of the deployment. Where no mail server is configured, this is where codes and links are read.
#[utoipa::path(get, path = "/system/outbox", tag = "operations", responses((status = 200, body = Outbox)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Outbox>, Problem> {
    caller.demand_operator()?;
    Ok(Json(Outbox { items: state.identity.outbox().await? }))
}
