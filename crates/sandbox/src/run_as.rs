//! The user that a command runs as: whoever started the program, or, if that was root, whom it names.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use nix::unistd::{Uid, User, getegid, geteuid, getgrouplist};

use crate::failure::{Failure, Step};
use crate::wire::Setup;

/// Who runs the command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RunAs {
    pub(crate) setup: Setup,
    /// The name and home directory, if it is another user than our own.
    other: Option<(String, PathBuf)>,
    /// Variables of ours that are not for the command.
    without: Vec<OsString>,
}

impl RunAs {
    /// Returns who a command may run as if we are root and nobody is named: who called `sudo`, or `nobody`. `None` if we are not
    /// root.
    #[must_use]
    pub fn instead_of_root() -> Option<String> {
        let caller = || {
            std::env::var("SUDO_USER")
                .ok()
                .filter(|user| lookup(user).is_some_and(|user| !user.uid.is_root()))
        };
        is_root_of_host(geteuid()).then(|| caller().unwrap_or_else(|| "nobody".to_owned()))
    }

    /// Chooses the user `named`, or our own if none is.
    ///
    /// # Errors
    /// If we are root and no user, or root, is named: root owns what it would be confined by, even without capabilities. If
    /// we are not root and another is named. If there is no such user.
    pub fn choose(named: Option<&str>) -> Result<Self, Failure> {
        let (uid, gid) = (geteuid(), getegid());
        if !is_root_of_host(uid) {
            if named.is_some_and(|named| lookup(named).is_none_or(|user| user.uid != uid)) {
                let failure = Failure::new(Step::User, "only root can run a command as another user");
                return Err(failure.with_help("leave --user out"));
            }
            let setup = Setup { uid: uid.as_raw(), gid: gid.as_raw(), groups: None };
            return Ok(Self { setup, other: None, without: Vec::new() });
        }
        let Some(named) = named else {
            let failure = Failure::new(Step::User, "exeat runs as root, which no sandbox holds");
            let suggested = std::env::var("SUDO_USER").ok().filter(|user| user != "root");
            let suggested = suggested.as_deref().unwrap_or("nobody");
            return Err(failure.with_help(format!("name the user to run it as: --user {suggested}")));
        };
        let user =
            lookup(named).ok_or_else(|| Failure::new(Step::User, format!("there is no user `{named}`")))?;
        if user.uid.is_root() {
            let failure = Failure::new(Step::User, "root owns what it would be confined by");
            return Err(failure.with_help("name another user, such as --user nobody"));
        }
        let groups = CString::new(user.name.as_str())
            .map_err(|error| error.to_string())
            .and_then(|name| getgrouplist(&name, user.gid).map_err(|error| error.to_string()))
            .map_err(|error| Failure::new(Step::User, format!("the groups of `{named}`: {error}")))?;
        let groups = groups.into_iter().map(|group| group.as_raw()).collect();
        let setup = Setup { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups: Some(groups) };
        Ok(Self { setup, other: Some((user.name, user.dir)), without: Vec::new() })
    }

    /// The same, without a variable of ours.
    #[must_use]
    pub fn without(mut self, variable: impl Into<OsString>) -> Self {
        self.without.push(variable.into());
        self
    }

    /// The variables that name another user than our own, and those that the command does not get.
    pub(crate) fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let without = self.without.iter().map(|variable| (variable.clone(), None));
        let named = self.other.iter().flat_map(|(name, home)| {
            [("HOME", home.as_os_str()), ("USER", OsStr::new(name)), ("LOGNAME", OsStr::new(name))]
                .map(|(variable, value)| (variable.into(), Some(value.to_owned())))
        });
        without.chain(named).collect()
    }

    /// The home directory, if it is known.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        match &self.other {
            Some((_, home)) => Some(home.clone()),
            None => std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
        }
    }
}

fn lookup(named: &str) -> Option<User> {
    let by_name = User::from_name(named).ok().flatten();
    by_name.or_else(|| User::from_uid(Uid::from_raw(named.parse().ok()?)).ok().flatten())
}

/// Whether this user is the host's root and not one who is called so in a user namespace of somebody else. Where that cannot
/// be told, it is.
pub(crate) fn is_root_of_host(uid: Uid) -> bool {
    uid.is_root() && !fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_root_elsewhere(&map))
}

/// Reads a line of `inside outside count`.
fn maps_root_elsewhere(map: &str) -> bool {
    let line = map.lines().find_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok());
    line.is_some_and(|[inside, outside, _]: [&str; 3]| inside == "0" && outside != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_user_namespace_is_told_from_the_hosts() {
        for (name, map, want) in [
            ("the host", "         0          0 4294967295\n", false),
            ("one user of it", "         0       1001          1\n", true),
            (
                "rootless containers",
                "         0       1001          1\n         1     100000      65536\n",
                true,
            ),
            ("not mapped", "      1001       1001          1\n", false),
            ("nothing", "", false),
        ] {
            assert_eq!(maps_root_elsewhere(map), want, "{name}");
        }
    }
}
