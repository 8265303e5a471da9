//! Runs one program in a process group of its own and leaves nothing of it behind.
//!
//! The environment is cleared, there is no shell, and output is read line by line while it runs. However the run ends (exit,
//! timeout, cancel, the future dropped), the whole group is killed, so children of the program go with it, and what they held back
//! of its output is not waited for. On Linux the program is
//! started through `setpriv` where that is installed, which ties its life to the worker's and takes away the right to gain privileges.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use crate::mask::Mask;

/// Between the polite signal and the certain one: a cancel must have ended a step within a second.
const GRACE: Duration = Duration::from_millis(300);

/// The longest line that is one log line; the rest of a longer one is cut, and the output still has all of it.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// The user that programs run as, when the worker itself runs as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is run.
#[derive(Debug)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Its arguments, as they are.
    pub args: Vec<String>,
    /// Its whole environment, beside `PATH`, `LANG` and `HOME`.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// What it reads.
    pub stdin: Option<Vec<u8>>,
    /// How much of each output is kept; the program is stopped when it prints more.
    pub max_output_bytes: usize,
    /// As whom.
    pub run_as: Option<RunAs>,
}

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; none when a signal ended it.
    pub exit_code: Option<i32>,
    /// All it printed, as text.
    pub stdout: String,
    /// All it printed to standard error, as text.
    pub stderr: String,
    /// How long it ran.
    pub duration: Duration,
}

/// Why there is no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub enum SubprocessError {
    /// It could not be started.
    #[error("failed to start {program}")]
    Start {
        /// The path.
        program: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It printed more than it may.
    #[error("it printed more than {limit} bytes")]
    TooMuchOutput {
        /// The limit.
        limit: usize,
    },
    /// The step was cancelled while it ran.
    #[error("it was cancelled")]
    Cancelled,
    /// Its pipes broke.
    #[error("failed to talk to the program")]
    Pipe(#[source] std::io::Error),
}

/// A child whose group is killed when it is let go of.
struct Group {
    child: Child,
    group: Option<Pid>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // The group may be gone already, which is what is wanted.
            let _ = killpg(group, signal);
        }
    }

    /// How the program ended. Whatever it left running in its group is killed then: its outcome is known, and who still holds its
    /// output would keep the step waiting for more.
    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.signal(Signal::SIGKILL);
        // An empty group's number may be given to another.
        self.group = None;
        Ok(status)
    }

    async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Runs a program to its end, giving each line to `line` as it is printed, without the secrets that `mask` knows; the program waits
/// while that does.
///
/// # Errors
/// [`SubprocessError`]. In each case nothing of the program's process group is left.
pub async fn run<L, F>(
    program: Program,
    cancel: &CancellationToken,
    mask: &Mask,
    line: &L,
) -> Result<Finished, SubprocessError>
where
    L: Fn(Output, String) -> F + Sync,
    F: Future<Output = ()> + Send,
{
    let begun = Instant::now();
    let mut group = start(&program)?;
    let limit = program.max_output_bytes;
    let (stdin, stdout, stderr) =
        (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let work = async {
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (stdin, program.stdin.as_deref()) {
                // A program need not read what it is given.
                let _ = pipe.write_all(bytes).await;
            }
            Ok(())
        };
        let ((), stdout, stderr, status) = tokio::try_join!(
            feed,
            collect(stdout, Output::Stdout, limit, mask, line),
            collect(stderr, Output::Stderr, limit, mask, line),
            async { group.ended().await.map_err(SubprocessError::Pipe) },
        )?;
        Ok::<(Vec<u8>, Vec<u8>, ExitStatus), SubprocessError>((stdout, stderr, status))
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = cancel.cancelled() => Err(SubprocessError::Cancelled),
    };
    if ended.is_err() {
        group.stop().await;
    }
    let (stdout, stderr, status) = ended?;
    Ok(Finished {
        exit_code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        duration: begun.elapsed(),
    })
}

fn start(program: &Program) -> Result<Group, SubprocessError> {
    let mut command = match tether() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--no-new-privs", "--"]).arg(&program.path);
            command
        }
        None => Command::new(&program.path),
    };
    command
        .args(&program.args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", &program.directory)
        .envs(&program.env)
        .current_dir(&program.directory)
        .stdin(if program.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(user) = program.run_as {
        command.uid(user.uid).gid(user.gid);
    }
    let child = command.spawn().map_err(|source| SubprocessError::Start {
        program: program.path.display().to_string(),
        source,
    })?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    Ok(Group { child, group })
}

/// The program that ties a child's life to this process, where the machine has it.
fn tether() -> Option<&'static str> {
    const SETPRIV: &str = "/usr/bin/setpriv";
    (cfg!(target_os = "linux") && std::path::Path::new(SETPRIV).is_file()).then_some(SETPRIV)
}

