//! A server process: our own child, or one that an earlier process of ours has left running.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// How often a process that is not our child is looked at; a child's end is told to us by the kernel.
const ADOPTED_POLL: Duration = Duration::from_millis(250);

/// Logs above this size are set aside when a server starts, so that at most twice this much is kept.
const LOG_LIMIT_BYTES: u64 = 10 * 1024 * 1024;

/// How much of a log goes into an error.
const LOG_TAIL_BYTES: u64 = 2_000;

/// A running server.
pub(super) enum Process {
    /// Started here; its process group has the same number.
    Child(Child, Pid),
    /// Started by an earlier process, which is gone.
    Adopted(Pid),
}

impl Process {
    pub(super) fn child(child: Child) -> io::Result<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| io::Error::other("the process ended at once"))?;
        Ok(Self::Child(child, Pid::from_raw(id)))
    }

    pub(super) fn pid(&self) -> Pid {
        match self {
            Self::Child(_, pid) | Self::Adopted(pid) => *pid,
        }
    }

    /// Waits until the process is gone and says how it ended, as far as that can be known.
    pub(super) async fn wait(&mut self) -> String {
        match self {
            Self::Child(child, _) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("unknown: {error}"),
            },
            Self::Adopted(pid) => {
                while alive(*pid) {
                    sleep(ADOPTED_POLL).await;
                }
                "gone".to_owned()
            }
        }
    }

    /// Sends each signal in turn until the process is gone, with the given patience after each; then kills its group.
    pub(super) async fn stop(&mut self, steps: &[(Signal, Duration)]) {
        let pid = self.pid();
        for (signal, patience) in steps {
            // Gone already is what we want; there is no other reason to fail for a process of ours.
            let _ = kill(pid, *signal);
            if timeout(*patience, self.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(%pid, %signal, "the server did not stop in time");
        }
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = kill(pid, Signal::SIGKILL);
        self.wait().await;
    }
}

/// Whether a process has this number. One that belongs to somebody else counts as well.
pub(super) fn alive(pid: Pid) -> bool {
    !matches!(kill(pid, None), Err(Errno::ESRCH))
}

/// The command line of a process, or `None` when there is no such process. Tells a server of ours from a stranger that
/// was given the same number.
pub(super) async fn command_line(pid: Pid) -> Option<String> {
    if let Ok(raw) = fs::read(format!("/proc/{pid}/cmdline")) {
        return (!raw.is_empty()).then(|| String::from_utf8_lossy(&raw).replace('\0', " "));
    }
    let output = tokio::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .await
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The number in the first line of a pid file.
pub(super) fn read_pid(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    // Postgres writes a negative number for a stand-alone backend.
    let number: i32 = text.lines().next()?.trim().parse().ok()?;
    (number != 0).then(|| Pid::from_raw(number.abs()))
}

/// Opens a server's log for appending, after setting a large one aside.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).open(path)
}

/// The last lines of a log, for an error that must explain itself.
pub(super) fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(unreadable: {error})"))
}
