//! Password hashes: the two kinds, their text form, and how a password is checked and made.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{self, phc},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The most memory one check may use, in KiB (256 MiB). Four times the second recommendation of RFC 9106 §4; its
/// first, 2 GiB, would let a few logins at once exhaust a small machine.
const MEMORY_KIB_MAX: u32 = 256 * 1024;

/// The most memory × passes of one check, in KiB (1 GiB): about a second of one core.
const WORK_KIB_MAX: u64 = 1024 * 1024;

/// The most lanes of one check. They run one after the other here; more only make the hash harder to reason about.
const LANES_MAX: u32 = 16;

/// The least bytes of hash output, of which an attacker would have to guess all.
const OUTPUT_BYTES_MIN: usize = 16;

/// The bytes of a salt that is made here, as RFC 9106 §3.1 recommends.
const SALT_BYTES: usize = 16;

/// The random bytes of a password that is made here: 160 bit, beyond any guessing, so that plain SHA-256 of it
/// is as good as argon2 and 300 000 times cheaper to check.
const GENERATED_BYTES: usize = 20;

const SHA256_PREFIX: &str = "sha256:";

/// The hash of one password. Shows its kind in `Debug`, and neither salt nor hash.
pub struct PasswordHash(Kind);

enum Kind {
    /// For passwords that a human chose: slow on purpose.
    Argon2id(Box<phc::PasswordHash>),
    /// For passwords that were generated with at least 128 bit of randomness.
    Sha256([u8; 32]),
}

/// Why a text is not a usable password hash. Never shows the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordHashError {
    /// Neither of the two kinds; a password in clear, perhaps.
    #[error("not a password hash: it starts with neither `$argon2id$` nor `sha256:`")]
    Kind,
    /// Another function of the argon2 family.
    #[error("only argon2id is accepted, not argon2i or argon2d")]
    Variant,
    /// Not 64 hexadecimal digits.
    #[error("`sha256:` must be followed by 64 hexadecimal digits")]
    Sha256,
    /// Not a PHC string.
    #[error("the argon2id hash is damaged or incomplete")]
    Damaged,
    /// A version other than 1.3.
    #[error("only version 1.3 of argon2id (`v=19`) is accepted")]
    Version,
    /// One of `m`, `t` and `p` is missing, or out of the function's own bounds.
    #[error("the argon2id hash needs valid parameters `m`, `t` and `p`")]
    Parameters,
    /// Salt or output are missing, or the output is too short.
    #[error("the argon2id hash needs a salt, and an output of at least {OUTPUT_BYTES_MIN} bytes")]
    Output,
    /// Checking a password would take too much memory.
    #[error("a check would take {kib} KiB of memory, more than {MEMORY_KIB_MAX}: hash the password again")]
    Memory {
        /// How much, in KiB.
        kib: u32,
    },
    /// Checking a password would take too long.
    #[error("a check would pass over {kib} KiB of memory, more than {WORK_KIB_MAX}: hash the password again")]
    Work {
        /// Memory × passes, in KiB.
        kib: u64,
    },
    /// More lanes than are accepted.
    #[error("the hash has {lanes} lanes, more than {LANES_MAX}: hash the password again")]
    Lanes {
        /// How many.
        lanes: u32,
    },
}

/// Why no secret could be made.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Hash(#[source] password_hash::Error),
}

/// What came of comparing a password with a hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Match {
    Yes,
    No,
    /// There was no memory to tell.
    Unknown,
}

