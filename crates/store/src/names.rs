//! The names that an operator gives to policies, groups, ceilings, clients and workloads.

use crate::problem::{Code, Finding, shown};

/// Longest name, in bytes: names are repeated in every audit record.
const NAME_BYTES_MAX: usize = 128;

/// The name that records give to clients without credentials.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// The value of `anonymous` that lets nobody in without credentials.
pub(crate) const NONE: &str = "none";

/// The group that is always there.
pub(crate) const ANY_PUBLIC: &str = "any-public";

/// Checks the name of a policy, group or ceiling, which is written in lists and shown in records.
pub(crate) fn check(name: &str) -> Result<(), Finding> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    check_length(name)?;
    match name.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some(_) => Err(invalid(name).help("a name has letters, digits, `-`, `_` and `.` only")),
    }
}

/// Checks the name of a client, which is the user name of HTTP Basic credentials (RFC 7617 §2).
pub(crate) fn check_client(name: &str) -> Result<(), Finding> {
    check_length(name)?;
    if name == ANONYMOUS {
        let finding = Finding::error(Code::Conflict, "a client cannot be named `anonymous`");
        return Err(
            finding.help("that is the name of clients without credentials in records: choose another")
        );
    }
    if name.contains(':') || name.chars().any(char::is_control) {
        return Err(
            invalid(name).help("the user name of Basic credentials has no colon and no control character")
        );
    }
    Ok(())
}

/// Checks the name of a workload, which is shown in records.
pub(crate) fn check_workload(name: &str) -> Result<(), Finding> {
    if name == ANONYMOUS {
        let finding = Finding::error(Code::Conflict, "a workload cannot be named `anonymous`");
        return Err(
            finding.help("that is the name of clients without credentials in records: choose another")
        );
    }
    check(name)
}

fn check_length(name: &str) -> Result<(), Finding> {
    match name.len() {
        0 => {
            Err(Finding::error(Code::InvalidValue, "a name must not be empty")
                .help("write a name in the header"))
        }
        1..=NAME_BYTES_MAX => Ok(()),
        len => {
            let finding = Finding::error(Code::InvalidValue, format!("a name of {len} bytes is too long"));
            Err(finding.help(format!("use at most {NAME_BYTES_MAX} bytes")))
        }
    }
}

fn invalid(name: &str) -> Finding {
    Finding::error(Code::InvalidValue, format!("`{}` is not a usable name", shown(name)))
}
