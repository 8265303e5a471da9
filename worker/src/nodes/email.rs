//! `action.email`: one message over SMTP, by a named connection.
//!
//! A message has the same `Message-ID` however often one try of it is made, so a mailbox can tell a second copy. Once the message is
//! on its way and no answer comes, nobody knows whether it was taken: that is an unknown outcome, which a person decides.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Instant,
};

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    id::derived,
    limits::MAX_EMAIL_BYTES,
    node::ResolvedEmail,
    vault::{ConnectionKind, ConnectionSettings, SmtpSettings, TlsMode},
};
use ledgerline_store::LogLevel;
use lettre::{
    Address, Message,
    message::{
        Attachment, Mailbox, MultiPart, SinglePart,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::ClientId,
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Try;
use crate::{
    connections::{DoesNotWork, FailedStep},
    file_space::FileSpace,
    outbound::{
        Reach,
        dial::{DialError, Metered, dial, encrypted},
    },
    values::{detailed, failure},
};

/// What a mail server may say in one session: greetings and answers are short.
const MAX_READ_BYTES: u64 = 1024 * 1024;

pub(super) async fn perform(asked: ResolvedEmail, of: &Try) -> Result<Value, NodeError> {
    let begun = Instant::now();
    let vaults = &of.equipment.vaults;
    let kind = ConnectionKind::Smtp;
    let opened = vaults.connection(of, &asked.connection, kind).await?;
    let mask = opened.stored.mask();
    let ConnectionSettings::Smtp(settings) = &opened.stored.settings else {
        return Err(failure(ErrorKind::Validation, "the connection leads to no mail server"));
    };
    let id = message_id(of, settings);
    let message = compose(&asked, settings, &id, of).await?;
    let sending = async {
        let reach = &of.equipment.settings.reach;
        let mut session = open(settings, opened.stored.password.as_ref(), reach).await?;
        let said = send(&mut session, &message).await;
        session.abort().await;
        said.map_err(Failed::from)
    };
    let sent = tokio::select! {
        sent = sending => sent.map_err(|failed| mask.error(failed.0)),
        () = of.cancel.cancelled() => Err(failure(ErrorKind::Cancelled, "it was cancelled")),
    };
    let answer = mask.text(&sent?).into_owned();
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let accepted: Vec<String> = message.envelope().to().iter().map(ToString::to_string).collect();
    let said = format!("sent to {} recipients in {duration_ms} ms", accepted.len());
    of.print(LogLevel::Info, &said, None).await;
    Ok(json!({
        "message_id": id, "accepted": accepted, "response": answer, "duration_ms": duration_ms,
    }))
}

/// A failure of the session as it is recorded.
struct Failed(NodeError);

impl From<DialError> for Failed {
    fn from(error: DialError) -> Self {
        let kind = if error.may_pass() { ErrorKind::Transient } else { ErrorKind::Permanent };
        Self(failure(kind, error.to_string()))
    }
}

impl From<SmtpError> for Failed {
    fn from(error: SmtpError) -> Self {
        Self(recorded(&error))
    }
}

impl From<NodeError> for Failed {
    fn from(error: NodeError) -> Self {
        Self(error)
    }
}

/// The same for every time that one try is made.
fn message_id(of: &Try, settings: &SmtpSettings) -> String {
    let id =
        derived(&["email", &of.execution.to_string(), of.path.as_str(), &of.attempt.0.to_string()]);
    let domain = settings.from.rsplit('@').next().unwrap_or_default().trim_end_matches('>');
    let domain = if domain.is_empty() { "ledgerline.invalid" } else { domain };
    format!("<{}@{domain}>", id.simple())
}

fn wrong(field: &str, reason: impl std::fmt::Display) -> NodeError {
    let details = json!({"errors": [{"pointer": field, "detail": reason.to_string()}]});
    detailed(ErrorKind::Validation, format!("`{field}`: {reason}"), &details)
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, NodeError> {
    let mailbox: Mailbox = text
        .trim()
        .parse()
        .map_err(|error| wrong(field, format!("{text:?} is not an address: {error}")))?;
    // Servers that take others are few, and which ones is only known when they are asked.
    match AsRef::<str>::as_ref(&mailbox.email).is_ascii() {
        true => Ok(mailbox),
        false => Err(wrong(field, format!("{text:?} has letters that mail servers don't take"))),
    }
}

/// The message with its files.
async fn compose(
    asked: &ResolvedEmail,
    settings: &SmtpSettings,
    id: &str,
    of: &Try,
) -> Result<Message, NodeError> {
    let from = mailbox("/from", asked.from.as_deref().unwrap_or(&settings.from))?;
    let mut builder = Message::builder().from(from).message_id(Some(id.to_owned()));
    for text in &asked.to {
        builder = builder.to(mailbox("/to", text)?);
    }
    for text in &asked.cc {
        builder = builder.cc(mailbox("/cc", text)?);
    }
    for text in &asked.bcc {
        builder = builder.bcc(mailbox("/bcc", text)?);
    }
    if let Some(text) = &asked.reply_to {
        builder = builder.reply_to(mailbox("/reply_to", text)?);
    }
    builder = builder.subject(asked.subject.as_str());
    for (name, value) in &asked.headers {
        let field = format!("/headers/{name}");
        let header = HeaderName::new_from_ascii(name.clone());
        let header = header.map_err(|_| wrong(&field, "is not the name of a header"))?;
        builder = builder.raw_header(HeaderValue::new(header, value.clone()));
    }
    let mut bytes = asked.text.as_ref().map_or(0, String::len);
    bytes += asked.html.as_ref().map_or(0, String::len);
    let mut files = Vec::new();
    let space = FileSpace::new(&of.equipment.settings.files_dir, of.workspace);
    for path in &asked.attachments {
        let content = space.read(path).await.map_err(|error| {
            detailed(
                ErrorKind::Permanent,
                format!("the file {path} can't be attached: {error}"),
                &json!({"path": path}),
            )
        })?;
        bytes = bytes.saturating_add(content.len());
        if bytes > MAX_EMAIL_BYTES {
            break;
        }
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        files.push(Attachment::new(name).body(content, binary()));
    }
    if bytes > MAX_EMAIL_BYTES {
        let limit = format!("the message with its files is larger than {MAX_EMAIL_BYTES} bytes");
        return Err(failure(ErrorKind::Validation, limit));
    }
    let built = match (body(asked), files) {
        (Body::Single(part), files) if files.is_empty() => builder.singlepart(part),
        (Body::Both(part), files) if files.is_empty() => builder.multipart(part),
        (body, files) => {
            let mixed = match body {
                Body::Single(part) => MultiPart::mixed().singlepart(part),
                Body::Both(part) => MultiPart::mixed().multipart(part),
            };
            builder.multipart(files.into_iter().fold(mixed, MultiPart::singlepart))
        }
    };
    built
        .map_err(|error| failure(ErrorKind::Validation, format!("no message can be made: {error}")))
}

enum Body {
    Single(SinglePart),
    Both(MultiPart),
}

fn body(asked: &ResolvedEmail) -> Body {
    match (&asked.text, &asked.html) {
        (Some(text), Some(html)) => {
            Body::Both(MultiPart::alternative_plain_html(text.clone(), html.clone()))
        }
        (None, Some(html)) => Body::Single(SinglePart::html(html.clone())),
        (text, None) => Body::Single(SinglePart::plain(text.clone().unwrap_or_default())),
    }
}

/// What a file is that nobody looked into.
fn binary() -> ContentType {
    ContentType::parse("application/octet-stream").expect("the literal is a content type")
}

/// A stream as the mail library takes it.
#[derive(Debug)]
struct Wire<S> {
    stream: S,
    peer: SocketAddr,
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> AsyncTokioStream for Wire<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

/// Why there is no session.
enum Unopened {
    Dial(DialError),
    /// Before anybody said who they are.
    Greeting(SmtpError),
    Tls(SmtpError),
    Login(SmtpError),
}

impl From<Unopened> for Failed {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::Dial(error) => error.into(),
            Unopened::Greeting(error) | Unopened::Login(error) => error.into(),
            Unopened::Tls(error) => {
                Self(failure(ErrorKind::Permanent, format!("no encrypted session: {error}")))
            }
        }
    }
}

impl From<Unopened> for DoesNotWork {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::Dial(error) => (&error).into(),
            Unopened::Greeting(error) => Self::at(FailedStep::Server, recorded(&error).message),
            Unopened::Tls(error) => Self::at(FailedStep::Tls, recorded(&error).message),
            Unopened::Login(error) => Self::at(FailedStep::Login, recorded(&error).message),
        }
    }
}