impl PasswordHash {
    /// Parses `$argon2id$v=19$m=…,t=…,p=…$salt$hash` or `sha256:` and 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// For any other text, and for argon2 parameters that would make one check a burden: more than 256 MiB of
    /// memory, 1 GiB of memory × passes, or 16 lanes.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        if let Some(digits) = text.strip_prefix(SHA256_PREFIX) {
            return Ok(Self(Kind::Sha256(parse_sha256(digits)?)));
        }
        if text.starts_with("$argon2i$") || text.starts_with("$argon2d$") {
            return Err(PasswordHashError::Variant);
        }
        if !text.starts_with("$argon2id$") {
            return Err(PasswordHashError::Kind);
        }
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::Damaged)?;
        check_argon2id(&hash)?;
        Ok(Self(Kind::Argon2id(Box::new(hash))))
    }

    /// Returns whether a check takes long enough to need a thread of its own.
    pub(crate) fn is_slow(&self) -> bool {
        match self.0 {
            Kind::Argon2id(_) => true,
            Kind::Sha256(_) => false,
        }
    }

    /// Compares `password` with the hash, in a time that does not depend on where they differ.
    pub(crate) fn verify(&self, password: &[u8]) -> Match {
        match &self.0 {
            Kind::Sha256(hash) => {
                let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(password)));
                if bool::from(digest.ct_eq(hash)) { Match::Yes } else { Match::No }
            }
            Kind::Argon2id(hash) => match Argon2::default().verify_password(password, hash.as_ref()) {
                Ok(()) => Match::Yes,
                Err(password_hash::Error::PasswordInvalid) => Match::No,
                Err(_) => Match::Unknown,
            },
        }
    }

    /// Compares a password that was generated with its hash, in a time that does not depend on where they differ. It is of no
    /// other password.
    #[must_use]
    pub fn is_of_generated(&self, password: &[u8]) -> bool {
        !self.is_slow() && self.verify(password) == Match::Yes
    }

    /// Feeds the whole hash to `digest`, so that two that differ are told apart.
    pub(crate) fn digest_into(&self, digest: &mut Sha256) {
        match &self.0 {
            Kind::Argon2id(hash) => digest.update(hash.to_string()),
            Kind::Sha256(hash) => {
                digest.update(SHA256_PREFIX);
                digest.update(hash);
            }
        }
        digest.update([0]);
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Argon2id(_) => "PasswordHash(argon2id)",
            Kind::Sha256(_) => "PasswordHash(sha256)",
        })
    }
}

fn parse_sha256(digits: &str) -> Result<[u8; 32], PasswordHashError> {
    let mut hash = [0; 32];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return Err(PasswordHashError::Sha256);
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Ok(hash)
}

fn hex_digit(digit: u8) -> Result<u8, PasswordHashError> {
    let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    value.ok_or(PasswordHashError::Sha256)
}

fn check_argon2id(hash: &phc::PasswordHash) -> Result<(), PasswordHashError> {
    if hash.version != Some(Version::V0x13.into()) {
        return Err(PasswordHashError::Version);
    }
    if ["m", "t", "p"].iter().any(|&name| hash.params.get_decimal(name).is_none()) {
        return Err(PasswordHashError::Parameters);
    }
    let output = hash.hash.as_ref().map_or(0, |output| output.len());
    if hash.salt.is_none() || output < OUTPUT_BYTES_MIN {
        return Err(PasswordHashError::Output);
    }
    let params = Params::try_from(hash).map_err(|_| PasswordHashError::Parameters)?;
    if params.m_cost() > MEMORY_KIB_MAX {
        return Err(PasswordHashError::Memory { kib: params.m_cost() });
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if work > WORK_KIB_MAX {
        return Err(PasswordHashError::Work { kib: work });
    }
    if params.p_cost() > LANES_MAX {
        return Err(PasswordHashError::Lanes { lanes: params.p_cost() });
    }
    Ok(())
}

/// Returns the argon2id hash of a password that a human chose, with a new salt and the function's default
/// cost (19 MiB, 2 passes).
///
/// # Errors
///
/// If there is no randomness for the salt, or no memory.
pub fn hash_password(password: &[u8]) -> Result<String, SecretError> {
    hash_argon2id(password, Params::DEFAULT)
}

fn hash_argon2id(password: &[u8], params: Params) -> Result<String, SecretError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(SecretError::Random)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password_with_salt(password, &salt).map_err(SecretError::Hash)?;
    Ok(hash.to_string())
}

/// Returns the `sha256:` hash of a password with at least 128 bit of randomness, such as
/// [`generate_password`] makes. For a password that a human chose, it is no protection.
pub fn hash_generated(password: &[u8]) -> String {
    let digits = Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{SHA256_PREFIX}{digits}")
}

/// Returns a new password: 160 random bits in 27 letters, digits, `-` and `_`, which need no escaping in a URL.
///
/// # Errors
///
/// If there is no randomness.
pub fn generate_password() -> Result<String, SecretError> {
    let mut bytes = Zeroizing::new([0; GENERATED_BYTES]);
    getrandom::fill(&mut *bytes).map_err(SecretError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(*bytes))
}

