//! A certificate authority of the test's own, the TLS side of origins, and a TLS client for tunnels.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream, StreamOwned,
};

use crate::http::{Handler, serve};
use crate::origin::Service;

/// The year with which certificates end unless a test wants another one.
const LAST_YEAR: i32 = 2999;

/// A certificate authority that signs a certificate for every name that a client asks for.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    provider: Arc<CryptoProvider>,
    signed: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new() -> Result<Arc<Self>> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(Arc::new(Self { issuer, provider, signed: Mutex::default() }))
    }

    /// Writes the authority's certificate as PEM.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.issuer.pem()).with_context(|| format!("write {}", path.display()))
    }

    /// Writes a new certificate for `name`, a host name or an address, and its key as PEM.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn issue(&self, name: &str, cert: &Path, key: &Path) -> Result<()> {
        self.issue_until(name, LAST_YEAR, cert, key)
    }

    /// The same, for a certificate that ends with this year.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn issue_until(&self, name: &str, last_year: i32, cert: &Path, key: &Path) -> Result<()> {
        let (certificate, pair) = self.certificate(name, last_year)?;
        std::fs::write(cert, certificate.pem()).with_context(|| format!("write {}", cert.display()))?;
        std::fs::write(key, pair.serialize_pem()).with_context(|| format!("write {}", key.display()))?;
        // As it should be; others could read it otherwise, and are warned of.
        Ok(std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?)
    }

    fn certificate(&self, name: &str, last_year: i32) -> Result<(Certificate, KeyPair)> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.not_after = date_time_ymd(last_year, 12, 31);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pair = KeyPair::generate()?;
        Ok((params.signed_by(&pair, &self.issuer)?, pair))
    }

    /// A server certificate for `name`, made once.
    fn sign(&self, name: &str) -> Result<Arc<CertifiedKey>> {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = signed.get(name) {
            return Ok(Arc::clone(key));
        }
        let (certificate, pair) = self.certificate(name, LAST_YEAR)?;
        let key = PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &self.provider)?;
        Ok(Arc::clone(signed.entry(name.to_owned()).or_insert_with(|| Arc::new(key))))
    }

    /// An HTTPS server that has a certificate for every name.
    ///
    /// # Errors
    /// When the TLS configuration is refused.
    pub fn service(self: &Arc<Self>, handler: Handler) -> Result<Service> {
        let config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        let config = Arc::new(config);
        Ok(Arc::new(move |peer| {
            let mut session = ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
            session.complete_io(peer)?;
            let notebook = peer.notebook();
            let served = serve(Stream::new(&mut session, peer), &handler, &notebook);
            session.send_close_notify();
            drop(session.complete_io(peer));
            served.and(peer.finish())
        }))
    }

    /// A TLS session as `name` over `stream`, which trusts this authority alone; the handshake is done.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn connect<S: Read + Write>(
        &self,
        name: &str,
        stream: S,
    ) -> Result<StreamOwned<ClientConnection, S>> {
        self.connect_offering(name, stream, &[])
    }

    /// The same, offering these protocols by ALPN.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn connect_offering<S: Read + Write>(
        &self,
        name: &str,
        mut stream: S,
        protocols: &[&str],
    ) -> Result<StreamOwned<ClientConnection, S>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).context("TLS handshake")?;
        }
        Ok(StreamOwned::new(session, stream))
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.sign(hello.server_name().unwrap_or("no-name.example")).ok()
    }
}
