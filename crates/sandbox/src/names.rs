//! Files of the host that say how names are looked up, and those that others run.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What the command's programs read instead of `/etc/resolv.conf`: nobody is asked but the proxy, for names as they are.
pub(crate) const RESOLV_CONF: &str = "nameserver 127.0.0.1\nnameserver ::1\nsearch .\n";

/// Files below the home directory that the user's next shell or session runs, or that say what it runs.
const RUN_BY_OTHERS: [&str; 28] = [
    ".bash_aliases",
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".cshrc",
    ".tcshrc",
    ".login",
    ".kshrc",
    ".profile",
    ".zlogin",
    ".zlogout",
    ".zprofile",
    ".zshenv",
    ".zshrc",
    ".pam_environment",
    ".xinitrc",
    ".xprofile",
    ".xsession",
    ".xsessionrc",
    ".inputrc",
    ".gitconfig",
    ".config/git",
    ".config/fish",
    ".config/autostart",
    ".config/environment.d",
    ".config/systemd/user",
    ".ssh",
];

/// The line of `nsswitch.conf` for hosts: other services ask daemons outside.
const HOSTS: &str = "hosts: files dns";

/// Returns `nsswitch.conf` with hosts looked up in files and by DNS alone.
pub(crate) fn nsswitch(text: &str) -> String {
    let is_hosts = |line: &str| line.trim_start().split(':').next() == Some("hosts");
    let others = text.lines().filter(|line| !is_hosts(line));
    others.chain([HOSTS]).flat_map(|line| [line, "\n"]).collect()
}

/// Returns the files that the command may read and not write, as far as they are there: those of the `home` directory that
/// others run, and the hooks of the repository that `directory` lies in.
pub(crate) fn protected(home: Option<&Path>, directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let home: Vec<PathBuf> =
        home.into_iter().flat_map(|home| RUN_BY_OTHERS.map(|name| home.join(name))).collect();
    let hooks = directory.ancestors().map(|above| above.join(".git")).find(|git| fs::metadata(git).is_ok());
    home.into_iter().chain(hooks.map(|git| git.join("hooks"))).filter(|path| fs::metadata(path).is_ok())
}

/// The folder for what a user has said of files that lie about, which no command may see: `exeat` in `$XDG_STATE_HOME`, or else
/// `~/.local/state`. It is made if it is not there. `None` if that cannot be, or if the way there is not plain: a command could
/// put something else at the place of a symbolic link.
#[must_use]
pub fn state_folder() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
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
