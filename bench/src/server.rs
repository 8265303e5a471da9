//! The real program as a child process, and a client that costs little beside it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::servers::Servers;

/// A running `ledgerline serve` with a signed-in user.
pub(crate) struct Server {
    pub address: String,
    pub token: String,
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts the program that lies beside this one on a database of its own.
    pub(crate) async fn start(servers: &Servers, name: &str) -> anyhow::Result<Self> {
        Self::start_with(servers, name, "").await
    }

    /// The same with settings of its own, as TOML.
    pub(crate) async fn start_with(
        servers: &Servers,
        name: &str,
        config: &str,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("ledgerline");
        anyhow::ensure!(
            program.exists(),
            "build it first: cargo build --release -p ledgerline-api"
        );
        servers.pool(name, "").await?.close().await;
        let folder =
            std::env::temp_dir().join(format!("ledgerline-bench-{name}-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("bench.toml");
        std::fs::write(&file, config)?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(file)
            .arg("--data-dir")
            .arg(&folder)
            .env(
                "DATABASE_URL",
                sqlx::ConnectOptions::to_url_lossy(&servers.options(name)?).to_string(),
            )
            .env("LEDGERLINE_MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
            .env("LEDGERLINE_NATS_PREFIX", name)
            // One user asks all there is: the limits stay, so that what they cost is measured, and are never met.
            .env("LEDGERLINE_LIMIT_READS", "1000000/1s")
            .env("LEDGERLINE_LIMIT_WRITES", "1000000/1s")
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(nats) = &servers.embedded.nats {
            let url =
                nats.url.replace("nats://", &format!("nats://{}@", nats.token.expose_secret()));
            command.env("NATS_URL", url);
        }
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    return anyhow::Ok(address.to_owned());
                }
            }
            anyhow::bail!("the server ended before it listened")
        };
        let address = tokio::time::timeout(Duration::from_secs(60), listening).await??;
        let registration = json!({"email": "bench@example.com", "password": "a long enough password", "full_name": "Bench"});
        let (status, answer) = Client::connect(&address, "")
            .await?
            .send("POST", "/api/v1/auth/register", &registration.to_string())
            .await?;
        anyhow::ensure!(status == 201, "register answered {status}: {answer}");
        let token = serde_json::from_str::<Value>(&answer)?["access_token"]
            .as_str()
            .context("a token")?
            .to_owned();
        Ok(Self { address, token, child, folder })
    }

    /// What the program holds in memory, in MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the program runs")?;
        resident_mib(pid)
    }

    /// A connection of its own, signed in.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.address, &self.token).await
    }
}

/// What a process holds in memory, in MiB.
pub(crate) fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a size")?.parse()?;
    Ok(kib / 1_024.0)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// One HTTP/1.1 connection that is kept open; it reads only what it must.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    address: String,
    token: String,
}

impl Client {
    pub(crate) async fn connect(address: &str, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            address: address.to_owned(),
            token: token.to_owned(),
        })
    }

    /// One request and its answer.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(u16, String)> {
        let authorization = if self.token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {}\r\n", self.token)
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status: u16 = line.split(' ').nth(1).context("a status")?.parse()?;
        let (mut length, mut chunked) = (0_usize, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line).await?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse()?;
            }
            chunked |= header.starts_with("transfer-encoding: chunked");
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        while chunked {
            line.clear();
            self.stream.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim_end(), 16)?;
            let mut part = vec![0; size + 2];
            self.stream.read_exact(&mut part).await?;
            answer.extend_from_slice(&part[..size]);
            chunked = size > 0;
        }
        Ok((status, String::from_utf8(answer)?))
    }
}
