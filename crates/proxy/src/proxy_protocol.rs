//! The PROXY protocol, version 2: from load balancers in front, who the client is, before anything that it says; and to
//! upstreams that the operator wants to know it.
//!
//! Whether a connection has such a header is not for its first bytes to say but for where it comes from: a configured
//! sender must send one, and from anybody else the same bytes are a malformed request. None is sent to an upstream that
//! was not configured to get it: it gives the client's address away.

use std::io;

use exeat_policy::Announce;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::Client,
    limits::Limits,
    proxy_protocol_wire::{Ends, FIXED_BYTES, SIGNATURE, header, length, parse},
    trail::Trail,
};

/// Why a connection of a sender has no client.
#[derive(Debug)]
pub(crate) enum Error {
    /// It ended before its first byte, as the checks of load balancers do.
    Closed,
    /// There is no header, or not one that can be used.
    Malformed,
    /// It did not come in time.
    Late,
}

/// Reads the header of a connection from `sender`, and not a byte more: what follows may be TLS. Takes
/// `limits.head_timeout` at most. Returns the client that it tells of, or `sender` if it speaks for itself.
pub(crate) async fn read(stream: &mut TcpStream, sender: &Client, limits: &Limits) -> Result<Client, Error> {
    match timeout(limits.head_timeout, read_header(stream)).await {
        Ok(Ok(header)) => {
            let own = Ends { peer: sender.peer, local: sender.local };
            let told = parse(&header, own).ok_or(Error::Malformed)?;
            Ok(if told == own { sender.clone() } else { sender.behind(told.peer, told.local) })
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Late),
    }
}

async fn read_header(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let fixed = read_fixed(stream).await?;
    let length = length(&fixed).ok_or(Error::Malformed)?;
    let mut header = fixed.to_vec();
    header.resize(length, 0);
    let rest = header.get_mut(FIXED_BYTES..).unwrap_or_default();
    stream.read_exact(rest).await.map_err(|_| Error::Malformed)?;
    Ok(header)
}

/// Reads the part of fixed length. Something else than a header, one of version 1 for example, may be shorter than
/// that: it is refused at its first wrong byte and not waited for.
async fn read_fixed(stream: &mut TcpStream) -> Result<[u8; FIXED_BYTES], Error> {
    let mut fixed = [0; FIXED_BYTES];
    let mut known = 0;
    while known < FIXED_BYTES {
        let room = fixed.get_mut(known..).unwrap_or_default();
        let count = match stream.read(room).await {
            Ok(0) | Err(_) if known == 0 => return Err(Error::Closed),
            Ok(0) | Err(_) => return Err(Error::Malformed),
            Ok(count) => count,
        };
        known += count;
        if fixed.iter().zip(SIGNATURE).take(known).any(|(got, want)| got != want) {
            return Err(Error::Malformed);
        }
    }
    Ok(fixed)
}

/// Tells the other side of a new connection of the client of `trail`, if `announce` asks for that.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn announce(stream: &mut TcpStream, announce: Announce, trail: &Trail) -> io::Result<()> {
    let principal = match announce {
        Announce::Nothing => return Ok(()),
        Announce::Client => None,
        Announce::ClientAndPrincipal => trail.principal_name(),
    };
    // Nothing was written before it, so the kernel has room for it and takes it at once.
    let client = trail.client();
    let ends = client.address().map(|peer| Ends { peer, local: client.local });
    stream.write_all(&header(ends, trail.request_id(), principal)).await
}
