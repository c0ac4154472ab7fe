//! A client of a name server that says exactly the bytes it is given.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, RecordType};
use socket2::{Domain, Socket, Type};

use crate::origin::PATIENCE;

/// Where the policy server under test takes questions.
pub const SERVER: &str = "10.99.0.1:53";

/// A client at one address.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    source: IpAddr,
    server: SocketAddr,
}

/// What a client was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer as it came.
    pub message: Message,
}

impl Asker {
    /// A client at `source`, which asks [`SERVER`].
    ///
    /// # Errors
    /// When that is no address.
    pub fn at(source: &str) -> Result<Self> {
        Ok(Self { source: source.parse()?, server: SERVER.parse()? })
    }

    /// The same for another server.
    ///
    /// # Errors
    /// When that is no address with a port.
    pub fn of(self, server: &str) -> Result<Self> {
        Ok(Self { server: server.parse()?, ..self })
    }

    /// Asks by UDP, with EDNS as today's stub resolvers do.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn ask(&self, name: &str, kind: RecordType) -> Result<Told> {
        let query = question(name, kind)?;
        self.send(&query).with_context(|| format!("{name} {kind}"))
    }

    /// Sends a question by UDP and returns its answer.
    ///
    /// # Errors
    /// When no answer comes, or to another question.
    pub fn send(&self, query: &Message) -> Result<Told> {
        let socket = self.udp()?;
        socket.send(&query.to_vec()?)?;
        let told = Told::read(&receive(&socket)?)?;
        ensure!(told.message.metadata.id == query.metadata.id, "{told:?}");
        Ok(told)
    }

    /// A UDP socket that only hears the server.
    ///
    /// # Errors
    /// When the source is not an address of this machine.
    pub fn udp(&self) -> Result<UdpSocket> {
        let socket = UdpSocket::bind((self.source, 0)).with_context(|| format!("bind {}", self.source))?;
        socket.connect(self.server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn tcp(&self) -> Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.source, 0)).into())?;
        socket.connect(&self.server.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Takes one datagram.
///
/// # Errors
/// When none comes in time.
pub fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).context("no answer")?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Writes a message with its length before it.
///
/// # Errors
/// When the connection is gone.
pub fn write_framed(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    let length = u16::try_from(message.len())?;
    Ok(stream.write_all(&[&length.to_be_bytes(), message].concat())?)
}

/// Reads a message with its length before it.
///
/// # Errors
/// When the connection ends first.
pub fn read_framed(stream: &mut TcpStream) -> Result<Told> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Told::read(&bytes)
}

/// A question with EDNS.
///
/// # Errors
/// When `name` is none.
pub fn question(name: &str, kind: RecordType) -> Result<Message> {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_str(name)?;
    name.set_fqdn(true);
    message.queries.push(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    Ok(message)
}

/// Another one each time.
fn rand_id() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let [high, low, ..] = RandomState::new().hash_one(0).to_be_bytes();
    u16::from_be_bytes([high, low])
}

impl Told {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Ok(Self { message: Message::from_vec(bytes)? })
    }

    /// The response code and, after a space, the text of the extended error if it has one: `NXDOMAIN host_not_allowed`.
    #[must_use]
    pub fn code(&self) -> String {
        let number = u16::from(self.message.metadata.response_code);
        let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
        let code = names.get(usize::from(number)).map_or(number.to_string(), |name| (*name).to_owned());
        match self.why() {
            Some((_, text)) => format!("{code} {text}"),
            None => code,
        }
    }

    /// The number and the text of the extended error.
    #[must_use]
    pub fn why(&self) -> Option<(u16, String)> {
        let option = self.message.edns.as_ref()?.option(15.into())?;
        let EdnsOption::Unknown(_, data) = option else { return None };
        let (code, text) = data.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
    }

    /// The records of the answer as they are written, without owner and time to live.
    #[must_use]
    pub fn data(&self) -> Vec<String> {
        self.message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    /// The addresses of the answer.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    /// The records themselves.
    pub fn records(&self) -> impl Iterator<Item = &RData> {
        self.message.answers.iter().map(|record| &record.data)
    }
}
