//! Everything that is TLS: at a listener, the server's certificate and key, read from files and read again when they
//! are replaced, and the handshake; below, the same towards a next hop.

mod client;
mod clients;
mod expiry;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use exeat_identity::Presented;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{net::TcpStream, task::spawn_blocking, time::sleep};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(crate) use client::{HandshakeError, is_alert};
pub use client::{HopTls, HopTlsError, HopTlsFiles};
pub(crate) use clients::refusal;
pub use clients::{CRL_FILES_MAX, ClientFiles};

use clients::Trust;

/// Largest certificate or key file, in bytes: a chain of a hundred large certificates.
const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// Most certificates of one chain. Clients stop at about ten.
pub const CHAIN_MAX: usize = 100;
/// Most authorities in one file. The lists of browsers have about 150.
pub const AUTHORITIES_MAX: usize = 1000;
/// How often the files are looked at. What has changed is read once it has stayed the same from one look to the next,
/// so that a certificate and a key that are replaced one after the other are read as the pair that they are.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// After how many looks files are read again that could not be used: whatever was short then may be there, and an operator
/// who reads the log sees that it lasts.
const LOOKS_UNTIL_RETRY: u32 = 30;
/// The protocols that are offered (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Where a listener's certificate chain and key are, both in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// The certificate chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// The private key (PKCS #8, PKCS #1 or SEC 1) of the first certificate.
    pub key: PathBuf,
    /// Whose certificates are asked for in the handshake; `None` asks for none.
    pub clients: Option<ClientFiles>,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// The file with the certificates is not one.
    #[error("certificate {}", .0.display())]
    Cert(PathBuf, #[source] PemError),
    /// The file with the key is not one.
    #[error("key {}", .0.display())]
    Key(PathBuf, #[source] PemError),
    /// The file with the authorities of clients is not one.
    #[error("client authority {}", .0.display())]
    ClientCa(PathBuf, #[source] PemError),
    /// A file with a revocation list is not one.
    #[error("revocation list {}", .0.display())]
    Crl(PathBuf, #[source] PemError),
    /// Each is fine by itself, but the key is that of another certificate.
    #[error("the key is not that of the certificate")]
    Mismatch,
}

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is larger than 1 MiB, or has more than [`CHAIN_MAX`] certificates or [`AUTHORITIES_MAX`] authorities.
    #[error("is too large")]
    TooLarge,
    /// It has no section of the kind that is looked for.
    #[error("has no such section in PEM")]
    Missing,
    /// It is not PEM.
    #[error("is not PEM")]
    Syntax,
    /// What is in it is not a certificate or key that TLS can use.
    #[error("is not usable")]
    Unusable(#[source] rustls::Error),
}

impl TlsFiles {
    /// Reads both files and checks that they belong together, as a listener would.
    ///
    /// # Errors
    /// The first thing that is wrong. No error shows a byte of the key.
    pub fn check(&self) -> Result<(), TlsFilesError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        self.read(&provider)?;
        self.clients.as_ref().map_or(Ok(()), |clients| clients.read(&provider).map(drop))
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsFilesError> {
        let cert_error = |error| TlsFilesError::Cert(self.cert.clone(), error);
        let key_error = |error| TlsFilesError::Key(self.key.clone(), error);
        let chain = read_certificates(&self.cert, CHAIN_MAX).map_err(cert_error)?;
        let key = read_key(&self.key).map_err(key_error)?;
        let key = provider.key_provider.load_private_key(key);
        let pair = CertifiedKey::new(chain, key.map_err(PemError::Unusable).map_err(key_error)?);
        match pair.keys_match() {
            // A key that cannot tell its public half is one of a hardware module; none is loaded from a file.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsFilesError::Mismatch),
            Err(error) => Err(cert_error(PemError::Unusable(error))),
        }
    }

    /// Returns what tells that one of the files is another one than before, or was written to.
    fn marks(&self) -> Marks {
        let own = [&self.cert, &self.key].map(|path| Mark::of(path));
        own.into_iter().chain(self.clients.iter().flat_map(ClientFiles::marks)).collect()
    }
}

/// Reads the certificates of a file: one or more, and `most` at most.
fn read_certificates(path: &Path, most: usize) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read_pem(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .take(most + 1)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| pem_error(&error))?;
    match chain.len() {
        0 => Err(PemError::Missing),
        count if count > most => Err(PemError::TooLarge),
        _ => Ok(chain),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(&read_pem(path)?).map_err(|error| pem_error(&error))
}

/// The errors of the PEM reader quote what they read, which may be a key: only their kind is kept.
fn pem_error(error: &pem::Error) -> PemError {
    if matches!(error, pem::Error::NoItemsFound) { PemError::Missing } else { PemError::Syntax }
}

/// Opens a file; a pipe would be waited for.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let is_file = file.metadata()?.is_file();
    is_file
        .then_some(file)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

fn read_pem(path: &Path) -> Result<Vec<u8>, PemError> {
    let mut bytes = Vec::new();
    let read = open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read.map_err(PemError::Unreadable)? {
        length if length as u64 > PEM_BYTES_MAX => Err(PemError::TooLarge),
        _ => Ok(bytes),
    }
}

/// What changes with a file: device, inode, length, and time of the last change in seconds and nanoseconds.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Mark(u64, u64, u64, i64, i64);

impl Mark {
    /// `None` if there is no such file at present.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self(metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
    }
}

/// Those of all files of a listener.
type Marks = Vec<Option<Mark>>;

/// The TLS side of one listener. Clones are the same.
#[derive(Clone)]
pub struct Tls {
    acceptor: Arc<ArcSwap<TlsAcceptor>>,
    files: Arc<TlsFiles>,
    /// The files as they were just before the first pair was read.
    first: Marks,
    current: Arc<Current>,
    trust: Option<Arc<Trust>>,
    /// Whether something in the files could not be used when they were last read.
    is_stale: Arc<AtomicBool>,
    is_http2: bool,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The certificate and key that new handshakes use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// Reads the files and returns a listener's TLS: versions 1.2 and 1.3, with client certificates if the files say whose.
    /// HTTP/2 is offered if `http2` says so.
    ///
    /// # Errors
    /// Those of [`TlsFiles::check`].
    pub fn new(files: TlsFiles, http2: bool) -> Result<Self, TlsFilesError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Before they are read: what is replaced from here on is noticed.
        let first = files.marks();
        let pair = files.read(&provider)?;
        expiry::remark(&pair, &files.cert, SystemTime::now());
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let verifier = files.clients.as_ref().map(|clients| clients.read(&provider)).transpose()?;
        let acceptor = acceptor(&files, &provider, &current, verifier.clone(), http2)?;
        Ok(Self {
            acceptor: Arc::new(ArcSwap::from_pointee(acceptor)),
            files: Arc::new(files),
            first,
            current,
            trust: verifier.map(|verifier| Arc::new(Trust::new(verifier))),
            is_stale: Arc::default(),
            is_http2: http2,
            provider,
        })
    }

    /// Reads the files again. Handshakes from now on use what is in them; connections go on as they are. If they
    /// cannot be used the pair in use stays, the log says so, and [`Self::watch`] reads them again after a while.
    pub fn reload(&self) {
        let is_used = self.reload_pair() & self.reload_trust();
        self.is_stale.store(!is_used, Ordering::Relaxed);
    }

    /// Returns whether what is in the files is in use.
    fn reload_pair(&self) -> bool {
        let cert = self.files.cert.display();
        let read = self.files.read(&self.provider);
        if let Ok(pair) = &read {
            expiry::remark(pair, &self.files.cert, SystemTime::now());
        }
        match read {
            Ok(pair) if self.is_in_use(&pair) => true,
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                tracing::info!(%cert, "certificate replaced");
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%cert, error, "the new certificate cannot be used; the old one stays");
                false
            }
        }
    }

    /// Reads again whose certificates are taken. Those of connected clients are held against it, too. Returns whether what is
    /// in the files is in use.
    fn reload_trust(&self) -> bool {
        let (Some(clients), Some(trust)) = (&self.files.clients, &self.trust) else { return true };
        let ca = clients.ca.display();
        let read = clients.read(&self.provider).and_then(|verifier| {
            let verifier_for_new = Arc::clone(&verifier);
            let (files, provider) = (&self.files, &self.provider);
            let new = acceptor(files, provider, &self.current, Some(verifier_for_new), self.is_http2)?;
            Ok((verifier, new))
        });
        match read {
            Ok((verifier, new)) => {
                self.acceptor.store(Arc::new(new));
                trust.replace(verifier);
                tracing::info!(%ca, "client authorities and revocation lists read again");
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%ca, error, "what client certificates are checked against cannot be used; the old stays");
                false
            }
        }
    }

    /// Whether clients are asked for a certificate.
    pub(crate) const fn asks_for_certificates(&self) -> bool {
        self.trust.is_some()
    }

    /// Returns the certificate that the client of a finished handshake has proven to hold.
    pub(crate) fn presented(&self, stream: &TlsStream<TcpStream>) -> Option<Arc<Presented>> {
        self.trust.as_ref()?.presented(stream.get_ref().1.peer_certificates()?)
    }

    /// When the certificate in use ends; `None` if it does not say so in a way that can be read.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        expiry::not_after(&self.current.0.load())
    }

    fn is_in_use(&self, pair: &CertifiedKey) -> bool {
        self.current.0.load().cert == pair.cert
    }

    /// Reloads whenever the files are replaced, and calls `look` on a thread for such as often as it looks at them if client
    /// certificates are asked for. Never returns.
    pub async fn watch(self, look: impl Fn() + Send + Sync + 'static) {
        self.watch_every(WATCH_PERIOD, Arc::new(look)).await;
    }

    async fn watch_every(&self, period: Duration, look: Arc<impl Fn() + Send + Sync + 'static>) {
        let mut known = self.first.clone();
        let mut before = known.clone();
        let mut looks = 0_u32;
        loop {
            sleep(period).await;
            let now = self.marks().await;
            let is_replaced = now != known && now == before;
            looks = looks.saturating_add(1);
            if is_replaced || self.is_stale.load(Ordering::Relaxed) && looks >= LOOKS_UNTIL_RETRY {
                known.clone_from(&now);
                looks = 0;
                let this = self.clone();
                // Its log line is all that comes of it.
                let _ = spawn_blocking(move || this.reload()).await;
            }
            if self.trust.is_some() {
                // It checks chains of certificates: not for a thread that others wait for.
                let look = Arc::clone(&look);
                let _ = spawn_blocking(move || look()).await;
            }
            before = now;
        }
    }

    async fn marks(&self) -> Marks {
        let files = Arc::clone(&self.files);
        spawn_blocking(move || files.marks()).await.unwrap_or_default()
    }

    /// Does the server's side of a handshake, and says whether HTTP/2 was agreed on.
    ///
    /// # Errors
    /// Those of the connection and of the handshake, after which the client has been sent an alert.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let acceptor = TlsAcceptor::clone(&self.acceptor.load());
        let stream = acceptor.accept(stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok((stream, is_http2))
    }
}

/// Returns what does handshakes with the certificate of `current`, and asks for a client's if there is a `verifier`.
fn acceptor(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    current: &Arc<Current>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    http2: bool,
) -> Result<TlsAcceptor, TlsFilesError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsFilesError::Key(files.key.clone(), PemError::Unusable(error)))?;
    let is_asked_for = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::<Current>::clone(current));
    if is_asked_for {
        // A resumed session would bring a certificate back without a look at it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    let offered = if http2 { &[HTTP2, HTTP1][..] } else { &[HTTP1][..] };
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
