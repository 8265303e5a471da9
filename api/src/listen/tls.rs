//! TLS 1.3 in the program itself, for deployments without a proxy in front.
//!
//! The certificate is read again once a minute and at SIGHUP, so that renewing it needs no restart. One that cannot be used is said in the log, and the one
//! before stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no PEM, or has nothing of what it should.
    #[error("{path} holds no {wanted} in PEM")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The two do not go together, or the key is of a kind that is not known.
    #[error("the certificate and the key can't be used")]
    Unusable(#[source] rustls::Error),
}

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// The bytes of both files, by which a change is noticed.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
        };
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn certified(&self, contents: &Contents) -> Result<CertifiedKey, TlsError> {
        let malformed = |path: &Path, wanted| TlsError::Malformed { path: path.to_owned(), wanted };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&contents.certificate)
                .collect::<Result<_, _>>()
                .map_err(|_| malformed(&self.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(malformed(&self.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| malformed(&self.key, "private key"))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(TlsError::Unusable)
    }
}

/// The certificate that is shown now.
struct Shown(RwLock<Arc<CertifiedKey>>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Makes connections safe. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads the files, and reads them again for as long as the process runs.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn start(
        files: TlsFiles,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(files.certified(&contents)?))));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // From now on the signal asks for a look, where it would end the process. Without it the files are looked at once a minute
        // all the same.
        let hangups = signal(SignalKind::hangup()).ok();
        let renewing = renew(files, contents, shown, hangups);
        tasks.spawn(async move {
            stop.run_until_cancelled(renewing).await;
        });
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake of one connection.
    ///
    /// # Errors
    /// When the peer speaks something else, or breaks off.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        self.0.accept(stream).await
    }
}

async fn renew(
    files: TlsFiles,
    mut present: Contents,
    shown: Arc<Shown>,
    mut hangups: Option<Signal>,
) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let hangup = async {
            match &mut hangups {
                Some(hangups) => hangups.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick() => {}
            _ = hangup => {}
        }
        match files.read() {
            Ok(contents) if contents == present => {}
            Ok(contents) => match files.certified(&contents) {
                Ok(certified) => {
                    *shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                    present = contents;
                    tracing::info!(certificate = %files.certificate.display(), "a new certificate is used");
                }
                // The two files are rarely replaced at the same moment; the next look finds both.
                Err(error) => {
                    let error = crate::problem::chain(&error);
                    tracing::warn!(%error, "the new certificate can't be used; the one before stays");
                }
            },
            Err(error) => {
                let error = crate::problem::chain(&error);
                tracing::warn!(%error, "the certificate can't be read; the one before stays");
            }
        }
    }
}
