//! What holds for the reader of group files, whatever the bytes are.

use std::cell::OnceCell;
use std::{fs, io};

use exeat_policy::Revision;
use exeat_store::{GROUP_FILE_PROBLEMS_MAX, Options, Report, load};
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// A policy that uses the file on both sides.
const CONFIGURATION: &str = "[proxy]\nanonymous = \"p\"\n[groups.g]\nfile = \"group.txt\"\n\
                             [policy.p]\nallow = [\"@g\"]\ndeny = [\"@g\"]\n";

/// Reads `bytes` as a group file, and checks that every line is an entry, a comment or a problem.
pub(crate) fn check(bytes: &[u8]) {
    let read = FOLDER.with(|folder| read(folder, bytes));
    assert!(read.is_ok(), "the files cannot be written: {read:?}");
    if let Ok((report, loaded)) = read {
        assert_ne!(report.has_errors(), loaded, "{report}");
        assert!(report.problems().len() <= GROUP_FILE_PROBLEMS_MAX + 1, "{report}");
        let lines = bytes.split(|&byte| byte == b'\n').count();
        for problem in report.problems() {
            assert!(problem.location().is_none_or(|place| (place.line as usize) <= lines), "{problem:?}");
        }
    }
}

/// Returns what is said of the file, and whether it loads.
fn read(folder: &OnceCell<TempDir>, bytes: &[u8]) -> io::Result<(Report, bool)> {
    let folder = match folder.get() {
        Some(folder) => folder,
        None => {
            let new = tempfile::tempdir()?;
            folder.get_or_init(|| new)
        }
    };
    let path = folder.path().join("exeat.toml");
    fs::write(&path, CONFIGURATION)?;
    fs::write(folder.path().join("group.txt"), bytes)?;
    Ok(match load(&path, &Options::new(Revision(1))) {
        Ok(loaded) => (loaded.warnings, true),
        Err(report) => (report, false),
    })
}
