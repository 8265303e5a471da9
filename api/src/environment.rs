//! What a process takes from its surroundings beside flags: read once, when it starts.

use std::{env, ffi::OsString, path::PathBuf};

use secrecy::SecretString;

/// The surroundings of a process.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Where programs are looked for (`PATH`).
    pub search_path: Option<OsString>,
    /// The user's folder for settings (`XDG_CONFIG_HOME`, or `.config` at home).
    pub config_home: Option<PathBuf>,
    /// An access token or API key for scripts (`LEDGERLINE_TOKEN`). Only as a variable: a flag would show in the list of processes.
    pub token: Option<SecretString>,
    /// Where the process was started.
    pub directory: Option<PathBuf>,
}

impl Environment {
    /// Reads it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "what is no flag is read here and nowhere else")]
    pub fn read() -> Self {
        let folder =
            |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            search_path: env::var_os("PATH"),
            config_home: folder("XDG_CONFIG_HOME")
                .or_else(|| folder("HOME").map(|home| home.join(".config"))),
            token: env::var("LEDGERLINE_TOKEN")
                .ok()
                .filter(|token| !token.is_empty())
                .map(Into::into),
            directory: env::current_dir().ok(),
        }
    }

    /// The source repository that the process was started in, when it was.
    #[must_use]
    pub fn repository(&self) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        directory.join(".git").exists().then(|| directory.clone())
    }
}
