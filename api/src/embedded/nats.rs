//! The embedded nats-server: JetStream on files in the data directory, one token, one port for the life of this process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, private_folder, write_private};
use super::error::EmbeddedError;
use super::locate::Located;
use super::process::{Process, command_line, log_tail, open_log, read_pid};

/// How nats-server is stopped: it flushes its streams and goes.
pub(super) const STOP_STEPS: [(Signal, Duration); 1] = [(Signal::SIGTERM, Duration::from_secs(10))];

/// What all file streams together may take. Everything on them can be made again from the log, so a full one costs lag.
const FILE_LIMIT_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// What memory streams may take; ours are on files, this is room for consumers' own state.
const MEMORY_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// How long a start may take; large file streams are checked at start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between looks at whether it takes connections.
const POLL: Duration = Duration::from_millis(20);

/// A nats-server that can be launched.
pub(super) struct Nats {
    program: PathBuf,
    folder: PathBuf,
    token: SecretString,
    port: NatsPort,
}

/// The port: chosen by the first start, asked for again by every later one, so that clients reconnect by themselves.
#[derive(Clone, Default)]
pub(super) struct NatsPort(Arc<OnceLock<u16>>);

impl NatsPort {
    /// Where clients connect, once the first launch has succeeded.
    pub(super) fn url(&self) -> Option<String> {
        self.0.get().map(|port| format!("nats://127.0.0.1:{port}"))
    }
}

/// What nats-server writes into its ports file.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Nats {
    /// Makes the folder and the token.
    pub(super) fn prepare(data: &DataDir, program: &Located) -> Result<Self, EmbeddedError> {
        let folder = data.root.join("nats");
        private_folder(&folder)
            .map_err(|source| EmbeddedError::DataDir { path: folder.clone(), source })?;
        let token = match data.secret("nats/token")? {
            Some(token) => token,
            None => data.new_secret("nats/token")?,
        };
        Ok(Self { program: program.path.clone(), folder, token, port: NatsPort::default() })
    }

    pub(super) fn port(&self) -> NatsPort {
        self.port.clone()
    }

    pub(super) fn token(&self) -> SecretString {
        self.token.clone()
    }

    /// Stops a server that was left running from this folder, starts one, and returns when it takes connections.
    pub(super) async fn launch(
        &self,
        cancel: &CancellationToken,
    ) -> Result<Process, EmbeddedError> {
        self.stop_left_over().await;
        let mut process = self.spawn().map_err(|error| self.failed(error.to_string()))?;
        let pid = process.pid();
        let ready = tokio::select! {
            ready = timeout(START_TIMEOUT, self.wait_ready(pid)) => match ready {
                Ok(port) => Ok(port),
                Err(_) => Err(self.failed(format!("no connection within {} s", START_TIMEOUT.as_secs()))),
            },
            ended = process.wait() => return Err(self.failed(format!("it ended: {ended}"))),
            () = cancel.cancelled() => Err(EmbeddedError::Cancelled),
        };
        match ready {
            Ok(port) => {
                self.port.0.get_or_init(|| port);
                Ok(process)
            }
            Err(error) => {
                process.stop(&STOP_STEPS).await;
                Err(error)
            }
        }
    }

    fn failed(&self, reason: String) -> EmbeddedError {
        EmbeddedError::Start { name: "nats-server", reason, log: log_tail(&self.log()) }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("nats.log")
    }

    fn configuration_file(&self) -> PathBuf {
        self.folder.join("nats.conf")
    }

    fn ports_file(&self, pid: Pid) -> PathBuf {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        self.folder.join(format!("{name}_{pid}.ports"))
    }

    fn spawn(&self) -> io::Result<Process> {
        let log = open_log(&self.log())?;
        write_private(&self.configuration_file(), &self.configuration())?;
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.configuration_file())
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Process::child(child)
    }

    /// The token is in this file, which nobody else can read, because a command line can be read by everybody.
    fn configuration(&self) -> String {
        let port = self.port.0.get().map_or_else(|| "-1".to_owned(), u16::to_string);
        let folder = |name: &str| quoted(&self.folder.join(name).to_string_lossy());
        let token = quoted(self.token.expose_secret());
        format!(
            "server_name: ledgerline\n\
             listen: \"127.0.0.1:{port}\"\n\
             pid_file: {pid}\n\
             ports_file_dir: {ports}\n\
             authorization {{ token: {token} }}\n\
             jetstream {{ store_dir: {store}, max_memory_store: {MEMORY_LIMIT_BYTES}, max_file_store: {FILE_LIMIT_BYTES} }}\n",
            pid = folder("nats.pid"),
            ports = quoted(&self.folder.to_string_lossy()),
            store = folder("jetstream"),
        )
    }

    /// Waits for the ports file of this process and then for the greeting on that port.
    async fn wait_ready(&self, pid: Pid) -> u16 {
        let file = self.ports_file(pid);
        loop {
            if let Some(port) = listening_port(&file)
                && greets(port).await
            {
                return port;
            }
            sleep(POLL).await;
        }
    }

    /// A server that runs our very configuration file is what a killed process left: nobody else can know its token.
    async fn stop_left_over(&self) {
        if let Some(pid) = read_pid(&self.folder.join("nats.pid"))
            && let Some(line) = command_line(pid).await
            && line.contains(&*self.configuration_file().to_string_lossy())
        {
            tracing::info!(%pid, "stopping the nats-server that an earlier process left running");
            Process::Adopted(pid).stop(&STOP_STEPS).await;
        }
        // A killed server leaves its ports file, and a later process may be given the same number.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "ports") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn listening_port(ports_file: &Path) -> Option<u16> {
    // A file that is still being written does not parse; the next look finds it whole.
    let ports: Ports = serde_json::from_slice(&fs::read(ports_file).ok()?).ok()?;
    url::Url::parse(ports.nats.first()?).ok()?.port()
}

/// Whether a NATS server says hello there.
async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut first = [0; 5];
        stream.read_exact(&mut first).await?;
        Ok::<_, io::Error>(first == *b"INFO ")
    };
    matches!(timeout(Duration::from_secs(2), greeting).await, Ok(Ok(true)))
}

/// A string of the configuration language, which has the escapes of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nats(folder: &Path) -> Nats {
        Nats {
            program: "/usr/bin/nats-server".into(),
            folder: folder.to_owned(),
            token: "secret".to_owned().into(),
            port: NatsPort::default(),
        }
    }

    #[test]
    fn the_port_is_free_at_first_and_the_same_ever_after() {
        let nats = nats(Path::new("/data/nats"));
        assert!(nats.configuration().contains("listen: \"127.0.0.1:-1\""));
        assert!(nats.port().url().is_none());
        nats.port.0.set(4242).unwrap();
        assert!(nats.configuration().contains("listen: \"127.0.0.1:4242\""));
        assert_eq!(nats.port().url().unwrap(), "nats://127.0.0.1:4242");
    }

    #[test]
    fn a_path_cannot_leave_its_quotes() {
        let text = nats(Path::new("/data/a \"b\" \\c")).configuration();
        assert!(text.contains(r#"store_dir: "/data/a \"b\" \\c/jetstream""#), "{text}");
    }

    #[test]
    fn a_half_written_ports_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nats-server_1.ports");
        fs::write(&file, r#"{"nats":["nats://127.0"#).unwrap();
        assert!(listening_port(&file).is_none());
        fs::write(&file, r#"{"nats":["nats://127.0.0.1:45007"]}"#).unwrap();
        assert_eq!(listening_port(&file), Some(45007));
    }
}
