//! Connections to databases that are kept for the next statement: one pool for each version of each connection, so that a changed
//! password or host never meets an old session.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ledgerline_domain::{
    id::ConnectionId,
    vault::{PostgresSettings, TlsMode},
};
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Config, NoTls,
    config::SslMode,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::outbound::{
    Reach,
    dial::{DialError, Metered, dial, encrypted},
};

/// How many databases are kept connections to.
const MAX_POOLS: u64 = 128;
/// How many connections one database gets from this process.
const MAX_CONNECTIONS: usize = 8;
/// How long a database nobody asks anything keeps its connections.
const IDLE: Duration = Duration::from_secs(120);
/// How long signing in may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to forget a session.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request to cancel may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// What one statement may say in all, with what the protocol adds.
pub(super) const MAX_READ_BYTES: u64 = 32 * 1024 * 1024;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server does not let us in.
    #[error(transparent)]
    Login(#[from] tokio_postgres::Error),
    /// It took too long.
    #[error("the database did not let us in within {} s", LOGIN_TIMEOUT.as_secs())]
    TimedOut,
}

/// The pools of this process.
pub(crate) struct Pools {
    pools: Cache<(ConnectionId, i32), Arc<Pool>>,
    reach: Arc<Reach>,
    background: Background,
}

/// Where sessions are looked after, and until when.
#[derive(Clone)]
pub(super) struct Background {
    pub(super) tasks: TaskTracker,
    pub(super) over: CancellationToken,
}

struct Pool {
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

/// A session with a database.
pub(super) struct Session {
    pub(super) client: Client,
    /// What may be read before it breaks.
    left: Arc<AtomicU64>,
}

/// A session in use: given back by [`Lent::give_back`], and otherwise cancelled and closed, because nobody knows what it is doing.
pub(super) struct Lent {
    session: Option<Session>,
    pool: Arc<Pool>,
    settings: PostgresSettings,
    reach: Arc<Reach>,
    background: Background,
    _turn: OwnedSemaphorePermit,
}

impl Pools {
    /// Pools whose sessions end with the token.
    pub(crate) fn new(reach: Arc<Reach>, tasks: TaskTracker, over: CancellationToken) -> Self {
        let pools = Cache::builder().max_capacity(MAX_POOLS).time_to_idle(IDLE).build();
        Self { pools, reach, background: Background { tasks, over } }
    }

    /// A session of a connection; waits while as many as there may be are in use.
    pub(super) async fn session(
        &self,
        id: ConnectionId,
        version: i32,
        settings: &PostgresSettings,
        password: Option<&SecretString>,
    ) -> Result<Lent, SessionError> {
        let pool = self.pools.get_with((id, version), || {
            let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            Arc::new(Pool { turns, idle: Mutex::default() })
        });
        let turn = Arc::clone(&pool.turns).acquire_owned().await;
        let turn = turn.expect("the semaphore of a pool is never closed");
        let kept = std::iter::from_fn(|| pool.take()).find(|kept| !kept.client.is_closed());
        let session = match kept {
            Some(session) => session,
            None => connect(settings, password, &self.reach, &self.background).await?,
        };
        session.left.store(MAX_READ_BYTES, Ordering::Relaxed);
        Ok(Lent {
            session: Some(session),
            pool,
            settings: settings.clone(),
            reach: Arc::clone(&self.reach),
            background: self.background.clone(),
            _turn: turn,
        })
    }
}

impl Pool {
    fn take(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Lent {
    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is there until it is given back, which takes it")
    }

    /// Whether the session broke because the server said more than may be read.
    pub(super) fn said_too_much(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.left.load(Ordering::Relaxed) == 0)
    }

    /// Makes the session forget what was done in it (settings, locks, temporary tables) and keeps it for the next one.
    pub(super) async fn give_back(mut self) {
        let Some(session) = self.session.take() else { return };
        session.left.store(MAX_READ_BYTES, Ordering::Relaxed);
        let reset = timeout(RESET_TIMEOUT, session.client.batch_execute("DISCARD ALL")).await;
        if matches!(reset, Ok(Ok(()))) {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }

    /// Lets go of a session that is broken or of no more use.
    pub(super) fn close(mut self) {
        self.session = None;
    }
}

impl Drop for Lent {
    /// Whatever it is doing (the run was cancelled, the node timed out) ends on the server too.
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if session.client.is_closed() {
            return;
        }
        let token = session.client.cancel_token();
        let (settings, reach) = (self.settings.clone(), Arc::clone(&self.reach));
        self.background.tasks.spawn(async move {
            // The session stays until then: its end alone does not stop a statement.
            let _session = session;
            let cancelled = timeout(CANCEL_TIMEOUT, cancel(token, &settings, &reach)).await;
            if !matches!(cancelled, Ok(Ok(()))) {
                tracing::debug!("a statement on a foreign database could not be cancelled");
            }
        });
    }
}

async fn cancel(
    token: CancelToken,
    settings: &PostgresSettings,
    reach: &Reach,
) -> Result<(), SessionError> {
    let stream = dial(&settings.host, settings.port, reach).await?;
    match settings.tls {
        TlsMode::Off => token.cancel_query_raw(stream, NoTls).await?,
        TlsMode::Verify | TlsMode::Implicit => {
            token.cancel_query_raw(stream, Encrypt { host: settings.host.clone() }).await?;
        }
    }
    Ok(())
}

/// Signs in to a database.
pub(super) async fn connect(
    settings: &PostgresSettings,
    password: Option<&SecretString>,
    reach: &Reach,
    background: &Background,
) -> Result<Session, SessionError> {
    let mut config = Config::new();
    config.user(&settings.user).dbname(&settings.database).application_name("ledgerline");
    if let Some(password) = password {
        config.password(password.expose_secret());
    }
    let left = Arc::new(AtomicU64::new(MAX_READ_BYTES));
    let stream = dial(&settings.host, settings.port, reach).await?;
    let stream = Metered::new(stream, Arc::clone(&left));
    let client = match settings.tls {
        TlsMode::Off => {
            config.ssl_mode(SslMode::Disable);
            let login = timeout(LOGIN_TIMEOUT, config.connect_raw(stream, NoTls)).await;
            let (client, connection) = login.map_err(|_| SessionError::TimedOut)??;
            let over = background.over.clone();
            background
                .tasks
                .spawn(async move { ended(over.run_until_cancelled(connection).await) });
            client
        }
        TlsMode::Verify | TlsMode::Implicit => {
            config.ssl_mode(SslMode::Require);
            let encrypt = Encrypt { host: settings.host.clone() };
            let login = timeout(LOGIN_TIMEOUT, config.connect_raw(stream, encrypt)).await;
            let (client, connection) = login.map_err(|_| SessionError::TimedOut)??;
            let over = background.over.clone();
            background
                .tasks
                .spawn(async move { ended(over.run_until_cancelled(connection).await) });
            client
        }
    };
    Ok(Session { client, left })
}

/// A session that breaks says so to whoever waits for it.
fn ended(ended: Option<Result<(), tokio_postgres::Error>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a session with a foreign database broke");
    }
}

/// Encrypts a session after the server has agreed to it.
struct Encrypt {
    host: String,
}

/// An encrypted session.
struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S> TlsConnect<S> for Encrypt
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            encrypted(stream, &self.host).await.map(Encrypted).map_err(io::Error::other)
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
