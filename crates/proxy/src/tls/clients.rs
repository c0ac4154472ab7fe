//! Whose certificates a listener takes: the authorities that issue them, and the lists of those that are revoked.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use exeat_identity::Presented;
use exeat_policy::Reason;
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    AUTHORITIES_MAX, Mark, PemError, TlsFilesError, client::tls_error, pem_error, read_certificates, read_pem,
};

/// Most files with revocation lists of one listener.
pub const CRL_FILES_MAX: usize = 64;

/// Where the authorities and revocation lists of client certificates are, all in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientFiles {
    /// The certificates of the authorities that client certificates are issued by.
    pub ca: PathBuf,
    /// The revocation lists: of every authority that issued a certificate of a chain, or none at all.
    pub crl: Vec<PathBuf>,
    /// Whether a handshake without a client certificate fails.
    pub is_required: bool,
}

/// What certificates are checked against.
type Verifier = Arc<dyn ClientCertVerifier>;

impl ClientFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn read(&self, provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsFilesError> {
        let ca_error = |error| TlsFilesError::ClientCa(self.ca.clone(), error);
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(&self.ca, AUTHORITIES_MAX).map_err(ca_error)? {
            roots.add(certificate).map_err(PemError::Unusable).map_err(ca_error)?;
        }
        let mut lists = Vec::new();
        for path in &self.crl {
            lists.extend(read_lists(path).map_err(|error| TlsFilesError::Crl(path.clone(), error))?);
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .with_crls(lists)
            // A list that is over says nothing of those revoked since.
            .enforce_revocation_expiration();
        let builder = if self.is_required { builder } else { builder.allow_unauthenticated() };
        let unusable = |error: rustls::client::VerifierBuilderError| {
            let why = PemError::Unusable(rustls::Error::General(error.to_string()));
            match self.crl.first() {
                Some(path) => TlsFilesError::Crl(path.clone(), why),
                None => ca_error(why),
            }
        };
        builder.build().map_err(unusable)
    }

    /// What tells that one of the files is another one than before.
    pub(super) fn marks(&self) -> Vec<Option<Mark>> {
        std::iter::once(&self.ca).chain(&self.crl).map(|path| Mark::of(path)).collect()
    }
}

fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let text = read_pem(path)?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| pem_error(&error))?;
    if lists.is_empty() { Err(PemError::Missing) } else { Ok(lists) }
}

/// Why this side refused a handshake that ended with `error`; `None` if it did not: the connection broke, the client took
/// too long, or it is the client that refused.
pub(crate) fn refusal(error: &io::Error) -> Option<Reason> {
    use rustls::Error as E;
    let error = tls_error(error)?;
    if matches!(error, E::AlertReceived(_)) {
        None
    } else if matches!(error, E::NoCertificatesPresented) {
        Some(Reason::AuthRequired)
    } else if matches!(error, E::InvalidCertificate(_) | E::InvalidCertRevocationList(_)) {
        Some(Reason::AuthInvalid)
    } else {
        Some(Reason::RequestMalformed)
    }
}

/// What certificates are checked against now, and how often that has changed.
pub(super) struct Trust {
    verifier: ArcSwap<Verifier>,
    generation: AtomicU64,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Trust {
    pub(super) fn new(verifier: Verifier) -> Self {
        Self { verifier: ArcSwap::from_pointee(verifier), generation: AtomicU64::new(0) }
    }

    /// Checks against this from now on, what is connected already included.
    pub(super) fn replace(&self, verifier: Verifier) {
        self.verifier.store(Arc::new(verifier));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns what a client has presented in a handshake that checked it; `None` if that was nothing.
    pub(super) fn presented(self: &Arc<Self>, chain: &[CertificateDer<'_>]) -> Option<Arc<Presented>> {
        let own = chain.first()?;
        let chain: Vec<CertificateDer<'static>> =
            chain.iter().map(|part| part.clone().into_owned()).collect();
        let trust = Arc::clone(self);
        // By the generation that it was last checked by. The handshake may have been by an older one than the first of
        // these, so the first look checks again.
        let checked = AtomicU64::new(u64::MAX);
        let still_good = move || {
            let generation = trust.generation.load(Ordering::Acquire);
            if checked.load(Ordering::Relaxed) == generation {
                return true;
            }
            let is_good = trust.is_good(&chain);
            if is_good {
                checked.store(generation, Ordering::Relaxed);
            }
            is_good
        };
        Some(Arc::new(Presented::new(own, Box::new(still_good))))
    }

    fn is_good(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((own, others)) = chain.split_first() else { return false };
        self.verifier.load().verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}
