//! `reload`: the running proxy reads its configuration again.

use anyhow::Context;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::args::{Output, ReloadArgs};
use crate::control::{Answer, Control, printable};
use crate::output::{Exit, to_stderr, to_stdout};

/// Asks for a reload and tells what came of it.
pub(crate) fn run(args: &ReloadArgs) -> anyhow::Result<Exit> {
    let Output { socket, json } = &args.output;
    let answer = Control::new(socket.as_deref())?.ask(Method::POST, "/v1/reload", None)?;
    if *json {
        to_stdout(format_args!("{}\n", answer.body))?;
    }
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        if !json {
            to_stderr(&told(&answer.body, "problems"));
            to_stderr("reload refused: the policy in use stays\n");
        }
        return Ok(Exit::Config);
    }
    let Answer { status, body } = answer;
    let body = Answer { status, body }.succeeded()?;
    if !json {
        to_stderr(&told(&body, "warnings"));
        to_stderr(&notes(&body));
        let revision = body.get("revision").context("an answer without a revision")?;
        let is_same = body.get("changed").and_then(Value::as_bool) == Some(false);
        to_stdout(if is_same {
            format!("nothing has changed: revision {revision}\n")
        } else {
            format!("reloaded: revision {revision}\n")
        })?;
    }
    Ok(Exit::Success)
}

/// What is not as one might think after a change.
pub(crate) fn notes(body: &Value) -> String {
    let restart = list(body, "needs_restart")
        .iter()
        .map(|key| format!("takes effect at a restart only: {}\n", printable(key)));
    let changed =
        list(body, "changed_files").iter().map(|file| format!("not as it was then: {}\n", printable(file)));
    restart.chain(changed).collect()
}

fn list<'b>(body: &'b Value, key: &str) -> &'b [Value] {
    body.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Returns a list of problems as text, as compilers write them.
pub(crate) fn told(body: &Value, key: &str) -> String {
    list(body, key).iter().map(|problem| one(problem, None)).collect()
}

/// The same for a document that was sent: the proxy knows it by one name, and whoever sent it by another.
pub(crate) fn told_of_sent(body: &Value, key: &str, known_as: &str, name: &str) -> String {
    let renamed = |problem: &&Value| problem.get("file").and_then(Value::as_str) == Some(known_as);
    list(body, key).iter().map(|problem| one(problem, Some(name).filter(|_| renamed(&problem)))).collect()
}

fn one(problem: &Value, name: Option<&str>) -> String {
    let get = |key: &str| problem.get(key).map(printable);
    let mut place = name.map(str::to_owned).or_else(|| get("file")).unwrap_or_default();
    for part in ["line", "column"] {
        if let Some(number) = get(part) {
            place = format!("{place}:{number}");
        }
    }
    let (severity, message) = (get("severity").unwrap_or_default(), get("message").unwrap_or_default());
    let help = get("help").map(|help| format!("  help: {help}\n")).unwrap_or_default();
    format!("{place}: {severity}: {message}\n{help}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_are_told_with_their_place() {
        let body = json!({"problems": [
            {"file": "a.toml", "line": 3, "column": 7, "severity": "error", "message": "wrong", "help": "write x"},
            {"file": "a.toml", "severity": "warning", "message": "odd"},
        ]});
        assert_eq!(
            told(&body, "problems"),
            "a.toml:3:7: error: wrong\n  help: write x\na.toml: warning: odd\n"
        );
        assert_eq!(told(&body, "warnings"), "");
        assert_eq!(
            told_of_sent(
                &json!({"problems": [
                    {"file": "sent", "line": 3, "column": 7, "severity": "error", "message": "wrong"},
                    {"file": "hosts.txt", "line": 1, "severity": "error", "message": "odd"},
                ]}),
                "problems",
                "sent",
                "../new.toml"
            ),
            "../new.toml:3:7: error: wrong\nhosts.txt:1: error: odd\n"
        );
    }

    #[test]
    fn what_waits_for_a_restart_is_told() {
        let body = json!({ "needs_restart": ["proxy.listen", "limits"], "changed_files": ["hosts.txt"] });
        assert_eq!(
            notes(&body),
            "takes effect at a restart only: proxy.listen\ntakes effect at a restart only: limits\n\
             not as it was then: hosts.txt\n"
        );
        assert_eq!(notes(&json!({ "needs_restart": [] })), "");
    }
}
