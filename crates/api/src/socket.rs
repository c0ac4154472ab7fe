//! Unix sockets that are for some users only from the moment that they can be connected to: that of the admin API for
//! its owner.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, lchown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::AT_FDCWD,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
};
use tokio::net::{UnixListener, UnixSocket};

/// Only the owner may read and write, which is what connecting takes (unix(7)).
const MODE: u32 = 0o600;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{} is in use: another proxy listens there", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else has that name, and is not ours to remove.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    System {
        /// The socket's path.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Who may connect to a socket, and how many may wait for that.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The permissions of its file; connecting takes the one to write (unix(7)).
    pub mode: u32,
    /// The user whom it belongs to, if not the one of the process.
    pub owner: Option<u32>,
    /// The group likewise.
    pub group: Option<u32>,
    /// Connections that wait to be accepted.
    pub backlog: u32,
}

impl Access {
    /// That of the admin API.
    const ADMIN: Self = Self { mode: MODE, owner: None, group: None, backlog: BACKLOG };

    /// Gives it to the file at `path`, and to nothing that somebody who may write to the folder has had it refer to since.
    fn give(&self, path: &Path) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(self.mode);
        fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?;
        match (self.owner, self.group) {
            (None, None) => Ok(()),
            (owner, group) => lchown(path, owner, group),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    /// Takes connections.
    pub listener: UnixListener,
    /// Removes the file when dropped.
    pub file: SocketFile,
}

/// The file of a socket. It is removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// What tells a file from another that has its name later: inode numbers alone are given out again.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

impl Socket {
    /// Listens at `path` for the owner of the process. A socket file there that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::bind_for(path, Access::ADMIN)
    }

    /// Listens at `path` for whom `access` lets in, as [`Self::bind`] does.
    ///
    /// # Errors
    /// See [`SocketError`]. To give a socket to another user takes the right to (chown(2)).
    pub fn bind_for(path: &Path, access: Access) -> Result<Self, SocketError> {
        remove_stale(path)?;
        let system = |source| SocketError::System { path: path.to_owned(), source };
        let socket = UnixSocket::new_stream().map_err(system)?;
        socket.bind(path).map_err(system)?;
        // Before `listen`: until then every attempt to connect is refused.
        access.give(path).map_err(system)?;
        let identity = identity(path).map_err(system)?;
        let listener = socket.listen(access.backlog).map_err(system)?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), identity } })
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::System { path, source }),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NotASocket { path }),
        Ok(_) => {}
    }
    match UnixStream::connect(&path) {
        Ok(_) => Err(SocketError::InUse { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(|source| SocketError::System { path, source })
        }
        Err(source) => Err(SocketError::System { path, source }),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Stale at worst: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_connect_and_the_file_goes_with_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, MODE);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn access_is_given_to_the_file_itself() {
        let directory = tempfile::tempdir().unwrap();
        let (path, precious) = (directory.path().join("s"), directory.path().join("precious"));
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o400)).unwrap();
        let access = Access { mode: 0o666, ..Access::ADMIN };
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(access.give(&path).is_err(), "somebody has put a link there");
        assert_eq!(fs::symlink_metadata(&precious).unwrap().mode() & 0o777, 0o400);
        fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        access.give(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o666);
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket leaves its file behind");
        let first = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok(), "the first one still listens");
        drop(first);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let nowhere = directory.path().join("missing/s");
        assert!(matches!(Socket::bind(&nowhere), Err(SocketError::System { .. })));
    }

    #[tokio::test]
    async fn the_file_of_a_successor_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let Socket { listener, file } = Socket::bind(&path).unwrap();
        drop(listener);
        let second = Socket::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        drop(second);
    }
}
