//! Asks a name server for the address that stands for a name, as a client does that knows of no proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::socket::failed;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Octets of the longest answer by UDP.
const ANSWER_BYTES_MAX: usize = 1232;

/// # Errors
/// If nobody answers, or with no address.
pub(crate) async fn address(server: SocketAddr, name: &str) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).map_err(io::Error::other)?;
    query.add_query(Query::query(name, RecordType::A));
    socket.send(&query.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = [0; ANSWER_BYTES_MAX];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.map_err(|_| failed("no answer"))??;
    let answer = Message::from_vec(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
    let address =
        |data: &RData| if let RData::A(address) = data { Some(IpAddr::V4(address.0)) } else { None };
    let found = answer.answers.iter().find_map(|record| address(&record.data));
    found.ok_or_else(|| failed(format!("answered {}", answer.metadata.response_code)))
}
