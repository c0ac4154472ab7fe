//! The record of a TLS handshake that was refused, at a listener that asks for client certificates: there it is the answer
//! to somebody who asks without proof, as a 407 is elsewhere.

use std::time::{Duration, Instant};

use exeat_audit::Event;
use exeat_identity::{Accounts, Rate};

use crate::{
    client::Client,
    flows::Source,
    shared::Shared,
    tls,
    trail::{Ending, Target, Trail},
};

/// Records a second about one source, and about all. A handshake costs whoever fails it next to nothing, and must not
/// fill the disk: beyond that they are counted alone. Who misconfigured something tries a few times a minute.
const PER_SOURCE: usize = 1;
const IN_ALL: usize = 10;
/// How much of both may come at once.
const BURST: Duration = Duration::from_secs(10);

/// How many records there have been lately.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    of_source: Accounts<Source>,
    of_all: Accounts<()>,
}

impl Handshakes {
    /// Whether one more may be made at `now`.
    fn take(&self, source: Source, now: Instant) -> bool {
        let of_source =
            Rate::new(PER_SOURCE, BURST).is_none_or(|rate| self.of_source.take(source, rate, now));
        // Asked second, so that one source that is over its own takes nothing from the others.
        of_source && Rate::new(IN_ALL, BURST).is_none_or(|rate| self.of_all.take((), rate, now))
    }
}

/// Records that the handshake of `client` ended with `error`, if that is a refusal and there is room for the record.
pub(crate) fn note_refused(shared: &Shared, client: &Client, error: &std::io::Error) {
    let Some(reason) = tls::refusal(error) else { return };
    if !shared.handshakes.take(client.source(), Instant::now()) {
        return;
    }
    let mut trail = Trail::new(shared.next_request_id(), client, "", Target::Bytes(b""));
    trail.note_workload(&shared.current().snapshot.peer(&client.shown()));
    trail.note_reason(reason);
    shared.note(trail.record(Event::Request, Some(Ending::nothing_moved(reason.token()))));
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(number: u32) -> Source {
        Source::from(IpAddr::from(Ipv4Addr::from(number)))
    }

    #[test]
    fn neither_one_source_nor_a_crowd_floods_the_log() {
        let (handshakes, start) = (Handshakes::default(), Instant::now());
        let taken = |number, now| (0..100).filter(|_| handshakes.take(source(number), now)).count();
        assert_eq!(taken(1, start), 10);
        assert_eq!(taken(2, start), 10, "one that is over its own leaves room to others");
        let by_crowd = (3..1000).filter(|number| handshakes.take(source(*number), start)).count();
        assert_eq!(by_crowd, 80, "a hundred in all");
        let later = start + Duration::from_secs(1);
        assert_eq!((3..1000).filter(|number| handshakes.take(source(*number), later)).count(), 10);
    }
}
