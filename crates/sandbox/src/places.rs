//! What a path leads through: the directories and symbolic links that somebody could put something else in the place of.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::Uid;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::run_as::is_root_of_host;

/// Symbolic links that are followed for one path, as by the kernel.
const LINKS_MAX: usize = 40;

/// See [`way`].
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// The directories and symbolic links that are gone through, in their order, each by a path without links.
    pub(crate) through: Vec<PathBuf>,
    /// The symbolic links among them.
    links: Vec<PathBuf>,
    /// The path without links of what is there in the end, if there is something in sight.
    pub(crate) end: Option<PathBuf>,
}

/// Follows an absolute path.
pub(crate) fn way(path: &Path) -> io::Result<Way> {
    let mut way = Way::default();
    let mut at = PathBuf::from("/");
    let mut left: VecDeque<OsString> = steps(path).collect();
    while let Some(step) = left.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(step);
        let is_link = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata.is_symlink(),
            // The command cannot see it either: it has the same user and fewer privileges.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(way);
            }
            Err(error) => return Err(error),
        };
        if !is_link {
            if !left.is_empty() {
                way.through.push(next.clone());
            }
            at = next;
            continue;
        }
        let target = fs::read_link(&next)?;
        way.through.push(next.clone());
        way.links.push(next);
        if way.links.len() > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
            left.push_front(step);
        }
    }
    way.end = Some(at);
    Ok(way)
}

fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::ParentDir => Some("..".into()),
        Component::Normal(name) => Some(name.to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// Whether the user of this process may put something else in the place of what is at a path without links, or could make it
/// so that they may.
pub(crate) fn is_replaceable(path: &Path) -> bool {
    let Some(folder) = path.parent() else { return false };
    access(folder, Access::WRITE_OK).is_ok()
        || fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == Uid::current().as_raw())
}

/// Returns the symbolic links that an absolute path goes through, those of `/proc` and of root aside: the command of an earlier
/// run may have made any of them.
///
/// # Errors
/// If they cannot be followed.
pub fn links(path: &Path) -> io::Result<Vec<PathBuf>> {
    let user = Uid::current();
    // The root of a user namespace runs the command as itself.
    let has_root = !user.is_root() || is_root_of_host(user);
    let is_of_root =
        |path: &PathBuf| has_root && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() == 0);
    let links = way(path)?.links;
    Ok(links.into_iter().filter(|link| !link.starts_with("/proc") && !is_of_root(link)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_place_on_the_way_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("dot/config/git")).unwrap();
        fs::write(home.join("dot/config/git/config"), "").unwrap();
        symlink("dot/config", home.join(".config")).unwrap();
        symlink(home.join(".config/git/config"), home.join(".gitconfig")).unwrap();
        symlink("nowhere/at/all", home.join("lost")).unwrap();
        symlink("round", home.join("round")).unwrap();
        let below = |way: &Way| -> Vec<String> {
            let name = |path: &PathBuf| path.strip_prefix(&home).ok().map(|path| path.display().to_string());
            way.through.iter().filter_map(name).filter(|name| !name.is_empty()).collect()
        };
        for (path, through, end) in [
            ("dot/config", &["dot"][..], Some("dot/config")),
            (".config/git", &[".config", "dot", "dot/config"], Some("dot/config/git")),
            (
                ".gitconfig",
                &[".gitconfig", ".config", "dot", "dot/config", "dot/config/git"],
                Some("dot/config/git/config"),
            ),
            ("dot/../.config/./git", &["dot", ".config", "dot", "dot/config"], Some("dot/config/git")),
            ("lost", &["lost"], None),
            ("dot/missing", &["dot"], None),
        ] {
            let way = way(&home.join(path)).unwrap();
            assert_eq!(below(&way), through, "{path}");
            assert_eq!(way.end, end.map(|end| home.join(end)), "{path}");
        }
        assert!(way(&home.join("round")).is_err());
    }
}
