//! A mail server that speaks SMTP over TCP (RFC 5321, AUTH of RFC 4954), keeps what it takes, and refuses what it is told to.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A message as it was taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// Headers and body, as they came.
    pub(crate) data: String,
    /// The user that signed in.
    pub(crate) user: Option<String>,
}

#[derive(Default)]
struct Rules {
    /// Answers in place of the usual one, by the beginning of the command.
    answers: Vec<(String, String)>,
    password: Option<String>,
    /// Say nothing after a message was handed over.
    mute: bool,
    taken: Vec<Taken>,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct MailServer {
    pub(crate) port: u16,
    rules: Arc<Mutex<Rules>>,
    heard: Arc<Notify>,
    refused: Arc<Notify>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    /// One where somebody listens already.
    pub(crate) fn on(listener: TcpListener) -> Self {
        let port = listener.local_addr().expect("an address").port();
        let server =
            Self { port, rules: Arc::default(), heard: Arc::default(), refused: Arc::default() };
        let serving = server.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.session(stream).await });
            }
        });
        server
    }

    /// Lets in only who knows this password.
    pub(crate) fn demands(&self, password: &str) {
        self.rules.lock().unwrap().password = Some(password.to_owned());
    }

    /// Answers a command otherwise from now on.
    pub(crate) fn answers(&self, command: &str, answer: &str) {
        self.rules.lock().unwrap().answers.push((command.to_owned(), answer.to_owned()));
    }

    /// Answers as usual again.
    pub(crate) fn relents(&self) {
        let mut rules = self.rules.lock().unwrap();
        rules.answers.clear();
        rules.mute = false;
    }

    /// Says nothing any more once a message was handed over.
    pub(crate) fn falls_silent(&self) {
        self.rules.lock().unwrap().mute = true;
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.rules.lock().unwrap().taken.clone()
    }

    /// Waits for the next message.
    pub(crate) async fn heard(&self) {
        self.heard.notified().await;
    }

    /// Waits until it refuses something that it was told to.
    pub(crate) async fn refused(&self) {
        self.refused.notified().await;
    }

    fn answer(&self, command: &str, usual: &str) -> String {
        let rules = self.rules.lock().unwrap();
        let told = rules.answers.iter().find(|(begins, _)| command.starts_with(begins));
        told.map_or_else(|| usual.to_owned(), |(_, answer)| answer.clone())
    }

    #[expect(clippy::too_many_lines, reason = "one arm a command of SMTP")]
    async fn session(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        write
            .write_all(format!("{}\r\n", self.answer("greeting", "220 mail.test ESMTP")).as_bytes())
            .await?;
        let mut message = Taken::default();
        let demanded = self.rules.lock().unwrap().password.clone();
        let mut signed_in = demanded.is_none();
        while let Some(line) = lines.next_line().await? {
            let upper = line.to_ascii_uppercase();
            let usual = if upper.starts_with("EHLO") {
                "250-mail.test\r\n250-SIZE 20000000\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN"
                    .to_owned()
            } else if let Some(given) = line.strip_prefix("AUTH PLAIN ") {
                let given = BASE64_STANDARD.decode(given).unwrap_or_default();
                let parts: Vec<String> = given
                    .split(|byte| *byte == 0)
                    .map(|part| String::from_utf8_lossy(part).into_owned())
                    .collect();
                signed_in = demanded.as_deref() == parts.get(2).map(String::as_str);
                message.user = parts.get(1).cloned();
                if signed_in {
                    "235 welcome".to_owned()
                } else {
                    "535 5.7.8 wrong password".to_owned()
                }
            } else if !signed_in && !upper.starts_with("QUIT") {
                "530 5.7.0 sign in first".to_owned()
            } else if upper.starts_with("MAIL FROM:") {
                message.from = address(&line);
                "250 ok".to_owned()
            } else if upper.starts_with("RCPT TO:") {
                message.to.push(address(&line));
                "250 ok".to_owned()
            } else if upper == "DATA" {
                "354 go on".to_owned()
            } else if upper == "QUIT" {
                "221 bye".to_owned()
            } else {
                "502 what?".to_owned()
            };
            let answer = self.answer(&upper, &usual);
            write.write_all(format!("{answer}\r\n").as_bytes()).await?;
            if answer != usual && answer.starts_with(['4', '5']) {
                self.refused.notify_one();
            }
            if upper == "QUIT" {
                return Ok(());
            }
            if answer.starts_with("354") {
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    message.data.push_str(line.strip_prefix('.').unwrap_or(&line));
                    message.data.push('\n');
                }
                let answer = self.answer("end of data", "250 2.0.0 taken as 42");
                let mute = {
                    let mut rules = self.rules.lock().unwrap();
                    if answer.starts_with("250") {
                        rules.taken.push(message.clone());
                    }
                    rules.mute
                };
                self.heard.notify_one();
                if mute {
                    std::future::pending::<()>().await;
                }
                write.write_all(format!("{answer}\r\n").as_bytes()).await?;
            }
        }
        Ok(())
    }
}

fn address(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or_else(String::new, |(address, _)| address.to_owned())
}
