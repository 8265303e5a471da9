//! Connections: taken in, made safe where TLS is configured, and let go of when they stall.
//!
//! A connection costs memory as long as it is open, whoever opened it. So their number is bounded, and none may keep the process waiting: the
//! handshake and each request's head have a deadline (which is also how long a connection may be idle), the rest of a request has the request's own,
//! and a client that does not take its answer is cut off ([`patience`]). HTTP/1.1 alone is spoken: what multiplexes requests over one connection is
//! for the proxy in front.

pub mod patience;
pub mod tls;

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use self::{patience::Patient, tls::Tls};
use crate::config::HttpConfig;

/// How much of a request's head is read before it is refused. Its largest honest part is a token, with room for cookies of others.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait when no connection can be taken in: the process has no file descriptors left, and one must be closed first.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// How connections are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many are open at once. More wait in the system's queue.
    pub connections: usize,
    /// How long a handshake or a request's head may take, and how long a connection may be idle.
    pub head: Duration,
    /// How long a client may take nothing of an answer that is ready for it.
    pub stall: Duration,
}

impl From<&HttpConfig> for Bounds {
    fn from(config: &HttpConfig) -> Self {
        Self {
            connections: config.max_connections,
            head: Duration::from_millis(config.head_timeout_ms),
            stall: Duration::from_millis(config.stall_timeout_ms),
        }
    }
}

/// Serves routes on a listener until it is told to stop; then every connection ends after the answer that is under way.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Router,
    bounds: Bounds,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    // Once, and not for every request.
    let routes: Router = routes.with_state(());
    let permits = Arc::new(Semaphore::new(bounds.connections));
    while let Some((stream, peer, permit)) = next(&listener, &permits, &stop).await {
        let (tls, routes, stop) = (tls.clone(), routes.clone(), stop.clone());
        tasks.spawn(async move {
            let _open = permit;
            let stream = Patient::new(stream, bounds.stall);
            let Some(tls) = tls else { return converse(stream, peer, routes, bounds, stop).await };
            match timeout(bounds.head, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, peer, routes, bounds, stop).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%peer, "a handshake was not done in time"),
            }
        });
    }
}

/// The next connection; none when the process stops.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accepting = async {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Small frames to many sockets: waiting for more to send would only make them late.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps its delay");
                    }
                    return Some((stream, peer, permit));
                }
                // It is gone before it was taken in.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be taken in");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await.flatten()
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Answers the requests of one connection.
async fn converse<S>(
    stream: S,
    peer: SocketAddr,
    routes: Router,
    bounds: Bounds,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        answer(routes.clone(), request.map(Body::new), peer)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%peer, %error, "a connection broke off");
    }
}

async fn answer(
    routes: Router,
    mut request: Request,
    peer: SocketAddr,
) -> Result<Response, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    routes.oneshot(request).await
}
