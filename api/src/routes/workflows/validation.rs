//! What an editor asks while somebody builds: which kinds of nodes there are, and what is wrong with a definition.

use axum::{Json, extract::State};
use ledgerline_domain::{
    node::{KindDescription, node_kinds},
    permission::Permission,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{DefinitionBody, references};
use crate::{
    access,
    app::AppState,
    extract::{Caller, JsonBody, WorkspaceSelector},
    problem::{FieldError, Problem},
    reading::WorkspaceParams,
};

/// What a check of a definition came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether it could be saved.
    pub valid: bool,
    /// Everything that is wrong, at most 200 of it.
    pub errors: Vec<FieldError>,
}

/// The kinds of nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeKinds {
    /// `{type, group, title, description, config, ports, is_effect, default_timeout_ms}`, where `config` is the JSON Schema of the
    /// configuration.
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<KindDescription>,
}

/// Check a definition without saving it. Everything that is wrong is said at once.
#[utoipa::path(post, path = "/workflows/validate", tag = "workflows", params(WorkspaceParams), request_body = DefinitionBody,
    responses((status = 200, body = Verdict)))]
pub async fn validate(
    State(state): State<AppState>,
    caller: Caller,
    workspace: WorkspaceSelector,
    JsonBody { value: body, .. }: JsonBody<DefinitionBody>,
) -> Result<Json<Verdict>, Problem> {
    let workspace = workspace.or_default(&caller);
    let errors = match body.into_workflow().checked().await? {
        Err(errors) => errors,
        Ok(draft) => {
            // What a workspace has is only said to its members.
            access::demand(&state, &caller, workspace, Permission::ViewWorkflow, "workspace")
                .await?;
            references::missing(&state, workspace, &draft.definition).await?
        }
    };
    Ok(Json(Verdict { valid: errors.is_empty(), errors }))
}

/// The kinds of nodes that a definition may be made of.
#[utoipa::path(get, path = "/node-kinds", tag = "workflows", responses((status = 200, body = NodeKinds)))]
pub async fn kinds(_caller: Caller) -> Json<NodeKinds> {
    Json(NodeKinds { items: node_kinds() })
}
