//! `policy`: the document that decides, those that did, and how one takes the place of another.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use exeat_store::CONFIGURATION_BYTES_MAX;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::args::{Output, PolicyCommand, PolicyDiffArgs, PutArgs, PutHow, RevisionsArgs, RollbackArgs};
use crate::commands::{
    diff,
    reload::{notes, told, told_of_sent},
};
use crate::control::{Answer, Ask, Control, printable, with_query};
use crate::output::{Exit, to_stderr, to_stdout};

/// Runs one of the commands.
pub(crate) fn run(command: &PolicyCommand) -> anyhow::Result<Exit> {
    match command {
        PolicyCommand::Get(args) => {
            let control = Control::new(args.socket.as_deref())?;
            let which = args.revision.map_or_else(|| "current".to_owned(), |revision| revision.to_string());
            let target = format!("/v1/policy/revisions/{which}");
            let document = control.document(&target)?;
            to_stdout(document)?;
            Ok(Exit::Success)
        }
        PolicyCommand::Put(args) => put(args),
        PolicyCommand::Diff(args) => compare(args),
        PolicyCommand::Revisions(args) => revisions(args),
        PolicyCommand::Rollback(args) => rollback(args),
    }
}

fn put(args: &PutArgs) -> anyhow::Result<Exit> {
    let PutArgs { file, how, output } = args;
    let document = read(file)?;
    let target = with_query("/v1/policy", parameters(how));
    let ask = Ask::new(Method::PUT, &target).body("application/toml", document);
    let control = Control::new(output.socket.as_deref())?;
    let answer = control.send(with_condition(ask, how))?;
    let told = |key: &str| {
        if answer.body.get(key).and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return String::new();
        }
        // Its places are those of the file whose place it takes.
        let source = control.get(Method::GET, "/v1/policy", None);
        let source = source.ok().and_then(|policy| Some(policy.get("source")?.as_str()?.to_owned()));
        told_of_sent(&answer.body, key, source.as_deref().unwrap_or_default(), &name_of(file))
    };
    let (problems, warnings) =
        if output.json { (String::new(), String::new()) } else { (told("problems"), told("warnings")) };
    tell(answer, (&problems, &warnings), how, output)
}

fn rollback(args: &RollbackArgs) -> anyhow::Result<Exit> {
    let RollbackArgs { revision, how, output } = args;
    let target = with_query("/v1/policy/rollback", parameters(how));
    let ask = Ask::new(Method::POST, &target).json(&json!({ "revision": revision }));
    let answer = Control::new(output.socket.as_deref())?.send(with_condition(ask, how))?;
    let (problems, warnings) = (told(&answer.body, "problems"), told(&answer.body, "warnings"));
    tell(answer, (&problems, &warnings), how, output)
}

fn parameters(how: &PutHow) -> [(&'static str, Option<&'static str>); 2] {
    [("dry_run", how.dry_run.then_some("true")), ("overwrite", how.overwrite.then_some("true"))]
}

fn with_condition(ask: Ask, how: &PutHow) -> Ask {
    match how.if_revision {
        Some(revision) => ask.header(header::IF_MATCH, format!("\"{revision}\"")),
        None => ask,
    }
}

/// Tells what came of a change, with the text of its problems or warnings.
fn tell(
    answer: Answer,
    (problems, warnings): (&str, &str),
    how: &PutHow,
    Output { json, .. }: &Output,
) -> anyhow::Result<Exit> {
    if *json {
        to_stdout(format_args!("{}\n", answer.body))?;
    }
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        if !json {
            to_stderr(problems);
            to_stderr("refused: the policy in use stays\n");
        }
        return Ok(Exit::Config);
    }
    let body = answer.succeeded()?;
    if !json {
        to_stderr(warnings);
        to_stderr(&notes(&body));
        to_stdout(result(&body, how.dry_run)?)?;
    }
    Ok(Exit::Success)
}

fn result(body: &Value, dry_run: bool) -> anyhow::Result<String> {
    let revision = body.get("revision").context("an answer without a revision")?;
    let changed = body.get("changed").and_then(Value::as_bool).context("an answer without `changed`")?;
    Ok(match (dry_run, changed) {
        (true, true) => format!("fine, and different from revision {revision}; nothing was changed\n"),
        (false, true) => format!("revision {revision} decides\n"),
        (_, false) => format!("nothing to change: revision {revision} decides\n"),
    })
}

