//! `action.command`: an allowed program, without a shell, in a directory of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    node::ResolvedCommand,
};
use ledgerline_store::LogLevel;
use nix::unistd::{Gid, Uid, chown};
use serde_json::{Value, json};
use tokio::fs;
use uuid::Uuid;

use super::Try;
use crate::{
    subprocess::{Output, Program, RunAs, SubprocessError, run},
    values::{detailed, excerpt, failure},
};

pub(super) async fn perform(asked: ResolvedCommand, of: &Try) -> Result<Value, NodeError> {
    let settings = &of.equipment.settings;
    let env: BTreeMap<String, String> = asked.env.into_iter().collect();
    let permanent =
        |error: crate::allowed::Refusal| failure(ErrorKind::Permanent, error.to_string());
    let entry = settings.allowed.check(&asked.program, &asked.args, &env).map_err(permanent)?;
    let path = entry.path().map_err(permanent)?;
    let scratch = Scratch::make(&settings.scratch_dir, settings.run_as).await?;
    let program = Program {
        path,
        args: asked.args,
        env: env.into_iter().chain(entry.env.clone()).collect(),
        directory: entry.working_directory.clone().unwrap_or_else(|| scratch.0.clone()),
        stdin: asked.stdin.map(String::into_bytes),
        max_output_bytes: usize::try_from(asked.max_output_bytes).unwrap_or(usize::MAX),
        run_as: settings.run_as,
    };
    let print = |output: Output, line: String| async move {
        let (level, stream) = match output {
            Output::Stdout => (LogLevel::Info, "stdout"),
            Output::Stderr => (LogLevel::Warning, "stderr"),
        };
        of.print(level, &line, Some(json!({"stream": stream}))).await;
    };
    let finished =
        run(program, &of.cancel, &of.mask, &print).await.map_err(|error| recorded(&error))?;
    let duration_ms = u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX);
    match finished.exit_code {
        Some(code) if code == 0 || asked.allow_exit_codes.contains(&code) => Ok(json!({
            "exit_code": code, "stdout": finished.stdout, "stderr": finished.stderr, "duration_ms": duration_ms,
        })),
        code => {
            let message = code.map_or_else(
                || "the program was ended by a signal".to_owned(),
                |code| format!("the program ended with exit code {code}"),
            );
            let details = json!({"exit_code": code, "stderr": excerpt(&finished.stderr), "stdout": excerpt(&finished.stdout)});
            Err(detailed(ErrorKind::Permanent, message, &details))
        }
    }
}

fn recorded(error: &SubprocessError) -> NodeError {
    match error {
        SubprocessError::Start { source, .. } => {
            failure(ErrorKind::Transient, format!("{error}: {source}"))
        }
        SubprocessError::Pipe(source) => {
            failure(ErrorKind::Transient, format!("{error}: {source}"))
        }
        SubprocessError::TooMuchOutput { .. } => failure(ErrorKind::Permanent, error.to_string()),
        SubprocessError::Cancelled => failure(ErrorKind::Cancelled, error.to_string()),
    }
}

/// An empty directory that goes with the step.
struct Scratch(PathBuf);

impl Scratch {
    async fn make(parent: &Path, run_as: Option<RunAs>) -> Result<Self, NodeError> {
        let path = parent.join(Uuid::now_v7().to_string());
        let failed = |error: std::io::Error| {
            failure(
                ErrorKind::Transient,
                format!("failed to make a directory for the program: {error}"),
            )
        };
        fs::create_dir_all(parent).await.map_err(failed)?;
        // All programs run as one user, but those who share the machine otherwise have no business in it.
        fs::DirBuilder::new().mode(0o700).create(&path).await.map_err(failed)?;
        let scratch = Self(path);
        if let Some(user) = run_as {
            chown(&scratch.0, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
                .map_err(|error| failed(error.into()))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a step's directory was left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_steps_directory_is_its_owners_alone_and_goes_with_the_step() {
        let parent = std::env::temp_dir().join(format!("ledgerline-steps-{}", Uuid::now_v7()));
        let scratch = Scratch::make(&parent, None).await.unwrap();
        let path = scratch.0.clone();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{mode:o}");
        drop(scratch);
        assert!(!path.exists());
        std::fs::remove_dir(&parent).unwrap();
    }
}
