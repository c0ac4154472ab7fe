//! The admin API as its clients see it: over its socket, and as `docs/openapi.json` describes it.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::Reply;
use crate::origin::PATIENCE;
use crate::source::root;

/// Sends a request with these header fields, each with its line end, and returns the reply.
///
/// # Errors
/// When nobody answers at `socket`.
pub fn send(socket: &Path, line: &str, fields: &str, body: &[u8]) -> Result<Reply> {
    let mut stream = UnixStream::connect(socket).context("connect to the socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: exeat\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // Who is refused is answered before everything is sent.
    let _sent = stream.write_all(body);
    let method = line.split(' ').next().unwrap_or_default();
    Ok(Reply::read(&mut BufReader::new(stream), method)?)
}

/// The same, for an answer that is JSON.
///
/// # Errors
/// When it is not.
pub fn ask(socket: &Path, line: &str, fields: &str, body: &[u8]) -> Result<(u16, Value)> {
    let reply = send(socket, line, fields, body)?;
    ensure!(reply.head.field("content-type") == Some("application/json"), "{line}: {reply:?}");
    Ok((reply.status, serde_json::from_slice(&reply.body)?))
}

/// `docs/openapi.json`.
pub struct Document(Value);

impl Document {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not there or not JSON.
    pub fn read() -> Result<Self> {
        Ok(Self(serde_json::from_str(&std::fs::read_to_string(root()?.join("docs/openapi.json"))?)?))
    }

    /// Whether this is the same document.
    #[must_use]
    pub fn is(&self, other: &Value) -> bool {
        self.0 == *other
    }

    /// Checks that `answer` has the members that the schema of this name says, no others, and those of the right type.
    ///
    /// # Errors
    /// What is not right about it, and where.
    pub fn describes(&self, answer: &Value, name: &str, place: &str) -> Result<()> {
        let schema = self.0.pointer(&format!("/components/schemas/{name}")).context("the schema")?;
        self.conforms(schema, answer, Path::new(place))
    }

    fn conforms(&self, schema: &Value, value: &Value, place: &Path) -> Result<()> {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let schema = self.0.pointer(reference.trim_start_matches('#')).context("a reference")?;
            return self.conforms(schema, value, place);
        }
        if let Some(schemas) = schema.get("anyOf").and_then(Value::as_array) {
            let fits = schemas.iter().any(|schema| self.conforms(schema, value, place).is_ok());
            ensure!(fits, "{}: {value} is none of {schemas:?}", place.display());
            return Ok(());
        }
        let kinds = schema.get("type").context("a type")?;
        let mut kinds = kinds.as_array().map_or_else(|| std::slice::from_ref(kinds), Vec::as_slice).iter();
        ensure!(kinds.any(|kind| is_a(kind, value)), "{}: {value} is not {schema}", place.display());
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            ensure!(words.contains(value), "{}: {value} is not of {words:?}", place.display());
        }
        for element in value.as_array().into_iter().flatten() {
            self.conforms(schema.get("items").context("items")?, element, place)?;
        }
        let (Some(members), Some(properties)) =
            (value.as_object(), schema.get("properties").and_then(Value::as_object))
        else {
            return Ok(());
        };
        for (name, member) in members {
            let schema = properties.get(name);
            let schema = schema.with_context(|| format!("{}: {name} is not described", place.display()))?;
            self.conforms(schema, member, &place.join(name))?;
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            ensure!(name.as_str().is_some_and(|n| members.contains_key(n)), "{}: no {name}", place.display());
        }
        Ok(())
    }
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(_) | None => false,
    }
}
