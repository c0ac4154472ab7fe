//! `selftest`: tries every way out of a sandbox on this host, and says what came of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use exeat_sandbox::RunAs;
use exeat_sandbox::selftest::{self, Decoys, Ended, Found, Wants};
use serde::Serialize;
use tempfile::TempDir;

use crate::args::SelftestArgs;
use crate::output::{Exit, to_stdout};

/// Whom root's attempts are made by, if nobody is named.
const NOBODY: &str = "nobody";

/// This program, whatever became of its file.
const OURSELVES: &str = "/proc/self/exe";

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    attempt: &'static str,
    what: &'static str,
    expected: Wants,
    #[serde(flatten)]
    ended: Ended,
    ok: bool,
}

impl Row {
    const fn new(attempt: &'static str, what: &'static str, expected: Wants, ended: Ended) -> Self {
        let ok = ended.is_as(expected);
        Self { attempt, what, expected, ended, ok }
    }
}

pub(crate) fn run(args: &SelftestArgs) -> anyhow::Result<Exit> {
    let folder = TempDir::with_prefix("exeat-selftest-").context("cannot make a folder")?;
    // Another user may have to see what is in it.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let (policy, audit) = (folder.path().join("policy.toml"), folder.path().join("audit.jsonl"));
    let decoys = Decoys::set_up(folder.path(), &policy).context("cannot set up what is to be reached")?;
    fs::write(&policy, decoys.policy(&audit)).context("cannot write the policy")?;
    let output = inside(args, folder.path(), &policy, &decoys.targets())?;
    let told = String::from_utf8_lossy(&output.stdout);
    if told.is_empty() || !output.status.success() {
        bail!("the sandbox could not be made: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let attempts = selftest::read(&told).into_iter();
    let mut rows: Vec<Row> =
        attempts.map(|(attempt, ended)| Row::new(attempt.name, attempt.what, attempt.wants, ended)).collect();
    rows.extend(outside(&decoys.found(), &fs::read_to_string(&audit).unwrap_or_default()));
    let holes = rows.iter().filter(|row| !row.ok).count();
    if args.json {
        to_stdout(format_args!("{}\n", serde_json::json!({ "ok": holes == 0, "attempts": rows })))?;
    } else {
        to_stdout(table(&rows, holes))?;
    }
    Ok(if holes == 0 { Exit::Success } else { Exit::Failure })
}

/// Has the attempts made as any command is run.
fn inside(args: &SelftestArgs, folder: &Path, policy: &Path, targets: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(OURSELVES);
    command.args(["run", "--quiet", "--config"]).arg(policy);
    let needs_a_user = || RunAs::choose(None).is_err() && RunAs::choose(Some(NOBODY)).is_ok();
    if let Some(user) = args.user.as_deref().or_else(|| needs_a_user().then_some(NOBODY)) {
        command.args(["--user", user]);
    }
    command.args(["--", OURSELVES, selftest::ATTEMPTS, targets]).current_dir(folder);
    command.stdin(Stdio::null()).output().context("cannot start the sandbox")
}

/// What the attempts look like from outside, where they cannot lie.
fn outside(found: &Found, audit: &str) -> [Row; 4] {
    let count = |count: usize, what: &str| {
        let text = format!("{count} {what}");
        if count > 0 { Ended::Worked(text) } else { Ended::Refused(text) }
    };
    let denials = audit.lines().filter(|record| record.contains("\"verdict\":\"deny\"")).count();
    [
        Row::new(
            "seen-allowed",
            "seen outside: connections that are allowed",
            Wants::Works,
            count(found.allowed, "came"),
        ),
        Row::new(
            "seen-refused",
            "seen outside: connections and datagrams that are not",
            Wants::Refused,
            count(found.forbidden, "came"),
        ),
        Row::new(
            "seen-names",
            "seen outside: questions for names that are not allowed",
            Wants::Refused,
            count(found.names.len(), format!("came {}", found.names.join(" ")).trim_end()),
        ),
        Row::new("seen-audit", "on record: refusals", Wants::Works, count(denials, "in the audit log")),
    ]
}

fn table(rows: &[Row], holes: usize) -> String {
    let width = rows.iter().map(|row| row.attempt.len()).max().unwrap_or_default();
    let mut text = String::new();
    for row in rows {
        let expected = match row.expected {
            Wants::Works => "works",
            Wants::Refused => "refused",
        };
        let (ended, detail) = match &row.ended {
            Ended::Worked(detail) => ("works", detail),
            Ended::Refused(detail) => ("refused", detail),
            Ended::Unclear(detail) => ("unclear", detail),
            Ended::NotHere(detail) => ("skipped", detail),
        };
        let mark = if row.ok { "ok  " } else { "HOLE" };
        let Row { attempt, what, .. } = row;
        text += &format!("{mark}  {attempt:width$}  {expected:7}  {ended:7}  {what}: {detail}\n");
    }
    let skipped = rows.iter().filter(|row| matches!(row.ended, Ended::NotHere(_))).count();
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} not for this host") };
    text + &format!("{} attempts, {holes} not as expected{skipped}\n", rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_outside_counts_whatever_is_told_inside() {
        let found = |allowed, forbidden, names: &[&str]| Found {
            allowed,
            forbidden,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let deny = "{\"verdict\":\"deny\"}\n";
        for (name, found, audit, want) in [
            ("all as it should be", found(3, 0, &[]), deny, [true; 4]),
            ("nothing works", found(0, 0, &[]), deny, [false, true, true, true]),
            ("somebody came through", found(3, 1, &[]), deny, [true, false, true, true]),
            ("data in a name", found(3, 0, &["x.evil.test"]), deny, [true, true, false, true]),
            ("nothing on record", found(3, 0, &[]), "", [true, true, true, false]),
        ] {
            assert_eq!(outside(&found, audit).map(|row| row.ok), want, "{name}");
        }
    }

    #[test]
    fn a_hole_stands_out() {
        let rows = [
            Row::new("a", "try a", Wants::Refused, Ended::Refused("no".to_owned())),
            Row::new("bb", "try b", Wants::Refused, Ended::Worked("yes".to_owned())),
            Row::new("c", "try c", Wants::Works, Ended::NotHere("none".to_owned())),
        ];
        assert_eq!(
            table(&rows, 1),
            "ok    a   refused  refused  try a: no\n\
             HOLE  bb  refused  works    try b: yes\n\
             ok    c   works    skipped  try c: none\n\
             3 attempts, 1 not as expected, 1 not for this host\n"
        );
    }
}
