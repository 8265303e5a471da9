//! What a person sends of a workflow, and how it becomes a draft: everything that is wrong with it is said at once.

use ledgerline_domain::{
    graph::{self, Definition},
    json::Json,
    limits,
    workflow::NewDraft,
};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::scripts::wrong_scripts;
use crate::problem::{FieldError, Problem};

/// A definition of this size or more is parsed beside the threads that serve.
const PARSED_BESIDE_BYTES: usize = 16 * 1024;

/// A workflow as it is sent.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowBody {
    /// What it is called.
    #[schema(example = "Nightly report", min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 10_000)]
    pub description: String,
    /// Its nodes: `{id, type, name, config, retry, timeout_ms, on_error, idempotent, undo, position, pinned_output}`. See `GET /node-kinds`.
    #[serde(default = "empty_list")]
    #[schema(value_type = Vec<Object>, example = json!([{"id": "start", "type": "trigger.manual", "config": {}}]))]
    pub nodes: Json,
    /// What leads to what: `{from, to, port}`.
    #[serde(default = "empty_list")]
    #[schema(value_type = Vec<Object>)]
    pub connections: Json,
    /// What holds for a whole run: concurrency, queue, timeout_ms, retry, parallelism.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub settings: Json,
    /// Words to find it by.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub tags: Vec<String>,
    /// Whether everybody who is signed in may see the definition, never the runs.
    #[serde(default)]
    pub is_public: bool,
}

/// A definition to check. The other fields of a workflow may come along and are checked too.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DefinitionBody {
    /// What the workflow is called.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Its nodes.
    #[serde(default = "empty_list")]
    #[schema(value_type = Vec<Object>)]
    pub nodes: Json,
    /// What leads to what.
    #[serde(default = "empty_list")]
    #[schema(value_type = Vec<Object>)]
    pub connections: Json,
    /// What holds for a whole run.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub settings: Json,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether it would be public.
    #[serde(default)]
    pub is_public: bool,
}

fn empty_list() -> Json {
    Json::from_value(&serde_json::json!([]))
}

fn empty_object() -> Json {
    Json::from_value(&serde_json::json!({}))
}

impl DefinitionBody {
    /// The same as the body of a workflow; a name that is left out is no mistake here.
    pub(super) fn into_workflow(self) -> WorkflowBody {
        let Self { name, description, nodes, connections, settings, tags, is_public } = self;
        let name = name.unwrap_or_else(|| "unnamed".to_owned());
        WorkflowBody { name, description, nodes, connections, settings, tags, is_public }
    }
}

impl WorkflowBody {
    /// What is to be saved.
    ///
    /// # Errors
    /// 422 with everything that is wrong.
    pub async fn draft(self) -> Result<NewDraft, Problem> {
        self.checked().await?.map_err(Problem::invalid_values)
    }

    /// What is to be saved, or everything that is wrong with it.
    ///
    /// # Errors
    /// 500 when the parser broke off.
    pub(super) async fn checked(self) -> Result<Result<NewDraft, Vec<FieldError>>, Problem> {
        let mut errors = self.wrong_fields();
        let text = self.definition_text();
        let Self { name, description, tags, is_public, .. } = self;
        if text.len() > limits::MAX_DEFINITION_BYTES {
            let detail = format!("must have at most {} bytes", limits::MAX_DEFINITION_BYTES);
            errors.push(FieldError::new("/nodes", "too_large", detail));
            return Ok(Err(errors));
        }
        let definition = match parse(text).await? {
            Ok(definition) => definition,
            Err(problems) => {
                errors.extend(problems);
                return Ok(Err(errors));
            }
        };
        if errors.is_empty() {
            Ok(Ok(NewDraft { name, description, definition, tags, is_public }))
        } else {
            Ok(Err(errors))
        }
    }

