//! What is counted of questions to the policy server for names.

use exeat_audit::Outcome;
use exeat_dns::Tapped;
use exeat_policy::Reason;

use super::{
    Counter, Counters, Told,
    count::Histogram,
    label::{DnsLimit, TapOutResult, TapStream},
};

/// From an answer in memory to servers that are asked several times.
const ANSWER_SECONDS: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0, 5.0];
/// From a message to the kernel to one that waits for others.
const OPENING_SECONDS: &[f64] = &[0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_2, 0.001, 0.01, 0.1];

/// Around the second that name servers gather messages for.
const TAP_SECONDS: &[f64] = &[0.01, 0.1, 0.5, 0.9, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Everything that is counted of questions.
#[derive(Debug)]
pub struct Lookups {
    /// Questions that were answered.
    pub allowed: Counter,
    /// Questions that were allowed and could not be answered, by why.
    pub failed: Counters<Reason>,
    /// Questions that were refused, by why.
    pub denied: Counters<Reason>,
    /// Questions that only report mode let through, by why they would have been refused.
    pub would_deny: Counters<Reason>,
    /// Messages that ask nothing.
    pub malformed: Counter,
    /// Answers that were too long for UDP.
    pub truncated: Counter,
    /// Limits that were hit.
    pub limits: Counters<DnsLimit>,
    /// Answers that were held back since the way could not be opened.
    pub not_opened: Counter,
    /// From a question to its answer.
    pub answer_time: Histogram,
    /// Until the way to an answer was open.
    pub opening_time: Histogram,
    /// Messages of other name servers' streams, by what came of them.
    pub tapped: Counters<Tapped>,
    /// Streams that were not read to their end, by why.
    pub tap_streams: Counters<TapStream>,
    /// Messages for the collector of dnstap, by what came of them.
    pub tap_out: Counters<TapOutResult>,
    /// From another name server's answer until it was heard of.
    pub tap_delay: Histogram,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            allowed: Counter::default(),
            failed: Counters::default(),
            denied: Counters::default(),
            would_deny: Counters::default(),
            malformed: Counter::default(),
            truncated: Counter::default(),
            limits: Counters::default(),
            not_opened: Counter::default(),
            answer_time: Histogram::new(ANSWER_SECONDS),
            opening_time: Histogram::new(OPENING_SECONDS),
            tapped: Counters::default(),
            tap_streams: Counters::default(),
            tap_out: Counters::default(),
            tap_delay: Histogram::new(TAP_SECONDS),
        }
    }
}

impl Lookups {
    /// Counts what the record of a question says.
    pub(super) fn note(&self, told: &Told) {
        match (told.verdict, told.reason) {
            (Some(Outcome::Allow), None) => self.allowed.add(1),
            (Some(Outcome::Allow), Some(reason)) => self.failed.count(reason),
            (Some(Outcome::Deny) | None, Some(reason)) => self.denied.count(reason),
            (Some(Outcome::Deny) | None, None) => {}
        }
        if let Some(reason) = told.would_deny {
            self.would_deny.count(reason);
        }
    }
}
