//! An issuer's public keys: a JWK set (RFC 7517 §5), each key with the one algorithm that it is for.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::issue::SigningKey;
use super::json;
use super::jws::KID_BYTES_MAX;

/// Keys of one set: two for a rotation, and a few services that sign for themselves.
pub const KEYS_MAX: usize = 16;

/// Bits of an RSA key (NIST SP 800-131A; more than 8192 only costs time).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How a token may be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignatureAlgorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for issuers that have nothing newer.
    Rs256,
}

impl SignatureAlgorithm {
    /// The name in a header (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    pub(crate) const fn algorithm(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
            Self::Rs256 => Algorithm::RS256,
        }
    }
}

/// A public key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) kid: Option<Arc<str>>,
    pub(crate) algorithm: SignatureAlgorithm,
    pub(crate) public: DecodingKey,
    /// Tells this key from every other one (RFC 7638).
    pub(crate) thumbprint: Thumbprint,
}

/// The SHA-256 of a key's required members.
pub(crate) type Thumbprint = [u8; 32];

/// The keys of an issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<(usize, KeyError)>,
}

/// Why a text is not a usable set of keys.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeySetError {
    /// It is not a JSON object with a list `keys`.
    #[error("not a JWK set: a JSON object with a list `keys`, each member once")]
    Form,
    /// It has no key.
    #[error("there is no key")]
    Empty,
    /// It has too many.
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    /// A key cannot be used.
    #[error("key {position} cannot be used")]
    Key {
        /// Its position, from 1.
        position: usize,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Of several keys one has no `kid`, or two have the same.
    #[error("key {position} needs a `kid` of its own, since there are several keys")]
    Kid {
        /// Its position, from 1.
        position: usize,
    },
}

/// Why a key cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// It is none of the kinds that can be used.
    #[error("a key is EC with P-256, OKP with Ed25519, or RSA")]
    Kind,
    /// It is a secret.
    #[error(
        "this is a private or secret key: put its public part here, and replace it if others could read it"
    )]
    Private,
    /// A member is missing or has a value that it cannot have.
    #[error("`{0}` is missing or not usable")]
    Member(&'static str),
    /// Its `alg` is not the algorithm of its kind.
    #[error("`alg` is not {0}, which this kind of key is for")]
    Algorithm(&'static str),
    /// It is not for signatures.
    #[error("`use` or `key_ops` says that it is not for checking signatures")]
    Use,
    /// An RSA key of another size.
    #[error("an RSA key has 2048 to 8192 bits")]
    Size,
}

impl KeySet {
    /// Reads a set. Keys of a kind, an algorithm or a use that is not known here are skipped (RFC 7517 §5): an issuer may
    /// publish some for others.
    ///
    /// # Errors
    /// What is wrong with the set, with the first key that is none or a secret, or with the first one if all are skipped.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set = json::object(text).map_err(|_| KeySetError::Form)?;
        let list = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::Form)?;
        if list.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(list.len());
        let mut skipped = Vec::new();
        for (position, value) in (1..).zip(list) {
            let key = value.as_object().ok_or(KeySetError::Form)?;
            let key = match read(key) {
                Ok(key) => key,
                Err(error @ (KeyError::Kind | KeyError::Algorithm(_) | KeyError::Use)) => {
                    skipped.push((position, error));
                    continue;
                }
                Err(source @ (KeyError::Private | KeyError::Member(_) | KeyError::Size)) => {
                    return Err(KeySetError::Key { position, source });
                }
            };
            let is_taken = keys.iter().any(|other| other.kid == key.kid);
            if list.len() > 1 && (key.kid.is_none() || is_taken) {
                return Err(KeySetError::Kid { position });
            }
            keys.push(key);
        }
        match (keys.is_empty(), skipped.first()) {
            (false, _) => Ok(Self { keys, skipped }),
            (true, Some((position, source))) => {
                Err(KeySetError::Key { position: *position, source: source.clone() })
            }
            (true, None) => Err(KeySetError::Empty),
        }
    }

    /// Returns the keys that cannot be used here, by their position from 1, and why.
    pub fn skipped(&self) -> impl Iterator<Item = (usize, &KeyError)> {
        self.skipped.iter().map(|(position, error)| (*position, error))
    }

    /// Returns whether no key is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the key that `kid` names; without a name, the only one.
    pub(crate) fn get(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.keys.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
        }
    }

    /// Returns any key, if there is one.
    pub(crate) fn first(&self) -> Option<&Key> {
        self.keys.first()
    }

    /// Returns whether `name` is the `kid` or the thumbprint (RFC 7638) of one.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let is_it =
            |key: &Key| key.kid.as_deref() == Some(name) || URL_SAFE_NO_PAD.encode(key.thumbprint) == name;
        self.keys.iter().any(is_it)
    }

    /// Returns the names of the keys that `other` has not.
    pub(crate) fn missing_in<'k>(&'k self, other: &'k Self) -> impl Iterator<Item = Option<&'k str>> {
        let missing = self.keys.iter().filter(|key| other.with_thumbprint(&key.thumbprint).is_none());
        missing.map(|key| key.kid.as_deref())
    }

    /// Returns whether the public half of a signing key is among them.
    #[must_use]
    pub fn has_half_of(&self, key: &SigningKey) -> bool {
        self.with_thumbprint(key.thumbprint()).is_some()
    }

    /// Returns this very key, whatever it is called in this set.
    pub(crate) fn with_thumbprint(&self, thumbprint: &Thumbprint) -> Option<&Key> {
        self.keys.iter().find(|key| key.thumbprint == *thumbprint)
    }
}

