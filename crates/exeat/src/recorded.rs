//! Audit records of changes of what decides: who asked, what was replaced by what, and what that allows more and less.

use std::time::SystemTime;

use exeat_api::{Refused, Side, count};
use exeat_audit::{Action, AuditLog, By, ControlRecord, Effect, Record};
use exeat_policy::Revision;
use exeat_proxy::Snapshot;
use exeat_store::{Digest, Loaded, Origin, Report, Severity, Written};

use crate::reloader::Cause;

/// The largest document that is compared with the one before it, in bytes: what takes some 10 ms. What is larger, or names
/// group files, can be compared by whoever reads the record: both documents are kept.
const COMPARED_BYTES_MAX: usize = 64 * 1024;
/// Most kinds of clients for which two documents are compared: each has policies of its own, and costs as much as the
/// first. The new policy waits for it.
const COMPARED_PAIRS_MAX: usize = 32;

/// Hands over the record that `loaded` decides from now on, and must be called before it does: what it allows is recorded
/// after that. `Unchanged` if it is what decides already.
pub(crate) fn replaced(
    audit: &AuditLog,
    cause: &Cause,
    (old, before): (&Snapshot, Option<&Written>),
    loaded: &Loaded,
    is_changed: bool,
) {
    let effect = if is_changed { Effect::Done } else { Effect::Unchanged };
    let mut control = asked(cause, effect);
    control.old_revision = Some(old.policy.revision());
    control.digest = loaded.written.as_ref().map(|written| written.digest.to_string());
    let is_small = |written: &&Written| written.files.is_empty() && written.text.len() <= COMPARED_BYTES_MAX;
    let both = before.filter(is_small).zip(loaded.written.as_ref().filter(is_small));
    if both.is_some_and(|_| is_changed) {
        let counts = count(Side::from(old), Side::from(loaded), COMPARED_PAIRS_MAX);
        (control.gained, control.lost) =
            (counts.map(|counts| counts.gained), counts.map(|counts| counts.lost));
    }
    audit.note(&Record::control(control, loaded.policy.revision(), SystemTime::now()));
}

/// Hands over the record that `now` goes on to decide, and why.
pub(crate) fn refused(
    audit: &AuditLog,
    cause: &Cause,
    now: Revision,
    digest: Option<Digest>,
    refused: &Refused,
) {
    let mut control = asked(cause, Effect::Refused);
    control.digest = digest.map(|digest| digest.to_string());
    control.error = Some(why(refused).as_str().into());
    audit.note(&Record::control(control, now, SystemTime::now()));
}

fn asked(cause: &Cause, effect: Effect) -> ControlRecord {
    let (action, by) = match cause.origin {
        // The start is not a change, so there is no record of it.
        Origin::Start | Origin::Signal => (Action::Reload, By::Signal),
        Origin::Reload => (Action::Reload, By::Api),
        Origin::Put => (Action::Put, By::Api),
        Origin::Rollback => (Action::Rollback, By::Api),
    };
    ControlRecord { restored: cause.restored, ..ControlRecord::new(action, by, cause.uid, effect) }
}

/// Of errors in a document the place and kind of the first: what it says there may be a secret.
fn why(refused: &Refused) -> String {
    match refused {
        Refused::Problems(report) => format!("{refused}: {}", first_error(report)),
        Refused::Moved { .. }
        | Refused::Unknown { .. }
        | Refused::Edited { .. }
        | Refused::NoFile { .. }
        | Refused::Unwritable { .. } => refused.to_string(),
    }
}

fn first_error(report: &Report) -> String {
    let count = report.count(Severity::Error);
    let Some(first) = report.problems().iter().find(|problem| problem.severity() == Severity::Error) else {
        return "none".to_owned();
    };
    let place = first.location().map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
    let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    format!("{} at {}{place}{more}", first.code().name(), first.file())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeat_store::{Options, load_text};

    use super::*;

    #[test]
    fn errors_are_told_by_place_and_kind() {
        for (name, text, want) in [
            (
                "one",
                "[proxy]\nlistn = \"secret\"\n",
                "the configuration has errors, so the policy in use stays: unknown_key at t.toml:2:1",
            ),
            (
                "two",
                "[proxy]\nlistn = 1\n[policy.a]\nallow = [\"*\"]\n",
                "the configuration has errors, so the policy in use stays: unknown_key at t.toml:2:1 and 1 more",
            ),
        ] {
            let report = load_text("t.toml", text, Path::new(""), &Options::new(Revision(1))).unwrap_err();
            assert_eq!(why(&Refused::Problems(report)), want, "{name}");
        }
        assert_eq!(
            why(&Refused::Moved { now: Revision(3) }),
            "revision 3 decides, another one than was named"
        );
    }
}
