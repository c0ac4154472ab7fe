//! Issuing tokens: the other half of what is verified here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::claims::{Flags, seconds};
use super::keys::{KeySet, SignatureAlgorithm, Thumbprint};

/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// A key that signs tokens.
pub struct SigningKey {
    algorithm: SignatureAlgorithm,
    pkcs8: Zeroizing<Vec<u8>>,
    /// The public part, without its name.
    public: Map<String, Value>,
    thumbprint: Thumbprint,
    kid: Arc<str>,
}

/// Why there is no such key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigningKeyError {
    /// The operating system gave no random bytes.
    #[error("the key could not be made")]
    Make,
    /// It is not a private key in PEM, or of a kind that does not sign tokens.
    #[error("not a PKCS#8 private key in PEM (\"BEGIN PRIVATE KEY\") for P-256 or Ed25519")]
    Read,
    /// The signature could not be made.
    #[error("the token could not be signed")]
    Sign,
}

/// What a token is to say.
#[derive(Clone, Debug)]
pub struct Order {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `container_id`.
    pub container: Option<String>,
    /// `organization_uuid`.
    pub organization: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
    /// `allowed_hosts`, if it lists some.
    pub hosts: Option<Vec<String>>,
    /// `policy`.
    pub policy: Option<String>,
    /// The flags.
    pub flags: Flags,
    /// How long it counts.
    pub life: Duration,
}

impl SigningKey {
    /// Makes a new key, for ES256 or EdDSA. Without a name of its own it is called by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// If the operating system gives no random bytes, or for RS256: no new key needs it.
    pub fn generate(algorithm: SignatureAlgorithm, kid: Option<&str>) -> Result<Self, SigningKeyError> {
        let random = SystemRandom::new();
        let made = match algorithm {
            SignatureAlgorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            }
            SignatureAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random),
            SignatureAlgorithm::Rs256 => return Err(SigningKeyError::Make),
        };
        Self::of_pkcs8(made.map_err(|_| SigningKeyError::Make)?.as_ref(), kid)
    }

    /// Reads a key that [`Self::to_pem`] or another program wrote.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(pem: &[u8], kid: Option<&str>) -> Result<Self, SigningKeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| SigningKeyError::Read)?;
        Self::of_pkcs8(key.secret_pkcs8_der(), kid)
    }

    fn of_pkcs8(pkcs8: &[u8], kid: Option<&str>) -> Result<Self, SigningKeyError> {
        let encode = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let (algorithm, public) =
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8) {
                // SEC 1 §2.3.3: 4, then the two coordinates.
                let point = pair.public_key().as_ref();
                let halves = point.get(1..).and_then(|point| point.split_at_checked(32));
                let (x, y) = halves.ok_or(SigningKeyError::Read)?;
                let public = [
                    ("kty", "EC".into()),
                    ("crv", "P-256".into()),
                    ("alg", "ES256".into()),
                    ("x", encode(x)),
                    ("y", encode(y)),
                ];
                (SignatureAlgorithm::Es256, Vec::from(public))
            } else {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| SigningKeyError::Read)?;
                let public = [
                    ("kty", "OKP".into()),
                    ("crv", "Ed25519".into()),
                    ("alg", "EdDSA".into()),
                    ("x", encode(pair.public_key().as_ref())),
                ];
                (SignatureAlgorithm::EdDsa, Vec::from(public))
            };
        let mut public: Map<String, Value> =
            public.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        public.insert("use".to_owned(), "sig".into());
        let set = json!({ "keys": [public.clone()] }).to_string();
        let keys = KeySet::parse(set.as_bytes()).map_err(|_| SigningKeyError::Read)?;
        let thumbprint = keys.get(None).ok_or(SigningKeyError::Read)?.thumbprint;
        let kid = kid.map_or_else(|| URL_SAFE_NO_PAD.encode(thumbprint), str::to_owned).into();
        Ok(Self { algorithm, pkcs8: Zeroizing::new(pkcs8.to_vec()), public, thumbprint, kid })
    }

    /// The key's name.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the private key, to be kept where nobody else reads it.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut pem = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
        let encoded = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        let mut rest = encoded.as_str();
        while let Some((line, more)) = rest.split_at_checked(PEM_LINE) {
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        if !rest.is_empty() {
            pem.push_str(rest);
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// Returns the public key as a JWK (RFC 7517 §4), for the set of an issuer.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        let mut public = self.public.clone();
        public.insert("kid".to_owned(), Value::from(&*self.kid));
        Value::Object(public)
    }

    /// Tells its public half from every other key.
    pub(crate) fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// Issues a token. Its number is random.
    ///
    /// # Errors
    /// If it could not be signed, or there were no random bytes for its number.
    pub fn issue(&self, order: &Order, now: SystemTime) -> Result<String, SigningKeyError> {
        self.issue_as(order, now, Some(&self.kid))
    }

    /// The same, with the name that the key has where the token is to count.
    pub(crate) fn issue_as(
        &self,
        order: &Order,
        now: SystemTime,
        kid: Option<&str>,
    ) -> Result<String, SigningKeyError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| SigningKeyError::Make)?;
        let now = seconds(now);
        let mut claims = json!({
            "iss": order.issuer,
            "aud": order.audience,
            "iat": now,
            "exp": now.saturating_add(order.life.as_secs()),
            "jti": URL_SAFE_NO_PAD.encode(id),
        });
        let optional = [
            ("container_id", &order.container),
            ("organization_uuid", &order.organization),
            ("sub", &order.subject),
            ("policy", &order.policy),
        ];
        let Some(members) = claims.as_object_mut() else { return Err(SigningKeyError::Sign) };
        for (name, value) in optional {
            members.extend(value.iter().map(|value| (name.to_owned(), Value::from(value.as_str()))));
        }
        if let Some(hosts) = &order.hosts {
            members.insert("allowed_hosts".to_owned(), hosts.join(",").into());
        }
        for (name, flag) in order.flags.named() {
            members.extend(flag.then(|| (name.to_owned(), Value::Bool(true))));
        }
        self.sign_as(&claims, kid)
    }

    /// Signs any claims.
    ///
    /// # Errors
    /// If that does not succeed.
    pub fn sign(&self, claims: &Value) -> Result<String, SigningKeyError> {
        self.sign_as(claims, Some(&self.kid))
    }

    fn sign_as(&self, claims: &Value, kid: Option<&str>) -> Result<String, SigningKeyError> {
        let mut header = Header::new(self.algorithm.algorithm());
        header.kid = kid.map(str::to_owned);
        // It says nothing that is not known, and a short token fits where there are 255 bytes for a password.
        header.typ = None;
        let key = match self.algorithm {
            SignatureAlgorithm::Es256 => EncodingKey::from_ec_der(&self.pkcs8),
            SignatureAlgorithm::EdDsa => EncodingKey::from_ed_der(&self.pkcs8),
            SignatureAlgorithm::Rs256 => return Err(SigningKeyError::Sign),
        };
        jsonwebtoken::encode(&header, claims, &key).map_err(|_| SigningKeyError::Sign)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Flags {
    /// Each flag by the name of its claim.
    #[must_use]
    pub const fn named(self) -> [(&'static str, bool); 4] {
        [
            ("enforce_container_binding", self.enforce_container_binding),
            ("use_egress_gateway", self.use_egress_gateway),
            ("enforce_centralized_egress", self.enforce_centralized_egress),
            ("is_hipaa_regulated", self.is_hipaa_regulated),
        ]
    }
}
