//! The demo: a user, a workspace and workflows that run as they are, so that a first look takes a minute.
//!
//! Made again without effect: the ids follow from fixed names, so what exists is left as people made it.

use std::{fs, path::Path, sync::Arc};

use chrono::Utc;
use futures_util::FutureExt as _;
use ledgerline_commands::{CommandError, Commands, Context, Target};
use ledgerline_domain::{
    event::Actor,
    graph::Definition,
    id::{UserId, WorkflowId, WorkspaceId, derived},
    json::Json,
    workflow::{CreateWorkflow, NewDraft, PublishWorkflow, Workflow, WorkflowCommand},
    workspace::{CreateWorkspace, Workspace, WorkspaceCommand, WorkspaceRejection},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::{
    identity::{Identity, OnRegistered, registration::Registration, session::Client},
    problem::Problem,
    roles::{StartError, secret_file},
};

/// The address of the demo user.
pub const DEMO_EMAIL: &str = "demo@ledgerline.local";

/// The file in the data directory with the demo user's password.
const PASSWORD_FILE: &str = "demo-password";

/// The workflows of the demo, as they are in `examples/`.
pub const EXAMPLES: [(&str, &str); 6] = [
    ("repository-digest", include_str!("../../examples/repository-digest.json")),
    ("disk-report", include_str!("../../examples/disk-report.json")),
    ("health-watch", include_str!("../../examples/health-watch.json")),
    ("csv-clean-up", include_str!("../../examples/csv-clean-up.json")),
    ("greeting", include_str!("../../examples/greeting.json")),
    ("purchase-approval", include_str!("../../examples/purchase-approval.json")),
];

/// The demo user, as it is told to whoever started the process.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The address to sign in with.
    pub email: &'static str,
    /// The password to sign in with.
    pub password: SecretString,
    /// The workspace with the workflows.
    pub workspace: WorkspaceId,
}

/// A workflow as a file holds it: what `POST /workflows` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowFile {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// The nodes.
    pub nodes: serde_json::Value,
    /// The connections.
    #[serde(default)]
    pub connections: serde_json::Value,
    /// The settings.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether any signed-in user may see the definition.
    #[serde(default)]
    pub is_public: bool,
}

impl WorkflowFile {
    /// Reads a file's text as a draft.
    ///
    /// # Errors
    /// Everything that is wrong with it, for a person.
    pub fn draft(text: &str) -> Result<NewDraft, Vec<String>> {
        let file: Self = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
        // All three are always there, as the API stores them.
        let or = |value: serde_json::Value, absent: serde_json::Value| match value {
            serde_json::Value::Null => absent,
            value => value,
        };
        let definition = json!({
            "nodes": or(file.nodes, json!([])),
            "connections": or(file.connections, json!([])),
            "settings": or(file.settings, json!({})),
        });
        let definition = Json::from_value(&definition);
        let definition = Definition::parse(definition).map_err(|problems| {
            let lines = problems.iter().map(|problem| {
                let node = problem.node_id.as_deref();
                let node = node.map(|node| format!(" (node {node})")).unwrap_or_default();
                // What the parser shows of the source is not for one line of a list.
                let reason = problem.reason.lines().next().unwrap_or_default();
                format!("{}{node}: {reason}", problem.field)
            });
            lines.collect::<Vec<_>>()
        })?;
        Ok(NewDraft {
            name: file.name,
            description: file.description,
            definition,
            tags: file.tags,
            is_public: file.is_public,
        })
    }
}

