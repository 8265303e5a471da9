//! Which programs `action.command` may run.
//!
//! The list names exact programs with exact leading arguments, because most useful programs are a shell by another name:
//! `git -c alias.x='!…'`, `sort --compress-program` and `env` run whatever they are told to. An entry may also refuse options
//! anywhere in the arguments, fix environment variables, and name the directory that the program runs in.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Where programs are looked for; the worker's own `PATH` is not trusted.
const SEARCH: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin"];

/// One program that may be run, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedCommand {
    /// Its name, without a slash.
    pub program: String,
    /// The arguments that must come first, word for word.
    #[serde(default)]
    pub leading_args: Vec<String>,
    /// Options that are refused anywhere, with or without a value (`--output` also refuses `--output=x` and its abbreviations, `-f`
    /// also stands behind other letters, as in `-uf`).
    #[serde(default)]
    pub refused_options: Vec<String>,
    /// Environment variables that are set whatever the node says.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables that a node may set.
    #[serde(default)]
    pub settable_env: Vec<String>,
    /// Where it runs; its own empty directory when none is named.
    #[serde(default)]
    pub working_directory: Option<PathBuf>,
}

/// The programs of a deployment; empty means that the kind is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllowList(pub Vec<AllowedCommand>);

/// Why a command is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No program is allowed at all.
    #[error("action.command is off in this deployment: its operator has allowed no program")]
    Off,
    /// This program is not on the list, or not with these leading arguments.
    #[error("the command '{command}' is not allowed here; allowed are: {allowed}")]
    NotAllowed {
        /// What was asked for.
        command: String,
        /// What may be asked for.
        allowed: String,
    },
    /// An option that would make the program do something else.
    #[error("the option '{option}' of '{program}' is not allowed here")]
    Option {
        /// The program.
        program: String,
        /// The argument.
        option: String,
    },
    /// A variable that could change what the program does.
    #[error("the environment variable '{name}' may not be set for '{program}'")]
    Variable {
        /// The program.
        program: String,
        /// The variable.
        name: String,
    },
    /// It is on the list and not on the machine.
    #[error("the program '{program}' is not installed on this worker's machine")]
    NotInstalled {
        /// The program.
        program: String,
    },
}

impl AllowedCommand {
    /// A program with its leading arguments and nothing else.
    #[must_use]
    pub fn exactly(program: &str, leading_args: &[&str]) -> Self {
        Self {
            program: program.to_owned(),
            leading_args: leading_args.iter().map(|&arg| arg.to_owned()).collect(),
            refused_options: Vec::new(),
            env: BTreeMap::new(),
            settable_env: Vec::new(),
            working_directory: None,
        }
    }

    /// The absolute path of the program.
    ///
    /// # Errors
    /// [`Refusal::NotInstalled`].
    pub fn path(&self) -> Result<PathBuf, Refusal> {
        SEARCH
            .iter()
            .map(|directory| PathBuf::from(directory).join(&self.program))
            .find(|path| path.is_file())
            .ok_or_else(|| Refusal::NotInstalled { program: self.program.clone() })
    }

    fn refuses(&self, arg: &str) -> bool {
        let name = arg.split('=').next().unwrap_or(arg);
        self.refused_options.iter().any(|option| match option.strip_prefix("--") {
            // Programs with long options take any unambiguous beginning of one.
            Some(_) => name.len() > 2 && name.starts_with("--") && option.starts_with(name),
            // Letters may share a dash. A letter may also be part of the value of another: then the value has to stand by itself.
            None => option.strip_prefix('-').is_some_and(|letter| {
                !arg.starts_with("--")
                    && arg.strip_prefix('-').is_some_and(|letters| letters.contains(letter))
            }),
        })
    }

    fn written(&self) -> String {
        let mut words = vec![self.program.as_str()];
        words.extend(self.leading_args.iter().map(String::as_str));
        words.join(" ")
    }
}

impl AllowList {
    /// What is harmless on any machine: reading dates, disks, names and sizes, and the history of one repository.
    #[must_use]
    pub fn embedded_default(repository: Option<PathBuf>) -> Self {
        let mut list: Vec<AllowedCommand> = vec![
            AllowedCommand::exactly("git", &["--version"]),
            AllowedCommand {
                refused_options: vec!["--set".into(), "-s".into(), "--file".into(), "-f".into()],
                ..AllowedCommand::exactly("date", &[])
            },
            AllowedCommand::exactly("df", &[]),
            AllowedCommand::exactly("uname", &[]),
            AllowedCommand::exactly("echo", &[]),
            AllowedCommand {
                refused_options: vec!["--files0-from".into()],
                ..AllowedCommand::exactly("wc", &[])
            },
        ];
        if let Some(directory) = repository {
            list.push(Self::git_log(directory));
        }
        Self(list)
    }

