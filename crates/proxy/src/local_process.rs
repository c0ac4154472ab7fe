//! Whether a connection from this host was opened by Exeat itself, for somebody: that is how one from inside a sandbox comes.

use std::{fs, io, net::SocketAddr, os::unix::fs::MetadataExt as _, path::Path};

use crate::{local_address, local_user};

/// Returns whether `client` is an address of this host, in our own network namespace.
///
/// # Errors
/// If the kernel does not tell for certain.
pub fn is_of_this_host(client: SocketAddr) -> io::Result<bool> {
    local_address::is_ours(client, None)
}

/// Returns whether the socket of this host at `client` that is connected to `here` is held by a process of this program. Of
/// processes that we may not look into, it is not known that they are, and they count as others.
///
/// Takes some milliseconds, more where there are thousands of processes.
///
/// # Errors
/// If there is no such socket any more, or the kernel does not tell.
pub fn is_relayed_by_exeat(client: SocketAddr, here: SocketAddr) -> io::Result<bool> {
    let socket = format!("socket:[{}]", local_user::inode(client, here)?);
    let ourselves = file("/proc/self/exe")?;
    for process in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let path = process.path();
        let is_exeat = file(path.join("exe")).is_ok_and(|file| file == ourselves);
        if is_exeat && holds(&path.join("fd"), &socket) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn file(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn holds(descriptors: &Path, socket: &str) -> bool {
    let descriptors = fs::read_dir(descriptors).into_iter().flatten().filter_map(Result::ok);
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_program_is_found_to_be_one() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let here = listener.local_addr().unwrap();
            let ours = TcpStream::connect(here).unwrap();
            let (near, peer) = listener.accept().unwrap();
            assert!(is_of_this_host(peer).unwrap(), "{address}");
            assert!(is_relayed_by_exeat(peer, near.local_addr().unwrap()).unwrap(), "{address}");
            drop(ours);
            is_relayed_by_exeat(peer, near.local_addr().unwrap()).unwrap_err();
        }
        assert!(!is_of_this_host("192.0.2.1:1".parse().unwrap()).unwrap());
    }
}
