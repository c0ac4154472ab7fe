//! Frame Streams, the framing of dnstap: frames of data with their length before them, and frames that steer the stream,
//! which an empty length announces. Pure. There is no document of it but the reference implementation (`fstrm/control.h`).

use bytes::{Buf, Bytes, BytesMut};

/// What the frames of a dnstap stream hold.
pub(crate) const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

/// Octets of the longest message that is read: two messages of DNS, a question and its answer, and room for the rest.
pub(crate) const DATA_BYTES_MAX: usize = 2 * 65_535 + 4096;

/// Octets of the longest frame that is passed over; what says that it is longer is no stream of dnstap. It is the most that
/// the reference implementation sends.
const PASSED_BYTES_MAX: usize = 1024 * 1024;

/// Octets of the longest frame that steers, as in the reference implementation.
const CONTROL_BYTES_MAX: usize = 512;

/// The numbers of the frames that steer.
mod kind {
    pub(super) const ACCEPT: u32 = 1;
    pub(super) const START: u32 = 2;
    pub(super) const STOP: u32 = 3;
    pub(super) const READY: u32 = 4;
    pub(super) const FINISH: u32 = 5;
}

/// The number of the one field that such a frame can have: what the stream is to hold.
const FIELD_CONTENT_TYPE: u32 = 1;

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    Data(Bytes),
    Control(Control),
    /// Data that is too long, of which nothing is kept.
    TooLong,
}

/// A frame that steers the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Control {
    /// The reader agrees.
    Accept(Content),
    /// The data begins.
    Start(Content),
    /// The data has ended.
    Stop,
    /// The writer asks whether somebody reads.
    Ready(Content),
    /// The reader has read everything.
    Finish,
    /// One that nobody knows of yet; it is passed over.
    Unknown,
}

/// Whether a frame that steers speaks of a stream of dnstap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// It does, or of any stream.
    Dnstap,
    /// Of others alone.
    Other,
}

/// What is no Frame Streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {length} octets, more than {PASSED_BYTES_MAX}")]
    TooLong { length: usize },
    #[error("a control frame of {length} octets, more than {CONTROL_BYTES_MAX}")]
    ControlTooLong { length: usize },
    #[error("a control frame that ends within one of its fields")]
    ControlCut,
}

/// Finds frames in what comes in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    /// Octets of a frame that is passed over, which have not come yet.
    passing: usize,
}

impl Frames {
    /// Takes the next frame out of `buffer`; `None` if there is no whole one. Never keeps more than `DATA_BYTES_MAX` octets
    /// and a length waiting.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.passing > 0 {
            let here = self.passing.min(buffer.len());
            buffer.advance(here);
            self.passing -= here;
            return Ok(if self.passing == 0 { Some(Frame::TooLong) } else { None });
        }
        let Some(length) = peek(buffer, 0) else { return Ok(None) };
        if length == 0 {
            return take_control(buffer);
        }
        if length > PASSED_BYTES_MAX {
            return Err(FrameError::TooLong { length });
        }
        if length > DATA_BYTES_MAX {
            buffer.advance(LENGTH_BYTES);
            self.passing = length;
            return self.take(buffer);
        }
        if buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        Ok(Some(Frame::Data(buffer.split_to(length).freeze())))
    }
}

/// Octets of a length, and of every other number.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Returns the number that begins at `offset`.
fn peek(buffer: &[u8], offset: usize) -> Option<usize> {
    let number = buffer.get(offset..)?.first_chunk::<LENGTH_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn take_control(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(length) = peek(buffer, LENGTH_BYTES) else { return Ok(None) };
    if length > CONTROL_BYTES_MAX {
        return Err(FrameError::ControlTooLong { length });
    }
    if buffer.len() < 2 * LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(2 * LENGTH_BYTES);
    let mut control = buffer.split_to(length).freeze();
    Ok(Some(Frame::Control(read_control(&mut control)?)))
}

fn read_control(control: &mut Bytes) -> Result<Control, FrameError> {
    let number = control.try_get_u32().map_err(|_| FrameError::ControlCut)?;
    let content = read_content(control)?;
    Ok(match number {
        kind::ACCEPT => Control::Accept(content),
        kind::START => Control::Start(content),
        kind::STOP => Control::Stop,
        kind::READY => Control::Ready(content),
        kind::FINISH => Control::Finish,
        _ => Control::Unknown,
    })
}

/// Reads the fields: none that names a content is any content.
fn read_content(fields: &mut Bytes) -> Result<Content, FrameError> {
    let mut found = None;
    while fields.has_remaining() {
        let kind = fields.try_get_u32().map_err(|_| FrameError::ControlCut)?;
        let length = fields.try_get_u32().map_err(|_| FrameError::ControlCut)?;
        let length = usize::try_from(length).map_err(|_| FrameError::ControlCut)?;
        if length > fields.remaining() {
            return Err(FrameError::ControlCut);
        }
        let value = fields.split_to(length);
        if kind == FIELD_CONTENT_TYPE && found != Some(Content::Dnstap) {
            found = Some(if value == CONTENT_TYPE { Content::Dnstap } else { Content::Other });
        }
    }
    Ok(found.unwrap_or(Content::Dnstap))
}

/// The frame by which a writer asks whether somebody reads dnstap.
pub(crate) fn ready() -> Vec<u8> {
    control(kind::READY, true)
}

/// The frame after which the data begins.
pub(crate) fn start() -> Vec<u8> {
    control(kind::START, true)
}

/// The frame after which there is no more data.
pub(crate) fn stop() -> Vec<u8> {
    control(kind::STOP, false)
}

/// Appends a frame of data.
pub(crate) fn put_data(message: &[u8], buffer: &mut BytesMut) {
    buffer.extend_from_slice(&length(message));
    buffer.extend_from_slice(message);
}

/// The frame by which a reader agrees to read dnstap.
pub(crate) fn accept() -> Vec<u8> {
    control(kind::ACCEPT, true)
}

/// The frame by which a reader says that it has read everything.
pub(crate) fn finish() -> Vec<u8> {
    control(kind::FINISH, false)
}

fn control(kind: u32, names_content: bool) -> Vec<u8> {
    let mut fields = kind.to_be_bytes().to_vec();
    if names_content {
        fields.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
        fields.extend_from_slice(&length(CONTENT_TYPE));
        fields.extend_from_slice(CONTENT_TYPE);
    }
    [&[0; LENGTH_BYTES], &length(&fields)[..], &fields].concat()
}

/// A length as it is written. None that is written here comes near its end.
fn length(octets: &[u8]) -> [u8; LENGTH_BYTES] {
    u32::try_from(octets.len()).unwrap_or(u32::MAX).to_be_bytes()
}
