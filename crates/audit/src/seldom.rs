//! Lines of the log that a stranger can cause as often as they like.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines of one kind.
const BETWEEN: Duration = Duration::from_secs(1);

/// One kind of line, which is written once a second at most: as often as somebody reads it, and too seldom to fill a disk.
#[derive(Debug)]
pub struct Seldom(Mutex<Told>);

#[derive(Debug)]
struct Told {
    last: Option<Instant>,
    left_out: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

impl Seldom {
    /// Returns a kind of which no line was written.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Told { last: None, left_out: 0 }))
    }

    /// Whether a line may be written now, and then how many were left out since the last one. One that may not is counted.
    #[must_use]
    pub fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN) {
            told.left_out += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_a_second_and_tells_of_the_others() {
        let (start, kind) = (Instant::now(), Seldom::new());
        for (milliseconds, want) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (1001, None),
            (9000, Some(1)),
            (10_000, Some(0)),
        ] {
            let got = kind.turn_at(start + Duration::from_millis(milliseconds));
            assert_eq!(got, want, "after {milliseconds} ms");
        }
    }
}
