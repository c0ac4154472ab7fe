//! What configurations are made of.

use std::io::{self, BufWriter, Write};

use anyhow::Result;

use crate::names;

/// Policies that the clients share between them.
const POLICIES: u64 = 100;

/// Prints one line.
///
/// # Errors
/// If nobody reads it.
pub(crate) fn line(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Prints the first `count` listed names.
///
/// # Errors
/// If nobody reads them.
pub(crate) fn rules(count: u64) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for rule in 0..count {
        writeln!(out, "{}", names::listed(rule))?;
    }
    Ok(out.flush()?)
}

/// Prints `count` clients, each with a password of its own that nobody knows, a label, and one of the policies, which
/// all allow the group `bench`.
///
/// # Errors
/// If nobody reads them.
pub(crate) fn principals(count: u64) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for policy in 0..POLICIES {
        writeln!(out, "[policy.shared-{policy}]\nallow = [\"@bench\"]")?;
    }
    for client in 0..count {
        let policy = client % POLICIES;
        writeln!(out, "[client.app-{client}]\npasswords = [\"sha256:{client:064x}\"]")?;
        writeln!(out, "policies = [\"shared-{policy}\"]\nlabels = {{ space = \"space-{policy}\" }}")?;
    }
    Ok(out.flush()?)
}
