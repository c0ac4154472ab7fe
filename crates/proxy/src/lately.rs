//! Credentials that were right a moment ago. The tables of [`Defence`](exeat_identity::Defence) are for everybody who asks;
//! who asks again and again is looked up and noted there every ten seconds, not for each request.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{flows::Source, serve::Credentials};

/// How many are remembered, about. Who finds no place is looked up.
const PLACES: usize = 4096;
/// How long, at most. What [`Defence`](exeat_identity::Defence) remembers of who was right it remembers an hour: this much
/// less for those who are remembered here.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Remembers them, as numbers that tell nothing.
#[derive(Debug)]
pub(crate) struct Lately {
    /// Seeded: no client can choose what a number comes from.
    hasher: RandomState,
    started: Instant,
    /// How many have been wrong. Part of each number, so that one who is wrong has all forgotten.
    wrong: AtomicU64,
    places: Box<[AtomicU64]>,
}

/// What some credentials are remembered as. It stands for all that has to be the same: where they come from, what decides,
/// the ten seconds, and that nobody has been wrong since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

impl Default for Lately {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            started: Instant::now(),
            wrong: AtomicU64::new(0),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Lately {
    /// Returns what `credentials` from `source` are remembered as at `now`, while `epoch` decides.
    pub(crate) fn mark(
        &self,
        source: Source,
        credentials: Credentials<'_>,
        epoch: u64,
        now: Instant,
    ) -> Mark {
        let turn = now.saturating_duration_since(self.started).as_secs() / REMEMBERED.as_secs();
        let wrong = self.wrong.load(Ordering::Acquire);
        Mark(self.hasher.hash_one((source, credentials, epoch, turn, wrong)))
    }

    /// Whether they were right.
    pub(crate) fn remembers(&self, mark: Mark) -> bool {
        self.place(mark).is_some_and(|place| place.load(Ordering::Relaxed) == mark.0)
    }

    /// Notes that they are right, after [`Defence`](exeat_identity::Defence) has noted it.
    pub(crate) fn note_right(&self, mark: Mark) {
        if let Some(place) = self.place(mark) {
            place.store(mark.0, Ordering::Relaxed);
        }
    }

    /// Notes that somebody was wrong, likewise: whoever asks next is looked up.
    pub(crate) fn note_wrong(&self) {
        self.wrong.fetch_add(1, Ordering::Release);
    }

    fn place(&self, mark: Mark) -> Option<&AtomicU64> {
        let place = usize::try_from(mark.0 % PLACES as u64).ok()?;
        self.places.get(place)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn nothing_else_is_remembered() {
        let lately = Lately::default();
        let now = Instant::now();
        let from = |last: u8| Source::from(IpAddr::from([10, 0, 0, last]));
        let fields: &[&[u8]] = &[b"Basic YTpi"];
        let mark = lately.mark(from(1), Credentials::Fields(fields), 7, now);
        assert!(!lately.remembers(mark));
        lately.note_right(mark);
        let again =
            |source, credentials, epoch, at| lately.remembers(lately.mark(source, credentials, epoch, at));
        let others: &[&[u8]] = &[b"Basic YTpj"];
        let apart = Credentials::Password { user: b"a", password: b"b" };
        for (case, is_remembered, want) in [
            ("the same", again(from(1), Credentials::Fields(fields), 7, now), true),
            ("another source", again(from(2), Credentials::Fields(fields), 7, now), false),
            ("other credentials", again(from(1), Credentials::Fields(others), 7, now), false),
            ("in another form", again(from(1), apart, 7, now), false),
            ("another snapshot", again(from(1), Credentials::Fields(fields), 8, now), false),
            ("later", again(from(1), Credentials::Fields(fields), 7, now + REMEMBERED), false),
        ] {
            assert_eq!(is_remembered, want, "{case}");
        }
        lately.note_wrong();
        assert!(!again(from(1), Credentials::Fields(fields), 7, now), "somebody was wrong");
        lately.note_right(mark);
        assert!(!again(from(1), Credentials::Fields(fields), 7, now), "who was looked up before that");
    }
}
