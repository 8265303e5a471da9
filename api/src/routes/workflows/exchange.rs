//! Workflows as files: export, import, and the templates that are built in.
//!
//! The document is the one that `POST /workflows` takes, so that what is exported can be kept in a repository, run by `ledgerline run`,
//! and imported anywhere. As JSON and as YAML it says the same, field by field in the same order.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use ledgerline_domain::{
    audit::Export,
    id::WorkflowId,
    permission::Permission,
    workflow::{SavedVersion, WorkflowVersion},
};
use ledgerline_projections::Page;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::{Audience, WorkflowBody, WorkflowView, make, readable, references, shown, view::Parts};
use crate::{
    access,
    app::AppState,
    extract::{Caller, JsonBody, ListQuery, Path, Query, WorkspaceSelector, body},
    problem::Problem,
    reading::{self, Reading},
    seed::EXAMPLES,
    writing::{Reply, Writing, hash_of},
    yaml,
};

/// The media types that YAML is sent as.
const YAML_TYPES: [&str; 4] =
    ["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];

/// How a workflow is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON, with two spaces a level.
    #[default]
    Json,
    /// YAML 1.2.
    Yaml,
}

/// What of a workflow is exported, and how.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportOptions {
    /// As what.
    #[param(inline)]
    pub format: Format,
    /// Which version; the latest where it is left out.
    #[param(minimum = 1)]
    pub version: Option<i32>,
}

/// A workflow that is built in, to begin from.
#[derive(Debug, Serialize, ToSchema)]
pub struct Template {
    /// What it is asked for by.
    #[schema(example = "greeting")]
    pub id: &'static str,
    /// What it is called.
    pub name: String,
    /// What it is for, and what input it takes.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Its nodes.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Box<RawValue>,
    /// What leads to what.
    #[schema(value_type = Vec<Object>)]
    pub connections: Box<RawValue>,
    /// What holds for a whole run.
    #[schema(value_type = Object)]
    pub settings: Box<RawValue>,
}

/// How to make a workflow of a template.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FromTemplate {
    /// What it is called; like the template where it is left out.
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
}

/// The body of an import: a workflow as JSON or YAML, by its media type.
#[derive(Debug)]
pub struct WorkflowDocument {
    body: WorkflowBody,
    hash: [u8; 32],
}

impl<S: Send + Sync> FromRequest<S> for WorkflowDocument {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_yaml(request.headers()) {
            let JsonBody { value: body, hash } = JsonBody::from_request(request, state).await?;
            return Ok(Self { body, hash });
        }
        let bytes = Bytes::from_request(request, state).await.map_err(body::unreadable)?;
        let hash = Sha256::digest(&bytes).into();
        let read = tokio::task::spawn_blocking(move || {
            let text = std::str::from_utf8(&bytes).map_err(|error| {
                let place = error.valid_up_to();
                Problem::malformed(format!("the body is not UTF-8 at byte {place}"))
            })?;
            let json = yaml::to_json(text)
                .map_err(|error| Problem::malformed(format!("the body is not YAML: {error}")))?;
            body::parse_object(json.as_bytes())
        });
        let body = read.await.map_err(|error| Problem::internal(&error))??;
        Ok(Self { body, hash })
    }
}

fn is_yaml(headers: &HeaderMap) -> bool {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = sent.and_then(|value| value.split(';').next()).unwrap_or_default();
    YAML_TYPES.contains(&essence.trim().to_ascii_lowercase().as_str())
}

/// A workflow as a file, for a repository or another deployment. A public one may be taken by everybody who is signed in.
#[utoipa::path(get, path = "/workflows/{id}/export", tag = "workflows", params(("id" = Uuid, Path), ExportOptions),
    responses((status = 200, description = "The document that `POST /workflows/import` takes",
        content((WorkflowBody = "application/json"), (WorkflowBody = "application/yaml")))))]
pub async fn export(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkflowId>,
    Query(ExportOptions { format, version }): Query<ExportOptions>,
) -> Result<Response, Problem> {
    let position = reading.log();
    let (now, audience) = readable(&state, &reading.caller, id).await?;
    let content = shown(&now.state, audience)?;
    let version = match version {
        None => content.latest_version(),
        // What was tried before is the members' own.
        Some(_) if audience == Audience::Everybody => return Err(Problem::not_found("version")),
        Some(version) => WorkflowVersion(version),
    };
    reading.took_out(&state, Some(content.workspace_id), Export::Workflows, Some(id.0));
    let draft = state.ledger.stored(id, content, version).await?;
    let text = document(draft)?;
    let (text, media_type, extension) = match format {
        Format::Json => (yaml::pretty_json(&text), "application/json", "json"),
        Format::Yaml => (yaml::from_json(&text), "application/yaml", "yaml"),
    };
    let text = text.map_err(|error| Problem::internal(&error))?;
    let name = format!("attachment; filename=\"{}.{extension}\"", file_name(&draft.name));
    let name = HeaderValue::try_from(name).map_err(|error| Problem::internal(&error))?;
    let mut response = reading.answer((), position).versioned(now.version).into_response();
    *response.body_mut() = text.into();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

/// Make a workflow of a file, as a draft: JSON or YAML, by its `Content-Type`. Everything that is wrong with it is answered at once (422).
#[utoipa::path(post, path = "/workflows/import", tag = "workflows", params(reading::WorkspaceParams),
    request_body(content((WorkflowBody = "application/json"), (WorkflowBody = "application/yaml"))),
    responses((status = 201, body = WorkflowView)))]
