//! Files of the host that say how names are looked up, and those that others run.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::repository;

/// What the command's programs read instead of `/etc/resolv.conf`: nobody is asked but the proxy, for names as they are.
pub(crate) const RESOLV_CONF: &str = "nameserver 127.0.0.1\nnameserver ::1\nsearch .\n";

/// Files below the home directory that the user's next shell, session or program runs, or that say what it runs.
const RUN_BY_OTHERS: [&str; 54] = [
    ".bash_aliases",
    ".bash_completion",
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".cshrc",
    ".tcshrc",
    ".login",
    ".logout",
    ".kshrc",
    ".mkshrc",
    ".profile",
    ".shrc",
    ".zlogin",
    ".zlogout",
    ".zprofile",
    ".zshenv",
    ".zshrc",
    ".oh-my-zsh",
    ".pam_environment",
    ".xinitrc",
    ".xprofile",
    ".xserverrc",
    ".xsession",
    ".xsessionrc",
    ".inputrc",
    ".forward",
    ".procmailrc",
    ".screenrc",
    ".tmux.conf",
    ".gdbinit",
    ".exrc",
    ".vimrc",
    ".vim",
    ".emacs",
    ".emacs.d",
    ".gitconfig",
    ".npmrc",
    ".cargo/config",
    ".cargo/config.toml",
    ".cargo/env",
    ".config/git",
    ".config/fish",
    ".config/autostart",
    ".config/environment.d",
    ".config/nvim",
    ".config/plasma-workspace",
    ".config/systemd/user",
    ".config/tmux",
    ".local/share/applications",
    ".local/share/dbus-1",
    ".local/share/systemd/user",
    ".ssh",
];

/// Variables that move some of these elsewhere: those whose names begin so.
const MOVED: [(&str, &str, &str); 4] = [
    ("XDG_CONFIG_HOME", ".config/", ""),
    ("XDG_DATA_HOME", ".local/share/", ""),
    ("CARGO_HOME", ".cargo/", ""),
    ("ZDOTDIR", ".z", ".z"),
];

/// Variables that each name one more file of the kind.
const NAMED: [&str; 5] = ["BASH_ENV", "ENV", "GIT_CONFIG_GLOBAL", "INPUTRC", "NPM_CONFIG_USERCONFIG"];

/// The line of `nsswitch.conf` for hosts: other services ask daemons outside.
const HOSTS: &str = "hosts: files dns";

/// Returns `nsswitch.conf` with hosts looked up in files and by DNS alone.
pub(crate) fn nsswitch(text: &str) -> String {
    let is_hosts = |line: &str| line.trim_start().split(':').next() == Some("hosts");
    let others = text.lines().filter(|line| !is_hosts(line));
    others.chain([HOSTS]).flat_map(|line| [line, "\n"]).collect()
}

/// Returns the files that the command may read and not write, as far as they are there: those of the `home` directory that
/// others run, those of the repository that `directory` lies in, and this program.
///
/// # Errors
/// If the repository has too many submodules.
pub(crate) fn protected(home: Option<&Path>, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let in_home = home.into_iter().flat_map(|home| RUN_BY_OTHERS.map(|name| home.join(name)));
    let moved = MOVED.iter().filter_map(|(name, from, to)| Some((variable(name)?, from, to)));
    let moved = moved.flat_map(|(folder, from, to)| {
        let rest = RUN_BY_OTHERS.iter().filter_map(move |name| name.strip_prefix(from));
        rest.map(move |rest| folder.join(format!("{to}{rest}")))
    });
    let named = NAMED.iter().filter_map(|name| variable(name));
    let files = in_home.chain(moved).chain(named).chain(env::current_exe());
    let files = files.filter(|path| fs::metadata(path).is_ok());
    Ok(files.chain(repository::guarded(directory)?).collect())
}

/// An absolute path in a variable.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The folder for what a user has said of files that lie about, which no command may see: `exeat` in `$XDG_STATE_HOME`, or else
/// `~/.local/state`. It is made if it is not there. `None` if that cannot be, or if the way there is not plain: a command could
/// put something else at the place of a symbolic link.
#[must_use]
pub fn state_folder() -> Option<PathBuf> {
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    let folder = state.join("exeat");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    folder.canonicalize().ok().filter(|real| *real == folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_up_in_files_and_by_dns_alone() {
        let text = "passwd: files systemd\nhosts:  mymachines resolve [!UNAVAIL=return] files dns\n# hosts\n";
        assert_eq!(nsswitch(text), "passwd: files systemd\n# hosts\nhosts: files dns\n");
    }
}
