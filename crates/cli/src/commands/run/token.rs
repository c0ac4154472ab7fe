//! The token that a command runs under.

use std::env;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use exeat_identity::TOKEN_BYTES_MAX;
use exeat_store::open_regular;

/// What stands before the name of a variable.
const VARIABLE: &str = "env:";

/// Reads it from a file, or from the variable that it names.
///
/// # Errors
/// If it is not there, or is too long for one.
pub(super) fn read(place: &Path) -> anyhow::Result<String> {
    let text = match variable(place) {
        Some(name) => env::var(name).with_context(|| format!("cannot read the token in ${name}"))?,
        None => {
            let mut text = String::new();
            let most = TOKEN_BYTES_MAX as u64 + 1;
            let read = open_regular(place).and_then(|file| file.take(most).read_to_string(&mut text));
            read.with_context(|| format!("cannot read the token in `{}`", place.display()))?;
            text
        }
    };
    match text.trim() {
        "" => bail!("no token in `{}`", place.display()),
        token => Ok(token.to_owned()),
    }
}

/// The file that it is in.
pub(super) fn file(place: &Path) -> Option<&Path> {
    variable(place).is_none().then_some(place)
}

/// The variable that it is in.
pub(super) fn variable(place: &Path) -> Option<&str> {
    place.to_str()?.strip_prefix(VARIABLE)
}
