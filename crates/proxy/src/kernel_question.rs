//! One question to the kernel and its answer (netlink(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Bytes of an answer about one thing, with room to spare.
const ANSWER_BYTES: usize = 8192;

/// Asks one question of the kernel by this `protocol` of netlink, and returns what it answers. Takes no time worth waiting
/// for: it answers within the call that asks.
///
/// # Errors
/// What the kernel says is wrong, or `InvalidData` if its answer cannot be read.
pub(crate) fn ask<T>(protocol: isize, question: T) -> io::Result<T>
where
    T: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<T>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, question.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let unexpected = || io::Error::from(io::ErrorKind::InvalidData);
    let answer = NetlinkMessage::<T>::deserialize(&answer).map_err(|_| unexpected())?.payload;
    if let NetlinkPayload::Error(error) = answer {
        return Err(error.to_io());
    }
    let NetlinkPayload::InnerMessage(answer) = answer else { return Err(unexpected()) };
    Ok(answer)
}
