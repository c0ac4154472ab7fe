//! `[issuer.NAME]`: whose tokens count, and what they cannot exceed.

use std::io::Read as _;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use exeat_identity::{
    IssuerSpec, Issuers, KEY_SET_BYTES_MAX, KeyError, KeySet, KeySetError, Keyring, LEEWAY_MAX, Lifetime,
    SigningKey,
};
use exeat_proxy::KeySource;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::document::{Cx, Document, Named};
use crate::files::reason;
use crate::key_servers::{self, Remote};
use crate::keys;
use crate::listeners::warn_if_readable;
use crate::names;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, Value, What};
use crate::regular::open_regular;

/// Largest file of keys, in bytes.
const JWKS_BYTES_MAX: u64 = KEY_SET_BYTES_MAX as u64;

/// Longest `iss`, `aud` and prefix, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// How long a token may live: from a minute to a month.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(31 * 24 * 3600);

/// How long it may live unless told otherwise.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// By how much clocks may differ.
const LEEWAYS: RangeInclusive<Duration> = Duration::ZERO..=LEEWAY_MAX;

/// By how much they may differ unless told otherwise.
const LEEWAY: Duration = Duration::from_secs(10);

/// What the user name of a token begins with unless told otherwise.
const USER_PREFIX: &str = "container_";

/// What its password begins with unless told otherwise.
const PASSWORD_PREFIX: &str = "jwt_";

/// How to write `jwks`.
const JWKS_HELP: &str = "write jwks = { file = \"jwks.json\" }, { url = \"https://issuer.example/jwks.json\" }, or { keys = [{ kty = \"EC\", … }] } with the keys themselves";

/// Where the keys of an issuer are.
pub(crate) enum Keys {
    /// In the configuration, or in a file beside it.
    Here(KeySet),
    /// They are fetched.
    Remote(Box<Remote>),
}

/// An issuer as its table says.
pub(crate) struct Issuer {
    name: String,
    issuer: Option<(String, Range<usize>)>,
    audience: Option<String>,
    /// `None` if they are an error, which has been reported.
    pub(crate) keys: Option<Keys>,
    signing: Option<SigningKey>,
    pub(crate) ceiling: Option<(String, Range<usize>)>,
    pub(crate) policies: Vec<(String, Range<usize>)>,
    lifetime: Lifetime,
    user_prefix: String,
    password_prefix: String,
    enforce_container_binding: bool,
}

/// Reads an issuer.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Issuer {
    if let Err(finding) = names::check(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let fields = &named.fields;
    for (key, help) in [
        ("issuer", "write the `iss` of its tokens: issuer = \"…\""),
        ("audience", "write the `aud` that its tokens have for this proxy: audience = \"egress-proxy\""),
        ("ceiling", "name the policy that no token exceeds: ceiling = \"…\""),
    ] {
        fields.required(key, &named.title, help, cx.notes);
    }
    let keys = match fields.required("jwks", &named.title, JWKS_HELP, cx.notes) {
        Some(value) => read_jwks(value, cx),
        None => None,
    };
    let signing = read_signing_key(fields, keys.as_ref(), cx);
    let text = |key: &str, notes: &mut Notes| read_text(fields, key, notes);
    let prefix = |key, default: &str, notes: &mut Notes| {
        read_prefix(fields, key, notes).unwrap_or_else(|| default.to_owned())
    };
    let policies = fields.list("policies", "policy names", cx.notes).unwrap_or_default();
    let policy = |value: &Value<'_>, notes: &mut Notes| {
        let name = reader::string(value, What::Element("a policy name"), notes)?;
        Some((name.to_owned(), value.span()))
    };
    Issuer {
        name: named.name.to_owned(),
        issuer: text("issuer", cx.notes),
        audience: text("audience", cx.notes).map(|(audience, _)| audience),
        keys,
        signing,
        ceiling: text("ceiling", cx.notes),
        policies: policies.iter().filter_map(|value| policy(value, cx.notes)).collect(),
        lifetime: Lifetime {
            leeway: fields.duration("leeway", &LEEWAYS, cx.notes).unwrap_or(LEEWAY),
            longest: fields.duration("max_lifetime", &LIFETIMES, cx.notes).unwrap_or(LIFETIME),
        },
        user_prefix: prefix("user_prefix", USER_PREFIX, cx.notes),
        password_prefix: prefix("password_prefix", PASSWORD_PREFIX, cx.notes),
        enforce_container_binding: fields.boolean("enforce_container_binding", cx.notes).unwrap_or(false),
    }
}

fn read_text(fields: &Fields<'_, '_>, key: &str, notes: &mut Notes) -> Option<(String, Range<usize>)> {
    let text = fields.string(key, notes)?;
    let span = fields.get(key).map_or(fields.span(), Spanned::span);
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Some((text.to_owned(), span));
    }
    let message = format!("`{key}` has 1 to {TEXT_BYTES_MAX} bytes and no control characters");
    notes.push(span, Finding::error(Code::InvalidValue, message).help(format!("write {key} = \"…\"")));
    None
}

