//! Why this system keeps a program from making namespaces, as far as its settings tell, and what to do about it.

use std::fs;
use std::path::Path;

use nix::unistd::geteuid;

use crate::failure::{Failure, Step};

/// Where the settings of the kernel are.
const SETTINGS: &str = "/proc/sys";

/// How many namespaces of each kind that a sandbox has there may be.
const MOST: [&str; 6] = [
    "user/max_user_namespaces",
    "user/max_net_namespaces",
    "user/max_mnt_namespaces",
    "user/max_pid_namespaces",
    "user/max_ipc_namespaces",
    "user/max_uts_namespaces",
];

/// Debian's, and that of hardened kernels; not for root.
const CLONE: &str = "kernel/unprivileged_userns_clone";

/// Ubuntu's: programs that no profile lets get none, or one in which they may do nothing. Not for root.
const APPARMOR: &str = "kernel/apparmor_restrict_unprivileged_userns";

/// What is around root and keeps it from making namespaces has no setting.
const HELP_OF_ROOT: &str = "what this runs in keeps it from making namespaces, such as a container or a service: see \"Where \
                            namespaces are forbidden\" in docs/run.md";

/// Says what to do about a step that namespaces were needed for, if that can be told.
pub(crate) fn explained(failure: Failure) -> Failure {
    let is_root = geteuid().is_root();
    let read = |setting: &str| fs::read_to_string(Path::new(SETTINGS).join(setting)).ok();
    match remedy(read, is_root) {
        Some(help) => failure.with_help(help),
        None if is_root && failure.step == Step::Namespaces => failure.with_help(HELP_OF_ROOT),
        None => failure,
    }
}

/// Looks for the setting that forbids it, by what `read` returns of each; `None` of one that this kernel has not.
fn remedy(read: impl Fn(&str) -> Option<String>, is_root: bool) -> Option<String> {
    let is = |setting: &str, value: &str| read(setting).is_some_and(|text| text.trim() == value);
    let name = |setting: &str| setting.replace('/', ".");
    // Root is held to these, too.
    if let Some(setting) = MOST.into_iter().find(|setting| is(setting, "0")) {
        let name = name(setting);
        return Some(format!(
            "{name} is 0, for root as well: raise it, as with `sudo sysctl {name}=10000`; in a container, outside of it"
        ));
    }
    if is_root {
        return None;
    }
    let or_root = "or run it as root: sudo exeat run --user NAME";
    if is(CLONE, "0") {
        let name = name(CLONE);
        return Some(format!("{name} is 0: `sudo sysctl {name}=1`, {or_root}"));
    }
    is(APPARMOR, "1").then(|| {
        format!(
            "AppArmor keeps programs from it that no profile lets: load the one of exeat, with the path of this program in it, as \
             \"Where namespaces are forbidden\" in docs/run.md says, {or_root}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_it_is_named() {
        let (most, net) = ("user.max_user_namespaces=10000", "user.max_net_namespaces=10000");
        let (clone, apparmor) = ("kernel.unprivileged_userns_clone=1", "AppArmor");
        for (name, settings, of_user, of_root) in [
            ("no setting", &[][..], None, None),
            ("settings that allow it", &[(MOST[0], "100\n"), (CLONE, "1\n"), (APPARMOR, "0\n")], None, None),
            ("no users of one's own", &[(MOST[0], "0\n")], Some(most), Some(most)),
            ("no networks of one's own", &[(MOST[0], "9\n"), (MOST[1], "0\n")], Some(net), Some(net)),
            ("root alone", &[(CLONE, "0\n")], Some(clone), None),
            ("AppArmor", &[(CLONE, "1\n"), (APPARMOR, "1\n")], Some(apparmor), None),
            (
                "what root is held to counts first",
                &[(MOST[0], "0\n"), (APPARMOR, "1\n")],
                Some(most),
                Some(most),
            ),
        ] {
            let read = |setting: &str| {
                settings.iter().find(|(name, _)| *name == setting).map(|(_, text)| (*text).to_owned())
            };
            for (is_root, want) in [(false, of_user), (true, of_root)] {
                let got = remedy(read, is_root);
                let is_named = match (&got, want) {
                    (Some(got), Some(want)) => got.contains(want),
                    (None, None) => true,
                    _ => false,
                };
                assert!(is_named, "{name}, root: {is_root}: {got:?} instead of {want:?}");
                // Nobody is told to become root where that does not help.
                let is_for_root = got.as_ref().is_some_and(|got| got.contains("--user NAME"));
                assert_eq!(
                    is_for_root,
                    of_user.is_some() && of_root.is_none() && !is_root,
                    "{name}: {got:?}"
                );
            }
        }
    }
}
