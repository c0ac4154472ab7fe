//! One stream that comes in, from its first octet to its last. Pure.

use bytes::{Bytes, BytesMut};

use super::frames::{self, Content, Control, Frame, FrameError, Frames};

/// A stream of dnstap, as its reader sees it. The writer of a stream that goes both ways asks first whether somebody reads
/// (READY, ACCEPT), and is told at the end that everything was read (STOP, FINISH); one that goes one way begins at once.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    frames: Frames,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// Nothing has come.
    #[default]
    New,
    /// The writer was told that somebody reads.
    Accepted,
    /// There is data; and whether the writer waits for an answer at the end.
    Started { is_both_ways: bool },
    /// It is over.
    Ended,
}

/// What a stream comes to next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// More has to come in.
    Wait,
    /// The writer has to be sent this.
    Reply(Vec<u8>),
    /// One message, not yet looked at.
    Message(Bytes),
    /// A message that is too long was passed over.
    TooLong,
    /// The stream is over, once the writer was sent this.
    End(Option<Vec<u8>>),
}

/// What is no stream of dnstap. There is nothing to be made of what follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FeedError {
    /// Its frames cannot be read.
    #[error("no Frame Streams")]
    Frames(#[source] Unframed),
    /// Its frames do not hold dnstap.
    #[error("a stream of another content than dnstap")]
    Content,
    /// A frame that belongs elsewhere.
    #[error("a frame that has no place here")]
    Order,
}

/// What is no frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct Unframed(#[from] FrameError);

impl Feed {
    /// Whether the data has begun: until then, the writer has something to say soon.
    #[must_use]
    pub fn is_started(&self) -> bool {
        matches!(self.state, State::Started { .. })
    }

    /// Takes what comes next out of `buffer`, where all that came in is put, in order.
    ///
    /// # Errors
    /// If it is no stream of dnstap.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, FeedError> {
        loop {
            let frame = self.frames.take(buffer).map_err(|error| FeedError::Frames(error.into()))?;
            let Some(frame) = frame else { return Ok(Next::Wait) };
            let is_started = self.is_started();
            match frame {
                Frame::Data(message) if is_started => return Ok(Next::Message(message)),
                Frame::TooLong if is_started => return Ok(Next::TooLong),
                Frame::Data(_) | Frame::TooLong => return Err(FeedError::Order),
                Frame::Control(control) => {
                    if let Some(next) = self.steer(control)? {
                        return Ok(next);
                    }
                }
            }
        }
    }

    fn steer(&mut self, control: Control) -> Result<Option<Next>, FeedError> {
        let (state, next) = match (self.state, control) {
            (state, Control::Unknown) => (state, None),
            (State::New, Control::Ready(content)) => {
                check(content)?;
                (State::Accepted, Some(Next::Reply(frames::accept())))
            }
            (State::New | State::Accepted, Control::Start(content)) => {
                check(content)?;
                (State::Started { is_both_ways: self.state == State::Accepted }, None)
            }
            (State::Started { is_both_ways }, Control::Stop) => {
                (State::Ended, Some(Next::End(is_both_ways.then(frames::finish))))
            }
            (
                _,
                Control::Ready(_) | Control::Accept(_) | Control::Start(_) | Control::Stop | Control::Finish,
            ) => {
                return Err(FeedError::Order);
            }
        };
        self.state = state;
        Ok(next)
    }
}

fn check(content: Content) -> Result<(), FeedError> {
    match content {
        Content::Dnstap => Ok(()),
        Content::Other => Err(FeedError::Content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(kind: u32, contents: &[&[u8]]) -> Vec<u8> {
        let mut fields = kind.to_be_bytes().to_vec();
        for content in contents {
            fields.extend(1u32.to_be_bytes());
            fields.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
            fields.extend_from_slice(content);
        }
        [&0u32.to_be_bytes(), &u32::try_from(fields.len()).unwrap().to_be_bytes()[..], &fields].concat()
    }

    fn data(length: usize) -> Vec<u8> {
        [&u32::try_from(length).unwrap().to_be_bytes()[..], &vec![b'x'; length]].concat()
    }

    /// The words for what a stream comes to.
    fn read(stream: &[u8]) -> String {
        let (mut feed, mut buffer, mut words) = (Feed::default(), BytesMut::from(stream), Vec::new());
        loop {
            words.push(match feed.next(&mut buffer) {
                Ok(Next::Wait) => return words.join(" "),
                Ok(Next::Reply(reply)) if reply == control(1, &[frames::CONTENT_TYPE]) => "accept".to_owned(),
                Ok(Next::Reply(reply)) => format!("{reply:?}"),
                Ok(Next::Message(message)) => message.len().to_string(),
                Ok(Next::TooLong) => "long".to_owned(),
                Ok(Next::End(None)) => return [words.join(" "), "end".to_owned()].join(" "),
                Ok(Next::End(Some(reply))) if reply == control(5, &[]) => {
                    return [words.join(" "), "finish".to_owned()].join(" ");
                }
                Ok(Next::End(Some(reply))) => format!("{reply:?}"),
                Err(error) => return [words.join(" "), error.to_string()].join(" "),
            });
        }
    }

    #[test]
    fn a_stream_is_read_in_both_of_its_forms() {
        let dnstap = frames::CONTENT_TYPE;
        let [ready, start] = [4, 2].map(|kind| control(kind, &[dnstap]));
        let [accept, stop, finish] =
            [(1, &[dnstap][..]), (3, &[]), (5, &[])].map(|(kind, of)| control(kind, of));
        let most = frames::DATA_BYTES_MAX;
        for (name, parts, want) in [
            ("both ways", vec![&ready, &start, &data(3), &data(1), &stop], "accept 3 1 finish"),
            ("one way", vec![&start, &data(3), &stop], "3 end"),
            ("of any content", vec![&control(4, &[]), &control(2, &[]), &stop], "accept finish"),
            ("of several", vec![&control(4, &[b"text", dnstap]), &start], "accept"),
            ("of another", vec![&control(4, &[b"text"])], " a stream of another content than dnstap"),
            (
                "one way, of another",
                vec![&control(2, &[b"text"])],
                " a stream of another content than dnstap",
            ),
            ("data first", vec![&data(3)], " a frame that has no place here"),
            ("data before the start", vec![&ready, &data(3)], "accept a frame that has no place here"),
            ("twice ready", vec![&ready, &ready], "accept a frame that has no place here"),
            ("twice started", vec![&start, &start], " a frame that has no place here"),
            ("what readers say", vec![&accept], " a frame that has no place here"),
            ("finished by the writer", vec![&start, &finish], " a frame that has no place here"),
            ("stopped first", vec![&stop], " a frame that has no place here"),
            ("something new", vec![&control(9, &[]), &start, &control(77, &[b"x"]), &data(2)], "2"),
            ("the longest", vec![&start, &data(most), &data(1)], &format!("{most} 1")),
            ("one more", vec![&start, &data(most + 1), &data(1)], "long 1"),
            ("none that is sent", vec![&start, &data(1024 * 1024 + 1)], " no Frame Streams"),
            ("cut", vec![&start, &data(5)[..7].to_vec()], ""),
            (
                "a long control frame",
                vec![&control(2, &[&[0; 500]])],
                " a stream of another content than dnstap",
            ),
            ("one that is too long", vec![&control(2, &[&[0; 501]])], " no Frame Streams"),
            ("a control frame of nothing", vec![&vec![0; 8]], " no Frame Streams"),
        ] {
            let stream: Vec<u8> = parts.into_iter().flatten().copied().collect();
            assert_eq!(read(&stream), want, "{name}");
        }
    }
}
