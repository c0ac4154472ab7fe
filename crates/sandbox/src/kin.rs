//! Whom a command can reach by its process group. A group can hold processes of several process namespaces, and whoever is in it
//! reaches all of them by "my own group", whose number need not be known: by `kill(2)`, `setpriority(2)` and `ioprio_set(2)`.
//!
//! Without a terminal, the command has a group of its own. With one, it stays in that of whoever started it, so that the terminal and
//! its shell stop, continue and end it like any other. The kernel then keeps its signals among its own processes (Landlock), or, before
//! Linux 6.12, it is refused to signal its own group.

use std::fs;
use std::io;

use landlock::{Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use nix::unistd::{Pid, setpgid};

/// What a command's process group is, and who keeps it from what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Group {
    /// Its own: all that is in it is inside.
    Own,
    /// That of whoever has the terminal, with signals that stay inside.
    Scoped,
    /// The same, with signals that would not.
    Shared,
}

/// Keeps signals of this process, and of all that come of it, from processes that do not, if the kernel can. Makes a group of them
/// where there is no terminal, and returns which one it is.
///
/// # Errors
/// If it cannot be told whether there is a terminal, or one of them cannot be done that the kernel knows.
pub(crate) fn confine() -> io::Result<Group> {
    let is_scoped = scope_signals().map_err(io::Error::other)?;
    let has_terminal = has_terminal(&fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    if !has_terminal {
        // Init leads it, whom no signal from inside ends: who leads a group can make no session, as the command may want to.
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        return Ok(Group::Own);
    }
    Ok(if is_scoped { Group::Scoped } else { Group::Shared })
}

/// Returns whether the kernel does that.
fn scope_signals() -> Result<bool, RulesetError> {
    let status = Ruleset::default().scope(Scope::Signal)?.create()?.restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// Reads of `/proc/PID/stat` whether the session has a terminal: the seventh field is its number. The second may have anything in
/// it, in brackets.
fn has_terminal(stat: &str) -> Option<bool> {
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').nth(4)? != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_from_none_whatever_the_process_calls_itself() {
        for (stat, want) in [
            ("42 (exeat) S 1 42 42 34816 42 4194560 0", Some(true)),
            ("42 (exeat) S 1 42 42 0 -1 4194560 0", Some(false)),
            ("42 (a) S 1 2 3 4) S 1 42 42 0 -1 4194560 0", Some(false)),
            ("42 (exeat) S 1", None),
            ("", None),
        ] {
            assert_eq!(has_terminal(stat), want, "{stat}");
        }
    }
}