/// Reads what a user name or a password with a token begins with. An empty prefix would take every password for a token.
fn read_prefix(fields: &Fields<'_, '_>, key: &str, notes: &mut Notes) -> Option<String> {
    let (prefix, span) = read_text(fields, key, notes)?;
    if prefix.contains(':') {
        let finding = Finding::error(Code::InvalidValue, format!("`{key}` has a colon"));
        notes.push(span, finding.help("the user name of Basic credentials ends at the first colon"));
        return None;
    }
    Some(prefix)
}

fn read_jwks(value: &Value<'_>, cx: &mut Cx<'_, '_>) -> Option<Keys> {
    let table = reader::table(value, What::Key("jwks"), JWKS_HELP, cx.notes)?;
    let fields = Fields::check(table, value.span(), "`jwks`", keys::ISSUER_JWKS, cx.notes);
    let given: Vec<&str> =
        ["file", "keys", "url"].into_iter().filter(|key| fields.get(key).is_some()).collect();
    if given != ["url"] {
        key_servers::refuse_without_url(&fields, cx.notes);
    }
    match given.as_slice() {
        ["file"] => read_file(&fields, cx).map(Keys::Here),
        ["keys"] => read_inline(&fields, cx.notes).map(Keys::Here),
        ["url"] => key_servers::read(&fields, cx).map(|remote| Keys::Remote(Box::new(remote))),
        _ => {
            let finding = Finding::error(Code::Conflict, "`jwks` has one of `file`, `keys` and `url`");
            cx.notes.push(value.span(), finding.help(JWKS_HELP));
            None
        }
    }
}

