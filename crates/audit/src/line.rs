//! A record as one line of JSON, put together by hand: two are written for each tunnel, and a general serializer takes
//! three times as long.

use std::{mem, net::SocketAddr, time::Duration};

use exeat_policy::{Mode, Reason};
use serde::Serialize;
use serde_json::Value;

use crate::{
    record::{Outcome, PrincipalRecord, Record, RuleRecord, SCHEMA_VERSION, TokenRecord},
    text::Text,
    time::with_rfc3339,
};

/// Bytes that are looked at together.
const CHUNK_BYTES: usize = 8;

/// Appends `record` to `lines`, as one line with its end.
///
/// # Errors
/// If a field cannot be written. Then a part of the line may have been appended.
pub(crate) fn write(record: &Record, lines: &mut Vec<u8>) -> serde_json::Result<()> {
    // All of them by name, so that none is forgotten.
    let Record {
        time,
        event,
        revision,
        request_id,
        principal,
        source,
        user,
        process,
        workload,
        method,
        target,
        name,
        port,
        via,
        address,
        verdict,
        reason,
        rule,
        mode,
        would_deny,
        status,
        rcode,
        answers,
        learned,
        names,
        bytes_up,
        bytes_down,
        duration,
        end,
        control,
        count,
    } = record;
    let mut line = Object::begin(lines);
    line.number("v", Some(SCHEMA_VERSION));
    with_rfc3339(*time, |time| line.plain("time", time));
    line.word("event", Some(event.word()));
    line.number("revision", revision.map(|revision| revision.0));
    line.text("request_id", request_id.as_deref());
    if let Some(principal) = principal {
        line.object("principal", |object| object.principal(principal));
    }
    line.address("source", *source);
    line.number("user", *user);
    line.text("process", process.as_deref());
    line.text("workload", workload.as_deref());
    line.text("method", method.as_ref().map(Text::as_str));
    line.text("target", target.as_ref().map(Text::as_str));
    if let Some(name) = name {
        line.plain("name", name.as_str());
    }
    line.number("port", *port);
    line.text("via", via.as_deref());
    line.address("address", *address);
    line.word("verdict", verdict.map(Outcome::word));
    line.word("reason", reason.map(Reason::token));
    if let Some(rule) = rule {
        line.object("rule", |object| object.rule(rule));
    }
    line.word("mode", mode.map(Mode::word));
    line.word("would_deny", would_deny.map(Reason::token));
    line.number("status", *status);
    line.word("rcode", *rcode);
    line.other("answers", answers.as_deref())?;
    line.word("learned", *learned);
    line.other("names", names.as_deref())?;
    line.number("bytes_up", *bytes_up);
    line.number("bytes_down", *bytes_down);
    line.number("duration_ms", duration.map(milliseconds));
    line.word("end", *end);
    line.other("control", control.as_deref())?;
    line.number("count", *count);
    line.end();
    lines.push(b'\n');
    Ok(())
}

/// Whether nothing in `text` has to be escaped (RFC 8259 §7).
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: &u8| (*byte >= b' ') & (*byte != b'"') & (*byte != b'\\');
    // All of a chunk at once: no branch in between.
    let (chunks, rest) = text.as_bytes().as_chunks::<CHUNK_BYTES>();
    chunks.iter().all(|chunk| chunk.iter().fold(true, |all, byte| all & is_plain(byte)))
        && rest.iter().all(is_plain)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An object that is being written. Fields without a value are left out.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    fn end(self) {
        self.out.push(b'}');
    }

    /// Writes a key, which has nothing to escape.
    fn key(&mut self, key: &str) {
        let before: &[u8] = if mem::replace(&mut self.is_empty, false) { b"\"" } else { b",\"" };
        self.out.extend_from_slice(before);
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.key(key);
        if is_plain(value) {
            self.quoted(value);
        } else {
            self.out.extend_from_slice(Value::from(value).to_string().as_bytes());
        }
    }

    /// Writes one of our own words, which have nothing to escape.
    fn word(&mut self, key: &str, value: Option<&'static str>) {
        if let Some(value) = value {
            self.plain(key, value);
        }
    }

    /// Writes a text that has nothing to escape.
    fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        self.quoted(value);
    }

    fn quoted(&mut self, value: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    fn number(&mut self, key: &str, value: Option<impl itoa::Integer>) {
        let Some(value) = value else { return };
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// As an address shows itself. Those of IPv4 are most of them, and put together by hand take a fifth of the time.
    fn address(&mut self, key: &str, value: Option<SocketAddr>) {
        let address = match value {
            None => return,
            Some(SocketAddr::V6(address)) => return self.text(key, Some(&address.to_string())),
            Some(SocketAddr::V4(address)) => address,
        };
        self.key(key);
        let mut before = b'"';
        for octet in address.ip().octets() {
            self.out.push(before);
            self.out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            before = b'.';
        }
        self.out.push(b':');
        self.out.extend_from_slice(itoa::Buffer::new().format(address.port()).as_bytes());
        self.out.push(b'"');
    }

    fn object(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut object = Object::begin(self.out);
        fields(&mut object);
        object.end();
    }

    /// Writes what few records have.
    fn other<T: Serialize + ?Sized>(&mut self, key: &str, value: Option<&T>) -> serde_json::Result<()> {
        let Some(value) = value else { return Ok(()) };
        self.key(key);
        serde_json::to_writer(&mut *self.out, value)
    }

    fn principal(&mut self, PrincipalRecord { name, proof, labels, token }: &PrincipalRecord) {
        self.text("name", Some(name));
        self.word("proof", Some(proof));
        self.object("labels", |object| {
            for (label, value) in labels.iter() {
                object.text(label.key(), Some(value));
            }
        });
        if let Some(TokenRecord { issuer, jti, kid }) = token {
            self.text("issuer", Some(issuer));
            self.text("jti", jti.as_deref());
            self.text("kid", kid.as_deref());
        }
    }

    fn rule(&mut self, RuleRecord { policy, place, text }: &RuleRecord) {
        self.text("policy", Some(policy));
        self.text("place", Some(place));
        self.text("text", Some(text));
    }
}
