//! An HTTP/2 client that sends exactly the frames it is given (RFC 9113), with header fields in the plainest form of HPACK.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, ensure};

/// DATA (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// GOAWAY.
pub const GOAWAY: u8 = 7;

/// The error code of a malformed message.
pub const PROTOCOL_ERROR: u32 = 1;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Longest frame that a peer may send unasked, in bytes.
const FRAME_MAX: usize = 16_384;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether it is the last of its stream.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of a RST_STREAM.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        (self.kind == RST_STREAM)
            .then(|| self.payload.iter().fold(0, |code, byte| code << 8 | u32::from(*byte)))
    }
}

/// A connection in HTTP/2.
pub struct Http2<S> {
    stream: S,
}

impl<S: Read + Write> Http2<S> {
    /// Begins with the preface and empty settings.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn begin(mut stream: S) -> Result<Self> {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut this = Self { stream };
        this.send(SETTINGS, 0, 0, &[])?;
        Ok(this)
    }

    /// Takes a connection as it is.
    pub const fn over(stream: S) -> Self {
        Self { stream }
    }

    /// Sends bytes that need not be frames.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)?;
        Ok(self.stream.flush()?)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let [_, length @ ..] = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = length.to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame)?;
        Ok(self.stream.flush()?)
    }

    /// Sends the fields of a request; `whole` if no data follows.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], whole: bool) -> Result<()> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal, not indexed, new name (RFC 7541 section 6.2.2).
            block.push(0);
            for text in [name, value] {
                block.extend(length(text.len())?);
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS | if whole { END_STREAM } else { 0 }, stream, &block)
    }

    /// Reads one frame; none at the end of the connection.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn frame(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        let mut got = 0;
        while got < head.len() {
            match self.stream.read(head.get_mut(got..).unwrap_or_default()) {
                Ok(0) => return Ok(None),
                Ok(count) => got += count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("a frame"),
            }
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c]))?;
        ensure!(length <= FRAME_MAX, "a frame of {length} bytes");
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).context("the payload of a frame")?;
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
    }

    /// The frames of one stream to its end, with those of other streams left out.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stream(&mut self, stream: u32) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame()? {
            if frame.stream == stream {
                let is_last = frame.ends_stream() || frame.kind == RST_STREAM;
                frames.push(frame);
                if is_last {
                    return Ok(frames);
                }
            }
        }
        anyhow::bail!("the connection ended before stream {stream}: {frames:?}")
    }

    /// Everything up to the end of the connection.
    ///
    /// # Errors
    /// When it does not end.
    pub fn rest(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

/// The length of a plain string (RFC 7541 sections 5.1 and 5.2).
fn length(length: usize) -> Result<Vec<u8>> {
    const PREFIX: usize = 127;
    let Some(mut rest) = length.checked_sub(PREFIX) else { return Ok(vec![u8::try_from(length)?]) };
    let mut bytes = vec![u8::try_from(PREFIX)?];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128)?);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest)?);
    Ok(bytes)
}

/// The data in `frames`.
#[must_use]
pub fn data(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter(|frame| frame.kind == DATA).flat_map(|frame| frame.payload.clone()).collect()
}
