//! How secrets and connections are kept: the sealed value first, then the event that names its version.
//!
//! The log never names a version whose value is not there, and a value that the log does not name is nobody's. Whatever breaks off in
//! between leaves a sealed row that no one reads and that goes with the next write of the same name.

use ledgerline_commands::{Context, Executed, Loaded, Scope, Target};
use ledgerline_domain::{
    id::WorkspaceId,
    permission::Permission,
    vault::{Vault, VaultCommand},
};
use ledgerline_store::sealed::SealedError;

use crate::{
    app::AppState,
    problem::Problem,
    writing::{Instead, Writing},
};

/// Who a value is kept for.
#[derive(Clone, Debug)]
pub struct Holding {
    /// In which workspace.
    pub workspace: WorkspaceId,
    /// `secret:<name>` or `connection:<id>`.
    pub holder: String,
    /// What does not exist for whoever may not know of it.
    pub noun: &'static str,
}

/// The vault of a workspace as the log holds it now.
///
/// # Errors
/// 503 when the log is away.
pub async fn vault(state: &AppState, workspace: WorkspaceId) -> Result<Loaded<Vault>, Problem> {
    Ok(state.commands.load::<Vault>(workspace.vault()).await?)
}

/// Keeps a value under the next version and tells the vault of it. The caller must have been found to be allowed to before.
///
/// # Errors
/// The plan of a dry run, for which nothing is kept, or the problem.
pub async fn keep(
    state: &AppState,
    writing: &Writing,
    context: &Context,
    holding: &Holding,
    value: &[u8],
    last: Option<i32>,
    command: impl Fn(i32) -> VaultCommand + Sync,
) -> Result<Executed<Vault>, Instead> {
    let Holding { workspace, holder, .. } = holding;
    let next = last.map_or(1, |last| last.saturating_add(1));
    let version = match writing.is_dry_run() {
        true => next,
        false => state.sealed.put(workspace.0, holder, next, value, state.clock.now()).await?,
    };
    let told = tell(writing, context, holding, command(version)).await;
    match &told {
        Ok(executed) if !executed.repeated => {
            if let Err(error) = state.sealed.erase_before(workspace.0, holder, version).await {
                tracing::warn!(%error, "an earlier sealed value was left behind");
            }
        }
        // Where it is not known whether it landed, it stays.
        Err(Instead::Problem(problem)) if problem.kind().status().is_server_error() => {}
        Ok(_) | Err(_) => {
            if !writing.is_dry_run()
                && let Err(error) = state.sealed.erase_version(workspace.0, holder, version).await
            {
                tracing::warn!(%error, "a sealed value that nothing names was left behind");
            }
        }
    }
    told
}

/// Tells the vault that something is no more, and erases what it held.
///
/// # Errors
/// The plan of a dry run, or the problem.
pub async fn give_up(
    state: &AppState,
    writing: &Writing,
    context: &Context,
    holding: &Holding,
    last: i32,
    command: VaultCommand,
) -> Result<Executed<Vault>, Instead> {
    let told = tell(writing, context, holding, command).await?;
    if !told.repeated {
        state.sealed.erase(holding.workspace.0, &holding.holder, last).await?;
    }
    Ok(told)
}

/// Gives the vault a command within the plan that authorises it.
///
/// # Errors
/// The plan of a dry run, or the problem.
pub async fn tell(
    writing: &Writing,
    context: &Context,
    holding: &Holding,
    command: VaultCommand,
) -> Result<Executed<Vault>, Instead> {
    let (command, workspace) = (&command, holding.workspace);
    let plan = |scope: Scope| async move {
        let needed = Permission::ManageSecrets;
        writing.authorise(&scope, workspace, needed, holding.noun).await?;
        Ok((Target::new(workspace.vault(), workspace), command.clone()))
    };
    writing.execute::<Vault, _, _>(context, plan).await
}

/// The hash of a body that holds something secret, as it goes into idempotency keys and plans: nobody can try values against it.
///
/// # Errors
/// When the cryptographic library refuses, which it has no reason to.
pub fn hash_of_secret(state: &AppState, hash: [u8; 32]) -> Result<[u8; 32], Problem> {
    state.sealed.master().fingerprint(hash).map_err(|error| Problem::internal(&error))
}

impl From<SealedError> for Problem {
    fn from(error: SealedError) -> Self {
        match error {
            SealedError::Store(error) => error.into(),
            error @ SealedError::Sealed(_) => Self::internal(&error),
        }
    }
}
