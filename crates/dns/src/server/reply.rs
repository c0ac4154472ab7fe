//! The answers that clients get. Pure.

use hickory_proto::{
    ProtoError,
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Record, rdata::opt::EdnsOption},
};

use super::question::{Head, Question, UDP_BYTES_MAX};

/// What a question is answered with.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    /// Why it is a refusal, for clients that can read that.
    pub(crate) why: Option<Why>,
}

/// An extended error (RFC 8914).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Why {
    pub(crate) code: u16,
    /// A token of the table of reasons.
    pub(crate) text: &'static str,
}

/// A message, and whether it says that it is not all.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_cut: bool,
}

impl Reply {
    /// An answer of nothing but a code.
    pub(crate) fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), why: None }
    }

    /// Writes the answer to `question` in at most `room` octets: without its records, if they do not fit, so that the
    /// client asks again by TCP.
    ///
    /// # Errors
    /// If it cannot be written at all.
    pub(crate) fn write(self, question: &Question, room: usize) -> Result<Written, ProtoError> {
        let mut message = begin(question.head, self.code);
        message.queries.push(asked(question));
        message.answers = self.answers;
        message.edns = question.edns.map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(asked.dnssec_ok);
            if let Some(why) = self.why {
                edns.options_mut().insert(why.option());
            }
            edns
        });
        let bytes = message.to_vec()?;
        if bytes.len() <= room {
            return Ok(Written { bytes, is_cut: false });
        }
        message.answers.clear();
        message.metadata.truncation = true;
        Ok(Written { bytes: message.to_vec()?, is_cut: true })
    }
}

/// Writes an answer of nothing but `code`, to a message whose question cannot be read; `None` if it cannot be written.
pub(crate) fn write_bare(head: Head, code: ResponseCode) -> Option<Vec<u8>> {
    begin(head, code).to_vec().ok()
}

fn begin(head: Head, code: ResponseCode) -> Message {
    let Head { id, op_code, recursion_desired, checking_disabled } = head;
    let mut message = Message::response(id, op_code);
    message.metadata.recursion_desired = recursion_desired;
    message.metadata.recursion_available = op_code == OpCode::Query;
    message.metadata.checking_disabled = checking_disabled;
    message.metadata.response_code = code;
    message
}

fn asked(question: &Question) -> Query {
    let mut query = Query::query(question.name.clone(), question.kind);
    query.set_query_class(question.class);
    query
}

impl Why {
    fn option(self) -> EdnsOption {
        let mut data = self.code.to_be_bytes().to_vec();
        data.extend_from_slice(self.text.as_bytes());
        EdnsOption::Unknown(EDE, data)
    }
}

/// The number of the option (RFC 8914 §2).
const EDE: u16 = 15;

#[cfg(test)]
mod tests;