/// Keys in a file, as issuers publish them.
fn read_file(fields: &Fields<'_, '_>, cx: &mut Cx<'_, '_>) -> Option<KeySet> {
    let text = fields.string("file", cx.notes)?;
    let span = fields.get("file").map_or(fields.span(), Spanned::span);
    let path = cx.base_dir.join(text);
    match read_bytes(&path) {
        Ok(bytes) => {
            cx.files.note(&path.to_string_lossy(), &bytes);
            let parsed = KeySet::parse(&bytes)
                .map_err(|error| {
                    let finding = finding(&error);
                    let message = format!("`{}`: {}", shown(text), finding.message);
                    cx.notes.push(span.clone(), Finding { message, ..finding });
                })
                .ok();
            for (position, why) in parsed.iter().flat_map(KeySet::skipped) {
                let message = format!("`{}`: key {position} is left out: {why}", shown(text));
                let help = "tokens that it signed do not count here";
                cx.notes.push(span.clone(), Finding::warning(Code::Suspicious, message).help(help));
            }
            parsed
        }
        Err(finding) => {
            cx.notes.push(span, finding);
            None
        }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Finding> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(JWKS_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let message = format!("the keys in `{}` cannot be read: {}", shown(&name), reason(&error));
        let help = "relative paths start from the folder of the configuration file";
        return Err(Finding::error(Code::Unreadable, message).help(help));
    }
    if bytes.len() as u64 > JWKS_BYTES_MAX {
        let kib = JWKS_BYTES_MAX / 1024;
        let message = format!("`{}` is larger than {kib} KiB", shown(&name));
        return Err(Finding::error(Code::TooLarge, message).help("put a JWK set alone into the file"));
    }
    Ok(bytes)
}

/// The private key of the tokens that are issued here. What is in the file is shown nowhere.
fn read_signing_key(fields: &Fields<'_, '_>, keys: Option<&Keys>, cx: &mut Cx<'_, '_>) -> Option<SigningKey> {
    let text = fields.string("signing_key", cx.notes)?;
    let span = fields.get("signing_key").map_or(fields.span(), Spanned::span);
    let path = cx.base_dir.join(text);
    let mut fail = |finding: Finding| cx.notes.push(span.clone(), finding);
    let bytes = Zeroizing::new(read_bytes(&path).map_err(&mut fail).ok()?);
    let name = path.display().to_string();
    let key = SigningKey::parse(&bytes, None).map_err(|error| {
        let finding = Finding::error(Code::InvalidValue, format!("`{}`: {error}", shown(&name)));
        fail(finding.help("exeat token keygen makes one"));
    });
    let key = key.ok()?;
    if let Some(Keys::Here(set)) = keys
        && !set.has_half_of(&key)
    {
        let message = "the public half of the signing key is not among the issuer's keys";
        fail(Finding::error(Code::Conflict, message).help("add it to `jwks`: tokens would count nowhere"));
        return None;
    }
    cx.files.note_secret(&name, &bytes);
    warn_if_readable(&path, span, cx.notes);
    Some(key)
}

/// Keys in the configuration: each a table of the members of a JWK.
fn read_inline(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<KeySet> {
    let list = fields.list("keys", "keys", notes)?;
    let mut keys = Vec::new();
    for value in list {
        let help = "write the members of a JWK: { kty = \"EC\", crv = \"P-256\", x = \"…\", y = \"…\", kid = \"…\" }";
        keys.push(members(reader::table(value, What::Element("a key"), help, notes)?));
    }
    let set = json!({ "keys": keys }).to_string();
    // Who writes a key by hand means it to be used.
    let parsed = KeySet::parse(set.as_bytes()).and_then(|keys| {
        let skipped = keys.skipped().next();
        match skipped.map(|(position, source)| (position, source.clone())) {
            Some((position, source)) => Err(KeySetError::Key { position, source }),
            None => Ok(keys),
        }
    });
    match parsed {
        Ok(keys) => Some(keys),
        Err(error) => {
            let at = match &error {
                KeySetError::Key { position, .. } | KeySetError::Kid { position } => list.get(position - 1),
                KeySetError::Form | KeySetError::Empty | KeySetError::TooMany => None,
            };
            let span = at.or(fields.get("keys")).map_or(fields.span(), Spanned::span);
            notes.push(span, finding(&error));
            None
        }
    }
}

/// A table as a JSON object. What is neither text nor a list of texts is no value of a JWK, and stays one that is wrong.
fn members(table: &DeTable<'_>) -> Json {
    let value = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Array(list) => list.iter().map(|text| text.get_ref().as_str().unwrap_or_default()).collect(),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => Json::Null,
    };
    table.iter().map(|(key, member)| (key.get_ref().to_string(), value(member.get_ref()))).collect()
}

fn finding(error: &KeySetError) -> Finding {
    let (code, message) = match error {
        KeySetError::TooMany => (Code::TooLarge, error.to_string()),
        KeySetError::Key { source, .. } => (Code::InvalidValue, format!("{error}: {source}")),
        KeySetError::Form | KeySetError::Empty | KeySetError::Kid { .. } => {
            (Code::InvalidValue, error.to_string())
        }
    };
    let help = match error {
        KeySetError::Key { source: KeyError::Private, .. } => "leave `d` and the like out of it",
        KeySetError::Kid { .. } => "name each key, and let the issuer say in each token which one signed it",
        KeySetError::Key { .. } | KeySetError::Form | KeySetError::Empty | KeySetError::TooMany => {
            "publish the public keys of the issuer as a JWK set (RFC 7517 §5)"
        }
    };
    Finding::error(code, message).help(help)
}

/// Checks what issuers say of each other, of policies and of clients.
pub(crate) fn check(document: &Document, notes: &mut Notes) {
    for (position, issuer) in document.issuers.iter().enumerate() {
        let others = document.issuers.iter().take(position);
        if let Some((text, span)) = &issuer.issuer {
            let is_taken = |other: &Issuer| other.issuer.as_ref().is_some_and(|(other, _)| other == text);
            if others.into_iter().any(is_taken) {
                let message = format!("`{}` is the issuer of another section too", shown(text));
                let finding = Finding::error(Code::Duplicate, message);
                notes.push(span.clone(), finding.help("put the keys of both into one section"));
            }
        }
        for client in &document.clients {
            let begins_alike = client.name.starts_with(&issuer.user_prefix)
                || client.name.starts_with(&format!("{}/", issuer.name));
            if begins_alike {
                let message = format!(
                    "client `{}` is named like the tokens of `{}`",
                    shown(&client.name),
                    shown(&issuer.name)
                );
                let help = format!(
                    "choose another name: `{}…` is the user name of a token, `{}/…` its name in records",
                    shown(&issuer.user_prefix),
                    shown(&issuer.name)
                );
                notes.push(client.span.clone(), Finding::error(Code::Conflict, message).help(help));
            }
        }
    }
}

/// The names of the policies that issuers use.
pub(crate) fn policy_uses(issuers: &[Issuer]) -> impl Iterator<Item = (&str, &Range<usize>)> {
    let uses = issuers.iter().flat_map(|issuer| issuer.ceiling.iter().chain(&issuer.policies));
    uses.map(|(name, span)| (name.as_str(), span))
}

/// The issuers as requests find them, and what fetches the keys of those whose are fetched.
pub(crate) fn issuers(issuers: Vec<Issuer>) -> (Issuers, Vec<Arc<KeySource>>) {
    let mut sources = Vec::new();
    // Where a part is an error, nothing is compiled.
    let spec = |issuer: Issuer| {
        let name: Arc<str> = issuer.name.into();
        let keys = match issuer.keys? {
            Keys::Here(keys) => Arc::new(keys.into()),
            Keys::Remote(remote) => {
                let keyring = Arc::<Keyring>::default();
                sources.push(remote.source(Arc::clone(&name), Arc::clone(&keyring)));
                keyring
            }
        };
        Some(IssuerSpec {
            name,
            issuer: issuer.issuer?.0.into(),
            audience: issuer.audience?.into(),
            keys,
            ceiling: issuer.ceiling?.0,
            policies: issuer.policies.into_iter().map(|(name, _)| name).collect(),
            lifetime: issuer.lifetime,
            user_prefix: issuer.user_prefix.into(),
            password_prefix: issuer.password_prefix.into(),
            enforce_container_binding: issuer.enforce_container_binding,
            signing: issuer.signing,
        })
    };
    let issuers = Issuers::new(issuers.into_iter().filter_map(spec).collect());
    (issuers, sources)
}
