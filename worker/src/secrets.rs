//! Opens the secrets that nodes name: right before an effect, for that effect alone.
//!
//! Whatever the effect gives and prints is masked with every secret that its workflow names, not only its own: what one node sends out
//! may come back to another.

use std::collections::BTreeMap;

use ledgerline_commands::{Commands, personal::Opener, recorder};
use ledgerline_domain::{
    audit::Tally,
    execution::{ErrorKind, NodeError},
    expression::Veil,
    id::WorkspaceId,
    json::Json,
    node::Resolved,
    personal::{Sealed, may_be_sealed, open_sealed},
    vault::{SecretName, Vault},
};
use ledgerline_store::sealed::{SealedError, SealedValues, Wanted};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use uuid::Uuid;

use crate::{mask::Mask, nodes::Try, values::failure};

/// How often a value may be replaced between the look at its version and the look at itself.
const MAX_LOOKS: u32 = 5;

/// Where the secrets of all workspaces are.
pub(crate) struct Vaults {
    commands: Commands,
    sealed: Option<SealedValues>,
}

/// The secrets of one effect.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    values: BTreeMap<SecretName, SecretString>,
}

impl Vaults {
    pub(crate) fn new(commands: Commands, sealed: Option<SealedValues>) -> Self {
        Self { commands, sealed }
    }

    /// Counts for the audit that an execution uses a secret or a connection.
    pub(crate) fn used(&self, of: &Try, holder: String) {
        let workspace_id = WorkspaceId(of.workspace);
        let tally = Tally::SecretUsed { workspace_id, holder };
        recorder::count(self.commands.tallies(), &tally, Some(of.execution), None, of.now);
    }

    /// The sealed values of the deployment.
    pub(crate) fn sealed(&self) -> Result<&SealedValues, NodeError> {
        self.sealed.as_ref().ok_or_else(|| {
            failure(ErrorKind::Permanent, "this worker has no master key, so it can't open secrets")
        })
    }

    /// The vault of a workspace as the log holds it now.
    pub(crate) async fn vault(&self, workspace: Uuid) -> Result<Vault, NodeError> {
        let id = WorkspaceId(workspace).vault();
        let loaded = self.commands.load::<Vault>(id).await.map_err(|error| {
            failure(ErrorKind::Transient, format!("the workspace's secrets can't be read: {error}"))
        })?;
        Ok(Vault::clone(&loaded.state))
    }

    /// A configuration with the personal data opened that is sealed in it, and the texts that this came to.
    ///
    /// # Errors
    /// A `permanent` failure where it was erased: nothing is to be done with what is left.
    pub(crate) async fn open_personal(
        &self,
        workspace: Uuid,
        resolved: Resolved,
    ) -> Result<(Resolved, Vec<String>), NodeError> {
        let input = resolved.input();
        if !may_be_sealed(input.as_str()) {
            return Ok((resolved, Vec::new()));
        }
        let input = input.to_value();
        let subjects = self.sealed()?.subjects();
        let opener = Opener::of(&subjects, WorkspaceId(workspace), &input).await;
        let opener = opener.map_err(|error| recorded(&error))?;
        let mut texts = Vec::new();
        let mut open = |sealed: &Sealed| {
            let opened = opener.open(sealed).ok_or_else(|| {
                failure(ErrorKind::Permanent, "personal data that this step needs was erased")
            })?;
            texts_in(&opened, &mut texts);
            Ok(opened)
        };
        let opened = Json::from_value(&open_sealed(input, &mut open)?);
        let resolved = Resolved::from_input(resolved.kind(), &opened).map_err(|error| {
            failure(ErrorKind::Validation, format!("what was sealed does not fit: {error}"))
        })?;
        Ok((resolved, texts))
    }

    /// The present values of secrets. What the workspace doesn't have is left out.
    pub(crate) async fn open(
        &self,
        workspace: Uuid,
        names: &[SecretName],
    ) -> Result<Opened, NodeError> {
        if names.is_empty() {
            return Ok(Opened::default());
        }
        let sealed = self.sealed()?;
        for _ in 0..MAX_LOOKS {
            let vault = self.vault(workspace).await?;
            let there = names.iter().filter_map(|name| Some((name, vault.secret(name)?)));
            let there: Vec<(&SecretName, Wanted)> = there
                .map(|(name, kept)| (name, Wanted { holder: name.holder(), version: kept.version }))
                .collect();
            let wanted: Vec<Wanted> = there.iter().map(|(_, wanted)| wanted.clone()).collect();
            let opened = sealed.open(workspace, &wanted).await.map_err(|error| recorded(&error))?;
            if opened.len() < wanted.len() {
                // One of them was replaced since the vault was looked at.
                continue;
            }
            let values = there.into_iter().filter_map(|(name, wanted)| {
                let value = opened.get(&wanted.holder)?.expose_secret();
                let text = String::from_utf8(value.clone()).ok()?;
                Some((name.clone(), SecretString::from(text)))
            });
            return Ok(Opened { values: values.collect() });
        }
        Err(failure(ErrorKind::Transient, "the secrets are being replaced right now"))
    }
}

/// The texts in a value, and its numbers: what must not come back.
fn texts_in(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Number(number) => texts.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| texts_in(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| texts_in(field, texts)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// A sealed value that can't be had, as it is recorded.
pub(crate) fn recorded(error: &SealedError) -> NodeError {
    match error {
        SealedError::Store(error) => {
            failure(ErrorKind::Transient, format!("the workspace's secrets can't be read: {error}"))
        }
        SealedError::Sealed(error) => failure(ErrorKind::Permanent, error.to_string()),
    }
}

impl Opened {
    /// What takes them out of texts, and with them the personal data that was opened.
    pub(crate) fn mask(&self, personal: &[String]) -> Mask {
        let secrets = self.values.values().map(|value| value.expose_secret());
        Mask::of(secrets.chain(personal.iter().map(String::as_str)))
    }

    /// A configuration with the values in place of their stand-ins.
    ///
    /// # Errors
    /// A `validation` failure that names the secrets which don't exist.
    pub(crate) fn put_into(
        &self,
        resolved: Resolved,
        veil: &Veil,
        names: &[SecretName],
    ) -> Result<Resolved, NodeError> {
        if names.is_empty() {
            return Ok(resolved);
        }
        let missing: Vec<&str> = names
            .iter()
            .filter(|name| !self.values.contains_key(*name))
            .map(SecretName::as_str)
            .collect();
        if !missing.is_empty() {
            let message = format!("the workspace has no secret `{}`", missing.join("`, `"));
            return Err(failure(ErrorKind::Validation, message));
        }
        let with_values = self.in_place(resolved.input().to_value(), veil);
        Resolved::from_input(resolved.kind(), &Json::from_value(&with_values)).map_err(|error| {
            failure(ErrorKind::Permanent, format!("the configuration can't be read back: {error}"))
        })
    }

    fn in_place(&self, value: Value, veil: &Veil) -> Value {
        match value {
            Value::String(text) => Value::String(veil.replaced(&text, |name| {
                self.values
                    .get(name)
                    .map(|value| value.expose_secret().to_owned())
                    .unwrap_or_default()
            })),
            Value::Array(items) => {
                items.into_iter().map(|item| self.in_place(item, veil)).collect()
            }
            Value::Object(fields) => {
                let fields = fields.into_iter();
                Value::Object(
                    fields.map(|(name, value)| (name, self.in_place(value, veil))).collect(),
                )
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}