fn read(key: &Map<String, Value>) -> Result<Key, KeyError> {
    // RFC 7518 §6.2.2, §6.3.2, §6.4.
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().any(|name| key.contains_key(name)) {
        return Err(KeyError::Private);
    }
    let text = |name: &'static str| key.get(name).map(|value| value.as_str().ok_or(KeyError::Member(name)));
    let bytes = |name: &'static str| -> Result<Vec<u8>, KeyError> {
        let encoded = text(name).ok_or(KeyError::Member(name))??;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyError::Member(name))
    };
    let of = |name: &'static str, length: usize| match bytes(name)? {
        bytes if bytes.len() == length => Ok(bytes),
        _ => Err(KeyError::Member(name)),
    };
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let kind = (text("kty").transpose()?, text("crv").transpose()?);
    let (algorithm, public, canonical) = match kind {
        (Some("EC"), Some("P-256")) => {
            let (x, y) = (encode(&of("x", 32)?), encode(&of("y", 32)?));
            let public = DecodingKey::from_ec_components(&x, &y).map_err(|_| KeyError::Member("x"))?;
            let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            (SignatureAlgorithm::Es256, public, canonical)
        }
        (Some("OKP"), Some("Ed25519")) => {
            let x = encode(&of("x", 32)?);
            let public = DecodingKey::from_ed_components(&x).map_err(|_| KeyError::Member("x"))?;
            (SignatureAlgorithm::EdDsa, public, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#))
        }
        (Some("RSA"), None) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let bits = n.iter().position(|&byte| byte != 0).map_or(0, |zeros| {
                let first = n.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
                (n.len() - zeros) * 8 - first
            });
            if !RSA_BITS.contains(&bits) {
                return Err(KeyError::Size);
            }
            let public = DecodingKey::from_rsa_raw_components(&n, &e);
            let (n, e) = (encode(&n), encode(&e));
            (SignatureAlgorithm::Rs256, public, format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#))
        }
        _ => return Err(KeyError::Kind),
    };
    match text("alg").transpose()? {
        Some(alg) if alg != algorithm.name() => return Err(KeyError::Algorithm(algorithm.name())),
        Some(_) | None => {}
    }
    let verifies = key.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    });
    if text("use").transpose()?.is_some_and(|usage| usage != "sig") || !verifies {
        return Err(KeyError::Use);
    }
    let kid = text("kid").transpose()?;
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > KID_BYTES_MAX || kid.chars().any(char::is_control))
    {
        return Err(KeyError::Member("kid"));
    }
    Ok(Key {
        kid: kid.map(Arc::from),
        algorithm,
        public,
        thumbprint: Sha256::digest(canonical.as_bytes()).into(),
    })
}
