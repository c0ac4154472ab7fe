//! What is hidden, read-only or writable of the host's files, and that nobody puts something else in its place.
//!
//! All of it goes from the outside inwards, so that what is said of a file counts more than what is said of a directory above it.
//! Whatever something is mounted on can be neither renamed nor deleted. So every directory on the way to such a file is mounted on
//! itself where the user could rename it, and every symbolic link too: a mount on a link is on the link, and not on what it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount_bind_recursive, mount_remount, move_mount, open_tree,
};

use crate::failure::{During, Failure, Step};
use crate::mounted;
use crate::mounts::{empty, hide, replace};
use crate::places::{is_replaceable, way};
use crate::wire::Order;

/// What happens to what is at a path. At the same path, the later one counts.
#[derive(Debug)]
enum Rule {
    /// It stays where it is.
    Pin,
    ReadOnly,
    Hide,
    /// This is seen there.
    Show(OwnedFd),
    /// A file with this text is seen there.
    Replace(String),
    /// It is read-only, whatever else is said.
    Lock,
    /// The folder of our own, which nobody sees.
    Shut,
}

impl Rule {
    const fn rank(&self) -> u8 {
        match self {
            Self::Pin => 0,
            Self::ReadOnly => 1,
            Self::Hide => 2,
            Self::Show(_) => 3,
            Self::Replace(_) => 4,
            Self::Lock => 5,
            Self::Shut => 6,
        }
    }

    const fn step(&self) -> Step {
        match self {
            Self::Pin | Self::ReadOnly | Self::Show(_) | Self::Lock => Step::ReadOnly,
            Self::Hide | Self::Shut => Step::Hide,
            Self::Replace(_) => Step::Names,
        }
    }
}

/// Everything that is said of files.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<(PathBuf, Rule)>,
    pins: BTreeSet<PathBuf>,
}

impl Rules {
    /// Those of an order. What stays writable is taken hold of, as it is now. To be called when the sockets of the host are hidden,
    /// and nothing else.
    pub(crate) fn of(order: &Order) -> Result<Self, Failure> {
        let mut all = Self::default();
        for path in &order.read_only {
            all.add(path, Rule::ReadOnly)?;
        }
        for path in &order.hidden {
            all.add(path, Rule::Hide)?;
        }
        for path in &order.locked {
            all.add(path, Rule::Lock)?;
        }
        if let Some(folder) = &order.state {
            all.add(folder, Rule::Shut)?;
        }
        for path in &order.writable {
            all.open(path).during_with(Step::ReadOnly, path.display())?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path, rule: Rule) -> Result<(), Failure> {
        let way = way(path).during_with(rule.step(), path.display())?;
        self.pins.extend(way.through.into_iter().filter(|place| is_replaceable(place)));
        self.rules.extend(way.end.map(|end| (end, rule)));
        Ok(())
    }

    /// Takes back what would make a path read-only, and has it seen as it is now if something above it is to be read-only or
    /// empty: programs replace their files by others, and what something is mounted on cannot be replaced.
    fn open(&mut self, path: &Path) -> io::Result<()> {
        let held = hold(path)?;
        self.rules.retain(|(other, rule)| other != path || !matches!(rule, Rule::ReadOnly));
        if self.rules.iter().any(|(above, _)| path.starts_with(above)) {
            self.rules.push((path.to_owned(), Rule::Show(held)));
        }
        Ok(())
    }

    /// Has a socket seen at a path without links.
    pub(crate) fn show(&mut self, path: PathBuf, socket: OwnedFd) {
        self.rules.push((path, Rule::Show(socket)));
    }

    /// Has a text seen at a path without links.
    pub(crate) fn replace(&mut self, path: PathBuf, text: String) {
        self.rules.push((path, Rule::Replace(text)));
    }

    /// Has all of it count. What is mounted below `own` is our own, and is not made read-only with what is above it.
    pub(crate) fn apply(self, own: &[&Path]) -> Result<(), Failure> {
        let Self { mut rules, mut pins } = self;
        // Each of the others is a mount as well.
        pins.retain(|pin| !rules.iter().any(|(path, _)| path == pin));
        rules.extend(pins.into_iter().map(|path| (path, Rule::Pin)));
        rules.sort_by(|(one, rule), (other, than)| (one, rule.rank()).cmp(&(other, than.rank())));
        for (path, rule) in rules {
            let step = rule.step();
            apply(&path, rule, own).during_with(step, path.display())?;
        }
        Ok(())
    }
}

fn apply(path: &Path, rule: Rule, own: &[&Path]) -> io::Result<()> {
    // What is above it may be empty now.
    let is_there = fs::symlink_metadata(path).is_ok();
    match rule {
        Rule::Show(held) => show(path, &held),
        Rule::Replace(text) => replace(path, &text),
        Rule::Pin if is_there => pin(path),
        Rule::ReadOnly | Rule::Lock if is_there => protect(path, own),
        Rule::Hide if is_there => hide(path),
        Rule::Shut if is_there => empty(path, "mode=0700"),
        Rule::Pin | Rule::ReadOnly | Rule::Lock | Rule::Hide | Rule::Shut => Ok(()),
    }
}

/// Mounts a directory or a symbolic link on itself.
fn pin(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_symlink() {
        return Ok(mount_bind_recursive(path, path)?);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let link = open_tree(CWD, path, flags)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(link.as_fd(), "", CWD, path, flags).map_err(|error| {
        let why = "this kernel cannot keep a symbolic link where it is; put what it leads to in its place";
        io::Error::other(format!("{error}: {why}"))
    })
}

/// Opens what is at a path if no symbolic link is part of it: somebody may just be putting one there.
fn plain(path: &Path) -> io::Result<OwnedFd> {
    openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(
        |error| match error {
            Errno::LOOP => io::Error::other("it goes through a symbolic link"),
            Errno::NOSYS => io::Error::other("it takes Linux 5.6 to open this without following links"),
            error => error.into(),
        },
    )
}

/// Takes hold of what is at a path, with all that is mounted below it.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(plain(path)?, "", flags)?)
}

/// Puts what was kept back to where it was.
fn show(path: &Path, held: &OwnedFd) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        if FileType::from_raw_mode(fstat(held)?.st_mode).is_dir() {
            fs::create_dir_all(path)?;
        } else {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::create(path)?;
        }
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(held.as_fd(), "", plain(path)?, "", flags)?)
}

