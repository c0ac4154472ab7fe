//! `flows`: what is open, as a table on a terminal and as tab-separated lines elsewhere; and how to end it.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde_json::Value;

use crate::args::{CutArgs, FlowsArgs, FlowsCommand, Output, Which};
use crate::control::{Control, printable, with_query};
use crate::output::{Exit, to_stdout};

/// How often `--follow` looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The columns: title, and the key of a flow.
const COLUMNS: [(&str, &str); 10] = [
    ("ID", "id"),
    ("KIND", "kind"),
    ("CLIENT", "client"),
    ("TARGET", "target"),
    ("ADDRESS", "address"),
    ("AGE", "age_seconds"),
    ("UP", "bytes_up"),
    ("DOWN", "bytes_down"),
    ("RULE", "rule"),
    ("VIA", "via"),
];

/// Lists, follows or ends flows.
pub(crate) fn run(args: &FlowsArgs) -> anyhow::Result<Exit> {
    if let Some(FlowsCommand::Cut(cut_args)) = &args.command {
        return cut(cut_args);
    }
    let Output { socket, json } = &args.output;
    let control = Control::new(socket.as_deref())?;
    let target = target(&args.which);
    if args.follow {
        return follow(&control, &target, *json);
    }
    let answer = control.get(Method::GET, &target, None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        to_stdout(table(flows(&answer)?, Style::of_stdout()))?;
    }
    Ok(Exit::Success)
}

fn target(which: &Which) -> String {
    with_query("/v1/flows", parameters(which).into_iter().chain([("limit", Some("10000"))]))
}

fn parameters(which: &Which) -> [(&'static str, Option<&str>); 5] {
    [
        ("client", which.client.as_deref()),
        ("workload", which.workload.as_deref()),
        ("label", which.label.as_deref()),
        ("target", which.target.as_deref()),
        ("source", which.source.as_deref()),
    ]
}

fn cut(args: &CutArgs) -> anyhow::Result<Exit> {
    let CutArgs { id, which, all, output: Output { socket, json } } = args;
    let query =
        with_query("/v1/flows", parameters(which).into_iter().chain([("all", all.then_some("true"))]));
    let target = match id {
        Some(id) => format!("/v1/flows/{id}"),
        None if query == "/v1/flows" => {
            bail!(
                "which flows? Name an ID, --client, --workload, --label, --target or --source, or say --all"
            )
        }
        None => query,
    };
    let answer = Control::new(socket.as_deref())?.get(Method::DELETE, &target, None)?;
    if *json {
        to_stdout(format_args!("{answer}\n"))?;
    } else {
        let count = answer.get("cut").and_then(Value::as_u64).unwrap_or(0);
        to_stdout(format_args!("{count} {}\n", if count == 1 { "flow ends" } else { "flows end" }))?;
    }
    Ok(Exit::Success)
}

/// Prints what is open, then what begins and ends, until it is stopped or its reader has gone.
fn follow(control: &Control, target: &str, json: bool) -> anyhow::Result<Exit> {
    let mut known: BTreeMap<u64, Value> = BTreeMap::new();
    loop {
        let answer = control.get(Method::GET, target, None)?;
        let open: BTreeMap<u64, Value> = flows(&answer)?
            .iter()
            .filter_map(|flow| Some((flow.get("id")?.as_u64()?, flow.clone())))
            .collect();
        let begun = open.iter().filter(|(id, _)| !known.contains_key(id)).map(|(_, flow)| ("+", flow));
        let ended = known.iter().filter(|(id, _)| !open.contains_key(id)).map(|(_, flow)| ("-", flow));
        for (sign, flow) in begun.chain(ended) {
            let line = if json {
                let event = if sign == "+" { "begun" } else { "ended" };
                serde_json::json!({ "event": event, "flow": flow }).to_string()
            } else {
                format!("{sign} {}", cells(flow).join("\t"))
            };
            match print(&line) {
                // A reader that went away: there is nobody left to follow for.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Success),
                printed => printed?,
            }
        }
        known = open;
        thread::sleep(LOOK_AGAIN);
    }
}

/// Writes a line at once.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn flows(answer: &Value) -> anyhow::Result<&[Value]> {
    answer.get("flows").and_then(Value::as_array).map(Vec::as_slice).context("an answer without flows")
}

/// How flows are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Style {
    /// Aligned, with titles.
    Table,
    /// Tab-separated, for programs.
    Plain,
}

impl Style {
    fn of_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Table } else { Self::Plain }
    }
}

fn table(flows: &[Value], style: Style) -> String {
    let rows: Vec<Vec<String>> = flows.iter().map(cells).collect();
    if style == Style::Plain {
        return rows.iter().map(|row| row.join("\t") + "\n").collect();
    }
    let titles: Vec<String> = COLUMNS.iter().map(|(title, _)| (*title).to_owned()).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            let all = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
            all.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    std::iter::once(&titles).chain(&rows).map(line).collect()
}

fn cells(flow: &Value) -> Vec<String> {
    COLUMNS.iter().map(|(_, key)| cell(flow, key)).collect()
}

fn cell(flow: &Value, key: &str) -> String {
    let Some(value) = flow.get(key) else { return "-".to_owned() };
    match key {
        "age_seconds" => format!("{:.0}s", value.as_f64().unwrap_or(0.0)),
        "rule" => value.get("place").map_or_else(|| "-".to_owned(), printable),
        _ => printable(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flows_are_a_table_for_people_and_lines_for_programs() {
        let flows = [
            json!({"id": 7, "kind": "tunnel", "client": "payments", "target": "api.example.com:443",
                   "address": "93.184.216.34:443", "age_seconds": 61.2, "bytes_up": 10, "bytes_down": 2000,
                   "via": "corp", "rule": {"place": "exeat.toml:4:10", "policy": "p", "text": "x"}}),
            json!({"id": 12, "kind": "request", "client": "a", "target": "b.example.com:80",
                   "age_seconds": 0.2, "bytes_up": 0, "bytes_down": 0}),
        ];
        assert_eq!(
            table(&flows, Style::Plain),
            "7\ttunnel\tpayments\tapi.example.com:443\t93.184.216.34:443\t61s\t10\t2000\texeat.toml:4:10\tcorp\n\
             12\trequest\ta\tb.example.com:80\t-\t0s\t0\t0\t-\t-\n"
        );
        assert_eq!(
            table(&flows, Style::Table),
            "ID  KIND     CLIENT    TARGET               ADDRESS            AGE  UP  DOWN  RULE             VIA\n\
             7   tunnel   payments  api.example.com:443  93.184.216.34:443  61s  10  2000  exeat.toml:4:10  corp\n\
             12  request  a         b.example.com:80     -                  0s   0   0     -                -\n"
        );
        assert_eq!(table(&[], Style::Plain), "");
    }
}
