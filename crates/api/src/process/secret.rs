//! What callers of the process API have to know, and the file that it is in.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use exeat_identity::{PasswordHash, generate_password, hash_generated};

/// Characters that a secret has at the least: those of 128 random bits in base64. It is what keeps a guess from being worth a try.
const SECRET_CHARS_MIN: usize = 22;
/// Bytes of a file that holds one.
const FILE_BYTES_MAX: u64 = 4096;
/// Others may read or write the file.
const MODE_OTHERS: u32 = 0o077;

/// The secret of callers. It is not kept itself.
pub struct Secret(PasswordHash);

/// Whether a file had a secret already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NewSecret {
    /// It has one from now on.
    Made,
    /// It had one.
    Found,
}

/// Why there is no secret, without which nobody is served.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could be guessed.
    #[error("the secret has less than {SECRET_CHARS_MIN} characters, or some that are not printable ASCII")]
    Weak,
    /// The file cannot be read or made.
    #[error("the file `{}` cannot be read or made: name another with --secret-file", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Somebody else could know it, or put another one there.
    #[error("the file `{}` is not a regular file of this user that nobody else may read: chmod 600", .0.display())]
    Exposed(PathBuf),
    /// There is no randomness.
    #[error("a secret cannot be made")]
    Make(#[source] exeat_identity::SecretError),
}

impl Secret {
    /// Takes one that somebody else has made.
    ///
    /// # Errors
    /// If it could be guessed, or cannot be sent in a header.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        if text.len() < SECRET_CHARS_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Weak);
        }
        PasswordHash::parse(&hash_generated(text.as_bytes())).map(Self).map_err(|_| SecretError::Weak)
    }

    /// Reads it from this file; if there is none, makes one, with a new secret that only its owner can read.
    ///
    /// # Errors
    /// If that cannot be done, or others may read what is there.
    pub fn of_file(path: &Path) -> Result<(Self, NewSecret), SecretError> {
        let failed = |error| SecretError::File(path.to_owned(), error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let text = generate_password().map_err(SecretError::Make)?;
                file.write_all(format!("{text}\n").as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                Ok((Self::new(&text)?, NewSecret::Made))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok((Self::new(read(path)?.trim_end())?, NewSecret::Found))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Compares in a time that does not depend on where they differ.
    pub(crate) fn is(&self, text: &[u8]) -> bool {
        self.0.is_of_generated(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn read(path: &Path) -> Result<String, SecretError> {
    let failed = |error| SecretError::File(path.to_owned(), error);
    // A pipe would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let is_ours = metadata.uid() == nix::unistd::geteuid().as_raw();
    if !metadata.is_file() || !is_ours || metadata.mode() & MODE_OTHERS != 0 {
        return Err(SecretError::Exposed(path.to_owned()));
    }
    let mut text = String::new();
    File::take(file, FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

const NONBLOCK: i32 = nix::fcntl::OFlag::O_NONBLOCK.bits();

/// Which file it is that has a name now. It is hidden from commands by its name, and one of them might have moved it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pin {
    path: PathBuf,
    file: (u64, u64),
}

impl Pin {
    pub(crate) fn of(path: &PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.clone(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Whether the name is that of the same file still.
    pub(crate) fn holds(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/exeat/secret");
        let (made, new) = Secret::of_file(&path).unwrap();
        assert_eq!(new, NewSecret::Made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let text = fs::read_to_string(&path).unwrap();
        assert!(made.is(text.trim_end().as_bytes()) && !made.is(text.as_bytes()));
        let (found, new) = Secret::of_file(&path).unwrap();
        assert!(new == NewSecret::Found && found.is(text.trim_end().as_bytes()));
        assert!(!found.is(b"") && !found.is(&text.as_bytes()[..26]));
    }

    #[test]
    fn what_others_can_know_or_guess_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (name, text, mode, want) in [
            ("readable by the group", "x".repeat(32), 0o640, "Exposed"),
            ("readable by all", "x".repeat(32), 0o604, "Exposed"),
            ("empty", String::new(), 0o600, "Weak"),
            ("short", "x".repeat(21), 0o600, "Weak"),
            ("two lines", "x".repeat(32) + "\n" + &"y".repeat(32), 0o600, "Weak"),
            ("long enough", "x".repeat(22) + "\n", 0o600, "none"),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let got = Secret::of_file(&path).map_or_else(|error| format!("{error:?}"), |_| "none".to_owned());
            assert!(got.starts_with(want), "{name}: {got}");
        }
        assert!(matches!(Secret::of_file(folder.path()), Err(SecretError::Exposed(_))), "a folder");
    }

    #[test]
    fn a_file_that_was_moved_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "x").unwrap();
        let pin = Pin::of(&path).unwrap();
        assert!(pin.holds());
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        assert!(!pin.holds());
        fs::write(&path, "x").unwrap();
        assert!(!pin.holds(), "another file");
    }
}
