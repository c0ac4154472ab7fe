//! A run over a WebSocket, by Node's `ws`: input and signals in, output out as fast as it is read, the end at the end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, tool};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::{ADDRESS, Api};
use exeat_tests::world::World;
use serde_json::{Value, json};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_run_is_talked_to_while_it_runs,
        a_reader_that_stalls_stalls_the_command,
        a_command_that_does_not_read_stalls_its_caller,
        a_run_ends_when_its_socket_does,
        what_is_no_order_is_refused,
    ]
}

/// A caller in Node. It sends the order and then does what it is told by lines: `in TEXT`, `text JSON`, `pause`, `resume`, `fill
/// BYTES`, `close`, `kill`. It tells of what comes, a line of JSON each; of output as it is added up at the end, if `quiet`.
const CALLER: &str = r#"
const WebSocket = require('ws');
const [url, field, order, quiet, extra] = process.argv.slice(1);
const headers = field ? { authorization: field } : {};
const socket = new WebSocket(url, { headers: { ...headers, ...JSON.parse(extra) }, perMessageDeflate: false });
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const counts = [0, 0, 0];
let largest = 0;
const long = () => JSON.stringify({ command: 'true', stdin: 'x'.repeat(1 << 20) });
socket.on('open', () => { socket.ping(); socket.send(order === 'long' ? long() : order); });
socket.on('message', (data, isBinary) => {
  if (!isBinary) return say(JSON.parse(data.toString()));
  counts[data[0]] += data.length - 1;
  largest = Math.max(largest, data.length);
  if (quiet !== 'quiet') say({ from: data[0], text: data.subarray(1).toString() });
});
socket.on('unexpected-response', (request, response) => { say({ status: response.statusCode }); process.exit(0); });
socket.on('close', (code) => { say({ code, counts, largest }); process.exit(0); });
socket.on('error', (error) => { say({ error: error.message }); });
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, rest] = [line.split(' ', 1)[0], line.slice(line.indexOf(' ') + 1)];
  if (word === 'in') socket.send(Buffer.concat([Buffer.from([0]), Buffer.from(rest + '\n')]));
  if (word === 'binary') socket.send(Buffer.from(rest, 'hex'));
  if (word === 'text') socket.send(rest);
  if (word === 'pause') { socket.pause(); say('paused'); }
  if (word === 'resume') socket.resume();
  if (word === 'close') socket.close();
  if (word === 'kill') { socket.terminate(); }
  if (word === 'fill') {
    const piece = Buffer.alloc(1 + 65536);
    for (let sent = 0; sent < Number(rest); sent += 65536) socket.send(piece);
    say('sent');
  }
  if (word === 'buffered') say({ buffered: socket.bufferedAmount });
});
"#;

/// A caller, and what it tells.
pub(crate) struct Caller {
    node: Child,
    lines: BufReader<ChildStdout>,
}

impl Caller {
    pub(crate) fn start(api: &Api, order: &str, quiet: bool) -> Result<Self> {
        Self::with(&format!("Bearer {}", api.secret), order, quiet, &json!({}))
    }