/// Reads one output to its end, line by line.
async fn collect<L, F>(
    pipe: Option<impl AsyncRead + Unpin>,
    output: Output,
    limit: usize,
    mask: &Mask,
    line: &L,
) -> Result<Vec<u8>, SubprocessError>
where
    L: Fn(Output, String) -> F,
    F: Future<Output = ()>,
{
    let Some(pipe) = pipe else { return Ok(Vec::new()) };
    let mut reader = BufReader::new(pipe);
    let mut all = Vec::new();
    // What can't be shown yet, because a secret may have begun in it.
    let mut held = String::new();
    loop {
        let begin = all.len();
        let room = u64::try_from(limit - begin).unwrap_or(u64::MAX).saturating_add(1);
        let read = (&mut reader)
            .take(room.min(MAX_LINE_BYTES))
            .read_until(b'\n', &mut all)
            .await
            .map_err(SubprocessError::Pipe)?;
        if read == 0 {
            if !held.is_empty() {
                line(output, mask.stream(&mut held, true)).await;
            }
            return Ok(all);
        }
        if all.len() > limit {
            return Err(SubprocessError::TooMuchOutput { limit });
        }
        let text = String::from_utf8_lossy(&all[begin..]);
        held.push_str(text.trim_end_matches(['\n', '\r']));
        let ended = all.ends_with(b"\n");
        let shown = mask.stream(&mut held, ended);
        if ended || !shown.is_empty() {
            line(output, shown).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn program(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::new(),
            directory: "/tmp".into(),
            stdin: None,
            max_output_bytes: 10_000,
            run_as: None,
        }
    }

    #[tokio::test]
    async fn output_arrives_by_line_and_whole() {
        let seen = Mutex::new(Vec::new());
        let finished = run(
            program("echo one; echo two >&2; printf three; exit 3"),
            &CancellationToken::new(),
            &Mask::none(),
            &|output, line| {
                seen.lock().unwrap().push((output, line));
                std::future::ready(())
            },
        )
        .await
        .unwrap();
        assert_eq!(
            (finished.exit_code, finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(3), "one\nthree", "two\n")
        );
        let seen = seen.into_inner().unwrap();
        assert!(
            seen.contains(&(Output::Stdout, "one".to_owned()))
                && seen.contains(&(Output::Stdout, "three".to_owned()))
        );
        assert!(seen.contains(&(Output::Stderr, "two".to_owned())));
    }

    #[tokio::test]
    async fn a_child_that_holds_the_output_is_not_waited_for() {
        let begun = Instant::now();
        let finished = run(
            program("sleep 30 & echo $!; echo done"),
            &CancellationToken::new(),
            &Mask::none(),
            &|_, _| std::future::ready(()),
        )
        .await
        .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(finished.exit_code, Some(0));
        let (child, rest) = finished.stdout.split_once('\n').unwrap();
        assert_eq!(rest, "done\n");
        // It is gone, or dead and not yet buried by whoever adopted it.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
        assert!(stat.as_ref().map_or(true, |stat| stat.contains(") Z ")), "{stat:?}");
    }

    #[tokio::test]
    async fn the_environment_is_cleared_and_standard_input_is_fed() {
        let mut asked = program("env; cat");
        asked.env = BTreeMap::from([("GIVEN".to_owned(), "yes".to_owned())]);
        asked.stdin = Some(b"fed".to_vec());
        let finished =
            run(asked, &CancellationToken::new(), &Mask::none(), &|_, _| std::future::ready(()))
                .await
                .unwrap();
        assert!(
            finished.stdout.contains("GIVEN=yes") && finished.stdout.ends_with("fed"),
            "{}",
            finished.stdout
        );
        assert!(!finished.stdout.contains("CARGO"), "{}", finished.stdout);
    }

    #[tokio::test]
    async fn a_secret_is_in_no_line_wherever_a_long_one_is_cut() {
        let seen = Mutex::new(String::new());
        let script =
            "head -c 16380 /dev/zero | tr '\\0' x; printf hunter22; echo end; printf hunter22";
        let mut asked = program(script);
        asked.max_output_bytes = 100_000;
        let mask = Mask::of(["hunter22"]);
        let finished = run(asked, &CancellationToken::new(), &mask, &|_, line| {
            seen.lock().unwrap().push_str(&line);
            std::future::ready(())
        })
        .await
        .unwrap();
        assert!(finished.stdout.contains("hunter22"), "the output is masked as a whole later");
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen, format!("{}***end***", "x".repeat(16_380)));
    }

    #[tokio::test]
    async fn too_much_output_stops_it() {
        let error = run(
            program("while :; do echo 0123456789; done"),
            &CancellationToken::new(),
            &Mask::none(),
            &|_, _| std::future::ready(()),
        )
        .await
        .unwrap_err();
        assert!(matches!(error, SubprocessError::TooMuchOutput { limit: 10_000 }), "{error}");
    }

    #[tokio::test]
    async fn a_cancel_ends_it_and_its_children_within_a_second() {
        let marker = format!("/tmp/ledgerline-orphan-{}", std::process::id());
        let script =
            format!("trap '' TERM; (trap '' TERM; sleep 2; echo alive > {marker}) & sleep 30");
        let (cancel, mask) = (CancellationToken::new(), Mask::none());
        let stopper = cancel.clone();
        let begun = Instant::now();
        let (ended, ()) = tokio::join!(
            run(program(&script), &cancel, &mask, &|_, _| std::future::ready(())),
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                stopper.cancel();
            }
        );
        assert!(matches!(ended, Err(SubprocessError::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(2_200)).await;
        assert!(!std::path::Path::new(&marker).exists(), "a child of the program went on");
    }
}
