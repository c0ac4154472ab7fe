//! TLS to a next hop: whom it trusts, and the handshake.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use exeat_model::Host;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::ServerName,
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{AUTHORITIES_MAX, HTTP1, PemError, TlsFiles, TlsFilesError, read_certificates};

/// Where the certificates for TLS to a next hop are, all in PEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HopTlsFiles {
    /// The authorities that the next hop's certificate may come from; without it, those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What this proxy shows when it is asked for a certificate.
    pub client: Option<TlsFiles>,
}

/// Why TLS to a next hop cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HopTlsError {
    /// The file with the authorities is not one.
    #[error("authorities {}", .0.display())]
    Ca(PathBuf, #[source] PemError),
    /// The system trusts no authority.
    #[error("the system trusts no certificate authority")]
    NoSystemRoots,
    /// What this proxy would show cannot be used.
    #[error("client certificate")]
    Client(#[source] TlsFilesError),
    /// The versions of TLS that are spoken here cannot be.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The host is not one that a certificate can be for.
    #[error("no certificate can be for this name")]
    Name,
}

/// TLS to one next hop, or to a server of keys: versions 1.2 and 1.3, its certificate checked for its name.
#[derive(Clone)]
pub struct HopTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for HopTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no TLS with a next hop that was connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// Its certificate is not that of the configured name, or nobody that is trusted says so.
    #[error("the server's certificate is not accepted")]
    Certificate(#[source] rustls::Error),
    /// It said why it does not go on: this proxy has no certificate that it takes, for example.
    #[error("the server refused TLS")]
    Alert(#[source] rustls::Error),
    /// What it speaks is not TLS, or no version of it that is spoken here.
    #[error("the server does not speak TLS")]
    Protocol(#[source] rustls::Error),
    /// The connection broke.
    #[error("the server closed the connection before TLS began")]
    Broken(#[source] io::Error),
    /// It did not answer.
    #[error("the server did not begin TLS in time")]
    Silent,
}

impl HopTls {
    /// Reads the files and returns TLS to the next hop that is called `name`.
    ///
    /// # Errors
    /// The first thing that is wrong. No error shows a byte of a key.
    pub fn new(files: &HopTlsFiles, name: &Host) -> Result<Self, HopTlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = match &files.ca {
            Some(path) => roots_in(path).map_err(|error| HopTlsError::Ca(path.clone(), error))?,
            None => system_roots()?,
        };
        let client = files.client.as_ref().map(|files| files.read(&provider)).transpose();
        let client = client.map_err(HopTlsError::Client)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(HopTlsError::Setup)?
            .with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let pair: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(pair));
                config.with_client_cert_resolver(pair)
            }
        };
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let name = match name {
            Host::Name(name) => {
                ServerName::try_from(name.as_str().to_owned()).map_err(|_| HopTlsError::Name)?
            }
            Host::Address(ip) => ServerName::from(ip.get()),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Does the client's side of a handshake, until `deadline`.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        match timeout_at(deadline, self.connector.connect(self.name.clone(), stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(HandshakeError::of(error)),
            Err(_) => Err(HandshakeError::Silent),
        }
    }
}

fn roots_in(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path, AUTHORITIES_MAX)? {
        roots.add(certificate).map_err(PemError::Unusable)?;
    }
    Ok(roots)
}

/// What the system trusts. A certificate in its store that cannot be used, an old one with a rare key for example, is
/// no reason to do without the others.
fn system_roots() -> Result<RootCertStore, HopTlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(HopTlsError::NoSystemRoots) } else { Ok(roots) }
}

/// Whether `error` is the other side's refusal to go on.
pub(crate) fn is_alert(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::AlertReceived(_)))
}

/// What TLS has to say of an error of its stream.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

impl HandshakeError {
    fn of(error: io::Error) -> Self {
        match tls_error(&error) {
            None => Self::Broken(error),
            Some(inner) => {
                let inner = inner.clone();
                if matches!(inner, rustls::Error::InvalidCertificate(_)) {
                    Self::Certificate(inner)
                } else if matches!(inner, rustls::Error::AlertReceived(_)) {
                    Self::Alert(inner)
                } else {
                    Self::Protocol(inner)
                }
            }
        }
    }

    /// Whether the next hop is not there, rather than not what it should be.
    pub(crate) const fn is_absence(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Silent => true,
            Self::Certificate(_) | Self::Alert(_) | Self::Protocol(_) => false,
        }
    }

    /// The `Proxy-Status` error type (RFC 9209 §2.3).
    pub(crate) const fn proxy_error(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "tls_certificate_error",
            Self::Alert(_) => "tls_alert_received",
            Self::Protocol(_) => "tls_protocol_error",
            Self::Broken(_) => "connection_terminated",
            Self::Silent => "connection_timeout",
        }
    }

    /// What a client may be told: nothing that the certificate says.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Certificate(rustls::Error::InvalidCertificate(error)) => {
                format!("the next hop's certificate {}", fault(error))
            }
            Self::Certificate(_) | Self::Alert(_) | Self::Protocol(_) | Self::Broken(_) | Self::Silent => {
                self.to_string()
            }
        }
    }
}

/// What is wrong with a certificate, in a few words.
fn fault(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    if matches!(error, E::Expired | E::ExpiredContext { .. }) {
        "has expired"
    } else if matches!(error, E::NotValidYet | E::NotValidYetContext { .. }) {
        "is not valid yet"
    } else if matches!(error, E::NotValidForName | E::NotValidForNameContext { .. }) {
        "is for another name"
    } else if matches!(error, E::UnknownIssuer | E::BadSignature) {
        "is not signed by an authority that is trusted"
    } else {
        "is not accepted"
    }
}
