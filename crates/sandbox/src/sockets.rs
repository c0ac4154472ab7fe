//! Unix sockets of the host: which there are, and how they are put out of sight.
//!
//! The kernel tells the name that each was bound to. Programs rename and link their sockets after that, so that whoever connects
//! finds them complete; so every socket beside one that the kernel names is found as well, and those in places where such are kept.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::failure::{During, Failure, Step};
use crate::mounted::{Mounted, elsewhere};

/// Bytes of the table of unix sockets that are read: each line has some 150, so this is for a hundred thousand.
const TABLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Entries of directories that are looked at: a few seconds' worth.
const ENTRIES_MAX: usize = 1_000_000;

/// Where sockets are often renamed to, or bound by a path that is relative.
const FOLDERS: [&str; 2] = ["/tmp", "/var/tmp"];

/// The same below the home directory, the first one with the directories in it.
const FOLDERS_OF_HOME: [&str; 5] = [".ssh", "", ".ansible/cp", ".gnupg", ".cache"];

/// Finds the sockets of the host, before anything is hidden. `table` is as `/proc/net/unix` has it.
pub(crate) fn find(
    table: File,
    mounts: &[Mounted],
    home: Option<&Path>,
    directory: &Path,
) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut text = Vec::new();
    table.take(TABLE_BYTES_MAX + 1).read_to_end(&mut text).during(Step::Hide)?;
    if text.len() as u64 > TABLE_BYTES_MAX {
        return Err(Failure::new(Step::Hide, "this host has too many unix sockets"));
    }
    let named: BTreeSet<PathBuf> = paths(&text).into_iter().collect();
    let folders: BTreeSet<PathBuf> = named
        .iter()
        .filter_map(|path| path.parent().map(Path::to_owned))
        .chain(usual(home))
        .chain([directory.to_owned()])
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    let more: Vec<PathBuf> = folders.iter().flat_map(|folder| elsewhere(mounts, folder)).collect();
    // One whose directory cannot be listed is still known by its name.
    let mut sockets: BTreeSet<PathBuf> =
        named.iter().filter(|path| is_socket(path)).filter_map(|path| path.canonicalize().ok()).collect();
    let mut left = ENTRIES_MAX;
    for folder in folders.into_iter().chain(more).collect::<BTreeSet<_>>() {
        for entry in list(&folder).during_with(Step::Hide, folder.display())?.into_iter().flatten() {
            left = left.checked_sub(1).ok_or_else(too_many)?;
            let entry = entry.during_with(Step::Hide, folder.display())?;
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                sockets.insert(entry.path());
            }
        }
    }
    let more: Vec<PathBuf> = sockets.iter().flat_map(|socket| elsewhere(mounts, socket)).collect();
    sockets.extend(more);
    Ok(sockets)
}

/// Whether that is what is there, now.
pub(crate) fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn too_many() -> Failure {
    Failure::new(
        Step::Hide,
        format_args!("there are more than {ENTRIES_MAX} files beside unix sockets of this host"),
    )
    .with_help("clear up /tmp, or have the program that listens there do so in a directory of its own")
}

fn usual(home: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let below = home.map(|home| home.join(".ssh")).and_then(|ssh| list(&ssh).ok().flatten());
    let below = below.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let of_home = home.into_iter().flat_map(|home| FOLDERS_OF_HOME.map(|name| home.join(name)));
    of_home.chain(below.filter(|path| path.is_dir())).chain(FOLDERS.map(PathBuf::from))
}

/// Lists a directory, if there is one that can be.
fn list(folder: &Path) -> io::Result<Option<fs::ReadDir>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries)),
        // The command cannot list it either: it has the same user and fewer privileges.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the absolute paths in such a table: each is what follows the seventh field of its line. A name may have line ends,
/// which are written as they are: then what stands before each of them is returned, too.
fn paths(table: &[u8]) -> Vec<PathBuf> {
    let mut paths: Vec<Vec<u8>> = Vec::new();
    let mut has_name = false;
    for line in table.split(|byte| *byte == b'\n') {
        if is_head(line) {
            let start = line.windows(2).position(|two| two == b" /");
            paths.extend(start.and_then(|start| line.get(start + 1..)).map(<[u8]>::to_vec));
            has_name = start.is_some();
        } else if let Some(last) = paths.last().filter(|_| has_name) {
            paths.push([last, line].join(&b'\n'));
        }
    }
    paths.into_iter().map(|path| OsString::from_vec(path).into()).collect()
}

/// Whether a line begins with an address, as the first of each socket does.
fn is_head(line: &[u8]) -> bool {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    digits >= 8 && line.get(digits..digits + 2) == Some(b": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_their_spaces_and_abstract_names_are_none() {
        let table = b"\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/docker.sock
0000000000000000: 00000002 00000000 00010000 0001 01 1235 /tmp/a b/agent 1
0000000000000000: 00000002 00000000 00010000 0001 01 1236 @/tmp/abstract
0000000000000000: 00000003 00000000 00000000 0001 03 1237
0000000000000000: 00000002 00000000 00010000 0001 01 1238 relative.sock
0000000000000000: 00000002 00000000 00010000 0001 01 1239 /tmp/\xff
0000000000000000: 00000002 00000000 00010000 0001 01 1240 /tmp/two
lines
0000000000000000: 00000002 00000000 00010000 0001 01 1241
";
        let want: [&[u8]; 5] =
            [b"/run/docker.sock", b"/tmp/a b/agent 1", b"/tmp/\xff", b"/tmp/two", b"/tmp/two\nlines"];
        let found = paths(table);
        let want = want.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
        assert_eq!(found.get(..5), Some(&want[..]), "{found:?}");
    }
}
