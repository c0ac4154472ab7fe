//! The client's side of SOCKS5 (RFC 1928) with a password (RFC 1929).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Opened, PASSWORD, USER};
use crate::socket::failed;

/// Length of a reply with an IPv4 and with an IPv6 address; every reply has at least the first.
const REPLY_V4_BYTES: usize = 10;
const REPLY_V6_BYTES: usize = 22;

/// Asks for a tunnel. A refusal has the reply code in place of a status.
pub(crate) async fn connect(mut stream: TcpStream, name: &str, port: u16) -> io::Result<Opened> {
    stream.write_all(&[5, 1, 2]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    if method != [5, 2] {
        return Err(failed("no password was asked for"));
    }
    let login = [&[1, length(USER)?], USER.as_bytes(), &[length(PASSWORD)?], PASSWORD.as_bytes()].concat();
    stream.write_all(&login).await?;
    let mut status = [0; 2];
    stream.read_exact(&mut status).await?;
    if status != [1, 0] {
        return Err(failed("the password was refused"));
    }
    let request = [&[5, 1, 0, 3, length(name)?], name.as_bytes(), &port.to_be_bytes()].concat();
    stream.write_all(&request).await?;
    let mut reply = [0; REPLY_V4_BYTES];
    stream.read_exact(&mut reply).await?;
    let [_, code, _, kind, ..] = reply;
    if code != 0 {
        return Ok(Opened::Refused(code.into()));
    }
    if kind == 4 {
        stream.read_exact(&mut [0; REPLY_V6_BYTES - REPLY_V4_BYTES]).await?;
    }
    Ok(Opened::Tunnel(Box::new(stream)))
}

fn length(text: &str) -> io::Result<u8> {
    u8::try_from(text.len()).map_err(|_| failed("too long for SOCKS5"))
}
