//! Messages that ask nothing that could be answered: each counts as a question of its source, and its refusal is on record.

use exeat_policy::Reason;
use hickory_proto::op::ResponseCode;

use super::{
    Client, Inner,
    lookup::why,
    question::Unasked,
    reply::{Reply, write_bare},
    trail::Trail,
};

impl Inner {
    /// Returns what such a message gets; `None` if that is nothing.
    pub(super) fn answer_unasked(&self, unasked: Unasked, client: &Client) -> Option<Vec<u8>> {
        let (head, question, code) = match unasked {
            Unasked::Ignored => return None,
            Unasked::Code(head, code) => (head, None, code),
            Unasked::Refused(question, code) => (question.head, Some(question), code),
        };
        let mut trail = Trail::new(question.as_deref(), client, self.around.next_request_id());
        let reply = if self.budget.may_ask(client.source(), trail.started) {
            let reason = reason(code);
            trail.note_refusal(reason);
            self.around.note(trail.record(code));
            Reply { why: Some(why(reason)), ..Reply::code(code) }
        } else {
            self.flooded(client, &mut trail)
        };
        match &question {
            Some(question) => reply.write(question, question.room()).ok().map(|written| written.bytes),
            None => write_bare(head, reply.code),
        }
    }
}

/// What is wrong with a message that gets `code`: it asks for what nobody does here, or it is malformed.
fn reason(code: ResponseCode) -> Reason {
    if code == ResponseCode::Refused || code == ResponseCode::NotImp {
        Reason::MethodNotAllowed
    } else {
        Reason::RequestMalformed
    }
}