    fn wrong_fields(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.name.trim().is_empty() || self.name.chars().count() > limits::MAX_NAME_CHARS {
            let detail = format!("must have 1 to {} characters", limits::MAX_NAME_CHARS);
            errors.push(FieldError::new("/name", "out_of_range", detail));
        }
        if self.description.chars().count() > limits::MAX_DESCRIPTION_CHARS {
            let detail = format!("must have at most {} characters", limits::MAX_DESCRIPTION_CHARS);
            errors.push(FieldError::new("/description", "out_of_range", detail));
        }
        if self.tags.len() > limits::MAX_TAGS {
            let detail = format!("must have at most {} entries", limits::MAX_TAGS);
            errors.push(FieldError::new("/tags", "out_of_range", detail));
        }
        for (index, tag) in self.tags.iter().enumerate().take(limits::MAX_PROBLEMS) {
            if tag.trim().is_empty() || tag.chars().count() > limits::MAX_TAG_CHARS {
                let detail = format!("must have 1 to {} characters", limits::MAX_TAG_CHARS);
                errors.push(FieldError::new(format!("/tags/{index}"), "out_of_range", detail));
            }
        }
        errors
    }

    /// `{nodes, connections, settings}` in the very text in which they came.
    fn definition_text(&self) -> String {
        format!(
            r#"{{"nodes":{},"connections":{},"settings":{}}}"#,
            self.nodes.as_str(),
            self.connections.as_str(),
            self.settings.as_str()
        )
    }
}

/// Parses a definition, a large one where it holds nobody up.
async fn parse(text: String) -> Result<Result<Definition, Vec<FieldError>>, Problem> {
    let large = text.len() >= PARSED_BESIDE_BYTES;
    let text = Json::parse(&text).map_err(|error| Problem::internal(&error))?;
    if !large {
        return Ok(read(text));
    }
    let parsed = spawn_blocking(move || read(text)).await;
    parsed.map_err(|error| Problem::internal(&error))
}

/// Reads a definition and its scripts.
fn read(text: Json) -> Result<Definition, Vec<FieldError>> {
    let scripts = wrong_scripts(&text);
    match Definition::parse(text) {
        Ok(definition) if scripts.is_empty() => Ok(definition),
        Ok(_) => Err(scripts),
        Err(problems) => {
            let problems = problems.into_iter().map(field_error);
            Err(problems.chain(scripts).take(limits::MAX_PROBLEMS).collect())
        }
    }
}

/// The pointer into a definition is the one into the body, since its parts stand at the top there.
pub(super) fn field_error(problem: graph::Problem) -> FieldError {
    let graph::Problem { node_id, field, code, reason } = problem;
    let detail = match node_id {
        Some(node) => format!("node `{node}`: {reason}"),
        None => reason,
    };
    FieldError::new(field, code.as_str(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::body::parse as parse_body;

    #[tokio::test]
    async fn the_text_stays_as_it_was_written() {
        let body = br#"{"name":"n","nodes":[{"type":"logic.transform","id":"a","config":{"expression":"1.50"}}]}"#;
        let body: WorkflowBody = parse_body(body).unwrap();
        let draft = body.draft().await.unwrap();
        assert_eq!(
            draft.definition.text().as_str(),
            r#"{"nodes":[{"type":"logic.transform","id":"a","config":{"expression":"1.50"}}],"connections":[],"settings":{}}"#
        );
    }

    #[tokio::test]
    async fn everything_wrong_is_said_at_once() {
        let body = br#"{"name":" ","tags":[""],"nodes":[{"id":"a","type":"no.such"}],"connections":[{"from":"a","to":"z"}]}"#;
        let body: WorkflowBody = parse_body(body).unwrap();
        let problem = body.draft().await.unwrap_err();
        let pointers: Vec<&str> = problem.errors().iter().map(|e| e.pointer.as_str()).collect();
        for pointer in ["/name", "/tags/0", "/nodes/0/type", "/connections/0/to"] {
            assert!(pointers.contains(&pointer), "{pointers:?}");
        }
        let kind = problem.errors().iter().find(|e| e.pointer == "/nodes/0/type").unwrap();
        assert!(kind.detail.starts_with("node `a`: "), "{}", kind.detail);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let problem = parse_body::<WorkflowBody>(br#"{"name":"n","status":"draft"}"#).unwrap_err();
        assert_eq!(problem.errors()[0].pointer, "/status");
    }
}
