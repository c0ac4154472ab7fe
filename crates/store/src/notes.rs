//! Where readers put what they find, before it is sorted and cut to what a person can read.

use std::ops::Range;

use crate::problem::{Code, Finding, Problem, Severity};
use crate::source::Source;

/// Problems kept of one file and severity while it is read: more than are ever reported, so that sorting by
/// line still shows the first ones, and bounded, so that a broken 16 MiB file does not fill the memory.
const KEPT_MAX: usize = 512;

/// The findings of one file.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    errors: Kept,
    warnings: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    list: Vec<(Option<Range<usize>>, Finding)>,
    dropped: usize,
}

impl Notes {
    /// Records a finding at a span of the file.
    pub(crate) fn push(&mut self, span: Range<usize>, finding: Finding) {
        self.add(Some(span), finding);
    }

    /// Records a finding about the file as a whole.
    pub(crate) fn push_whole(&mut self, finding: Finding) {
        self.add(None, finding);
    }

    /// Returns whether an error has been recorded.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.list.is_empty()
    }

    /// Returns whether further errors will only be counted, so that costly corrections are not worth making.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.list.len() >= KEPT_MAX
    }

    fn add(&mut self, span: Option<Range<usize>>, finding: Finding) {
        let kept = match finding.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if kept.list.len() < KEPT_MAX {
            kept.list.push((span, finding));
        } else {
            kept.dropped += 1;
        }
    }

    /// Removes the findings for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Finding) -> bool) {
        for kept in [&mut self.errors, &mut self.warnings] {
            kept.list.retain(|(_, finding)| keep(finding));
        }
    }

    /// Returns at most `limit` problems in the order of the file, errors before warnings if there are more,
    /// and how many were left out in a last problem of their own.
    pub(crate) fn finish(self, source: &Source<'_>, limit: usize) -> Vec<Problem> {
        let mut left_out = self.errors.dropped + self.warnings.dropped;
        let severity = if self.errors.list.is_empty() { Severity::Warning } else { Severity::Error };
        let by_place =
            |entry: &(Option<Range<usize>>, Finding)| entry.0.as_ref().map(|span| (span.start, span.end));
        let (mut errors, mut warnings) = (self.errors.list, self.warnings.list);
        errors.sort_by_key(by_place);
        warnings.sort_by_key(by_place);
        left_out += (errors.len() + warnings.len()).saturating_sub(limit);
        errors.truncate(limit);
        warnings.truncate(limit - errors.len());
        errors.append(&mut warnings);
        errors.sort_by_key(by_place);
        errors.dedup();
        let place = |(span, finding): (Option<Range<usize>>, Finding)| match span {
            Some(span) => source.problem(&span, finding),
            None => Problem::of_file(source.name(), finding),
        };
        let mut problems: Vec<Problem> = errors.into_iter().map(place).collect();
        if left_out > 0 {
            let finding = Finding::error(Code::More, format!("and {left_out} more"));
            problems.push(Problem::of_file(source.name(), Finding { severity, ..finding }));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(errors: usize, warnings: usize) -> Notes {
        let mut notes = Notes::default();
        for at in (0..warnings).rev() {
            notes.push(at..at, Finding::warning(Code::Unused, format!("w{at}")));
        }
        for at in (0..errors).rev() {
            notes.push(at..at, Finding::error(Code::Syntax, format!("e{at}")));
        }
        notes
    }

    #[test]
    fn errors_come_first_when_not_all_fit_and_the_rest_is_counted() {
        let text = "x".repeat(2000);
        let source = Source::new("t".into(), &text);
        let cases: [(&str, Notes, &[&str]); 5] = [
            ("nothing", notes(0, 0), &[]),
            ("all fit, in the order of the file", notes(1, 2), &["e0", "w0", "w1"]),
            ("warnings give way", notes(3, 2), &["e0", "e1", "e2", "and 2 more"]),
            ("errors are cut", notes(4, 0), &["e0", "e1", "e2", "and 1 more"]),
            ("more than are kept", notes(KEPT_MAX + 5, 0), &["e5", "e6", "e7", "and 514 more"]),
        ];
        for (name, notes, want) in cases {
            let problems = notes.finish(&source, 3);
            let got: Vec<&str> = problems.iter().map(Problem::message).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