/// Connects, encrypts and signs in, as the settings say.
async fn open(
    settings: &SmtpSettings,
    password: Option<&SecretString>,
    reach: &Reach,
) -> Result<AsyncSmtpConnection, Unopened> {
    let hello = ClientId::default();
    let stream = dial(&settings.host, settings.port, reach).await.map_err(Unopened::Dial)?;
    let peer = stream.peer_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let stream = Metered::new(stream, Arc::new(AtomicU64::new(MAX_READ_BYTES)));
    let wire: Box<dyn AsyncTokioStream> = match settings.tls {
        TlsMode::Implicit => {
            let stream = encrypted(stream, &settings.host).await.map_err(Unopened::Dial)?;
            Box::new(Wire { stream, peer })
        }
        TlsMode::Verify | TlsMode::Off => Box::new(Wire { stream, peer }),
    };
    let session = AsyncSmtpConnection::connect_with_transport(wire, &hello).await;
    let mut session = session.map_err(Unopened::Greeting)?;
    if settings.tls == TlsMode::Verify {
        let parameters = TlsParameters::new(settings.host.clone()).map_err(Unopened::Tls)?;
        session.starttls(parameters, &hello).await.map_err(Unopened::Tls)?;
    }
    if let Some(user) = &settings.user {
        let password = password.map(|password| password.expose_secret()).unwrap_or_default();
        let credentials = Credentials::new(user.clone(), password.to_owned());
        let signed_in = session.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
        signed_in.map_err(Unopened::Login)?;
    }
    Ok(session)
}

