//! Connections to servers that are not asked over HTTP: the address that was found to be permitted is the one that is dialled.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{OutboundError, Reach};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host is, or resolves only to, an address that workflows may not reach.
    #[error(transparent)]
    Forbidden(#[from] OutboundError),
    /// The name stands for no address.
    #[error("the host {host} has no address: {source}")]
    Name {
        /// The host.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nobody answers there, or whoever does refuses.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// The address that was tried last.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The encryption could not be agreed on, or the certificate is not the host's.
    #[error("no encrypted connection to {host}: {source}")]
    Tls {
        /// The host.
        host: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl DialError {
    /// Whether it may go better next time.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Name { .. } | Self::Connect { .. } => true,
            Self::Forbidden(_) | Self::Tls { .. } => false,
        }
    }
}

/// Connects to a host, given as a name or an address, where that may be reached.
///
/// # Errors
/// [`DialError`].
pub async fn dial(host: &str, port: u16, reach: &Reach) -> Result<TcpStream, DialError> {
    let mut last = None;
    for address in addresses(host, port, reach).await?.into_iter().take(MAX_ADDRESSES) {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(stream) => {
                // What is asked should not wait for more to be asked.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(source) => last = Some(DialError::Connect { address, source }),
        }
    }
    Err(last.unwrap_or_else(|| OutboundError::Forbidden(host.to_owned()).into()))
}

/// The addresses of a host that may be dialled.
async fn addresses(host: &str, port: u16, reach: &Reach) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(literal) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(literal, port);
        return match reach.permits(address) {
            true => Ok(vec![address]),
            false => Err(OutboundError::Forbidden(host.to_owned()).into()),
        };
    }
    let looking = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, port)));
    let found = looking.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = found.map_err(|source| DialError::Name { host: host.to_owned(), source })?;
    let permitted: Vec<SocketAddr> =
        found.filter(|address| reach.permits_any_port(address.ip())).collect();
    if permitted.is_empty() {
        return Err(OutboundError::Forbidden(host.to_owned()).into());
    }
    Ok(permitted)
}

/// What is read of a stream is counted, so that no server can fill the memory: beyond what is left the stream breaks.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    left: Arc<AtomicU64>,
}

impl<S> Metered<S> {
    /// A stream of which as much can be read as is left.
    pub fn new(stream: S, left: Arc<AtomicU64>) -> Self {
        Self { stream, left }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = u64::try_from(buffer.filled().len() - before).unwrap_or(u64::MAX);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(read));
        match taken {
            Ok(_) => polled,
            Err(_) => {
                self.left.store(0, Ordering::Relaxed);
                Poll::Ready(Err(io::Error::other("the server says more than may be read")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Encrypts a stream to a host that proves who it is by its certificate.
///
/// # Errors
/// [`DialError::Tls`].
pub async fn encrypted<S>(stream: S, host: &str) -> Result<TlsStream<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |source: io::Error| DialError::Tls { host: host.to_owned(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(|error| failed(io::Error::other(error)))?
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let connected = timeout(CONNECT_TIMEOUT, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn only_what_may_be_reached_is_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for host in ["127.0.0.1", "localhost", "::1", "169.254.169.254", "10.0.0.1"] {
            let refused = dial(host, address.port(), &Reach::public()).await.unwrap_err();
            assert!(matches!(refused, DialError::Forbidden(_)), "{host}: {refused}");
        }
        let one = Reach::public().and_endpoint(address);
        assert!(dial("127.0.0.1", address.port(), &one).await.is_ok());
        let all = Reach::public().and_network("127.0.0.0/8".parse().unwrap());
        assert!(dial("localhost", address.port(), &all).await.is_ok());
        drop(listener);
        let refused = dial("127.0.0.1", address.port(), &all).await.unwrap_err();
        assert!(matches!(refused, DialError::Connect { .. }) && refused.may_pass());
    }

    #[tokio::test]
    async fn a_server_that_says_too_much_is_cut_off() {
        let (mut server, client) = tokio::io::duplex(64);
        let left = Arc::new(AtomicU64::new(10));
        let mut client = Metered::new(client, Arc::clone(&left));
        server.write_all(b"12345").await.unwrap();
        let mut read = [0; 5];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(left.load(Ordering::Relaxed), 5);
        server.write_all(b"123456").await.unwrap();
        assert!(client.read_exact(&mut [0; 6]).await.is_err());
        assert_eq!(left.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_server_without_a_good_certificate_is_not_spoken_to() {
        let (_server, client) = tokio::io::duplex(64);
        let wrong = encrypted(client, "not a name").await.unwrap_err();
        assert!(matches!(&wrong, DialError::Tls { .. }) && !wrong.may_pass(), "{wrong}");
    }
}
