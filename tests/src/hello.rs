//! TLS client hellos written by hand, to say what no TLS library would.
//!
//! The layout is that of RFC 8446 section 4.1.2; the server name extension that of RFC 6066 section 3.

/// The extension number of `server_name`.
const SERVER_NAME: u16 = 0;
/// The extension number of an encrypted client hello.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The extension number of `padding` (RFC 7685).
const PADDING: u16 = 21;

/// A client hello under construction.
#[derive(Clone, Default)]
pub struct Hello {
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// A hello without a server name, otherwise complete enough for TLS 1.3.
    #[must_use]
    pub fn new() -> Self {
        let mut key_share = vec![0, 36, 0, 0x1d, 0, 32];
        key_share.extend([0x42; 32]);
        Self {
            extensions: vec![
                (43, vec![2, 3, 4]),
                (10, vec![0, 2, 0, 0x1d]),
                (13, vec![0, 4, 4, 3, 8, 4]),
                (51, key_share),
            ],
        }
    }

    /// A hello for `name`.
    #[must_use]
    pub fn to(name: &str) -> Self {
        Self::new().names(&[name.as_bytes()])
    }

    /// Adds a server name extension that lists `names`. More than one call adds more than one extension.
    #[must_use]
    pub fn names(mut self, names: &[&[u8]]) -> Self {
        let mut list = Vec::new();
        for name in names {
            list.push(0);
            list.extend(prefixed(name));
        }
        self.extensions.push((SERVER_NAME, prefixed(&list)));
        self
    }

    /// Adds an extension that looks like an encrypted client hello of the outer kind.
    #[must_use]
    pub fn encrypted_client_hello(mut self) -> Self {
        let mut body = vec![0, 0, 1, 0, 1, 7];
        body.extend(prefixed(&[0x24; 32]));
        body.extend(prefixed(&[0x42; 144]));
        self.extensions.push((ENCRYPTED_CLIENT_HELLO, body));
        self
    }

    /// Adds `bytes` of padding *before* the extensions so far, so that a server name stands at the very end.
    #[must_use]
    pub fn padded(mut self, bytes: usize) -> Self {
        self.extensions.insert(0, (PADDING, vec![0; bytes]));
        self
    }

    /// The handshake message, without record framing.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x17; 32]);
        body.push(32);
        body.extend([0x71; 32]);
        body.extend(prefixed(&[0x13, 1, 0x13, 2, 0x13, 3]));
        body.extend([1, 0]);
        let mut extensions = Vec::new();
        for (kind, content) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(prefixed(content));
        }
        body.extend(prefixed(&extensions));
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut message = vec![1];
        message.extend(length.iter().skip(1));
        message.extend(body);
        message
    }

    /// One handshake record that holds the whole message.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        record(&self.message())
    }

    /// The message in several records, cut at most `size` bytes long each.
    #[must_use]
    pub fn records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(record).collect()
    }
}

/// A handshake record around part of a message.
fn record(fragment: &[u8]) -> Vec<u8> {
    let mut record = vec![22, 3, 1];
    record.extend(prefixed(fragment));
    record
}

/// `bytes` behind their length in two bytes.
fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}
