//! Changes the configuration file and keeps what its author wrote: comments, order and spacing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::Path;

use exeat_identity::{PasswordHash, PasswordHashError};
use exeat_policy::Labels;
use toml_edit::{Array, DocumentMut, Formatted, InlineTable, Item, Table, Value};

use crate::clients::PASSWORDS_MAX;
use crate::keys::{CLIENT, POLICY};
use crate::names;

/// A client to be added.
#[derive(Clone, Debug)]
pub struct NewClient<'c> {
    /// Its name, which is the user name of its credentials.
    pub name: &'c str,
    /// The hash of its password, as `exeat client hash` prints it.
    pub password_hash: &'c str,
    /// The policies that it names.
    pub policies: &'c [String],
    /// Its labels.
    pub labels: &'c Labels,
}

/// What to do if the client is there already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Add the password as a second one, for rotation, and change nothing else.
    AddPassword,
}

/// Why a client was not added.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file is not TOML: `exeat check` tells where.
    #[error("the configuration is not valid TOML: run `exeat check`")]
    Syntax,
    /// The name cannot be a user name.
    #[error("{message}")]
    Name {
        /// Why, with the correction.
        message: String,
    },
    /// What is given as a hash is none.
    #[error("the password hash is not one that `exeat client hash` prints")]
    Hash(#[source] PasswordHashError),
    /// The client is there already.
    #[error("client `{name}` exists: add a second password to it with --rotate, or choose another name")]
    Exists {
        /// Its name.
        name: String,
    },
    /// The client has as many passwords as it may.
    #[error("client `{name}` has {PASSWORDS_MAX} passwords: remove the old one first")]
    TooManyPasswords {
        /// Its name.
        name: String,
    },
    /// The section, the client or its passwords are of another type than this can extend.
    #[error("`{path}` is not written as {expected}: run `exeat check`")]
    Shape {
        /// What was found.
        path: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// Returns `text` with the client added.
///
/// A new client becomes a table `[client.NAME]` after the last client, or at the end of the file.
///
/// # Errors
/// See [`EditError`]; the text is not changed then.
pub fn add_client(text: &str, client: &NewClient<'_>, existing: Existing) -> Result<String, EditError> {
    names::check_client(client.name).map_err(|finding| EditError::Name {
        message: finding.help.map_or(finding.message.clone(), |help| format!("{}: {help}", finding.message)),
    })?;
    PasswordHash::parse(client.password_hash).map_err(EditError::Hash)?;
    let mut document: DocumentMut = text.parse().map_err(|_: toml_edit::TomlError| EditError::Syntax)?;
    let position = after_last_client(&document);
    let clients = document.entry(CLIENT.name).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    // The space before a closing brace would stand before the comma.
    if let Some((_, last)) = clients.as_inline_table_mut().and_then(|clients| clients.iter_mut().last()) {
        last.decor_mut().set_suffix("");
    }
    let shape = || EditError::Shape { path: CLIENT.name.to_owned(), expected: "a table" };
    let clients = clients.as_table_like_mut().ok_or_else(shape)?;
    match clients.get_mut(client.name) {
        None => {
            clients.insert(client.name, Item::Table(client_table(client, position, text.trim().is_empty())));
        }
        Some(found) => match existing {
            Existing::Refuse => return Err(EditError::Exists { name: client.name.to_owned() }),
            Existing::AddPassword => add_password(found, client)?,
        },
    }
    Ok(with_line_ends_of(text, document.to_string()))
}

/// Returns `text` with an entry added at the end of what a policy allows.
///
/// # Errors
/// See [`EditError`]; the text is not changed then. Whether it is an entry is for a load of the new text to say.
pub fn add_entry(text: &str, policy: &str, entry: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse().map_err(|_: toml_edit::TomlError| EditError::Syntax)?;
    let path = |part: &str| format!("{}.{policy}{part}", POLICY.name);
    let shape = || EditError::Shape { path: path(""), expected: "a table" };
    let policies = document.get_mut(POLICY.name).and_then(Item::as_table_like_mut).ok_or_else(shape)?;
    let table = policies.get_mut(policy).and_then(Item::as_table_like_mut).ok_or_else(shape)?;
    let allow = table.entry("allow").or_insert_with(|| list([]));
    let allow =
        allow.as_array_mut().ok_or_else(|| EditError::Shape { path: path(".allow"), expected: "a list" })?;
    push_keeping_comments(allow, entry);
    Ok(with_line_ends_of(text, document.to_string()))
}

/// The editor writes LF only; a file that had CRLF throughout keeps it.
fn with_line_ends_of(text: &str, edited: String) -> String {
    let crlf = text.matches("\r\n").count();
    if crlf > 0 && crlf == text.matches('\n').count() {
        edited.replace("\r\n", "\n").replace('\n', "\r\n")
    } else {
        edited
    }
}

fn client_table(client: &NewClient<'_>, position: Option<isize>, is_first: bool) -> Table {
    let mut table = Table::new();
    table.insert("passwords", list([client.password_hash]));
    if !client.policies.is_empty() {
        table.insert("policies", list(client.policies.iter().map(String::as_str)));
    }
    if !client.labels.is_empty() {
        let mut labels = InlineTable::new();
        for (label, value) in client.labels.iter() {
            labels.insert(label.key(), value.into());
        }
        table.insert("labels", Item::Value(labels.into()));
    }
    table.set_position(position);
    table.decor_mut().set_prefix(if is_first { "" } else { "\n" });
    table
}

fn list<'v>(values: impl IntoIterator<Item = &'v str>) -> Item {
    Item::Value(Value::Array(values.into_iter().collect::<Array>()))
}

/// The position that puts a table behind the last client, and before what follows it.
fn after_last_client(document: &DocumentMut) -> Option<isize> {
    let clients = document.get(CLIENT.name)?.as_table()?;
    clients.iter().filter_map(|(_, client)| client.as_table()?.position()).max()
}

/// Adds a second password behind the first, in its style.
fn add_password(found: &mut Item, client: &NewClient<'_>) -> Result<(), EditError> {
    let path = |part: &str| format!("{}.{}{part}", CLIENT.name, client.name);
    let table =
        found.as_table_like_mut().ok_or_else(|| EditError::Shape { path: path(""), expected: "a table" })?;
    let passwords = table.entry("passwords").or_insert_with(|| list([]));
    let passwords = passwords
        .as_array_mut()
        .ok_or_else(|| EditError::Shape { path: path(".passwords"), expected: "a list" })?;
    if passwords.len() >= PASSWORDS_MAX {
        return Err(EditError::TooManyPasswords { name: client.name.to_owned() });
    }
    push_keeping_comments(passwords, client.password_hash);
    Ok(())
}

/// Appends to a list. A comment after the last element stays with that element: a plain push would put the new
/// element before it.
fn push_keeping_comments(list: &mut Array, text: &str) {
    let has_comma = list.trailing_comma();
    let first_indent = list.iter().next().map(|first| raw(first.decor().prefix())).unwrap_or_default();
    let last = list.len().checked_sub(1).and_then(|last| list.get_mut(last));
    let last_suffix = last.map(|last| {
        let suffix = raw(last.decor().suffix());
        last.decor_mut().set_suffix("");
        suffix
    });
    let trailing = list.trailing().as_str().unwrap_or_default().to_owned();
    let after = if has_comma { trailing } else { last_suffix.unwrap_or_default() + &trailing };
    let mut value = Value::String(Formatted::new(text.to_owned()));
    if !after.contains('\n') && !first_indent.contains('\n') {
        list.push(value);
        return;
    }
    let (kept, closing) = after.rsplit_once('\n').unwrap_or((&after, ""));
    let indent = first_indent.rsplit('\n').next().filter(|indent| !indent.is_empty()).unwrap_or("  ");
    value.decor_mut().set_prefix(format!("{kept}\n{indent}"));
    list.push_formatted(value);
    list.set_trailing(format!("\n{closing}"));
    list.set_trailing_comma(true);
}

fn raw(text: Option<&toml_edit::RawString>) -> String {
    text.and_then(toml_edit::RawString::as_str).unwrap_or_default().to_owned()
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {step}")]
pub struct WriteError {
    /// What was being done.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Replaces a file's content in one step: whoever reads it sees all of the old text or all of the new one. Keeps
/// the file's owner and permissions; follows a symbolic link to the file itself.
///
/// # Errors
/// If any step fails; the file is not changed then.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), WriteError> {
    let at = |step: &'static str| move |source: io::Error| WriteError { step, source };
    let path = fs::canonicalize(path).map_err(at("the file"))?;
    let metadata = fs::metadata(&path).map_err(at("the file"))?;
    if !metadata.is_file() {
        // A device or a pipe would be no more: a file takes its place.
        return Err(at("the file")(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut temporary =
        tempfile::Builder::new().prefix(".exeat-").tempfile_in(folder).map_err(at("a temporary file"))?;
    keep_owner(temporary.as_file(), &metadata).map_err(at("the owner"))?;
    temporary.as_file().set_permissions(metadata.permissions()).map_err(at("the permissions"))?;
    temporary.write_all(text.as_bytes()).map_err(at("a temporary file"))?;
    temporary.as_file().sync_all().map_err(at("a temporary file"))?;
    temporary.persist(&path).map_err(|error| at("the new file in place")(error.error))?;
    // Without this the rename may be lost in a power cut, which leaves the old text: not a reason to fail.
    let _best_effort = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Gives a new file the owner and group of the old one: root may edit the file of a service that is not root.
fn keep_owner(new: &File, old: &fs::Metadata) -> io::Result<()> {
    let is = new.metadata()?;
    if (is.uid(), is.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(new, Some(old.uid()), Some(old.gid()))
}
