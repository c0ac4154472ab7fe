//! What the policy server needs of the program around it: who asks, what decides now, and somebody to tell of it.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use exeat_audit::{AuditUnavailable, Record};
use exeat_identity::{Place, Principal};
use exeat_policy::{PolicySet, Reason};

use crate::resolve::{Answer, ResolveError};

/// Whether the record of an answer could be kept, later.
pub type Recorded<'a> = Pin<Box<dyn Future<Output = Result<(), AuditUnavailable>> + Send + 'a>>;

/// The program around a policy server.
pub trait Surroundings: Send + Sync + 'static {
    /// What decides from now on, until it is asked again.
    fn now(&self) -> Arc<dyn Deciding>;

    /// Returns an id that no other request has.
    fn next_request_id(&self) -> Arc<str>;

    /// Takes the record of what has happened, whether or not it can be kept.
    fn note(&self, record: Record);

    /// Takes the record of an answer that is about to be given. If nothing is allowed without a record, it resolves once
    /// that is written.
    fn record(&self, record: Record) -> Recorded<'_>;

    /// Counts what came of resolving a name, from the cache or not.
    fn resolved(&self, result: &Result<Answer, ResolveError>, took: Duration);

    /// Whether somebody is asked about connections to names that no rule covers. Nobody outside is asked for such a name.
    fn asks(&self) -> bool {
        false
    }

    /// Counts something that no record tells.
    fn count(&self, happening: Happening);
}

/// A snapshot of who may ask for what.
pub trait Deciding: Send + Sync {
    /// The policies.
    fn policy(&self) -> &PolicySet;

    /// Returns who asks from `place`, by that alone.
    ///
    /// # Errors
    /// Why nobody does, or may for now.
    fn asker(&self, place: &Place) -> Result<Arc<Principal>, Reason>;

    /// The name of the workload that is at `place`.
    fn workload(&self, place: &Place) -> Option<Arc<str>>;
}

/// What happens at a policy server beside answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happening {
    /// A message came that asks nothing.
    Malformed,
    /// An answer was too long for UDP.
    Truncated,
    /// A source asked more often than it may.
    TooManyQueries,
    /// A source asked for more names that match one rule than it may.
    TooManyNames,
    /// Too many questions wait for an answer, in all or of one source.
    TooManyWaiting,
    /// Too many TCP connections are open, in all or of one source.
    TooManyConnections,
    /// The way to an answer was opened, or not, within this time.
    Opened(Duration),
    /// The way to an answer could not be opened.
    NotOpened,
    /// There was no address left to stand for a name.
    NoVirtualAddress,
    /// A question was answered within this time.
    Answered(Duration),
    /// A message of another name server's stream came to this.
    Tapped(Tapped),
    /// An answer of another name server was heard of this long after it was given, by the clock.
    TappedAfter(Duration),
    /// A stream was refused: of a user who may not write, or one too many.
    TapRefused,
    /// A stream has ended before its end, or was none.
    TapBroken,
    /// So many messages were written to the collector of dnstap.
    TapOutTold(u64),
    /// So many messages for the collector of dnstap were lost: it is slow, or not there.
    TapOutLost(u64),
}

/// What a message of another name server's stream comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tapped {
    /// The way to what it tells was opened.
    Opened,
    /// The policy does not allow it, or the client asks too often.
    Denied,
    /// It is allowed, and the way could not be opened.
    Unopened,
    /// It is allowed, and tells no address.
    Nothing,
    /// It is no answer, or not all of one, or to a server.
    PassedOver,
    /// It is an answer that lacks the message, or the client.
    Incomplete,
    /// It cannot be read.
    Malformed,
    /// It is longer than any answer.
    TooLong,
}

impl Tapped {
    /// Every one, in order.
    pub const ALL: [Self; 8] = [
        Self::Opened,
        Self::Denied,
        Self::Unopened,
        Self::Nothing,
        Self::PassedOver,
        Self::Incomplete,
        Self::Malformed,
        Self::TooLong,
    ];

    /// The word for it.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Denied => "denied",
            Self::Unopened => "unopened",
            Self::Nothing => "nothing",
            Self::PassedOver => "passed_over",
            Self::Incomplete => "incomplete",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }
}
