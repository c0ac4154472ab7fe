//! The files of a git repository that say what git runs: hooks and settings, wherever they lie.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What git runs, or what says so, in a directory of its own. `commondir` says where the others of them are.
const IN_GIT_DIRECTORY: [&str; 4] = ["hooks", "config", "config.worktree", "commondir"];

/// Directories of git that are looked at: one for each submodule and each other working tree.
const DIRECTORIES_MAX: usize = 1000;

/// How deep names of submodules and working trees, which may have slashes, are followed.
const DEPTH_MAX: usize = 16;

/// Bytes of a file of git that are read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Returns those of the repository that a directory lies in, as far as they are there.
///
/// # Errors
/// If it has too many submodules to look at.
pub(crate) fn guarded(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut guarded = Guarded { files: Vec::new(), left: DIRECTORIES_MAX };
    let found = directory.ancestors().map(|above| above.join(".git")).find(|git| git.exists());
    if let Some(git) = found {
        guarded.add_at(&git)?;
    }
    guarded.files.retain(|path| path.exists());
    Ok(guarded.files)
}

struct Guarded {
    files: Vec<PathBuf>,
    left: usize,
}

impl Guarded {
    /// Adds those of the repository at `.git`, which may be a file that names a directory elsewhere.
    fn add_at(&mut self, git: &Path) -> io::Result<()> {
        let directory = match read(git) {
            Some(text) => {
                self.files.push(git.to_owned());
                let Some(named) = text.strip_prefix("gitdir:").map(str::trim) else { return Ok(()) };
                git.with_file_name(named)
            }
            None => git.to_owned(),
        };
        self.add(&directory)?;
        let Some(common) = read(&directory.join("commondir")) else {
            return self.add_below(&directory);
        };
        let common = directory.join(common.trim());
        self.add(&common)?;
        self.add_below(&common)
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        let too_many = || io::Error::other(format!("it has more than {DIRECTORIES_MAX} submodules"));
        self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        self.files.extend(IN_GIT_DIRECTORY.map(|name| directory.join(name)));
        Ok(())
    }

    /// Adds those of submodules and of other working trees.
    fn add_below(&mut self, common: &Path) -> io::Result<()> {
        self.find(&common.join("modules"), DEPTH_MAX)?;
        self.find(&common.join("worktrees"), DEPTH_MAX)
    }

    fn find(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            if path.join("HEAD").exists() {
                self.add(&path)?;
                self.files.extend(git_file(&path));
                if depth > 0 {
                    self.find(&path.join("modules"), depth - 1)?;
                }
            } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.find(&path, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// The file `.git` in the working tree of a submodule, which leads to its directory.
fn git_file(directory: &Path) -> Option<PathBuf> {
    let settings = read(&directory.join("config"))?;
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "worktree").then(|| value.trim().trim_matches('"').to_owned())
    };
    settings.lines().find_map(value).map(|tree| directory.join(tree).join(".git"))
}

/// Reads a file. `None` if it is none.
fn read(path: &Path) -> Option<String> {
    // Opening a pipe would wait for whoever writes to it.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_trees_and_submodules_lead_to_their_repositories() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        for (file, text) in [
            ("repo/.git/config", ""),
            ("repo/.git/hooks/pre-commit", ""),
            ("repo/.git/worktrees/tree/HEAD", ""),
            ("repo/.git/worktrees/tree/commondir", "../..\n"),
            ("repo/.git/modules/a/b/HEAD", ""),
            ("repo/.git/modules/a/b/config", "[core]\n\tworktree = ../../../../lib\n"),
            ("repo/lib/.git", "gitdir: ../.git/modules/a/b\n"),
            ("repo/src/file", ""),
            ("tree/.git", "gitdir: ../repo/.git/worktrees/tree\n"),
        ] {
            let path = home.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = |directory: &str| -> Vec<PathBuf> {
            let mut found: Vec<PathBuf> = guarded(&home.join(directory)).unwrap();
            found = found.iter().map(|path| path.canonicalize().unwrap()).collect();
            found.sort();
            found.dedup();
            let home = home.canonicalize().unwrap();
            found.iter().map(|path| path.strip_prefix(&home).unwrap().to_owned()).collect()
        };
        let of_repository = [
            "repo/.git/config",
            "repo/.git/hooks",
            "repo/.git/modules/a/b/config",
            "repo/.git/worktrees/tree/commondir",
            "repo/lib/.git",
        ];
        assert_eq!(found("repo/src"), of_repository.map(PathBuf::from));
        let of_tree = of_repository.into_iter().chain(["tree/.git"]).map(PathBuf::from);
        assert_eq!(found("tree"), of_tree.collect::<Vec<_>>());
        assert_eq!(found("repo/lib"), ["repo/.git/modules/a/b/config", "repo/lib/.git"].map(PathBuf::from));
    }

    #[test]
    fn more_submodules_than_can_be_looked_at_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..DIRECTORIES_MAX {
            let module = folder.path().join(".git/modules").join(number.to_string());
            fs::create_dir_all(&module).unwrap();
            fs::write(module.join("HEAD"), "").unwrap();
        }
        assert!(guarded(folder.path()).is_err());
    }
}
