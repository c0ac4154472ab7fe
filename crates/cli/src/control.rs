//! Speaks to a running proxy over the socket of its admin API.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderName, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// The variable that names the socket.
pub(crate) const SOCKET_VARIABLE: &str = "EXEAT_SOCKET";
/// The configuration that is looked into for a socket when nothing else names one.
const CONFIG: &str = "exeat.toml";
/// Time for one request: a little more than the other side allows itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of an answer: ten thousand flows take about five million.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A way to a running proxy.
pub(crate) struct Control {
    path: PathBuf,
    runtime: Runtime,
}

/// What the proxy answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: Value,
}

/// A question, and what goes with it.
#[derive(Debug)]
pub(crate) struct Ask {
    method: Method,
    target: String,
    fields: Vec<(HeaderName, String)>,
    body: String,
}

impl Ask {
    /// Asks for `target` without a body.
    pub(crate) fn new(method: Method, target: &str) -> Self {
        Self { method, target: target.to_owned(), fields: Vec::new(), body: String::new() }
    }

    /// Sends a text of this media type.
    pub(crate) fn body(self, kind: &str, body: String) -> Self {
        Self { body, ..self.header(header::CONTENT_TYPE, kind.to_owned()) }
    }

    /// Sends a value as JSON.
    pub(crate) fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    /// Sends a header field.
    pub(crate) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.fields.push((name, value));
        self
    }
}

impl Control {
    /// Finds the socket: as given, of the environment, or of `./exeat.toml`.
    pub(crate) fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: find(given)?, runtime })
    }

    /// Finds the socket: as given, of the environment, or of this configuration; `None` if none of them names one.
    pub(crate) fn of(given: Option<&Path>, config: &Path) -> anyhow::Result<Option<Self>> {
        let path = named(given).or_else(|| exeat_store::api_socket(config));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(path.map(|path| Self { path, runtime }))
    }

    /// Asks for `target` and returns the answer, whatever its status.
    pub(crate) fn ask(&self, method: Method, target: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let ask = Ask::new(method, target);
        self.send(match body {
            Some(body) => ask.json(body),
            None => ask,
        })
    }

    /// Asks and returns the answer, whatever its status.
    pub(crate) fn send(&self, ask: Ask) -> anyhow::Result<Answer> {
        let (status, body) = self.exchanged(ask)?;
        Ok(Answer { status, body: self.read(&body)? })
    }

    /// Asks for a text that is not JSON; an answer that is not a success is an error.
    pub(crate) fn document(&self, target: &str) -> anyhow::Result<String> {
        let (status, body) = self.exchanged(Ask::new(Method::GET, target))?;
        if !status.is_success() {
            Answer { status, body: self.read(&body)? }.succeeded()?;
        }
        String::from_utf8(body.into()).context("the document is not text")
    }

    fn exchanged(&self, ask: Ask) -> anyhow::Result<(StatusCode, Bytes)> {
        let path = self.path.display();
        let asked = async { timeout(REQUEST_TIMEOUT, exchange(&self.path, ask)).await };
        let asked = self.runtime.block_on(asked);
        asked.with_context(|| format!("no answer at {path} within {} s", REQUEST_TIMEOUT.as_secs()))?
    }

    fn read(&self, body: &[u8]) -> anyhow::Result<Value> {
        serde_json::from_slice(body).with_context(|| {
            format!("what answers at {} is not this program's admin API", self.path.display())
        })
    }

    /// Asks for `target`; an answer that is not a success is an error.
    pub(crate) fn get(&self, method: Method, target: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.ask(method, target, body)?.succeeded()
    }
}

impl Answer {
    /// Returns the body, or what the proxy said is wrong.
    pub(crate) fn succeeded(self) -> anyhow::Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let text = |key: &str| self.body.get(key).and_then(Value::as_str);
        let error =
            text("error").map_or_else(|| format!("the proxy answered {}", self.status), str::to_owned);
        match text("help") {
            Some(help) => bail!("{error}; {help}"),
            None => bail!(error),
        }
    }
}

/// The socket as given, or that of the environment.
fn named(given: Option<&Path>) -> Option<PathBuf> {
    let variable = || env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    given.map(Path::to_owned).or_else(|| variable().map(PathBuf::from))
}

fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named(given) {
        return Ok(path);
    }
    exeat_store::api_socket(Path::new(CONFIG)).with_context(|| {
        format!(
            "which proxy? There is no {CONFIG} with a socket in [api] here; \
             name one with --socket PATH or {SOCKET_VARIABLE}"
        )
    })
}

async fn exchange(path: &Path, ask: Ask) -> anyhow::Result<(StatusCode, Bytes)> {
    let shown = path.display();
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let kind = error.kind();
        let message = if kind == ErrorKind::NotFound {
            format!("no socket at {shown}: is the server running with [api] socket?")
        } else if kind == ErrorKind::ConnectionRefused {
            format!("nobody listens at {shown}: has the server ended?")
        } else if kind == ErrorKind::PermissionDenied {
            format!("{shown} is for the server's user only: run this as that user, or as root")
        } else {
            format!("cannot connect to {shown}")
        };
        anyhow::Error::new(error).context(message)
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; its error reaches whoever waits for the response.
    tokio::spawn(async move { drop(connection.await) });
    let Ask { method, target, fields, body } = ask;
    let request = Request::builder().method(method).uri(target).header(header::HOST, "exeat");
    let request = fields.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let request = request.body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.with_context(|| format!("no answer at {shown}"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed).context("the answer broke off")?.to_bytes();
    Ok((status, body))
}

/// Returns a path with the parameters that are set, encoded.
pub(crate) fn with_query<'a>(
    path: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Returns a text of an answer as it may be printed: no control characters.
pub(crate) fn printable(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        for (parameters, want) in [
            (vec![], "/v1/flows"),
            (vec![("client", None)], "/v1/flows"),
            (vec![("client", Some("a b&c=d"))], "/v1/flows?client=a+b%26c%3Dd"),
            (
                vec![("client", Some("é")), ("target", Some("[::1]"))],
                "/v1/flows?client=%C3%A9&target=%5B%3A%3A1%5D",
            ),
        ] {
            assert_eq!(with_query("/v1/flows", parameters), want);
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_printed() {
        assert_eq!(printable(&Value::from("a\u{1b}[2Jb\n")), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable(&Value::from(7)), "7");
    }
}
