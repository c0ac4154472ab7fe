//! Programs of the system that are run with the rights of this one, so that it matters who has put them there.

use std::env;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the system's programs lie. A user's search path comes last: it may begin with folders that the user can write, and a command
/// of an earlier run with the user.
const FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// Permissions that let others than the owner write, and the one that keeps entries of a directory to their owners.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Returns the program of this name that nobody but root can have put there: of the system, or else of the search path.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fixed = FOLDERS.iter().map(Path::new).find_map(|folder| in_folder(folder, name));
    fixed.or_else(|| {
        let mut folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
        // What it is now is what is run: a link could be another one by then.
        folders.find_map(|folder| in_folder(&folder, name)?.canonicalize().ok().filter(|it| is_roots(it)))
    })
}

/// Whether nobody but root can write what is at a path without links, nor put anything else in its place.
fn is_roots(path: &Path) -> bool {
    path.ancestors().enumerate().all(|(depth, part)| {
        part.symlink_metadata().is_ok_and(|metadata| {
            let is_shared = metadata.mode() & OTHERS_WRITE != 0;
            // In a directory such as that of Nix, others may add to what is there.
            metadata.uid() == 0 && (!is_shared || depth > 0 && metadata.mode() & STICKY != 0)
        })
    })
}

fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_has_is_found_and_what_it_has_not_is_not() {
        let shell = program("sh").unwrap();
        assert!(shell.is_absolute() && is_roots(&shell.canonicalize().unwrap()) || !is_ours(Path::new("/")));
        assert_eq!(program("exeat-no-such-program"), None);
    }

    #[test]
    fn only_what_nobody_but_root_can_write_is_taken_from_a_search_path() {
        assert!(is_roots(&Path::new("/bin/sh").canonicalize().unwrap()) || !is_ours(Path::new("/")));
        let folder = tempfile::tempdir().unwrap();
        let nft = folder.path().canonicalize().unwrap().join("nft");
        std::fs::write(&nft, "").unwrap();
        let set =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        // Of root it is ours, of a user it is the user's.
        let is_root = is_ours(Path::new("/"));
        set(&nft, 0o755);
        assert_eq!(is_roots(&nft), is_root);
        for (path, mode) in [(&*nft, 0o775), (&*nft, 0o757), (folder.path(), 0o777), (folder.path(), 0o770)] {
            let before = path.metadata().unwrap().permissions().mode();
            set(path, mode);
            assert!(!is_roots(&nft), "{} {mode:o}", path.display());
            set(path, before);
        }
        assert_eq!(is_roots(&nft), is_root);
    }

    fn is_ours(path: &Path) -> bool {
        path.metadata().unwrap().uid() == nix::unistd::geteuid().as_raw()
    }
}
