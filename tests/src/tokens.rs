//! An issuer of tokens, as a platform has one, and what the proxy has to know of it.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use exeat_identity::{SignatureAlgorithm, SigningKey};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};

/// The container that tokens are for unless they say otherwise.
pub const CONTAINER: &str = "sbx-1";

/// An issuer with one key.
pub struct TokenIssuer {
    /// The key.
    pub key: SigningKey,
}

impl TokenIssuer {
    /// An issuer with a new key of this name.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn new(algorithm: SignatureAlgorithm, kid: &str) -> Result<Self> {
        Ok(Self { key: SigningKey::generate(algorithm, Some(kid))? })
    }

    /// Writes the public keys of these issuers to `jwks.json`.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn publish(issuers: &[&Self], directory: &Path) -> Result<()> {
        let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.key.to_jwk()).collect();
        fs::write(directory.join("jwks.json"), json!({ "keys": keys }).to_string()).context("jwks.json")
    }

    /// The section of the configuration, with `policy` as the ceiling and further `lines`.
    #[must_use]
    pub fn section(policy: &str, lines: &str) -> String {
        format!(
            "[issuer.sandboxes]
issuer = \"secure-egress-control\"
audience = \"egress-proxy\"
jwks = {{ file = \"jwks.json\" }}
ceiling = \"{policy}\"
{lines}
"
        )
    }

    /// A token for an hour, with claims changed: `null` removes one.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, changes: Value) -> Result<String> {
        Ok(self.key.sign(&claims(changes)?)?)
    }

    /// A token with this header and these claims as they are written, signed by an ES256 key all the same.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn forged(&self, header: &str, claims: &str) -> Result<String> {
        let pem = self.key.to_pem();
        let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let key = EncodingKey::from_ec_der(&STANDARD.decode(lines)?);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::ES256)?;
        Ok(format!("{signed}.{signature}"))
    }

    /// The public key as the configuration has it inline.
    #[must_use]
    pub fn inline(&self) -> String {
        let jwk = self.key.to_jwk();
        let members = jwk.as_object().into_iter().flatten();
        let pairs: Vec<String> = members.map(|(name, value)| format!("{name} = {value}")).collect();
        format!("{{ {} }}", pairs.join(", "))
    }
}

/// The claims of a token for an hour, changed: `null` removes one.
///
/// # Errors
/// When the clock stands before 1970.
pub fn claims(changes: Value) -> Result<Value> {
    let now = now()?;
    let mut claims = json!({
        "iss": "secure-egress-control",
        "aud": "egress-proxy",
        "iat": now,
        "exp": now + 3600,
        "jti": "j1",
        "container_id": CONTAINER,
        "organization_uuid": "org-1",
        "allowed_hosts": "example.com,*.example.org,cdn.example.net:8443",
    });
    let members = claims.as_object_mut().context("an object")?;
    let changes: Map<String, Value> = changes.as_object().cloned().unwrap_or_default();
    for (name, value) in changes {
        if value.is_null() {
            members.remove(&name);
        } else {
            members.insert(name, value);
        }
    }
    Ok(claims)
}

/// The time, in seconds since 1970.
///
/// # Errors
/// When the clock stands before.
pub fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// The field that carries a token as the password of a container.
#[must_use]
pub fn basic(container: &str, token: &str) -> String {
    let credentials = STANDARD.encode(format!("container_{container}:jwt_{token}"));
    format!("Proxy-Authorization: Basic {credentials}\r\n")
}

/// The field that carries a token by itself.
#[must_use]
pub fn bearer(token: &str) -> String {
    format!("Proxy-Authorization: Bearer {token}\r\n")
}