/// What follows on a registration: the person's own workspace.
#[must_use]
pub fn personal_workspaces(commands: Commands) -> OnRegistered {
    Arc::new(move |registered| {
        let commands = commands.clone();
        async move {
            let create = WorkspaceCommand::Create(CreateWorkspace {
                // Not the person's name: the log names people by id only, and this could never be erased.
                name: "Personal".to_owned(),
                description: String::new(),
                owner: registered.user_id,
                personal: true,
            });
            let target =
                Target::new(registered.personal_workspace_id, registered.personal_workspace_id);
            let actor = Actor::Human { user_id: registered.user_id };
            let made = commands.execute::<Workspace>(target, &create, &Context::new(actor)).await;
            match made {
                // One that exists may have another name by now; it is the same workspace.
                Ok(_) | Err(CommandError::Rejected(WorkspaceRejection::AlreadyExists)) => Ok(()),
                Err(error) => Err(Problem::away("the log", &error)),
            }
        }
        .boxed()
    })
}

/// Makes the demo where it is not there yet. `folder` keeps the password.
///
/// # Errors
/// [`StartError`] with the part that cannot be made.
pub async fn seed(
    identity: &Identity,
    commands: &Commands,
    folder: &Path,
) -> Result<Demo, StartError> {
    let path = folder.join(PASSWORD_FILE);
    let password = fs::create_dir_all(folder)
        .and_then(|()| secret_file::read_or_make(&path, new_password))
        .map_err(|source| StartError::File { path, source })?;
    let user = demo_user(identity, &password).await.map_err(|problem| StartError::Seed {
        what: "its user".to_owned(),
        source: Some(problem),
    })?;
    // The personal one: what a person sees first after signing in.
    let workspace = WorkspaceId::personal(user);
    for (name, text) in EXAMPLES {
        demo_workflow(commands, user, workspace, name, text).await?;
    }
    Ok(Demo { email: DEMO_EMAIL, password, workspace })
}

/// 20 letters and digits that are not mistaken for each other.
fn new_password() -> SecretString {
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789A";
    let bytes = rand::random::<[u8; 20]>();
    let letters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    SecretString::from(letters.collect::<String>())
}

async fn demo_user(identity: &Identity, password: &SecretString) -> Result<UserId, Problem> {
    let now = Utc::now();
    let user = match identity.user_by_address(DEMO_EMAIL).await? {
        Some(user) => user.id,
        None => {
            let registration = Registration {
                email: DEMO_EMAIL.to_owned(),
                password: Some(password.expose_secret().into()),
                full_name: "Demo".to_owned(),
            };
            let client = Client { ip: None, user_agent: None };
            identity.register(registration, None, &client, now).await?.user.id
        }
    };
    identity.add_operator(DEMO_EMAIL, now).await?;
    Ok(user)
}

async fn demo_workflow(
    commands: &Commands,
    user: UserId,
    workspace: WorkspaceId,
    name: &str,
    text: &str,
) -> Result<(), StartError> {
    let id = WorkflowId(derived(&["demo", "workflow", name, &workspace.to_string()]));
    let what = format!("its workflow {name}");
    let known = commands.load::<Workflow>(id).await.map_err(|error| refused(&what, &error))?;
    if known.exists() {
        return Ok(());
    }
    let draft = WorkflowFile::draft(text).map_err(|wrong| StartError::Seed {
        what: format!("{what}: {}", wrong.join("; ")),
        source: None,
    })?;
    let context = Context::new(Actor::Human { user_id: user });
    let create = WorkflowCommand::Create(CreateWorkflow {
        workspace_id: workspace,
        parent_workflow_id: None,
        draft,
    });
    let publish = WorkflowCommand::Publish(PublishWorkflow::default());
    let target = Target::new(id, workspace);
    for command in [create, publish] {
        let done = commands.execute::<Workflow>(target, &command, &context).await;
        done.map_err(|error| refused(&what, &error))?;
    }
    Ok(())
}

fn refused(what: &str, error: &(dyn std::error::Error + 'static)) -> StartError {
    StartError::Seed { what: format!("{what}: {}", crate::problem::chain(error)), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_sound_and_says_what_it_is_for() {
        for (name, text) in EXAMPLES {
            let draft = WorkflowFile::draft(text).unwrap_or_else(|why| panic!("{name}: {why:?}"));
            assert!(!draft.description.is_empty(), "{name}");
        }
    }
}
