//! What a client certificate says of whoever holds it: the parts that principals are told by, and nothing else. Whether to
//! believe it is decided before, by the handshake.

use std::net::IpAddr;

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Name};

/// Longest value that is taken from a certificate, in bytes. Names in records, and labels, are shorter.
const VALUE_BYTES_MAX: usize = 512;
/// Names and addresses that are taken from one certificate: more than one for a workload has.
const NAMES_MAX: usize = 64;
/// What an identifier of SPIFFE begins with (SPIFFE-ID §2).
const SPIFFE: &str = "spiffe://";

/// What a certificate says. Every text is of bounded length and has no control characters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Certificate {
    /// The common name of the subject, if there is exactly one.
    pub common_name: Option<String>,
    /// The SPIFFE ID.
    pub spiffe: Option<String>,
    /// The DNS names, in lower case.
    pub dns: Vec<String>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The identity of a Cloud Foundry app instance, if it is the certificate of one.
    pub instance: Option<Instance>,
    /// When it ends, in seconds since 1970 (RFC 5280 §4.1.2.5).
    pub not_after: i64,
}

/// The instance of an app, as Cloud Foundry certifies it: three units of the subject, and its own id as common name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// The organization's id.
    pub organization: String,
    /// The space's id.
    pub space: String,
    /// The app's id.
    pub app: String,
    /// The instance's own id.
    pub instance: String,
}

/// Why a certificate says nothing that could be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// It is not a certificate in DER and nothing else.
    #[error("not a certificate")]
    Syntax,
    /// It says something twice that can be said once, or has a SPIFFE ID beside other URIs (X509-SVID §2).
    #[error("it names more than one identity")]
    Ambiguous,
    /// A value is too long, has control characters, or is one of too many.
    #[error("a name in it is not usable")]
    Unusable,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// See [`CertificateError`]. A certificate that has none of the names is fine, and is nobody's.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Syntax)?;
        if !rest.is_empty() {
            return Err(CertificateError::Syntax);
        }
        let mut read = Self { not_after: certificate.validity().not_after.timestamp(), ..Self::default() };
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Syntax)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        if names.len() > NAMES_MAX {
            return Err(CertificateError::Unusable);
        }
        read.add_names(names)?;
        let subject = certificate.subject();
        read.common_name = match texts(subject.iter_common_name())?.as_slice() {
            [name] => Some(name.clone()),
            [] => None,
            [_, _, ..] => return Err(CertificateError::Ambiguous),
        };
        read.instance = instance(subject, read.common_name.as_deref())?;
        Ok(read)
    }

    fn add_names(&mut self, names: &[GeneralName<'_>]) -> Result<(), CertificateError> {
        let mut uris = 0_usize;
        for name in names {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "of the names of another crate, these are used"
            )]
            match name {
                GeneralName::URI(uri) => {
                    uris += 1;
                    if uri.starts_with(SPIFFE) {
                        self.spiffe = Some(text(uri)?);
                    }
                }
                GeneralName::DNSName(name) => self.dns.push(text(name)?.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => self.addresses.push(address(bytes)?),
                _ => {}
            }
        }
        if self.spiffe.is_some() && uris > 1 { Err(CertificateError::Ambiguous) } else { Ok(()) }
    }

    /// Whether the SPIFFE ID is this one, or for `spiffe://domain/path/*` one below it.
    #[must_use]
    pub fn has_spiffe(&self, pattern: &str) -> bool {
        let Some(id) = self.spiffe.as_deref() else { return false };
        match pattern.strip_suffix('*') {
            Some(prefix) => id.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
            None => id == pattern,
        }
    }
}

/// The values of the same kind in a subject.
fn texts<'a>(
    values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Result<Vec<String>, CertificateError> {
    let mut found = Vec::new();
    for value in values.take(NAMES_MAX) {
        found.push(text(value.as_str().map_err(|_| CertificateError::Unusable)?)?);
    }
    Ok(found)
}

fn text(text: &str) -> Result<String, CertificateError> {
    let is_usable = (1..=VALUE_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    is_usable.then(|| text.to_owned()).ok_or(CertificateError::Unusable)
}

fn address(bytes: &[u8]) -> Result<IpAddr, CertificateError> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.map(|ip| ip.to_canonical()).map_err(|_| CertificateError::Unusable)
}

/// Returns the identity that the units of a subject tell, each of which is `key:value`. `None` if not all are there.
fn instance(subject: &X509Name<'_>, common_name: Option<&str>) -> Result<Option<Instance>, CertificateError> {
    let units = texts(subject.iter_organizational_unit())?;
    let one = |key: &str| {
        let mut values = units.iter().filter_map(|unit| unit.strip_prefix(key));
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(CertificateError::Ambiguous),
            (value, _) => Ok(value.filter(|value| is_id(value))),
        }
    };
    let parts = (one("organization:")?, one("space:")?, one("app:")?, common_name.filter(|id| is_id(id)));
    let (Some(organization), Some(space), Some(app), Some(id)) = parts else { return Ok(None) };
    let [organization, space, app, instance] = [organization, space, app, id].map(str::to_owned);
    Ok(Some(Instance { organization, space, app, instance }))
}

/// Whether a text is written as the ids of Cloud Foundry are: letters, digits and hyphens.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
