//! The certificates of a run, and TLS on either side of a connection.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::names;

/// The name of the proxy in its certificate.
pub(crate) const PROXY_NAME: &str = "proxy.test";

/// The listed names that the certificate is good for: those of the shortest list.
const NAMES: u64 = 10;

/// Writes `ca.pem`, `cert.pem` and `key.pem`, for the proxy and for the origins of the first [`NAMES`] rules.
///
/// # Errors
/// If they cannot be made or written.
pub(crate) fn write_certificates(folder: &Path) -> Result<()> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "benchmark");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut subjects = names::spread(NAMES, NAMES);
    subjects.push(PROXY_NAME.to_owned());
    let pair = KeyPair::generate()?;
    let certificate = CertificateParams::new(subjects)?.signed_by(&pair, &authority)?;
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write("ca.pem", authority.pem())?;
    write("cert.pem", certificate.pem())?;
    write("key.pem", pair.serialize_pem())
}

/// The client's side, which trusts the run's own authority and offers `protocols` (ALPN).
///
/// # Errors
/// If there are no certificates in the folder.
pub(crate) fn connector(folder: &Path, protocols: &[&str]) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    // Every handshake is a whole one, as from a new client.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The origin's side.
///
/// # Errors
/// If there are no certificates in the folder.
pub(crate) fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
