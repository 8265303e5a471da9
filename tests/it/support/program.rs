//! The real program as a child process, and the sockets of whoever listens to it.
//!
//! `scripts/test` builds it before the tests run. A plain `cargo nextest run` takes the one beside the test, or the one that
//! `LEDGERLINE_TEST_BINARY` names.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        error::ProtocolError,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A master key for deployments that are thrown away.
pub(crate) const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The program's own file.
pub(crate) fn binary() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test run is configured by its environment")]
    let named = std::env::var_os("LEDGERLINE_TEST_BINARY").map(PathBuf::from);
    let beside = || {
        let test = std::env::current_exe().expect("a test knows its own file");
        // target/<profile>/deps/<test>
        test.parent().and_then(|deps| deps.parent()).expect("two folders up").join("ledgerline")
    };
    let path = named.unwrap_or_else(beside);
    assert!(
        path.exists(),
        "{} is missing: cargo build -p ledgerline-api --bin ledgerline",
        path.display()
    );
    path
}

/// The program with arguments, without anything of the surroundings that would configure it.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    for name in [
        "DATABASE_URL",
        "NATS_URL",
        "LEDGERLINE_URL",
        "LEDGERLINE_TOKEN",
        "LEDGERLINE_MASTER_KEY",
        "LEDGERLINE_LOG",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub(crate) fn output(args: &[&str]) -> Output {
    command(args).output().expect("the program can be started")
}

/// What it said on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// A serving program.
pub(crate) struct Program {
    child: Child,
    /// `http://127.0.0.1:<port>`.
    pub(crate) base: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts it and waits until it says that it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (heard, listening) = mpsc::channel();
        let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let base = line.strip_prefix("listening on ").map(str::to_owned);
                kept.lock().unwrap().push(line);
                if let Some(base) = base {
                    let _ = heard.send(base);
                }
            }
        });
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        match listening.recv_timeout(PATIENCE) {
            Ok(base) => Self { child, base, said },
            Err(_) => {
                let _ = child.kill();
                panic!("it does not listen: {}", said.lock().unwrap().join("\n"));
            }
        }
    }

    /// Everything it said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small"));
        kill(pid, signal).expect("it runs");
    }

    /// Kills it without a chance to clean up.
    pub(crate) fn crash(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(Instant::now() < until, "it does not stop: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            if std::thread::panicking() {
                eprintln!("{}", self.said());
            }
            self.wait();
        }
    }
}

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) token: String,
    pub(crate) user: uuid::Uuid,
    pub(crate) workspace: uuid::Uuid,
}

/// Registers somebody.
pub(crate) async fn register(base: &str, name: &str) -> Account {
    let body = json!({
        "email": format!("{name}@example.com"), "password": "correct horse battery", "full_name": name,
    });
    let answer = post(base, "/auth/register", None, &body).await;
    let id = |value: &Value| value.as_str().expect("an id").parse().expect("a UUID");
    Account {
        token: answer["access_token"].as_str().expect("a token").to_owned(),
        user: id(&answer["user"]["id"]),
        workspace: id(&answer["user"]["personal_workspace_id"]),
    }
}

/// Posts, and demands success.
pub(crate) async fn post(base: &str, path: &str, token: Option<&str>, body: &Value) -> Value {
    let mut request = reqwest::Client::new().post(format!("{base}/api/v1{path}")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.timeout(PATIENCE).send().await.expect("it answers");
    let status = response.status();
    let text = response.text().await.expect("it answers whole");
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// A socket of somebody.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What a socket heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A frame.
    Frame(Value),
    /// The close, with its code.
    Closed(u16),
}

impl Socket {
    /// Opens one.
    pub(crate) async fn open(base: &str, path: &str, token: &str) -> Self {
        Self::try_open(base, path, token).await.expect("the socket opens")
    }

    /// Opens one; the HTTP status when it is refused, 0 when nobody is there to do so.
    pub(crate) async fn try_open(base: &str, path: &str, token: &str) -> Result<Self, u16> {
        let url = format!("{}{path}", base.replace("http://", "ws://"));
        let mut request = url.into_client_request().expect("it is a URL");
        let protocol = match token {
            "" => "ledgerline.v1".to_owned(),
            token => format!("ledgerline.v1, bearer.{token}"),
        };
        let header = protocol.parse().expect("a token is a header value");
        request.headers_mut().insert("sec-websocket-protocol", header);
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "ledgerline.v1");
                Ok(Self(socket))
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(Error::Io(_) | Error::Protocol(ProtocolError::HandshakeIncomplete)) => Err(0),
            Err(error) => panic!("{error}"),
        }
    }

    /// Says something.
    pub(crate) async fn say(&mut self, value: &Value) {
        self.0.send(Message::text(value.to_string())).await.expect("the socket is open");
    }

    /// Sends a text message whatever its bytes are.
    pub(crate) async fn say_bytes(&mut self, bytes: Vec<u8>) {
        let frame = Frame::message(bytes, OpCode::Data(Data::Text), true);
        self.0.send(Message::Frame(frame)).await.expect("the socket is open");
    }

    /// Listens to a channel, from a position on where one is given.
    pub(crate) async fn subscribe(&mut self, channel: &str, after: Option<i64>) {
        let mut ask = json!({ "action": "subscribe", "channel": channel });
        if let Some(after) = after {
            ask["after"] = after.into();
        }
        self.say(&ask).await;
    }

    /// The next frame or the close.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await;
            let message = message.expect("something is heard in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Heard::Frame(serde_json::from_str(&text).expect("frames are JSON"));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Heard::Closed(frame.map_or(0, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::Closed(1006),
            }
        }
    }

    /// The next frame of a type; others are passed over.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Heard::Frame(frame) if frame["type"] == kind => return frame,
                Heard::Frame(_) => {}
                Heard::Closed(code) => panic!("closed with {code} while waiting for {kind}"),
            }
        }
    }

    /// The positions of the next events.
    pub(crate) async fn positions(&mut self, count: usize) -> Vec<i64> {
        let mut positions = Vec::with_capacity(count);
        while positions.len() < count {
            let frame = self.next_of("event").await;
            assert_eq!(frame["position"], frame["event"]["position"]);
            positions.push(frame["position"].as_i64().expect("a position"));
        }
        positions
    }

    /// The code of the close; frames before it are passed over.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            if let Heard::Closed(code) = self.next().await {
                return code;
            }
        }
    }
}