    fn with(field: &str, order: &str, quiet: bool, extra: &Value) -> Result<Self> {
        let mut node = Command::new("node")
            .env("NODE_PATH", tool("node/node_modules")?)
            .args(["-e", CALLER, &format!("ws://{ADDRESS}/execute"), field, order])
            .args([if quiet { "quiet" } else { "" }, &extra.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node (package nodejs)")?;
        let lines = BufReader::new(node.stdout.take().context("its output")?);
        Ok(Self { node, lines })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.node.stdin.as_mut().context("its input")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    /// What it tells next. A caller that never does is the test runner's to end.
    pub(crate) fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the caller said {line:?}"))
    }

    /// All output up to the first thing that is none, and that.
    fn output(&mut self) -> Result<([String; 3], Value)> {
        let mut output = [const { String::new() }; 3];
        loop {
            let said = self.next()?;
            let from = said["from"].as_u64().and_then(|from| usize::try_from(from).ok());
            match (from.and_then(|from| output.get_mut(from)), said["text"].as_str()) {
                (Some(stream), Some(text)) => stream.push_str(text),
                _ => return Ok((output, said)),
            }
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

fn shell(script: &str) -> String {
    json!({ "command": "sh", "args": ["-c", script] }).to_string()
}

fn a_run_is_talked_to_while_it_runs(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    let script = "trap 'echo usr1' USR1; printf err >&2; while read line; do echo \"got $line\"; done
        curl -sS http://example.com/; curl -sS -o refused http://evil.test:8080/; exit 3";
    let order = json!({
        "command": "sh", "args": ["-c", script], "stdin": "first\n", "policy": { "allow": ["example.com"] },
    });
    let mut caller = Caller::start(&api, &order.to_string(), false)?;
    let started = caller.next()?;
    let id = started["started"]["id"].as_str().with_context(|| format!("{started}"))?.to_owned();
    ensure!(started["started"]["state"] == "running", "{started}");
    let mut output = String::new();
    let mut until = |caller: &mut Caller, wanted: &str| -> Result<()> {
        while !output.contains(wanted) {
            let said = caller.next()?;
            ensure!(said["from"].is_u64(), "{said}");
            output.push_str(said["text"].as_str().context("text")?);
        }
        Ok(())
    };
    until(&mut caller, "got first\n")?;
    caller.say("in second")?;
    until(&mut caller, "got second\n")?;
    caller.say(r#"text {"signal":"USR1"}"#)?;
    until(&mut caller, "usr1\n")?;
    caller.say(r#"text {"end_of_input":true}"#)?;
    let ([_, out, _], ended) = caller.output()?;
    ensure!(out.ends_with("hello from example.com\n"), "{out}");
    let end = &ended["ended"]["end"];
    ensure!(ended["ended"]["id"] == *id && end["exit_code"] == 3, "{ended}");
    ensure!(end["network"]["refused"][0]["target"] == "evil.test:8080", "{ended}");
    let closed = caller.next()?;
    ensure!(closed["code"] == 1000, "{closed}");
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let (_, run) = api.ask(&format!("/runs/{id}"), &[])?;
    ensure!(run["state"] == "ended" && run["stdout"].is_null(), "{run}");
    api.exeat.stop()
}

/// Bytes that a command wants to write: far more than buffers can hold.
const MUCH: usize = 64 << 20;

fn a_reader_that_stalls_stalls_the_command(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut api = Api::start(starter, world.directory(), &["--websocket-buffer", "8192"])?;
    let script = format!("read go; head -c {MUCH} /dev/zero; echo done >&2");
    let mut caller = Caller::start(&api, &shell(&script), true)?;
    ensure!(caller.next()?["started"].is_object());
    caller.say("pause")?;
    ensure!(caller.next()? == "paused");
    caller.say("in go")?;
    // The command has written what there is room for, and is blocked, when its count stands still.
    let server = api.exeat.id();
    let before = api.exeat.resident_kib()?;
    let mut last = None;
    let mut same = 0;
    let written = api.exeat.until("the command to be blocked", |_| {
        let written = written_by_head(server)?;
        same = if written.is_some() && written == last { same + 1 } else { 0 };
        last = written;
        Ok(written.filter(|_| same > 100))
    })?;
    // Its pipe, a buffer of ours, those of the kernel and of the caller.
    ensure!(written < MUCH / 4, "{written} bytes were taken from it");
    let grown = api.exeat.resident_kib()?.saturating_sub(before);
    ensure!(grown < 4096, "the server has grown by {grown} KiB");
    caller.say("resume")?;
    let ended = caller.next()?;
    ensure!(ended["ended"]["end"]["exit_code"] == 0, "{ended}");
    let closed = caller.next()?;
    ensure!(closed["counts"] == json!([0, MUCH, 5]), "{closed}");
    ensure!(closed["largest"].as_u64().is_some_and(|largest| largest <= 8192), "{closed}");
    api.exeat.stop()
}

/// How much the `head` among the descendants of the server has written (proc(5), `io`).
fn written_by_head(server: u32) -> Result<Option<usize>> {
    for process in crate::lifetime::descendants(server)? {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        if name.trim_end() == "head" {
            let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
            return Ok(line.and_then(|count| count.parse().ok()));
        }
    }
    Ok(None)
}

fn a_command_that_does_not_read_stalls_its_caller(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut api = Api::start(starter, world.directory(), &[])?;
    let mut caller = Caller::start(&api, &shell("echo ready; sleep 1000"), false)?;
    let started = caller.next()?;
    let id = started["started"]["id"].as_str().context("an id")?.to_owned();
    ensure!(caller.next()?["text"] == "ready\n");
    let before = api.exeat.resident_kib()?;
    caller.say(&format!("fill {MUCH}"))?;
    ensure!(caller.next()? == "sent");
    // What has not been taken waits at the caller, and goes on waiting.
    let (mut last, mut same) = (0, 0);
    while same < 20 {
        caller.say("buffered")?;
        let buffered = caller.next()?["buffered"].as_u64().context("a count")?;
        same = if buffered == last { same + 1 } else { 0 };
        last = buffered;
        std::thread::yield_now();
    }
    ensure!(last > (MUCH as u64) / 2, "{last} bytes wait at the caller");
    let grown = api.exeat.resident_kib()?.saturating_sub(before);
    ensure!(grown < 8192, "the server has grown by {grown} KiB");
    // A signal finds its way all the same.
    let (status, _) = api.ask(&format!("/runs/{id}/signal"), &["-d", r#"{"signal":"KILL"}"#])?;
    ensure!(status == 200);
    let ended = caller.next()?;
    ensure!(ended["ended"]["end"]["signal"] == 9, "{ended}");
    api.exeat.until_logged("a command has ended")?;
    api.exeat.stop()
}

fn a_run_ends_when_its_socket_does(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut api = Api::start(starter, world.directory(), &["--runs", "1"])?;
    let server = api.exeat.id();
    for (number, word) in
        ["close", "kill", "binary 0748", "text {\"signal\":\"NONE\"}"].into_iter().enumerate()
    {
        let script = "trap '' TERM HUP INT; (setsid sleep 1000) & echo ready; while :; do sleep 1; done";
        let mut caller = Caller::start(&api, &shell(script), false)?;
        ensure!(caller.next()?["started"].is_object() && caller.next()?["text"] == "ready\n", "{word}");
        // There is no place for another one meanwhile.
        let refused = Caller::start(&api, &shell("true"), false)?.next()?;
        ensure!(refused["status"] == 429, "{word}: {refused}");
        caller.say(word)?;
        api.exeat.until("the end", |exeat| {
            Ok((exeat.stderr().matches("a command has ended").count() == number + 1).then_some(()))
        })?;
        let left = crate::lifetime::descendants(server)?;
        ensure!(left.is_empty(), "{word}: {left:?}");
    }
    let (_, list) = api.ask("/runs", &[])?;
    let signals: Vec<&Value> =
        list["runs"].as_array().context("runs")?.iter().map(|run| &run["end"]["signal"]).collect();
    ensure!(signals == [9, 9, 9, 9], "{list}");
    api.exeat.stop()
}

fn what_is_no_order_is_refused(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let api = Api::start(starter, world.directory(), &[])?;
    for (name, order, want) in [
        ("no JSON", "true", "not what is expected"),
        ("a member nobody knows", r#"{"command":"true","tty":true}"#, "unknown field"),
        ("detached", r#"{"command":"true","detach":true}"#, "detached"),
        ("no such program", r#"{"command":"no-such-command"}"#, "no-such-command"),
        ("a policy with errors", r#"{"command":"true","policy":{"allow":["*"]}}"#, "policy has errors"),
        ("too long", "long", "first message"),
    ] {
        let mut caller = Caller::start(&api, order, false)?;
        let said = caller.next()?;
        // What it still sends when it is refused may reset the connection before it reads why.
        if name == "too long" && said["code"] == 1006 {
            continue;
        }
        let error = said["refused"]["error"].as_str().with_context(|| format!("{name}: {said}"))?;
        ensure!(error.contains(want), "{name}: {said}");
    }
    let right = format!("Bearer {}", api.secret);
    for (name, field, extra, want) in [
        ("no secret", "", json!({}), 401),
        ("another one", "Bearer wrong", json!({}), 401),
        ("a page of somebody", &*right, json!({ "Origin": "https://evil.test" }), 403),
        ("a name of somebody", &*right, json!({ "Host": "evil.test:18080" }), 421),
    ] {
        let said = Caller::with(field, &shell("true"), false, &extra)?.next()?;
        ensure!(said["status"] == want, "{name}: {said}");
    }
    let url = format!("http://{ADDRESS}/execute");
    let plain = Client::new("curl", world.directory())
        .args(["-sS", "-w", "%{http_code}", "-H", &api.authorization(), &url])
        .run()?;
    ensure!(plain.out.ends_with("400") && plain.out.contains("POST /execute"), "{plain:?}");
    let (_, list) = api.ask("/runs", &[])?;
    ensure!(list["runs"] == json!([]), "{list}");
    api.exeat.stop()
}
