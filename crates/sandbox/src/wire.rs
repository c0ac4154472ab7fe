//! What the launcher and the processes inside tell each other, over a pair of unix sockets that keep messages apart.
//!
//! Until the command runs, both sides are this program. After that, the inner side may be anything: the launcher then believes
//! only how the command ended, which is the command's to say anyway.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::limits::ProcessLimits;

/// Bytes of a message. The largest is [`Order`], with its paths and variables; the kernel takes no more than some 200 KB.
const MESSAGE_BYTES_MAX: usize = 192 * 1024;

/// Descriptors that go along with one message.
const DESCRIPTORS_MAX: usize = 8;

/// Said to the stage and to init.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToInside {
    /// To the stage: who the command runs as.
    Setup(Setup),
    /// To init: its user is mapped.
    Mapped,
    /// To init: what the command may see. Its standard streams go along, and the host's table of unix sockets.
    Order(Box<Order>),
    /// To init: run the command.
    Go,
    /// To init: a signal for the command.
    Signal(i32),
    /// To init: pause the command and all that it has started, for as long as somebody has the other end of the socket that goes
    /// along, and say there whether that could be done.
    Pause,
}

/// Said by init; by the stage only if it fails.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToLauncher {
    /// Init is there, in its namespaces, and has this number outside.
    Unshared(u32),
    /// The network is there. The sockets to serve go along: one for clients that know of the proxy, and then, for each family,
    /// one for all other connections, and two for questions by UDP and by TCP; and at last the one to ask for counters by.
    Listening,
    /// Everything is done but to run the command, and the rules are in force.
    Confined,
    /// The command runs.
    Started,
    /// It was not run.
    Failed(Failure),
    /// It ran and has ended.
    Ended(Ended),
}

/// See [`ToInside::Setup`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Setup {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The groups to take on first; `None` keeps those that it has.
    pub(crate) groups: Option<Vec<u32>>,
}

/// See [`ToInside::Order`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Order {
    pub(crate) directory: PathBuf,
    /// The home directory of the command's user, if it is known.
    pub(crate) home: Option<PathBuf>,
    /// Variables to set, or to remove.
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
    /// Directories that are empty inside, and files that are.
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) read_only: Vec<PathBuf>,
    /// What stays writable, whatever above it is not.
    pub(crate) writable: Vec<PathBuf>,
    /// What is read-only even there.
    pub(crate) locked: Vec<PathBuf>,
    /// The folder of our own that no command may see or replace.
    pub(crate) state: Option<PathBuf>,
    /// Unix sockets of the host that stay in sight.
    pub(crate) sockets: Vec<PathBuf>,
    /// The directory for sockets and the like of the user's session, which is there but empty.
    pub(crate) runtime_directory: Option<PathBuf>,
    /// What each of its processes is held to.
    pub(crate) limits: ProcessLimits,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

impl Ended {
    /// The exit status that says so to a shell: its own, or 128 and the number of the signal.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends; no other program inherits either.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process got as its standard input.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// The same end once more.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, &[])
    }

    pub(crate) fn send_with(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many paths or variables"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // A reader that has gone is an error, and no reason to die.
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message, and returns how many bytes it has: most have few. One at least, so that the end is found.
    fn next_length(&self) -> io::Result<usize> {
        let mut none = RecvAncillaryBuffer::new(&mut []);
        loop {
            match recvmsg(&self.0, &mut [], &mut none, RecvFlags::PEEK | RecvFlags::TRUNC) {
                Ok(there) => return Ok(there.bytes.clamp(1, MESSAGE_BYTES_MAX)),
                Err(rustix::io::Errno::INTR) => {}
                // It is told when it is read.
                Err(rustix::io::Errno::CONNRESET) => return Ok(1),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a message and what goes along with it; `None` at the end.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; self.next_length()?];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                // It had something that was never read.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                result => break result?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut off"));
        }
        text.truncate(received.bytes);
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_together_until_the_end() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel(there);
        let file = File::open("/proc/self/comm").unwrap();
        here.send_with(&ToInside::Signal(15), &[file.as_fd()]).unwrap();
        here.send(&ToInside::Go).unwrap();
        drop(here);
        let (first, descriptors) = there.receive::<ToInside>().unwrap().unwrap();
        assert!(matches!(first, ToInside::Signal(15)), "{first:?}");
        let mut text = String::new();
        File::from(descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n'), "{text:?}");
        let (second, descriptors) = there.receive::<ToInside>().unwrap().unwrap();
        assert!(matches!(second, ToInside::Go) && descriptors.is_empty(), "{second:?}");
        assert!(there.receive::<ToInside>().unwrap().is_none());
    }

    #[test]
    fn more_than_a_message_can_hold_is_an_error_and_not_cut_off() {
        let (here, there) = Channel::pair().unwrap();
        let many = |count: usize| {
            let hidden = vec![PathBuf::from("x".repeat(1024)); count];
            ToInside::Order(Box::new(Order { hidden, ..Order::default() }))
        };
        here.send(&many(150)).unwrap();
        here.send(&many(200)).unwrap_err();
        let received = Channel(there).receive::<ToInside>().unwrap();
        assert!(matches!(received, Some((ToInside::Order(order), _)) if order.hidden.len() == 150));
    }

    #[test]
    fn a_shell_is_told_how_it_ended() {
        for (ended, want) in
            [(Ended::Exited(0), 0), (Ended::Exited(7), 7), (Ended::Killed(15), 143), (Ended::Killed(9), 137)]
        {
            assert_eq!(ended.status(), want, "{ended:?}");
        }
    }
}
