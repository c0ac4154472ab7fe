//! Just enough HTTP/1.1 for both ends of a test: requests and replies as they stood on the wire.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use crate::origin::{Notebook, Service};

/// Bytes of a head that a test reads before it gives up.
const HEAD_LIMIT: usize = 1 << 20;

/// The start line and fields of a message.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line, without its line end.
    pub start: String,
    /// Field names as written, and values.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the first field of that name, in any case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Reads a head; none at a clean end before its first byte.
    fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        let mut total = 0;
        loop {
            let mut line = Vec::new();
            let length = stream.read_until(b'\n', &mut line)?;
            total += length;
            if total == 0 {
                return Ok(None);
            }
            if length == 0 || total > HEAD_LIMIT {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("in a head, after {head:?}"),
                ));
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if head.start.is_empty() {
                head.start = line;
            } else if line.is_empty() {
                return Ok(Some(head));
            } else {
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                head.fields.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }

    /// Reads the body that the fields announce; `rest` says what to do when they announce none.
    fn read_body(&self, stream: &mut impl BufRead, until_end: bool) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                let size = line.trim().split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk)?;
                if size == 0 {
                    return Ok(body);
                }
                chunk.truncate(size);
                body.append(&mut chunk);
            }
        }
        match self.field("content-length") {
            Some(length) => {
                body = vec![0; length.parse().map_err(io::Error::other)?];
                stream.read_exact(&mut body)?;
            }
            None if until_end => {
                stream.read_to_end(&mut body)?;
            }
            None => {}
        }
        Ok(body)
    }
}

/// The beginning of `bytes` as text, for the messages of failed tests.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    let more = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes)).into_owned();
    if more > 0 { format!("{text} … and {more} bytes more") } else { text }
}

/// A request as an origin received it.
#[derive(Clone)]
pub struct Request {
    /// Start line and fields.
    pub head: Head,
    /// The method.
    pub method: String,
    /// The target as written.
    pub target: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads one request; none at a clean end.
    ///
    /// # Errors
    /// When the stream breaks or the framing cannot be read.
    pub fn read(stream: &mut (impl BufRead + Write)) -> io::Result<Option<Self>> {
        let Some(head) = Head::read(stream)? else { return Ok(None) };
        if head.field("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = head.read_body(stream, false)?;
        let mut words = head.start.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(Some(Self { method: method.to_owned(), target: target.to_owned(), body, head }))
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query, empty when there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The `Host` field, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.head.field("host").unwrap_or_default().split(':').next().unwrap_or_default()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.head, shown(&self.body))
    }
}

/// A response as a client received it, or as an origin sends it.
#[derive(Clone, Default)]
pub struct Reply {
    /// Start line and fields.
    pub head: Head,
    /// The status code.
    pub status: u16,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.head, shown(&self.body))
    }
}

impl Reply {
    /// A reply to send; `Content-Length` is added when it is written.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), head: Head::default() }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.head.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Reads the reply to a request of `method`, interim replies (1xx other than 101) skipped.
    ///
    /// # Errors
    /// When the stream ends or breaks before it is complete.
    pub fn read(stream: &mut impl BufRead, method: &str) -> io::Result<Self> {
        loop {
            let head = Head::read(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = head.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodiless = method == "HEAD"
                || matches!(status, 101 | 204 | 304)
                || (method == "CONNECT" && (200..300).contains(&status));
            let body = if bodiless { Vec::new() } else { head.read_body(stream, true)? };
            return Ok(Self { head, status, body });
        }
    }

    /// The text after the status code in the start line.
    #[must_use]
    pub fn phrase(&self) -> &str {
        self.head.start.splitn(3, ' ').nth(2).unwrap_or_default()
    }

    fn write(&self, stream: &mut impl Write, method: &str) -> io::Result<()> {
        let mut bytes = format!("HTTP/1.1 {} Reply\r\n", self.status).into_bytes();
        for (name, value) in &self.head.fields {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
        if method != "HEAD" {
            bytes.extend(&self.body);
        }
        stream.write_all(&bytes)?;
        stream.flush()
    }
}

/// What an HTTP origin answers.
pub type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A plain HTTP/1.1 server with keep-alive.
#[must_use]
pub fn service(handler: Handler) -> Service {
    Arc::new(move |peer| {
        let notebook = peer.notebook();
        serve(&mut *peer, &handler, &notebook)?;
        peer.finish()
    })
}

/// Answers requests on `stream`, the connection itself or a TLS session over it, until the client closes.
///
/// # Errors
/// When the stream breaks.
pub fn serve(stream: impl Read + Write, handler: &Handler, notebook: &Notebook) -> io::Result<()> {
    let mut stream = Duplex(BufReader::new(stream));
    while let Some(request) = Request::read(&mut stream)? {
        notebook.note(&request);
        handler(&request).write(&mut stream, &request.method)?;
    }
    Ok(())
}

/// A buffered reader through which one can also write.
struct Duplex<S: Read>(BufReader<S>);

impl<S: Read> Read for Duplex<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<S: Read> BufRead for Duplex<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl<S: Read + Write> Write for Duplex<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}
