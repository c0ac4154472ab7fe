//! Control groups (version 2) of this host, whose processes are held to the policy.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Groups that can be held: each has a bit of its own in the labels of connections.
pub const GROUPS_MAX: usize = 32;
/// Where `nft` looks for groups.
const NFT_ROOT: &str = "/sys/fs/cgroup";
/// The deepest group: the kernel's number of a level has 8 bits.
const DEPTH_MAX: usize = 255;

/// A control group, by its path as `/proc/PID/cgroup` has it: `/system.slice/ci.service`. `/` is all of this host.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Group(Arc<str>);

impl Group {
    /// Returns the group of this path; `None` if it is not one.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        if trimmed.is_empty() {
            return (path == "/").then(|| Self("/".into()));
        }
        // The text that `nft` reads has it in quotes, and knows no escapes.
        let is_plain = |c: char| !c.is_control() && c != '"';
        let mut parts = trimmed.split('/').skip(1);
        let is_path = trimmed.starts_with('/')
            && trimmed.chars().all(is_plain)
            && parts.all(|part| !part.is_empty() && part != "." && part != "..")
            && trimmed.split('/').count() <= DEPTH_MAX;
        is_path.then(|| Self(trimmed.into()))
    }

    /// Returns the group that somebody means by `text`, its path or its folder, if there is one now.
    ///
    /// # Errors
    /// If there is none, with what was looked for.
    pub fn find(text: &str) -> io::Result<Self> {
        let mounts = mounts()?;
        let below = mounts.iter().find_map(|mount| {
            let rest = Path::new(text).strip_prefix(&mount.folder).ok()?;
            Self::new(&format!("{}/{}", mount.root.trim_end_matches('/'), rest.display()))
        });
        let group = below.or_else(|| Self::new(text)).ok_or_else(|| {
            let message =
                format!("`{text}` is not the path of a control group, such as /system.slice/ci.service");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        match locate(&group)? {
            Some(_) => Ok(group),
            None => {
                let message = format!("there is no control group `{}` (version 2)", group.path());
                Err(io::Error::new(io::ErrorKind::NotFound, message))
            }
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.0
    }

    /// How many groups are above it.
    pub(crate) fn level(&self) -> usize {
        if &*self.0 == "/" { 0 } else { self.0.matches('/').count() }
    }

    /// Whether it is `other`, or above that.
    fn holds(&self, other: &str) -> bool {
        let below = other.strip_prefix(&*self.0);
        self.level() == 0 || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether this process is in it.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn is_ours(&self) -> io::Result<bool> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        Ok(groups.lines().filter_map(|line| line.strip_prefix("0::")).any(|own| self.holds(own)))
    }
}

/// A group as the kernel has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Located {
    /// Its number, which no later group of the same path has.
    pub(crate) id: u64,
    /// Its path for `nft`.
    pub(crate) nft: String,
    /// Its folder.
    pub(crate) folder: PathBuf,
}

/// Where groups are mounted.
#[derive(Debug, Eq, PartialEq)]
struct Mount {
    /// The group that the folder stands for.
    root: String,
    folder: PathBuf,
}

/// Looks for a group; `None` if there is none now, so that no process is in it.
///
/// # Errors
/// If this host has no control groups of version 2 where they could be found.
pub(crate) fn locate(group: &Group) -> io::Result<Option<Located>> {
    let mounts = mounts()?;
    let folder = mounts.iter().find_map(|mount| {
        let above = Group::new(&mount.root)?;
        let rest = if above.level() == 0 { group.path() } else { group.path().strip_prefix(&*above.0)? };
        above.holds(group.path()).then(|| mount.folder.join(rest.trim_start_matches('/')))
    });
    let Some(folder) = folder else {
        let message = "no control groups of version 2 are mounted here";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    match fs::metadata(&folder) {
        Ok(found) => Ok(Some(Located { id: found.ino(), nft: nft_path(&folder), folder })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of a folder from where `nft` begins. Groups of version 2 may be mounted elsewhere, beside those of version 1.
fn nft_path(folder: &Path) -> String {
    match folder.strip_prefix(NFT_ROOT) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => rest.display().to_string(),
        Err(_) => format!("../../..{}", folder.display()),
    }
}

fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Reads the format of proc_pid_mountinfo(5). Of two mounts the one that shows more comes first.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = text
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut words = before.split(' ').skip(3);
            let (root, folder) = (words.next()?, words.next()?);
            after.starts_with("cgroup2 ").then(|| Mount { root: root.to_owned(), folder: folder.into() })
        })
        .collect();
    mounts.sort_by_key(|mount| mount.root.len());
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_path_without_detours() {
        for (text, want) in [
            ("/", Some(("/", 0))),
            ("/system.slice", Some(("/system.slice", 1))),
            ("/system.slice/ci.service/", Some(("/system.slice/ci.service", 2))),
            ("/a\\x2db.slice", Some(("/a\\x2db.slice", 1))),
            ("", None),
            ("ci.service", None),
            ("//", None),
            ("/a//b", None),
            ("/a/../b", None),
            ("/a\"; flush ruleset", None),
            ("/a\nb", None),
        ] {
            let got = Group::new(text);
            assert_eq!(got.as_ref().map(|group| (&**group.path(), group.level())), want, "{text}");
        }
        let group = Group::new("/a").unwrap();
        for (other, want) in [("/a", true), ("/a/b", true), ("/ab", false), ("/", false)] {
            assert_eq!(group.holds(other), want, "{other}");
        }
    }

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    40 31 0:38 /pod /mnt/pod rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                    42 31 0:39 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        let mount = |root: &str, folder: &str| Mount { root: root.to_owned(), folder: folder.into() };
        assert_eq!(parse_mounts(text), [mount("/", "/sys/fs/cgroup/unified"), mount("/pod", "/mnt/pod")]);
        for (folder, want) in [
            ("/sys/fs/cgroup", "."),
            ("/sys/fs/cgroup/a/b", "a/b"),
            ("/sys/fs/cgroup/unified/a", "unified/a"),
            ("/mnt/pod", "../../../mnt/pod"),
        ] {
            assert_eq!(nft_path(Path::new(folder)), want, "{folder}");
        }
    }
}
