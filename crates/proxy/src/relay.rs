//! Moves bytes between two connections until both directions have ended, or something ends them.
//!
//! A quiet tunnel holds no buffer. Small pieces are read into the one buffer of the thread and written on at once. When a
//! read brings as much as it asked for, and both sides are plain TCP, the kernel moves what follows through a pipe, until
//! it comes in small pieces again. Where there is no pipe to be had, bulk is read in larger pieces.

mod halves;
mod lane;
mod pipe;
mod traffic;

use std::io;

use bytes::Bytes;
use exeat_policy::Reason;

pub use pipe::PIPE_DESCRIPTORS_MAX;
pub(crate) use pipe::Pipes;

use crate::{
    client_stream::ClientStream,
    meter::{Meter, Side},
    upstream_stream::UpstreamStream,
};
use lane::{Lane, LaneEnd, SenderBroke};
use traffic::Traffic;

/// Is told the client's first bytes.
pub(crate) type Opened<'a> = dyn Fn(&[u8]) + Sync + 'a;

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Each side has said that it is done, and everything was delivered.
    Finished,
    /// The connection to one side broke; the other side was reset, so that it does not take what it got for whole.
    Broken {
        /// The side whose connection broke.
        side: Side,
        /// What the kernel said.
        source: io::Error,
    },
    /// The proxy ended it: no bytes for too long, or the meter says so. Both sides were reset.
    Cut(Reason),
}

impl End {
    /// The stable word for the audit record: `finished`, `client_reset`, `upstream_reset` or a reason token.
    #[must_use]
    pub(crate) const fn token(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Broken { side: Side::Client, .. } => "client_reset",
            Self::Broken { side: Side::Upstream, .. } => "upstream_reset",
            Self::Cut(reason) => reason.token(),
        }
    }
}

/// What a relay goes by.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Counts what each side's socket took, and says when the flow must end.
    pub(crate) meter: &'a Meter,
    /// Is told the client's first bytes before they go on. If it stops the meter, they do not.
    pub(crate) opened: &'a Opened<'a>,
    /// What bulk goes through.
    pub(crate) pipes: &'a Pipes,
    /// Whether the kernel watches over upstream's connection already.
    pub(crate) is_kept_alive: bool,
}

/// What the sides have already said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Early {
    pub(crate) from_client: Bytes,
    pub(crate) from_upstream: Bytes,
}

/// Relays between `client` and `upstream` until both directions end, sending `early`, what they have already said,
/// first.
///
/// - An end of stream on one side is passed on as such; the other direction goes on.
/// - The meter counts the early bytes, too. When it says that the flow must end, both sides are cut at once; likewise when
///   no byte was delivered in either direction for as long as it lets a flow be idle. Keepalive is not a byte.
/// - A side that does not read holds the other back: in the relay is at most one chunk of 64 KiB per direction, or of
///   256 KiB in bulk, or one pipe of 1 MiB, of which there are few.
///
/// The caller closes both sides when this returns, which tells the last of the two ends; where something broke or was
/// cut, it is a reset.
pub(crate) async fn relay(
    client: &mut ClientStream,
    upstream: &mut UpstreamStream,
    early: &mut Early,
    terms: &Terms<'_>,
) -> End {
    // Everything here is borrowed: what a future takes by value it holds twice, and ten thousand of this one wait.
    let traffic = Traffic::start(terms.meter, terms.is_kept_alive);
    let why = {
        let mut lanes = lanes(&traffic, client, upstream, terms);
        tokio::select! {
            biased;
            reason = terms.meter.ended_or_idle(|| traffic.moved_last(), || traffic.note_age()) => End::Cut(reason),
            end = run(&mut lanes, early) => end,
        }
    };
    match why {
        End::Finished => {}
        End::Broken { .. } | End::Cut(_) => {
            client.reset();
            upstream.reset();
        }
    }
    why
}

/// Both directions: from the client, and from upstream.
fn lanes<'a>(
    traffic: &'a Traffic<'a>,
    client: &'a mut ClientStream,
    upstream: &'a mut UpstreamStream,
    terms: &Terms<'a>,
) -> (Lane<'a>, Lane<'a>) {
    let (client_reads, client_writes) = halves::of_client(client);
    let (upstream_reads, upstream_writes) = halves::of_upstream(upstream);
    let opened = Some(terms.opened);
    (
        Lane::new(traffic, terms.pipes, Side::Client, client_reads, upstream_writes, opened),
        Lane::new(traffic, terms.pipes, Side::Upstream, upstream_reads, client_writes, None),
    )
}

/// Runs both directions until each has ended.
async fn run((up, down): &mut (Lane<'_>, Lane<'_>), early: &mut Early) -> End {
    match tokio::try_join!(up.run(&mut early.from_client), down.run(&mut early.from_upstream)) {
        Ok((LaneEnd::Finished, LaneEnd::Finished)) => End::Finished,
        Ok((LaneEnd::ReceiverBroke(source), _)) => End::Broken { side: Side::Upstream, source },
        Ok((LaneEnd::Finished, LaneEnd::ReceiverBroke(source))) => End::Broken { side: Side::Client, source },
        Err(SenderBroke { side, source }) => End::Broken { side, source },
    }
}

#[cfg(test)]
mod tests;
