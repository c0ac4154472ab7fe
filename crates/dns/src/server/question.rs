//! What a client's message asks, if it asks anything. Pure.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Octets of the longest question that is read. A name has 255 at most and options of EDNS hardly more; a question
/// carries nothing else.
pub(crate) const QUESTION_BYTES_MAX: usize = 4096;

/// Octets of an answer by UDP that every client takes (RFC 1035 §4.2.1).
const UDP_BYTES_MIN: u16 = 512;

/// Octets of an answer by UDP that no network has to cut in pieces: what the servers of the Internet agreed on in 2020.
pub(crate) const UDP_BYTES_MAX: u16 = 1232;

/// Octets of a message's header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// A question, and what an answer to it must repeat.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) head: Head,
    /// The name, with its letters in the case that the client chose: some look whether the answer has them too.
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    pub(crate) class: DNSClass,
    pub(crate) edns: Option<Asked>,
}

/// What of a message's header an answer repeats.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) id: u16,
    pub(crate) op_code: OpCode,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
}

/// What the client says in EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Asked {
    /// Octets of an answer that it takes.
    room: u16,
    /// Whether it wants to see signatures; told back to it (RFC 3225 §3), though there are none to see.
    pub(crate) dnssec_ok: bool,
}

/// Why a message asks nothing that is answered in substance.
#[derive(Clone, Debug)]
pub(crate) enum Unasked {
    /// It is an answer itself, or has no header: an answer to it might be answered in turn, for ever.
    Ignored,
    /// It is answered with a code and nothing else.
    Code(Head, ResponseCode),
    /// The question can be read, and is answered with a code all the same.
    Refused(Box<Question>, ResponseCode),
}

impl Question {
    /// Reads a message of a client.
    ///
    /// # Errors
    /// What to do instead of answering it.
    pub(crate) fn read(message: &[u8]) -> Result<Self, Unasked> {
        let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Err(Unasked::Ignored) };
        let Header { metadata, counts } =
            Header::read(&mut BinDecoder::new(header)).map_err(|_| Unasked::Ignored)?;
        if metadata.message_type == MessageType::Response {
            return Err(Unasked::Ignored);
        }
        let head = Head {
            id: metadata.id,
            op_code: metadata.op_code,
            recursion_desired: metadata.recursion_desired,
            checking_disabled: metadata.checking_disabled,
        };
        if metadata.op_code != OpCode::Query {
            return Err(Unasked::Code(head, ResponseCode::NotImp));
        }
        // Before the rest is read: records that no question has would have to be, however many they say they are.
        let is_plain = counts.queries == 1 && counts.answers == 0 && counts.authorities == 0;
        if !is_plain || metadata.truncation || message.len() > QUESTION_BYTES_MAX {
            return Err(Unasked::Code(head, ResponseCode::FormErr));
        }
        // Two OPT records are an error of hickory's, too (RFC 6891 §6.1.1).
        let message = Message::from_vec(message).map_err(|_| Unasked::Code(head, ResponseCode::FormErr))?;
        let Some(query) = message.queries.into_iter().next() else {
            return Err(Unasked::Code(head, ResponseCode::FormErr));
        };
        let question = Self {
            head,
            name: query.name,
            kind: query.query_type,
            class: query.query_class,
            edns: message.edns.as_ref().map(Asked::of),
        };
        if message.edns.is_some_and(|edns| edns.version() > 0) {
            return Err(Unasked::Refused(question.into(), ResponseCode::BADVERS));
        }
        if question.class != DNSClass::IN {
            return Err(Unasked::Refused(question.into(), ResponseCode::Refused));
        }
        Ok(question)
    }

    /// Returns how many octets an answer by UDP may have.
    pub(crate) fn room(&self) -> usize {
        let room = self.edns.map_or(UDP_BYTES_MIN, |asked| asked.room);
        room.clamp(UDP_BYTES_MIN, UDP_BYTES_MAX).into()
    }
}

impl Asked {
    fn of(edns: &Edns) -> Self {
        Self { room: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }
    }
}

#[cfg(test)]
mod tests;