/// The cheapest argon2id hash, for tests.
#[cfg(test)]
pub(crate) fn cheap_argon2id(password: &str) -> String {
    hash_argon2id(password.as_bytes(), Params::new(8, 1, 1, None).unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "c2FsdHNhbHRzYWx0c2FsdA";
    const OUTPUT: &str = "aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";

    #[test]
    fn only_bounded_argon2id_and_sha256_are_parsed() {
        let argon2 = |head: &str| format!("$argon2id${head}${SALT}${OUTPUT}");
        let (hex, upper) = ("0123456789abcdef".repeat(4), "0123456789ABCDEF".repeat(4));
        let cases: &[(&str, String, Result<(), PasswordHashError>)] = &[
            ("argon2id", argon2("v=19$m=19456,t=2,p=1"), Ok(())),
            ("largest memory", argon2("v=19$m=262144,t=4,p=16"), Ok(())),
            ("memory", argon2("v=19$m=262145,t=1,p=1"), Err(PasswordHashError::Memory { kib: 262_145 })),
            (
                "most memory",
                argon2("v=19$m=4294967295,t=1,p=1"),
                Err(PasswordHashError::Memory { kib: u32::MAX }),
            ),
            ("work", argon2("v=19$m=262144,t=5,p=1"), Err(PasswordHashError::Work { kib: 5 * 262_144 })),
            (
                "passes",
                argon2("v=19$m=8,t=4294967295,p=1"),
                Err(PasswordHashError::Work { kib: 8 * u64::from(u32::MAX) }),
            ),
            ("lanes", argon2("v=19$m=19456,t=2,p=17"), Err(PasswordHashError::Lanes { lanes: 17 })),
            ("too little memory", argon2("v=19$m=7,t=1,p=1"), Err(PasswordHashError::Parameters)),
            ("no passes", argon2("v=19$m=8,t=0,p=1"), Err(PasswordHashError::Parameters)),
            ("lanes missing", argon2("v=19$m=8,t=1"), Err(PasswordHashError::Parameters)),
            ("old version", argon2("v=16$m=8,t=1,p=1"), Err(PasswordHashError::Version)),
            ("version missing", argon2("m=8,t=1,p=1"), Err(PasswordHashError::Version)),
            ("output missing", format!("$argon2id$v=19$m=8,t=1,p=1${SALT}"), Err(PasswordHashError::Output)),
            (
                "short output",
                format!("$argon2id$v=19$m=8,t=1,p=1${SALT}$aGFzaGhhc2hoYXNoaGFz"),
                Err(PasswordHashError::Output),
            ),
            ("trailing", argon2("v=19$m=8,t=1,p=1") + "$x", Err(PasswordHashError::Damaged)),
            (
                "argon2i",
                format!("$argon2i$v=19$m=8,t=1,p=1${SALT}${OUTPUT}"),
                Err(PasswordHashError::Variant),
            ),
            (
                "argon2d",
                format!("$argon2d$v=19$m=8,t=1,p=1${SALT}${OUTPUT}"),
                Err(PasswordHashError::Variant),
            ),
            ("bcrypt", "$2b$12$abcdefghijklmnopqrstuv".to_owned(), Err(PasswordHashError::Kind)),
            ("in clear", "hunter2".to_owned(), Err(PasswordHashError::Kind)),
            ("empty", String::new(), Err(PasswordHashError::Kind)),
            ("sha256", format!("sha256:{hex}"), Ok(())),
            ("sha256, upper case", format!("sha256:{upper}"), Ok(())),
            ("sha256, short", format!("sha256:{}", &hex[1..]), Err(PasswordHashError::Sha256)),
            ("sha256, long", format!("sha256:{hex}0"), Err(PasswordHashError::Sha256)),
            ("sha256, not hex", format!("sha256:{}g", &hex[1..]), Err(PasswordHashError::Sha256)),
            ("sha256, signs", format!("sha256:{}", "+1".repeat(32)), Err(PasswordHashError::Sha256)),
        ];
        for (name, input, want) in cases {
            assert_eq!(PasswordHash::parse(input).map(drop), *want, "{name}");
        }
    }

    #[test]
    fn what_is_hashed_is_verified_and_nothing_else() {
        let default = hash_password(b"correct horse").unwrap();
        assert!(default.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{default}");
        for text in [default, cheap_argon2id("correct horse"), hash_generated(b"correct horse")] {
            let hash = PasswordHash::parse(&text).unwrap();
            assert_eq!(hash.verify(b"correct horse"), Match::Yes);
            assert_eq!(hash.verify(b"correct horsf"), Match::No);
            assert_eq!(hash.verify(b"correct horse "), Match::No);
            assert_eq!(hash.verify(b""), Match::No);
        }
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            hash_generated(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_generated_password_is_160_bit_and_url_safe() {
        let (one, other) = (generate_password().unwrap(), generate_password().unwrap());
        assert_ne!(one, other);
        assert_eq!(URL_SAFE_NO_PAD.decode(&one).unwrap().len(), 20);
        assert!(
            one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
            "{one}"
        );
    }

    #[test]
    fn debug_shows_the_kind_alone() {
        let hash = PasswordHash::parse(&cheap_argon2id("x")).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(argon2id)");
        let hash = PasswordHash::parse(&hash_generated(b"x")).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(sha256)");
    }
}
