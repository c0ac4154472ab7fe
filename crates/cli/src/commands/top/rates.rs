//! Two samples make rates.

use std::collections::HashMap;

use super::sample::{Pair, Refused, Sample};

/// A number for each second; `None` until there are two samples to tell it from.
pub(super) type Rate = Option<f64>;

/// What the screen shows: the newest sample, and how fast its numbers grow.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) now: Sample,
    pub(super) allowed: Rate,
    pub(super) failed: Rate,
    pub(super) denied: Rate,
    pub(super) up: Rate,
    pub(super) down: Rate,
    /// In the order of the sample's pairs.
    pub(super) pairs: Vec<PairRates>,
    /// In the order of the sample's refusals.
    pub(super) refusals: Vec<Rate>,
    /// In the order of the sample's reasons.
    pub(super) reasons: Vec<Rate>,
}

/// How fast one pair's numbers grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PairRates {
    pub(super) requests: Rate,
    pub(super) up: Rate,
    pub(super) down: Rate,
}

/// Turns growth into a rate.
#[derive(Clone, Copy)]
struct Over(f64);

impl Over {
    /// What is counted anew, or was forgotten in between, has no less than nothing.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with two digits")]
    fn rate(self, before: u64, now: u64) -> Rate {
        Some(now.saturating_sub(before) as f64 / self.0)
    }
}

impl Board {
    /// What can be shown of `now`, which comes after `before`.
    pub(super) fn new(before: Option<&Sample>, now: Sample) -> Self {
        // By the proxy's clock, so that the time that an answer takes is no error. A proxy that was started anew has
        // been there for less time.
        let since = before.map(|before| (before, now.uptime_seconds - before.uptime_seconds));
        let Some((before, over)) = since.filter(|(_, seconds)| *seconds > 0.0).map(|(b, s)| (b, Over(s)))
        else {
            return Self {
                pairs: vec![PairRates::default(); now.pairs.len()],
                refusals: vec![None; now.refusals.len()],
                reasons: vec![None; now.decisions.reasons.len()],
                now,
                ..Self::default()
            };
        };
        Self {
            allowed: over.rate(before.decisions.allowed, now.decisions.allowed),
            failed: over.rate(before.decisions.failed, now.decisions.failed),
            denied: over.rate(before.decisions.denied, now.decisions.denied),
            up: over.rate(before.bytes_up, now.bytes_up),
            down: over.rate(before.bytes_down, now.bytes_down),
            pairs: pairs(before, &now, over),
            refusals: refusals(before, &now, over),
            reasons: reasons(before, &now, over),
            now,
        }
    }

    /// Every pair that is open or has moved something since the last sample.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Pair, PairRates)> {
        let rows = self.now.pairs.iter().zip(self.pairs.iter().copied());
        rows.filter(|(pair, rates)| pair.flows > 0 || rates.is_moving())
    }

    /// Every refusal that is known.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&Refused, Rate)> {
        self.now.refusals.iter().zip(self.refusals.iter().copied())
    }
}

impl PairRates {
    fn is_moving(self) -> bool {
        [self.requests, self.up, self.down].into_iter().flatten().any(|rate| rate > 0.0)
    }
}

fn pairs(before: &Sample, now: &Sample, over: Over) -> Vec<PairRates> {
    if before.watch != now.watch {
        return vec![PairRates::default(); now.pairs.len()];
    }
    let key = |pair: &Pair| (pair.client.clone(), pair.target.clone());
    let known: HashMap<_, &Pair> = before.pairs.iter().map(|pair| (key(pair), pair)).collect();
    let nothing = Pair::default();
    let rates = now.pairs.iter().map(|pair| {
        let then = match known.get(&key(pair)) {
            Some(then) => then,
            // It may have been there, too.
            None if before.pairs_left_out > 0 => return PairRates::default(),
            None => &nothing,
        };
        PairRates {
            requests: over.rate(then.requests, pair.requests),
            up: over.rate(then.bytes_up, pair.bytes_up),
            down: over.rate(then.bytes_down, pair.bytes_down),
        }
    });
    rates.collect()
}

