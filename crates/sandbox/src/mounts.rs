//! What the command sees of the host's files: all that its user may see, but nothing that leads out.
//!
//! A unix socket belongs to a file and not to a network, so those of the host are put out of sight: the directories where they
//! are kept, and those that the kernel lists elsewhere.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_bind, mount_change, open_tree,
};

use crate::failure::{During, Failure, Step};
use crate::rules::Rules;
use crate::sockets::{self, is_socket};
use crate::wire::Order;
use crate::{mounted, names};

/// Where daemons keep their sockets. The first one is also where files of our own are put.
const SOCKET_FOLDERS: [&str; 3] = [RUN, "/var/run", "/tmp/.X11-unix"];
const RUN: &str = "/run";

/// Devices by which a user may speak to a network past every namespace: remote memory access, and what is plugged in.
const DEVICE_FOLDERS: [&str; 2] = ["/dev/infiniband", "/dev/bus/usb"];

/// Where processes are put into groups. A user who owns some could end and stop processes outside with a file of theirs, and lift
/// the limits of its own.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The settings for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// For the user alone.
const MODE_PRIVATE: u32 = 0o700;

/// Arranges the mounts of this process, whose namespace is its own. `table` is the host's table of unix sockets.
pub(crate) fn arrange(order: &Order, table: File) -> Result<(), Failure> {
    // What is mounted outside from now on does not turn up inside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).during_with(Step::Hide, "/")?;
    let settings = Settings::read();
    let mounts = mounted::read().during_with(Step::Hide, "/proc/self/mountinfo")?;
    let found = sockets::find(table, &mounts, order.home.as_deref(), &order.directory)?;
    let kept = keep(&order.sockets)?;
    mount_proc().during(Step::Proc)?;
    let folders = SOCKET_FOLDERS.iter().chain(&DEVICE_FOLDERS).map(Path::new);
    let folders = folders.chain([Path::new(CONTROL_GROUPS)]).chain(order.runtime_directory.as_deref());
    for folder in folders {
        // One is often a link to the other.
        if folder != Path::new(RUN) && fs::canonicalize(folder).is_ok_and(|real| real.starts_with(RUN)) {
            continue;
        }
        empty(folder, "mode=0755").during_with(Step::Hide, folder.display())?;
    }
    if let Some(folder) = &order.runtime_directory {
        private_directory(folder).during_with(Step::Hide, folder.display())?;
    }
    own_memory().during_with(Step::Hide, "/dev/shm and /dev/mqueue")?;
    for socket in found.iter().filter(|path| is_socket(path)) {
        hide(socket).during_with(Step::Hide, socket.display())?;
    }
    let mut rules = Rules::of(order)?;
    kept.into_iter().for_each(|(path, socket)| rules.show(path, socket));
    settings.replacements().for_each(|(path, text)| rules.replace(path, text));
    let own = SOCKET_FOLDERS.map(Path::new).into_iter().chain(order.runtime_directory.as_deref());
    rules.apply(&own.chain(["/proc", "/dev", CONTROL_GROUPS].map(Path::new)).collect::<Vec<_>>())
}

/// The kernel gives it only to those from whom no part of /proc is hidden.
fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("proc", "/proc", "proc", flags, None)?)
}

/// Mounts an empty file system over a directory, if there is such a directory.
pub(crate) fn empty(folder: &Path, options: &str) -> io::Result<()> {
    if !is_directory(folder)? {
        return Ok(());
    }
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", folder, "tmpfs", flags, Some(options.as_c_str()))?)
}

fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        // The command cannot see it either: it has the same user and fewer privileges.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a directory that programs want to be there.
fn private_directory(folder: &Path) -> io::Result<()> {
    if folder.starts_with(RUN) {
        DirBuilder::new().recursive(true).mode(MODE_PRIVATE).create(folder)
    } else {
        Ok(())
    }
}

/// Memory that is shared by name, and queues of messages, are of the host until they are mounted anew.
fn own_memory() -> io::Result<()> {
    empty(Path::new("/dev/shm"), "mode=1777")?;
    if is_directory(Path::new("/dev/mqueue"))? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("mqueue", "/dev/mqueue", "mqueue", flags, None)?;
    }
    Ok(())
}

/// Puts what is at a path out of sight.
pub(crate) fn hide(path: &Path) -> io::Result<()> {
    if is_directory(path)? { empty(path, "mode=0755") } else { Ok(mount_bind("/dev/null", path)?) }
}

/// Takes hold of sockets that are to stay in sight.
fn keep(sockets: &[PathBuf]) -> Result<Vec<(PathBuf, OwnedFd)>, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let keep = |path: &PathBuf| {
        let path = path.canonicalize().during_with(Step::Hide, path.display())?;
        if !is_socket(&path) {
            let failure = Failure::new(Step::Hide, format_args!("`{}` is not a socket", path.display()));
            return Err(failure.with_help("--socket names one unix socket"));
        }
        let held = open_tree(CWD, &path, flags).during_with(Step::Hide, path.display())?;
        Ok((path, held))
    };
    sockets.iter().map(keep).collect()
}

/// The host's settings for names, read before anything is hidden.
struct Settings {
    /// Where the links lead to, if there is such a file.
    resolv_conf: Option<PathBuf>,
    nsswitch: Option<(PathBuf, String)>,
}

impl Settings {
    fn read() -> Self {
        let nsswitch = fs::canonicalize(NSSWITCH).ok();
        let nsswitch = nsswitch.and_then(|path| Some((path.clone(), fs::read_to_string(path).ok()?)));
        Self { resolv_conf: fs::canonicalize(RESOLV_CONF).ok(), nsswitch }
    }

    /// What is to be seen in their place. Without these files, programs ask 127.0.0.1 of themselves, and no daemon.
    fn replacements(self) -> impl Iterator<Item = (PathBuf, String)> {
        let resolv_conf = self.resolv_conf.map(|path| (path, names::RESOLV_CONF.to_owned()));
        let nsswitch = self.nsswitch.map(|(path, text)| (path, names::nsswitch(&text)));
        resolv_conf.into_iter().chain(nsswitch)
    }
}

/// Shows `text` in place of the file at `path`, which may be hidden by now.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        return fs::write(path, text);
    }
    let ours = Path::new(RUN).join("exeat-settings");
    fs::write(&ours, text)?;
    mount_bind(&ours, path)?;
    fs::remove_file(&ours)
}
