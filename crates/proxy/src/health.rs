//! `GET /healthz` on the proxy's own port, for load balancers that can ask nothing else. Every other request for an
//! origin server stays malformed. It takes no credentials, tells nothing, and makes no record: nothing is decided.

use bytes::Bytes;

use crate::{guard::HeadError, target::TargetError};

/// Request lines that ask for it, the paths without a query only.
const ASKS: [&[u8]; 2] = [b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.0\r\n"];

/// The answer. The connection is closed, as after every head that the guard did not pass.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncache-control: no-store\r\n\
    content-length: 3\r\nconnection: close\r\n\r\nok\n";

/// Whether the head in `bytes`, refused with `error`, is such a request and nothing else is wrong with its target.
pub(crate) fn is_asked(error: &HeadError, bytes: &Bytes) -> bool {
    matches!(error, HeadError::Target(TargetError::NotForProxy))
        && ASKS.iter().any(|line| bytes.starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{guard::check, limits::Limits};

    #[test]
    fn health_is_one_request_line() {
        for (head, want) in [
            ("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", true),
            ("GET /healthz HTTP/1.0\r\n\r\n", true),
            ("GET /healthz/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
            ("GET /healthz?a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
            ("POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
            ("GET  /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", false),
            ("GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", false),
        ] {
            let bytes = Bytes::copy_from_slice(head.as_bytes());
            let got = check(&bytes, &Limits::default()).err().is_some_and(|error| is_asked(&error, &bytes));
            assert_eq!(got, want, "{head:?}");
        }
    }
}
