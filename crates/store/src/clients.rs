//! `[client.NAME]`: principals with a password.

use std::ops::Range;

use exeat_identity::{PasswordHash, PasswordHashError};
use exeat_policy::{Caps, Labels};

use crate::caps;
use crate::document::{Cx, Named};
use crate::names;
use crate::notes::Notes;
use crate::policies;
use crate::problem::{Code, Finding};
use crate::reader::{self, Fields, Value, What};

/// Passwords of one client that are live at once: the old one and the new one of a rotation.
pub(crate) const PASSWORDS_MAX: usize = 2;

/// How to get a value for `passwords`.
const HASH_HELP: &str = "run `exeat client hash` and paste what it prints";

/// A client as its table says.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) hashes: Vec<PasswordHash>,
    /// The workloads that it must come from; `None` is anywhere.
    pub(crate) origins: Option<Vec<(String, Range<usize>)>>,
    pub(crate) policies: Vec<(String, Range<usize>)>,
    pub(crate) labels: Labels,
    /// What each of its flows may come to.
    pub(crate) caps: Caps,
}

/// Reads a client.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Client {
    if let Err(finding) = names::check_client(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let fields = &named.fields;
    fields.required("passwords", &named.title, HASH_HELP, cx.notes);
    let labels = fields.get("labels").and_then(|value| policies::read_labels(value, "labels", cx.notes));
    Client {
        name: named.name.to_owned(),
        span: named.span.clone(),
        hashes: read_passwords(fields, cx.notes),
        origins: read_origins(fields, cx.notes),
        policies: read_policies(fields, cx.notes),
        labels: labels.unwrap_or_default(),
        caps: caps::read(fields, cx.notes),
    }
}

fn read_passwords(fields: &Fields<'_, '_>, notes: &mut Notes) -> Vec<PasswordHash> {
    let list = match fields.get("passwords") {
        None => return Vec::new(),
        // The usual help would repeat the value.
        Some(value) if value.get_ref().is_str() => {
            let finding = Finding::error(
                Code::WrongType,
                "`passwords` must be a list of password hashes, not a string",
            );
            notes.push(value.span(), finding.help("put it in brackets: passwords = [\"…\"]"));
            std::slice::from_ref(value)
        }
        Some(value) => {
            reader::list(value, What::Key("passwords"), "password hashes", notes).unwrap_or_default()
        }
    };
    let span = fields.key_span("passwords").unwrap_or_else(|| fields.span());
    if list.is_empty() && fields.get("passwords").is_some_and(|value| value.get_ref().is_array()) {
        let finding = Finding::warning(Code::Suspicious, "a client without passwords cannot authenticate");
        notes.push(span, finding.help(HASH_HELP));
    } else if list.len() > PASSWORDS_MAX {
        let finding =
            Finding::error(Code::TooLarge, format!("a client has at most {PASSWORDS_MAX} passwords"));
        notes.push(span, finding.help("keep the current one and, while it is being replaced, the new one"));
    }
    list.iter().filter_map(|value| read_password(value, notes)).collect()
}

/// Reads one hash. No message repeats any of its text.
fn read_password(value: &Value<'_>, notes: &mut Notes) -> Option<PasswordHash> {
    let Some(text) = value.get_ref().as_str() else {
        let finding = Finding::error(
            Code::WrongType,
            "a password is written as the hash that `exeat client hash` prints",
        );
        notes.push(value.span(), finding.help(HASH_HELP));
        return None;
    };
    match PasswordHash::parse(text) {
        Ok(hash) => Some(hash),
        Err(PasswordHashError::Kind) => {
            let finding = Finding::error(Code::PlainPassword, "this is not a password hash");
            let finding = finding.label("must start with `$argon2id$` or `sha256:`");
            notes.push(
                value.span(),
                finding.help(format!("{HASH_HELP}; if this is a password, replace it: it has been on disk")),
            );
            None
        }
        Err(error) => {
            notes.push(value.span(), Finding::error(Code::InvalidValue, error.to_string()).help(HASH_HELP));
            None
        }
    }
}

/// Reads `policies`, of a client or a workload.
pub(crate) fn read_policies(fields: &Fields<'_, '_>, notes: &mut Notes) -> Vec<(String, Range<usize>)> {
    let list = fields.list("policies", "policy names", notes).unwrap_or_default();
    read_names(list, "a policy name", notes)
}

/// Reads the workloads that a client must come from; `None` if it may come from anywhere.
fn read_origins(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<Vec<(String, Range<usize>)>> {
    fields.get("origin")?;
    let list = fields.list("origin", "workload names", notes).unwrap_or_default();
    if list.is_empty() && fields.get("origin").is_some_and(|value| value.get_ref().is_array()) {
        let span = fields.key_span("origin").unwrap_or_else(|| fields.span());
        let finding =
            Finding::warning(Code::Suspicious, "a client with an empty `origin` counts from nowhere");
        notes.push(span, finding.help("name a workload, or remove `origin`"));
    }
    Some(read_names(list, "a workload name", notes))
}

fn read_names(list: &[Value<'_>], what: &str, notes: &mut Notes) -> Vec<(String, Range<usize>)> {
    let read = |value: &Value<'_>| {
        let name = reader::string(value, What::Element(what), notes)?;
        Some((name.to_owned(), value.span()))
    };
    list.iter().filter_map(read).collect()
}