/// Hands a message over; the server's own words.
async fn send(session: &mut AsyncSmtpConnection, message: &Message) -> Result<String, NodeError> {
    let envelope = message.envelope();
    let sender: Option<Address> = envelope.from().cloned();
    let refused = |error: SmtpError| recorded(&error);
    session.command(Mail::new(sender, vec![])).await.map_err(refused)?;
    for recipient in envelope.to() {
        session.command(Rcpt::new(recipient.clone(), vec![])).await.map_err(|error| {
            let NodeError { kind, message, details } = recorded(&error);
            NodeError { kind, message: format!("{recipient}: {message}"), details }
        })?;
    }
    session.command(Data).await.map_err(refused)?;
    let answer = session.message(&message.formatted()).await.map_err(|error| {
        if error.status().is_some() {
            return recorded(&error);
        }
        let message = format!("no answer after the message was handed over: {error}");
        failure(ErrorKind::UnknownOutcome, message)
    })?;
    Ok(answer.message().collect::<Vec<_>>().join(" "))
}

/// What a server says, as it is recorded: 4xx may pass, 5xx will not (RFC 5321).
fn recorded(error: &SmtpError) -> NodeError {
    let source = std::error::Error::source(error).map(ToString::to_string);
    let message = match source {
        Some(source) if !error.to_string().contains(&source) => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    match error.status() {
        Some(code) => {
            let kind =
                if error.is_transient() { ErrorKind::Transient } else { ErrorKind::Permanent };
            detailed(kind, message, &json!({"code": code.to_string()}))
        }
        None if error.is_client() || error.is_tls() => failure(ErrorKind::Permanent, message),
        None => failure(ErrorKind::Transient, message),
    }
}

/// Signs in to a mail server and leaves again.
pub(crate) async fn test(
    settings: &SmtpSettings,
    password: Option<&SecretString>,
    reach: &Reach,
) -> Result<String, DoesNotWork> {
    let mut session = open(settings, password, reach).await?;
    let server = session.server_info().name().to_owned();
    session.abort().await;
    Ok(server)
}