fn refusals(before: &Sample, now: &Sample, over: Over) -> Vec<Rate> {
    let key = |row: &Refused| (row.client.clone(), row.target.clone(), row.reason.clone());
    let known: HashMap<_, u64> = before.refusals.iter().map(|row| (key(row), row.count)).collect();
    // Of a new row, what it took over from another is not its own.
    let rate = |row: &Refused| over.rate(*known.get(&key(row)).unwrap_or(&row.count_error), row.count);
    now.refusals.iter().map(rate).collect()
}

fn reasons(before: &Sample, now: &Sample, over: Over) -> Vec<Rate> {
    let known: HashMap<&str, u64> =
        before.decisions.reasons.iter().map(|row| (row.reason.as_str(), row.failed + row.denied)).collect();
    let rate = |row: &super::sample::ReasonCount| {
        over.rate(*known.get(row.reason.as_str()).unwrap_or(&0), row.failed + row.denied)
    };
    now.decisions.reasons.iter().map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(client: &str, target: &str, requests: u64, up: u64, down: u64) -> Pair {
        let (client, target) = (client.to_owned(), target.to_owned());
        Pair { client, target, requests, bytes_up: up, bytes_down: down, ..Pair::default() }
    }

    fn sample(uptime_seconds: f64, watch: u64, pairs: Vec<Pair>) -> Sample {
        Sample { uptime_seconds, watch, pairs, ..Sample::default() }
    }

    #[test]
    fn pairs_are_compared_with_themselves() {
        let before = sample(10.0, 1, vec![pair("a", "x:443", 1, 100, 1000), pair("b", "x:443", 5, 0, 0)]);
        let (of_b, of_a) = (pair("b", "x:443", 5, 0, 0), pair("a", "x:443", 3, 200, 5000));
        let now = sample(12.0, 1, vec![of_b, of_a, pair("c", "x:443", 4, 8, 6)]);
        let board = Board::new(Some(&before), now.clone());
        let rates =
            |requests, up, down| PairRates { requests: Some(requests), up: Some(up), down: Some(down) };
        assert_eq!(board.pairs, [rates(0.0, 0.0, 0.0), rates(1.0, 50.0, 2000.0), rates(2.0, 4.0, 3.0)]);
        let shown: Vec<&str> = board.rows().map(|(pair, _)| pair.client.as_str()).collect();
        assert_eq!(shown, ["a", "c"], "b is neither open nor moving");
        for (name, before) in [
            ("the first sample", None),
            ("another watch", Some(Sample { watch: 0, ..before.clone() })),
            ("another process", Some(Sample { uptime_seconds: 100.0, ..before.clone() })),
        ] {
            let board = Board::new(before.as_ref(), now.clone());
            assert_eq!(board.pairs, [PairRates::default(); 3], "{name}");
        }
        let cut_off = Sample { pairs_left_out: 1, ..before };
        let board = Board::new(Some(&cut_off), now);
        assert_eq!(board.pairs[2], PairRates::default(), "it may have been among those left out");
    }

    #[test]
    fn a_refusal_that_took_anothers_place_has_only_its_own_rate() {
        let row = |target: &str, count, count_error| Refused {
            target: target.to_owned(),
            count,
            count_error,
            ..Refused::default()
        };
        let with = |uptime_seconds, refusals| Sample { uptime_seconds, refusals, ..Sample::default() };
        let before = with(1.0, vec![row("a", 10, 0), row("b", 40, 0)]);
        let now = with(2.0, vec![row("a", 12, 0), row("c", 43, 40)]);
        assert_eq!(Board::new(Some(&before), now).refusals, [Some(2.0), Some(3.0)]);
    }
}