    /// `git log` in one repository, without the options that write files or run programs.
    fn git_log(directory: PathBuf) -> AllowedCommand {
        let fixed = [
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".to_owned()),
            ("GIT_PAGER", "cat".to_owned()),
            // The repository may belong to another user than the one that commands run as.
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", "safe.directory".to_owned()),
            ("GIT_CONFIG_VALUE_0", directory.to_string_lossy().into_owned()),
        ];
        AllowedCommand {
            refused_options: [
                "--output",
                "--ext-diff",
                "--textconv",
                "--show-signature",
                "-p",
                "-u",
                "-c",
                "-O",
            ]
            .map(String::from)
            .to_vec(),
            env: fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            working_directory: Some(directory),
            ..AllowedCommand::exactly("git", &["log"])
        }
    }

    /// The entry under which a command may run.
    ///
    /// # Errors
    /// [`Refusal`]; all of its variants are permanent.
    pub fn check<'a>(
        &'a self,
        program: &str,
        args: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<&'a AllowedCommand, Refusal> {
        if self.0.is_empty() {
            return Err(Refusal::Off);
        }
        let entry = self
            .0
            .iter()
            .find(|entry| entry.program == program && args.starts_with(&entry.leading_args))
            .ok_or_else(|| Refusal::NotAllowed {
                command: std::iter::once(program)
                    .chain(args.iter().take(2).map(String::as_str))
                    .collect::<Vec<_>>()
                    .join(" "),
                allowed: self.0.iter().map(AllowedCommand::written).collect::<Vec<_>>().join(", "),
            })?;
        if let Some(option) = args[entry.leading_args.len()..].iter().find(|arg| entry.refuses(arg))
        {
            return Err(Refusal::Option { program: program.to_owned(), option: option.clone() });
        }
        if let Some(name) = env.keys().find(|name| !entry.settable_env.contains(name)) {
            return Err(Refusal::Variable { program: program.to_owned(), name: name.clone() });
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &str, args: &[&str]) -> Result<(), Refusal> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        AllowList::embedded_default(Some("/srv/repository".into()))
            .check(program, &args, &BTreeMap::new())
            .map(|_| ())
    }

    #[test]
    fn what_is_listed_runs_with_what_follows_its_leading_arguments() {
        for (program, args) in [
            ("git", &["log", "--format=%an", "-n", "5"][..]),
            ("git", &["--version"]),
            ("df", &["-P", "-k"]),
            ("echo", &["a; rm -rf /"]),
        ] {
            assert_eq!(check(program, args), Ok(()), "{program} {args:?}");
        }
    }

    #[test]
    fn a_shell_by_another_name_is_refused() {
        for (program, args) in [
            ("sh", &["-c", "id"][..]),
            ("git", &["-c", "alias.x=!id", "x"]),
            ("git", &["-C", "/", "log"]),
            ("/bin/sh", &["-c", "id"]),
            ("../git", &["log"]),
            ("git", &[]),
        ] {
            assert!(
                matches!(check(program, args), Err(Refusal::NotAllowed { .. })),
                "{program} {args:?}"
            );
        }
    }

    #[test]
    fn options_that_write_or_run_are_refused_also_when_abbreviated() {
        for args in [
            &["log", "--output=/tmp/x"][..],
            &["log", "--outp", "/tmp/x"],
            &["log", "--ext-diff"],
            &["log", "-p"],
            &["log", "-n", "1", "--ext"],
        ] {
            assert!(matches!(check("git", args), Err(Refusal::Option { .. })), "{args:?}");
        }
        for args in
            [&["-s", "2000-01-01"][..], &["-f/etc/passwd"], &["-uf", "/etc/passwd"], &["-us0"]]
        {
            assert!(matches!(check("date", args), Err(Refusal::Option { .. })), "{args:?}");
        }
        assert_eq!(check("date", &["-u", "-d", "friday"]), Ok(()));
    }

    #[test]
    fn the_environment_is_closed_unless_opened() {
        let env = BTreeMap::from([("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned())]);
        let list = AllowList::embedded_default(None);
        assert!(matches!(list.check("df", &[], &env), Err(Refusal::Variable { .. })));
    }

    #[test]
    fn an_empty_list_turns_the_kind_off() {
        assert_eq!(AllowList::default().check("echo", &[], &BTreeMap::new()), Err(Refusal::Off));
    }
}