pub async fn import(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    WorkflowDocument { body, hash }: WorkflowDocument,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    access::demand(&state, &writing.caller, workspace, Permission::CreateWorkflow, "workspace")
        .await?;
    let draft = body.draft().await?;
    references::demand(&state, workspace, &draft.definition).await?;
    let context = writing.context(workspace, hash);
    make(&state, &writing, context, workspace, None, draft).await
}

/// Workflows to begin from, with their definitions. They run as they are.
#[utoipa::path(get, path = "/workflows/templates", tag = "workflows", params(reading::PageParams),
    responses((status = 200, body = Page<Template>)))]
pub async fn templates(
    _caller: Caller,
    list: ListQuery,
) -> Result<axum::Json<Page<Template>>, Problem> {
    list.sort_among(&[])?;
    if list.cursor.is_some() {
        return Err(Problem::invalid("/cursor", "invalid", "is not a cursor of this list"));
    }
    let (skip, limit) = (usize::try_from(list.offset).unwrap_or(usize::MAX), list.limit);
    let items = EXAMPLES.iter().skip(skip).take(usize::try_from(limit).unwrap_or(usize::MAX));
    let items = items.map(|(id, text)| template(id, text)).collect::<Result<_, _>>()?;
    Ok(axum::Json(Page {
        items,
        next_cursor: None,
        total: i64::try_from(EXAMPLES.len()).unwrap_or(i64::MAX),
        total_is_estimate: false,
        limit: i64::from(limit),
        offset: i64::try_from(list.offset).unwrap_or(i64::MAX),
    }))
}

/// Make a workflow of a template, as a draft.
#[utoipa::path(post, path = "/workflows/templates/{template}", tag = "workflows",
    params(("template" = String, Path), reading::WorkspaceParams), request_body = Option<FromTemplate>,
    responses((status = 201, body = WorkflowView)))]
pub async fn from_template(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    Path(id): Path<String>,
    body: Option<JsonBody<FromTemplate>>,
) -> Reply {
    let (request, hash) = body
        .map_or_else(|| (FromTemplate::default(), hash_of(&[])), |body| (body.value, body.hash));
    let workspace = workspace.or_default(&writing.caller);
    access::demand(&state, &writing.caller, workspace, Permission::CreateWorkflow, "workspace")
        .await?;
    let known = EXAMPLES.iter().find(|(known, _)| *known == id);
    let (_, text) = known.ok_or_else(|| Problem::not_found("template"))?;
    let mut body: WorkflowBody = body::parse(text.as_bytes())?;
    if let Some(name) = request.name {
        body.name = name;
    }
    let draft = body.draft().await?;
    references::demand(&state, workspace, &draft.definition).await?;
    let context = writing.context(workspace, hash);
    make(&state, &writing, context, workspace, None, draft).await
}

fn template(id: &'static str, text: &str) -> Result<Template, Problem> {
    let body: WorkflowBody = body::parse(text.as_bytes())?;
    let raw = |json: &ledgerline_domain::json::Json| {
        RawValue::from_string(json.as_str().to_owned()).map_err(|error| Problem::internal(&error))
    };
    Ok(Template {
        id,
        nodes: raw(&body.nodes)?,
        connections: raw(&body.connections)?,
        settings: raw(&body.settings)?,
        name: body.name,
        description: body.description,
        tags: body.tags,
    })
}

/// The document of a draft as JSON text, with the fields in the order in which people read them.
fn document(draft: &SavedVersion) -> Result<String, Problem> {
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        description: &'a str,
        tags: &'a [String],
        is_public: bool,
        settings: Box<RawValue>,
        nodes: Box<RawValue>,
        connections: Box<RawValue>,
    }
    let Parts { nodes, connections, settings } = Parts::of_version(draft)?;
    let document = Document {
        name: &draft.name,
        description: &draft.description,
        tags: &draft.tags,
        is_public: draft.is_public,
        settings,
        nodes,
        connections,
    };
    serde_json::to_string(&document).map_err(|error| Problem::internal(&error))
}

/// What a file may be called on every system, after a name.
fn file_name(name: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut file = String::new();
    for letter in name.chars().take(MAX_CHARS) {
        if letter.is_ascii_alphanumeric() {
            file.push(letter.to_ascii_lowercase());
        } else if !file.ends_with('-') && !file.is_empty() {
            file.push('-');
        }
    }
    let file = file.trim_end_matches('-');
    if file.is_empty() { "workflow".to_owned() } else { file.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_after_its_workflow() {
        for (name, file) in [
            ("Nightly report (new)", "nightly-report-new"),
            ("../../etc/passwd", "etc-passwd"),
            ("\"; x=\r\n", "x"),
            ("日報", "workflow"),
        ] {
            assert_eq!(file_name(name), file);
        }
    }

    #[test]
    fn every_template_can_be_shown() {
        for (id, text) in EXAMPLES {
            template(id, text).unwrap_or_else(|problem| panic!("{id}: {problem:?}"));
        }
    }
}