fn compare(args: &PolicyDiffArgs) -> anyhow::Result<Exit> {
    let Output { socket, json } = &args.output;
    let control = Control::new(socket.as_deref())?;
    let (from, to) = (args.from.map(|n| n.to_string()), args.to.map(|n| n.to_string()));
    let answer = match (&args.file, &from) {
        (Some(file), _) => {
            let body = read(file)?;
            control.send(Ask::new(Method::POST, "/v1/policy/diff").body("application/toml", body))?
        }
        (None, Some(from)) => {
            let parameters = [("from", Some(from.as_str())), ("to", to.as_deref())];
            control.send(Ask::new(Method::GET, &with_query("/v1/policy/diff", parameters)))?
        }
        (None, None) => bail!("compare what? Name a FILE, or a revision with --from"),
    };
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY && !json {
        let name = args.file.as_deref().map(name_of).unwrap_or_default();
        to_stderr(&told_of_sent(&answer.body, "problems", SENT, &name));
        return Ok(Exit::Config);
    }
    if *json {
        to_stdout(format_args!("{}\n", answer.body))?;
    }
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        return Ok(Exit::Config);
    }
    let body = answer.succeeded()?;
    let differences = body.get("differences").and_then(Value::as_array).context("no differences")?;
    if !json {
        to_stdout(diff::text(differences))?;
        let total = body.get("total").and_then(Value::as_u64).unwrap_or(0);
        if total > differences.len() as u64 {
            to_stderr(&format!("the first {} of {total}\n", differences.len()));
        }
    }
    Ok(if differences.is_empty() { Exit::Success } else { Exit::Different })
}

fn revisions(args: &RevisionsArgs) -> anyhow::Result<Exit> {
    let Output { socket, json } = &args.output;
    let answer = Control::new(socket.as_deref())?.get(Method::GET, "/v1/policy/revisions", None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        to_stdout(table(&answer, io::stdout().is_terminal())?)?;
    }
    Ok(Exit::Success)
}

/// The columns of a list of revisions.
const TITLES: [&str; 7] = ["REVISION", "WHEN", "ORIGIN", "UID", "BYTES", "DIGEST", "CHANGE"];
/// Characters of a digest on a terminal: enough to tell documents apart.
const DIGEST_CHARS: usize = 12;

/// Aligned on a terminal, tab-separated elsewhere; the newest first.
fn table(answer: &Value, is_terminal: bool) -> anyhow::Result<String> {
    let revisions = answer.get("revisions").and_then(Value::as_array).context("no revisions")?;
    let rows: Vec<Vec<String>> = revisions.iter().map(|revision| row(revision, is_terminal)).collect();
    if !is_terminal {
        return Ok(rows.iter().map(|row| row.join("\t") + "\n").collect());
    }
    let titles = TITLES.map(str::to_owned).to_vec();
    let width = |column: usize| {
        let all = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        all.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    Ok(std::iter::once(&titles).chain(&rows).map(line).collect())
}

fn row(revision: &Value, is_terminal: bool) -> Vec<String> {
    let get = |key: &str| revision.get(key).map_or_else(|| "-".to_owned(), printable);
    let origin = match revision.get("restored") {
        Some(restored) => format!("{} to {}", get("origin"), printable(restored)),
        None => get("origin"),
    };
    let mut digest = get("digest");
    if is_terminal {
        digest = digest.chars().take(DIGEST_CHARS).collect();
    }
    vec![get("revision"), get("when"), origin, get("uid"), get("bytes"), digest, get("change")]
}

/// What the API calls a document that it was sent to compare.
const SENT: &str = "sent";

/// How whoever sends a document knows it.
fn name_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads a document; `-` is standard input.
fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let limit = CONFIGURATION_BYTES_MAX + 1;
    if path == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = file.take(limit).read_to_string(&mut text);
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_a_table_for_people_and_lines_for_programs() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let answer = json!({"current": 3, "revisions": [
            {"revision": 3, "when": "2026-01-01T00:00:00.000Z", "origin": "rollback", "restored": 1, "uid": 0,
             "bytes": 70, "digest": digest, "change": "policy.app", "files": []},
            {"revision": 2, "when": "2025-12-31T00:00:00.000Z", "origin": "signal", "bytes": 7,
             "digest": digest, "change": "\u{1b}[2J", "files": []},
        ]});
        let plain = table(&answer, false).unwrap();
        assert_eq!(
            plain,
            format!(
                "3\t2026-01-01T00:00:00.000Z\trollback to 1\t0\t70\t{digest}\tpolicy.app\n\
                 2\t2025-12-31T00:00:00.000Z\tsignal\t-\t7\t{digest}\t\u{fffd}[2J\n"
            )
        );
        let shown = table(&answer, true).unwrap();
        assert!(shown.starts_with("REVISION  WHEN "), "{shown}");
        assert!(shown.contains("  70     ba7816bf8f01  policy.app\n"), "{shown}");
        assert!(table(&json!({}), true).is_err());
    }

    #[test]
    fn what_came_of_a_change_is_told() {
        for (changed, dry_run, want) in [
            (true, false, "revision 4 decides\n"),
            (false, false, "nothing to change: revision 4 decides\n"),
            (true, true, "fine, and different from revision 4; nothing was changed\n"),
            (false, true, "nothing to change: revision 4 decides\n"),
        ] {
            let body = json!({ "revision": 4, "changed": changed });
            assert_eq!(result(&body, dry_run).unwrap(), want);
        }
    }
}
