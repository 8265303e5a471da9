//! Personal data in what callers give and are shown; see [`ledgerline_domain::personal`].

use std::convert::Infallible;

use ledgerline_commands::personal::{self, Opener, PersonalError};
use ledgerline_domain::{
    id::WorkspaceId,
    json::Json,
    permission::Permission,
    personal::{Sealed, may_be_marked, may_be_sealed, open_sealed},
};
use ledgerline_projections::values::RawJson;
use serde_json::{Value, json, value::RawValue};

use crate::{access::demand, app::AppState, extract::Caller, problem::Problem};

/// Where a caller gives a value, and what it takes to give one there.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// In which workspace.
    pub workspace: WorkspaceId,
    /// The permission that it takes.
    pub needed: Permission,
    /// What does not exist for whoever may not know of it.
    pub noun: &'static str,
    /// Where it stands in the body.
    pub pointer: &'static str,
}

/// A value with everything sealed that is marked in it.
///
/// # Errors
/// 403 or 404 for who may not give it, before any key is made; 422 for a mark that is none; 503 when the keys can't be read.
pub async fn seal(
    state: &AppState,
    caller: &Caller,
    given: Given,
    value: Json,
) -> Result<Json, Problem> {
    if !may_be_marked(value.as_str()) {
        return Ok(value);
    }
    let Given { workspace, needed, noun, pointer } = given;
    demand(state, caller, workspace, needed, noun).await?;
    let (subjects, now) = (state.sealed.subjects(), state.clock.now());
    let sealed = personal::seal(&subjects, workspace, value, now);
    sealed.await.map_err(|error| match error {
        PersonalError::Mark(error) => Problem::invalid(pointer, "invalid", error.to_string()),
        PersonalError::Keys(error) => error.into(),
    })
}

/// A value as it is shown: opened, and `{"$erased": …}` in place of what is about somebody who was erased.
///
/// # Errors
/// 503 when the keys can't be read.
pub async fn show(state: &AppState, workspace: WorkspaceId, value: Json) -> Result<Json, Problem> {
    if !may_be_sealed(value.as_str()) {
        return Ok(value);
    }
    let value = value.to_value();
    let opener = Opener::of(&state.sealed.subjects(), workspace, &value).await?;
    let mut show = |sealed: &Sealed| -> Result<Value, Infallible> {
        Ok(opener.open(sealed).unwrap_or_else(|| json!({ "$erased": sealed.subject })))
    };
    let Ok(shown) = open_sealed(value, &mut show);
    Ok(Json::from_value(&shown))
}

/// The same for a value of a read row.
///
/// # Errors
/// 503 when the keys can't be read.
pub async fn show_raw(
    state: &AppState,
    workspace: WorkspaceId,
    value: &mut Option<RawJson>,
) -> Result<(), Problem> {
    let Some(raw) = value.as_mut().filter(|raw| may_be_sealed(raw.0.get())) else { return Ok(()) };
    let stored = Json::parse(raw.0.get()).map_err(|error| Problem::internal(&error))?;
    let shown = show(state, workspace, stored).await?;
    raw.0 = RawValue::from_string(shown.as_str().to_owned())
        .map_err(|error| Problem::internal(&error))?;
    Ok(())
}
