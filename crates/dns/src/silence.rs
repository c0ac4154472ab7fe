//! A server that does not answer, told to the operator: once a minute at most, since strangers can ask for names at any rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time from one warning to the next about the same server.
const APART: Duration = Duration::from_secs(60);

/// What was not answered by one server.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Queries since the last warning.
    queries: u64,
    warned: Option<Instant>,
}

impl Silence {
    /// Notes a query without an answer. Returns how many there were since this last returned some number, if it is time to say so.
    pub(crate) fn note(&self, now: Instant) -> Option<u64> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.queries += 1;
        if noted.warned.is_some_and(|warned| now.saturating_duration_since(warned) < APART) {
            return None;
        }
        noted.warned = Some(now);
        Some(std::mem::take(&mut noted.queries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_however_often_it_happens() {
        let silence = Silence::default();
        let start = Instant::now();
        let at = |seconds| silence.note(start + Duration::from_secs(seconds));
        let told: Vec<Option<u64>> = [0, 0, 1, 59, 60, 60, 119, 240].map(at).into();
        assert_eq!(told, [Some(1), None, None, None, Some(4), None, None, Some(3)]);
    }
}
