//! As much of HTTP/1 heads as the load generator and the origin need.

use std::io;

use httparse::{EMPTY_HEADER, Header, Status};

use crate::socket::failed;

/// Header fields of one head: more than any proxy adds.
const FIELDS_MAX: usize = 64;

/// A response head.
#[derive(Debug, PartialEq)]
pub(crate) struct Response {
    /// Bytes of the head, the empty line included.
    pub(crate) length: usize,
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of the body; `None` if the end of the connection ends it.
    pub(crate) body: Option<u64>,
    /// Whether the connection can carry another request.
    pub(crate) persists: bool,
}

/// A request head.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    /// Bytes of the head, the empty line included.
    pub(crate) length: usize,
    /// The path.
    pub(crate) path: String,
    /// Bytes of the body.
    pub(crate) body: u64,
    /// Whether the client wants to send another one.
    pub(crate) persists: bool,
}

/// Reads a response head from the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// If it is none, or its body is in chunks, which the origin never sends.
pub(crate) fn response(bytes: &[u8]) -> io::Result<Option<Response>> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let Status::Complete(length) = response.parse(bytes).map_err(|error| failed(error.to_string()))? else {
        return Ok(None);
    };
    if value(response.headers, "transfer-encoding").is_some() {
        return Err(failed("a response in chunks"));
    }
    Ok(Some(Response {
        length,
        status: response.code.unwrap_or_default(),
        body: value(response.headers, "content-length").and_then(|text| text.parse().ok()),
        persists: persists(response.version, response.headers),
    }))
}

/// Reads a request head from the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// If it is none.
pub(crate) fn request(bytes: &[u8]) -> io::Result<Option<Request>> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let Status::Complete(length) = request.parse(bytes).map_err(|error| failed(error.to_string()))? else {
        return Ok(None);
    };
    Ok(Some(Request {
        length,
        path: request.path.unwrap_or_default().to_owned(),
        body: value(request.headers, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0),
        persists: persists(request.version, request.headers),
    }))
}

fn value<'a>(fields: &[Header<'a>], name: &str) -> Option<&'a str> {
    let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok().map(str::trim)
}

fn persists(version: Option<u8>, fields: &[Header<'_>]) -> bool {
    let says = |word: &str| value(fields, "connection").is_some_and(|text| text.eq_ignore_ascii_case(word));
    if version == Some(0) { says("keep-alive") } else { !says("close") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_say_what_follows_them() {
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some((38, 200, Some(5), true))),
            ("HTTP/1.1 200 OK\r\n\r\n", Some((19, 200, None, true))),
            ("HTTP/1.0 403 no\r\ncontent-length: 0\r\n\r\n", Some((38, 403, Some(0), false))),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", Some((43, 200, None, true))),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", Some((38, 200, None, false))),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n", None),
        ] {
            let got = response(text.as_bytes()).unwrap();
            assert_eq!(got.map(|r| (r.length, r.status, r.body, r.persists)), want, "{text:?}");
        }
        assert!(response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(response(b"\x05\xff").is_err());
    }

    #[test]
    fn requests_say_what_they_want() {
        let got = request(b"POST /sink HTTP/1.1\r\nContent-Length: 7\r\nConnection: close\r\n\r\n1234567");
        let want = Request { length: 61, path: "/sink".to_owned(), body: 7, persists: false };
        assert_eq!(got.unwrap(), Some(want));
        assert_eq!(request(b"GET / HTTP/1.1\r\n").unwrap(), None);
    }
}
