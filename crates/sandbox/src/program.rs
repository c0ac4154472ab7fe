//! Why a program could not be run, as shells have it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};

/// Returns the error of running `program` by the search path `path`, and one that it is not there where it is in no folder that can be
/// searched: `execvp` reports those that cannot be, such as root's own, as if the program could not be run.
pub(crate) fn why_not(program: &OsStr, path: Option<&OsStr>, error: io::Error) -> io::Error {
    let is_searched_for = !program.as_encoded_bytes().contains(&b'/');
    if error.kind() != ErrorKind::PermissionDenied || !is_searched_for {
        return error;
    }
    let mut folders = path.map(env::split_paths).into_iter().flatten();
    if folders.any(|folder| fs::symlink_metadata(folder.join(program)).is_ok()) {
        return error;
    }
    io::Error::from_raw_os_error(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_in_no_folder_that_can_be_searched_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("text"), "").unwrap();
        let path = env::join_paths(["/nowhere".as_ref(), folder.path()]).unwrap();
        let whole = folder.path().join("missing");
        for (name, program, error, want) in [
            ("nowhere", OsStr::new("missing"), ErrorKind::PermissionDenied, ErrorKind::NotFound),
            (
                "it is there and no program",
                "text".as_ref(),
                ErrorKind::PermissionDenied,
                ErrorKind::PermissionDenied,
            ),
            (
                "named by its path",
                whole.as_os_str(),
                ErrorKind::PermissionDenied,
                ErrorKind::PermissionDenied,
            ),
            (
                "another error",
                "missing".as_ref(),
                ErrorKind::ExecutableFileBusy,
                ErrorKind::ExecutableFileBusy,
            ),
        ] {
            let got = why_not(program, Some(&path), io::Error::from(error));
            assert_eq!(got.kind(), want, "{name}");
        }
        // Whoever may search every folder cannot try the last case.
        let shut = folder.path().join("shut");
        fs::create_dir(&shut).unwrap();
        fs::write(shut.join("program"), "").unwrap();
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read_dir(&shut).is_err() {
            let denied = io::Error::from(ErrorKind::PermissionDenied);
            assert_eq!(
                why_not("program".as_ref(), Some(shut.as_os_str()), denied).kind(),
                ErrorKind::NotFound
            );
        }
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
