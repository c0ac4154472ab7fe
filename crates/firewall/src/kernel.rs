//! The socket to nftables. Every change is acknowledged before a call returns; nothing here starts a process.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::Arc,
};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    nftables::{
        ChainAttribute, ChainMessage, GenAttribute, GenMessage, NfTablesMessage, RuleAttribute, RuleMessage,
        SetAttribute, SetMessage, TableAttribute, TableMessage,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::{
    counts::Counts,
    element::Element,
    packet_count::{self, Count},
    wire::{self, Batch, FAMILY_BYTES, Held, TABLE},
};

/// Bytes of the messages that the kernel sends at once: it fills at most this much of one buffer.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// The bytes of a message's header (`struct nlmsghdr`).
const HEADER_BYTES: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NFT_MSG_NEWGEN`, of nftables.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// Elements of one transaction where many are put at once: some 100 KiB, within the send buffer of any system.
pub(crate) const ELEMENTS_PER_BATCH: usize = 512;
/// Elements of one transaction that takes them out, without lifetimes and names: as many bytes.
pub(crate) const ELEMENTS_PER_REMOVAL: usize = 2048;
/// The first kernel that renews an element which is there already.
const RENEWS_IN_PLACE: (u32, u32) = (6, 12);
/// The first that deletes elements which may not be there.
const DESTROYS: (u32, u32) = (6, 3);

/// A connection to the nftables of the network namespace that it was made in.
pub(crate) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    renews_in_place: bool,
    destroys: bool,
    counts: Arc<Counts>,
}

/// What the rules of our table look like. Two are equal if nobody has changed a rule or a chain between them, or made
/// the table again; elements of sets and the counters of packets are no part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fingerprint(u64);

/// The names of what is in our table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Contents {
    pub(crate) chains: Vec<String>,
    /// The chains that the kernel hands packets to.
    pub(crate) hooked: Vec<String>,
    pub(crate) sets: Vec<String>,
}

impl Contents {
    /// Whether something belongs to the rules of this number.
    pub(crate) fn has_serial(&self, serial: u64) -> bool {
        let part = format!("_{serial}_");
        self.chains.iter().chain(&self.sets).any(|name| {
            let is_numbered = ["behind", "region", "from", "l"].iter().any(|kind| name.starts_with(kind));
            is_numbered && name.contains(&part)
        })
    }
}

impl Kernel {
    /// Connects.
    ///
    /// # Errors
    /// If the system does not let us.
    pub(crate) fn connect() -> io::Result<Self> {
        Self::counting(Arc::default())
    }

    /// Connects, and counts its changes.
    ///
    /// # Errors
    /// If the system does not let us.
    pub(crate) fn counting(counts: Arc<Counts>) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // An error then comes without the message that it is about.
        socket.set_cap_ack(true)?;
        let release = release();
        let (renews_in_place, destroys) = (release >= RENEWS_IN_PLACE, release >= DESTROYS);
        Ok(Self { socket, sequence: 0, buffer: Vec::new(), renews_in_place, destroys, counts })
    }

    /// Whether an element that is put again gets a new time by that alone.
    pub(crate) fn renews_in_place(&self) -> bool {
        self.renews_in_place
    }

    /// Takes elements out of their sets, whether they are there or have ended by themselves: for each set one transaction
    /// of at most [`ELEMENTS_PER_REMOVAL`].
    ///
    /// # Errors
    /// The system's error for what fails first. What comes after it is not taken out.
    pub(crate) fn take_out(&mut self, gone: &[Element]) -> io::Result<()> {
        let most = if self.destroys { ELEMENTS_PER_REMOVAL } else { ELEMENTS_PER_BATCH };
        for (_, gone) in wire::by_set(gone, |element| *element) {
            gone.chunks(most).try_for_each(|gone| self.take_out_of_set(gone))?;
        }
        Ok(())
    }

    fn take_out_of_set(&mut self, gone: &[Element]) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.take_out(gone, self.destroys);
        match self.commit(batch) {
            // An older kernel has no room in a set to put in what is not there: by halves, what is there is taken out.
            Err(error) if error.raw_os_error() == Some(Errno::ENFILE as i32) => {
                let (one, other) = gone.split_at(gone.len() / 2);
                if one.is_empty() {
                    return Ok(());
                }
                self.take_out_of_set(one)?;
                self.take_out_of_set(other)
            }
            // There is no such set, so that nothing is in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Carries out one transaction. It is in force, for every packet, when this returns.
    ///
    /// # Errors
    /// The system's error for what fails first. Nothing of the transaction is in force then.
    pub(crate) fn commit(&mut self, batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.try_commit(batch);
        self.counts.committed(result.is_ok());
        result
    }

    fn try_commit(&mut self, batch: Batch) -> io::Result<()> {
        let sequence = self.next();
        self.send(&batch.finish(sequence))?;
        // The kernel carries it out within `send`, so that the answers are there by now.
        let mut is_acknowledged = false;
        let mut failed = None;
        while let Some(datagram) = self.receive()? {
            for_each_message(datagram, |kind, answered, payload| {
                if kind == ERROR && answered == sequence {
                    match error_code(payload) {
                        0 => is_acknowledged = true,
                        code => failed = failed.take().or(Some(wire::failure(code))),
                    }
                }
            })?;
        }
        match failed {
            Some(error) => Err(error),
            None if is_acknowledged => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not acknowledge the change")),
        }
    }

    /// Returns an element as it is now, with what was counted of it, if that is; `None` if it is not there.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn get_counted(&mut self, element: &Element) -> io::Result<Option<(Held, Option<Count>)>> {
        let mut found = None;
        let asked = self.exchange(wire::element_question(element), false, |_, payload| {
            let held = wire::held(payload)?.into_iter().next();
            found = held.map(|held| (held, packet_count::of_element(payload)));
            Ok(())
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Returns the counters of our table.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn counters(&mut self) -> io::Result<Vec<(String, Count)>> {
        let mut found = Vec::new();
        self.ask_raw(wire::counters_question(), true, |payload| {
            found.extend(packet_count::of_object(payload))
        })?;
        Ok(found)
    }

    /// Returns every element of a set. It takes long for a large one: for the start alone.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn list(&mut self, set: &str) -> io::Result<Vec<Held>> {
        let mut found = Vec::new();
        self.exchange(wire::set_question(set), true, |_, payload| {
            found.extend(wire::held(payload)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the number that grows with every change of any table.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let mut found = None;
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        self.exchange(question, false, |bytes, _| {
            found = generation(bytes)?.or(found);
            Ok(())
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Returns what is in our table; `None` if there is no such table.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn contents(&mut self) -> io::Result<Option<Contents>> {
        if !self.has_table()? {
            return Ok(None);
        }
        let mut contents = Contents::default();
        let chains = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        self.ask(chains, true, |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(message)) = message.inner {
                let name = chain_name(&message.attributes);
                let is_hook = |attribute: &ChainAttribute| matches!(attribute, ChainAttribute::Hook(_));
                if message.attributes.iter().any(is_hook) {
                    contents.hooked.extend(name.clone());
                }
                contents.chains.extend(name);
            }
        })?;
        let table = SetAttribute::Table(TABLE.to_owned());
        let sets = NfTablesMessage::GetSet(SetMessage { attributes: vec![table] });
        self.ask(sets, true, |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(message)) = message.inner {
                contents.sets.extend(set_name(&message.attributes));
            }
        })?;
        Ok(Some(contents))
    }

    /// Returns what our rules look like; `None` if there is no such table.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub(crate) fn fingerprint(&mut self) -> io::Result<Option<Fingerprint>> {
        let mut hasher = DefaultHasher::new();
        match self.ask_raw(table_question(), false, |payload| lasting(payload).hash(&mut hasher)) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
            other => other?,
        }
        let table = RuleAttribute::Table(TABLE.to_owned());
        let rules = NfTablesMessage::GetRule(RuleMessage { attributes: vec![table] });
        self.ask_raw(rules, true, |payload| lasting(payload).hash(&mut hasher))?;
        Ok(Some(Fingerprint(hasher.finish())))
    }

    fn has_table(&mut self) -> io::Result<bool> {
        match self.ask_raw(table_question(), false, |_| {}) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Asks, and calls `found` with each message of the answer.
    fn ask(
        &mut self,
        question: NfTablesMessage,
        is_dump: bool,
        mut found: impl FnMut(NetfilterMessage),
    ) -> io::Result<()> {
        self.exchange(question, is_dump, |bytes, _| {
            parse(bytes).map(|message| message.into_iter().for_each(&mut found))
        })
    }

    /// As [`Self::ask`], with the bytes of each message as they are.
    fn ask_raw(
        &mut self,
        question: NfTablesMessage,
        is_dump: bool,
        mut found: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.exchange(question, is_dump, |_, payload| {
            found(payload);
            Ok(())
        })
    }

    fn exchange(
        &mut self,
        question: NfTablesMessage,
        is_dump: bool,
        mut found: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let sequence = self.next();
        self.send(&wire::question(question, is_dump, sequence))?;
        // As for a change: what is answered is there when `send` returns; of a long list its beginning, and each part
        // that is read makes room for the next.
        while let Some(datagram) = self.receive()? {
            let datagram = std::mem::take(datagram);
            let result = read(&datagram, sequence, is_dump, &mut found);
            self.buffer = datagram;
            if result? {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"))
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes, 0).map(|_| ())
    }

    /// Returns the next datagram; `None` if there is none.
    fn receive(&mut self) -> io::Result<Option<&mut Vec<u8>>> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM_BYTES);
        match self.socket.recv(&mut self.buffer, 0) {
            Ok(_) => Ok(Some(&mut self.buffer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads one datagram of the answer to the question of this number, of which `found` gets each message, and its payload.
/// Returns whether the answer ends with it.
///
/// # Errors
/// The kernel's own, the first of `found`, or that it is not a datagram of the kernel's.
pub(crate) fn read(
    datagram: &[u8],
    sequence: u32,
    is_dump: bool,
    mut found: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let (mut result, mut is_done) = (Ok(()), !is_dump);
    for_each_whole_message(datagram, |kind, answered, bytes, payload| {
        if answered != sequence || result.is_err() {
            return;
        }
        match kind {
            ERROR => result = Err(wire::failure(error_code(payload))),
            DONE => is_done = true,
            _ => result = found(bytes, payload),
        }
    })?;
    result.map(|()| is_done)
}

/// Returns what a message of an answer says, if it is one of netfilter's.
///
/// # Errors
/// If the kernel does not write so.
fn parse(message: &[u8]) -> io::Result<Option<NetfilterMessage>> {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message).map_err(invalid)?;
    Ok(if let NetlinkPayload::InnerMessage(message) = message.payload { Some(message) } else { None })
}

/// Returns the number of the newest change, if a message tells it.
///
/// # Errors
/// If the kernel does not write so.
pub(crate) fn generation(message: &[u8]) -> io::Result<Option<u32>> {
    if NetlinkBuffer::new_checked(message).map_err(invalid)?.message_type() != NEW_GENERATION {
        return Ok(None);
    }
    let Some(NetfilterMessage {
        inner: NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(message)),
        ..
    }) = parse(message)?
    else {
        return Ok(None);
    };
    let id = |attribute: &GenAttribute| if let GenAttribute::Id(id) = attribute { Some(*id) } else { None };
    Ok(message.attributes.iter().find_map(id))
}

fn table_question() -> NfTablesMessage {
    let name = TableAttribute::Name(TABLE.to_owned());
    NfTablesMessage::GetTable(TableMessage { attributes: vec![name] })
}

/// The part of an answer that stays as it is until somebody changes what it is about: what comes before has the number of
/// the newest change of anything.
fn lasting(payload: &[u8]) -> &[u8] {
    payload.get(FAMILY_BYTES..).unwrap_or_default()
}

/// The name of a chain that is ours.
fn chain_name(attributes: &[ChainAttribute]) -> Option<String> {
    let (mut is_ours, mut found) = (false, None);
    for attribute in attributes {
        if let ChainAttribute::Table(table) = attribute {
            is_ours = table == TABLE;
        }
        if let ChainAttribute::Name(name) = attribute {
            found = Some(name.clone());
        }
    }
    found.filter(|_| is_ours)
}

/// The name of a set that is ours.
fn set_name(attributes: &[SetAttribute]) -> Option<String> {
    let (mut is_ours, mut found) = (false, None);
    for attribute in attributes {
        if let SetAttribute::Table(table) = attribute {
            is_ours = table == TABLE;
        }
        if let SetAttribute::Name(name) = attribute {
            found = Some(name.clone());
        }
    }
    found.filter(|_| is_ours)
}

/// Calls `found` with type, sequence number and payload of each message of a datagram.
fn for_each_message(datagram: &[u8], mut found: impl FnMut(u16, u32, &[u8])) -> io::Result<()> {
    for_each_whole_message(datagram, |kind, sequence, _, payload| found(kind, sequence, payload))
}

fn for_each_whole_message(datagram: &[u8], mut found: impl FnMut(u16, u32, &[u8], &[u8])) -> io::Result<()> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(invalid)?;
        let length = message.length() as usize;
        let whole = rest.get(..length).ok_or_else(|| invalid("a message that is cut off"))?;
        let payload = whole.get(HEADER_BYTES..).unwrap_or_default();
        found(message.message_type(), message.sequence_number(), whole, payload);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// The code of an error message; 0 is an acknowledgement.
fn error_code(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(-(Errno::EIO as i32), |code| i32::from_ne_bytes(*code))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The version of this kernel, by its release: `6.18.44-cloud`.
fn release() -> (u32, u32) {
    let Ok(names) = nix::sys::utsname::uname() else { return (0, 0) };
    let release = names.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
