//! What is mounted where, as the kernel tells it in `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

/// Bytes of the table that are read: each line has some 150, and the kernel has at most a hundred thousand mounts.
const TABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mounted {
    /// Which file system, by its device.
    device: Vec<u8>,
    /// What of that file system.
    root: PathBuf,
    /// Where.
    pub(crate) at: PathBuf,
    /// What it is restricted to.
    pub(crate) flags: MountFlags,
}

/// Returns the mounts of this process, in the order in which they were made.
pub(crate) fn read() -> io::Result<Vec<Mounted>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(TABLE_BYTES_MAX + 1).read_to_end(&mut table)?;
    if table.len() as u64 > TABLE_BYTES_MAX {
        return Err(io::Error::other("there are too many mounts"));
    }
    Ok(table.split(|byte| *byte == b'\n').filter_map(line).collect())
}

/// Reads a line (proc_pid_mountinfo(5)).
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (device, root, at) = (fields.next()?.to_vec(), path(fields.next()?), path(fields.next()?));
    let flags = fields.next()?.split(|byte| *byte == b',').map(flag).collect();
    Some(Mounted { device, root, at, flags })
}

/// Reads an option, as far as it is one of the mount and not of its file system.
fn flag(option: &[u8]) -> MountFlags {
    match option {
        b"ro" => MountFlags::RDONLY,
        b"nosuid" => MountFlags::NOSUID,
        b"nodev" => MountFlags::NODEV,
        b"noexec" => MountFlags::NOEXEC,
        b"noatime" => MountFlags::NOATIME,
        b"nodiratime" => MountFlags::NODIRATIME,
        b"relatime" => MountFlags::RELATIME,
        b"nosymfollow" => MountFlags::NOSYMFOLLOW,
        _ => MountFlags::empty(),
    }
}

/// Reads a path in which blanks, line ends and backslashes are written as three octal digits.
fn path(written: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = written;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// Returns where else the file at a path without symbolic links is to be seen, by other mounts of its file system.
pub(crate) fn elsewhere<'a>(mounts: &'a [Mounted], file: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let depth = |mount: &&Mounted| mount.at.components().count();
    let own = mounts.iter().filter(|mount| file.starts_with(&mount.at)).max_by_key(depth);
    let inside = own.and_then(|own| {
        let below = file.strip_prefix(&own.at).ok()?;
        Some((&own.device, own.root.components().chain(below.components()).collect::<PathBuf>()))
    });
    inside.into_iter().flat_map(move |(device, inside)| {
        mounts.iter().filter(move |mount| mount.device == *device).filter_map(move |mount| {
            let below = inside.strip_prefix(&mount.root).ok()?;
            let there: PathBuf = mount.at.components().chain(below.components()).collect();
            (there != file).then_some(there)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_every_mount_of_its_file_system() {
        let table = b"21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 254:0 /home/a /srv/a\\040b rw shared:1 - ext4 /dev/vda rw
23 21 0:40 / /home/a/tmp rw - tmpfs tmpfs rw
24 21 254:0 /home/a/s /socket rw - ext4 /dev/vda rw
";
        let mounts: Vec<Mounted> = table.split(|byte| *byte == b'\n').filter_map(line).collect();
        for (file, want) in [
            ("/home/a/s", &["/srv/a b/s", "/socket"][..]),
            ("/home/a", &["/srv/a b"]),
            ("/srv/a b/t", &["/home/a/t"]),
            // Another file system.
            ("/home/a/tmp/s", &[]),
            ("/home/b", &[]),
        ] {
            let found: Vec<PathBuf> = elsewhere(&mounts, Path::new(file)).collect();
            assert_eq!(found, want.iter().map(PathBuf::from).collect::<Vec<_>>(), "{file}");
        }
        assert_eq!(mounts.first().map(|mount| mount.flags), Some(MountFlags::RELATIME));
    }
}