/// Makes what is at a path read-only, with all that is mounted below it but our own. The other restrictions of its file systems
/// stay: the kernel does not let them be lifted.
fn protect(path: &Path, own: &[&Path]) -> io::Result<()> {
    mount_bind_recursive(path, path)?;
    let mounts = mounted::read()?;
    let is_own = |at: &Path| own.iter().any(|own| at.starts_with(own) && !path.starts_with(own));
    let below = mounts.iter().filter(|mount| mount.at.starts_with(path) && !is_own(&mount.at));
    // Of several at one place, the last one is seen.
    let below: BTreeMap<&Path, MountFlags> = below.map(|mount| (&*mount.at, mount.flags)).collect();
    for (at, flags) in below {
        let is_link = fs::symlink_metadata(at).is_ok_and(|metadata| metadata.is_symlink());
        if is_link || flags.contains(MountFlags::RDONLY) && at != path {
            continue;
        }
        match mount_remount(at, MountFlags::BIND | MountFlags::RDONLY | flags, "") {
            // Something lies above it, or it is hidden, or out of the command's reach anyway.
            Err(Errno::INVAL | Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) if at != path => {}
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_became_a_link_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::create_dir_all(folder.join("project/sub")).unwrap();
        symlink("project", folder.join("link")).unwrap();
        for (name, is_opened) in
            [("project/sub", true), ("link", false), ("link/sub", false), ("gone", false)]
        {
            assert_eq!(plain(&folder.join(name)).is_ok(), is_opened, "{name}");
        }
    }

    #[test]
    fn what_is_said_of_a_file_counts_more_than_what_is_said_above_it() {
        let order: Vec<u8> =
            [Rule::Pin, Rule::ReadOnly, Rule::Hide, Rule::Replace(String::new()), Rule::Lock, Rule::Shut]
                .iter()
                .map(Rule::rank)
                .collect();
        assert!(order.is_sorted_by(|one, other| one < other), "{order:?}");
    }
}
