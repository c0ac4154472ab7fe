//! The policy over the admin API: put, compared, listed, put back; and what is left after a kill.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use exeat_tests::api::{self, Document};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{ask, configuration, echoes, get, tunnel};
use exeat_tests::namespace::PROXY;
use exeat_tests::world::World;
use exeat_tests::{harness, scenarios};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn main() -> ExitCode {
    harness::main(scenarios![
        a_put_ends_what_it_no_longer_allows_and_nothing_else,
        a_bad_put_changes_nothing_and_says_where,
        a_put_for_a_stale_revision_is_refused,
        of_puts_at_once_one_wins_each_revision,
        a_rollback_restores_what_decided,
        revisions_say_where_they_came_from,
        a_dry_run_changes_nothing,
        what_needs_a_restart_is_said,
        edits_of_the_file_are_not_lost,
        the_file_keeps_its_mode_and_its_link,
        a_file_that_cannot_be_written_is_left_alone,
        one_text_is_one_revision_whoever_reads_it,
        a_restart_decides_as_before,
        a_kill_leaves_one_document_or_the_other,
        differences_are_sets,
        answers_are_as_the_document_describes_them,
    ])
}

const BOTH: &str = "\"mail.example.org:25\", \"news.example.org:25\", \"example.com\"";
const MAIL: &str = "\"mail.example.org:25\"";

/// A whole configuration, as it is in the file.
fn document(world: &World, allow: &str) -> String {
    let audit = world.directory().join("audit.jsonl");
    let extra = "[api]\nsocket = \"s\"\n[state]\ndirectory = \"state\"\n";
    configuration(&format!("allow = [{allow}]"), extra).replace("AUDIT", &audit.to_string_lossy())
}

fn serve(world: &World) -> Result<Exeat> {
    fs::create_dir_all(world.directory().join("state"))?;
    Exeat::serve(world.directory(), &document(world, BOTH), PROXY)
}

/// Starts it again with the file that is there.
fn serve_again(world: &World) -> Result<Exeat> {
    let config = fs::read_to_string(file(world))?;
    Exeat::serve(world.directory(), &config, PROXY)
}

fn file(world: &World) -> PathBuf {
    world.directory().join("exeat.toml")
}

fn socket(world: &World) -> PathBuf {
    world.directory().join("s")
}

fn api(world: &World, line: &str, body: &str) -> Result<(u16, Value)> {
    api::ask(&socket(world), line, "", body.as_bytes())
}

fn put_if(world: &World, condition: &str, body: &str) -> Result<(u16, Value)> {
    let field = format!("If-Match: {condition}\r\n");
    api::ask(&socket(world), "PUT /v1/policy", &field, body.as_bytes())
}

fn command(world: &World, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, world.directory()).args(args).run()
}

fn revision(world: &World) -> Result<u64> {
    api(world, "GET /v1/policy", "")?.1["revision"].as_u64().context("a revision")
}

fn current(world: &World) -> Result<String> {
    let reply = api::send(&socket(world), "GET /v1/policy/revisions/current", "", b"")?;
    ensure!(reply.status == 200 && reply.head.field("content-type") == Some("application/toml"), "{reply:?}");
    Ok(String::from_utf8(reply.body)?)
}

fn a_put_ends_what_it_no_longer_allows_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    let mut stays = tunnel("mail.example.org")?;
    let mut goes = tunnel("news.example.org")?;
    let new = document(&world, MAIL);
    let reply = api::send(&socket(&world), "PUT /v1/policy", "If-Match: \"1\"\r\n", new.as_bytes())?;
    ensure!(reply.status == 200 && reply.head.field("etag") == Some("\"2\""), "{reply:?}");
    let answer: Value = serde_json::from_slice(&reply.body)?;
    ensure!(answer["revision"] == 2 && answer["changed"] == true, "{answer}");
    goes.closed()?;
    echoes(&mut stays)?;
    let (_, refused) = ask("CONNECT news.example.org:25")?;
    ensure!(refused.head.field("x-deny-reason") == Some("host_not_allowed"), "{refused:?}");
    ensure!(fs::read_to_string(file(&world))? == new, "the file is the document");
    ensure!(current(&world)? == new);
    let (_, record) =
        exeat.audit_record("the end", |(_, r)| r["event"] == "end" && r["name"] == "news.example.org")?;
    ensure!(record["end"] == "policy_changed" && record["revision"] == 2, "{record}");
    echoes(&mut stays)?;
    exeat.signal(Signal::SIGTERM)?;
    Ok(())
}

fn a_bad_put_changes_nothing_and_says_where() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let before = fs::read(file(&world))?;
    let mut tunnel = tunnel("mail.example.org")?;
    let bad =
        document(&world, "\"*.com\", \"https://example.com/\"").replace("[audit]", "[audit]\nnonsense = 1");
    let (status, body) = api(&world, "PUT /v1/policy", &bad)?;
    let problems = body["problems"].as_array().context("problems")?;
    ensure!(status == 422 && problems.len() == 3, "{body}");
    ensure!(problems[0]["file"] == *file(&world).to_string_lossy(), "{body}");
    ensure!(problems[0]["line"] == 5 && problems[0]["code"] == "unknown_key", "{body}");
    ensure!(problems[1]["line"] == 8 && problems[1]["column"] == 10, "{body}");
    fs::write(world.directory().join("bad.toml"), &bad)?;
    let refused = command(&world, &["policy", "put", "bad.toml"])?;
    ensure!(refused.code == 78 && refused.out.is_empty(), "{refused:?}");
    ensure!(refused.err.contains(":5:1: error: unknown key `nonsense`"), "{refused:?}");
    let large = vec![b'#'; 16 * 1024 * 1024 + 1];
    for (line, body, status, says) in [
        ("PUT /v1/policy", &b""[..], 400, "no document"),
        ("PUT /v1/policy", b"# \xff", 400, "UTF-8"),
        ("PUT /v1/policy", &large, 413, "at most 16 MiB"),
        ("PUT /v1/policy?dryrun=true", b"#", 400, "dry_run"),
        ("POST /v1/policy/diff", b"[policy", 422, "problems"),
        ("GET /v1/policy/diff", b"", 400, "from"),
        ("GET /v1/policy/diff?from=9", b"", 404, "revision 9 is not kept"),
        ("GET /v1/policy/revisions/9", b"", 404, "revision 9 is not kept"),
        ("GET /v1/policy/revisions/x", b"", 400, "not the number"),
        ("POST /v1/policy/rollback", b"{}", 400, "revision"),
        ("POST /v1/policy/rollback", b"{\"revision\":9}", 404, "revision 9 is not kept"),
    ] {
        let (got, answer) = api::ask(&socket(&world), line, "", body)?;
        ensure!(got == status && answer.to_string().contains(says), "{line}: {got} {answer}");
    }
    ensure!(revision(&world)? == 1 && fs::read(file(&world))? == before);
    echoes(&mut tunnel)?;
    exeat.signal(Signal::SIGTERM)?;
    Ok(())
}

fn a_put_for_a_stale_revision_is_refused() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let (first, second) = (document(&world, MAIL), document(&world, "\"example.com\""));
    ensure!(put_if(&world, "\"1\"", &first)?.0 == 200);
    let (status, answer) = put_if(&world, "\"1\"", &second)?;
    ensure!(status == 412 && answer["error"].to_string().contains("revision 2 decides"), "{answer}");
    ensure!(revision(&world)? == 2 && fs::read_to_string(file(&world))? == first);
    let back =
        api::ask(&socket(&world), "POST /v1/policy/rollback", "If-Match: \"1\"\r\n", b"{\"revision\":1}")?;
    ensure!(back.0 == 412, "{back:?}");
    fs::write(world.directory().join("second.toml"), &second)?;
    let stale = command(&world, &["policy", "put", "second.toml", "--if-revision", "1"])?;
    ensure!(stale.code == 1 && stale.err.contains("revision 2 decides"), "{stale:?}");
    ensure!(put_if(&world, "\"7\", \"2\"", &second)?.0 == 200);
    ensure!(put_if(&world, "*", &first)?.0 == 200);
    ensure!(put_if(&world, "", &first)?.0 == 400);
    let put = command(&world, &["policy", "put", "second.toml", "--if-revision", "4"])?;
    ensure!(put.code == 0 && put.out == "revision 5 decides\n", "{put:?}");
    exeat.stop()
}

fn of_puts_at_once_one_wins_each_revision() -> Result<()> {
    const ROUNDS: u64 = 5;
    const CLIENTS: usize = 8;
    let world = World::new()?;
    let exeat = serve(&world)?;
    for round in 1..=ROUNDS {
        let start = Barrier::new(CLIENTS);
        let condition = format!("\"{round}\"");
        let one = |number: usize| -> Result<(u16, String)> {
            let text = document(&world, &format!("\"r{round}-c{number}.example.com\""));
            start.wait();
            Ok((put_if(&world, &condition, &text)?.0, text))
        };
        let answers = thread::scope(|scope| {
            let threads: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || one(number))).collect();
            let joined =
                threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
            joined.collect::<Result<Vec<_>>>()
        })?;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        ensure!(won.len() == 1 && lost.iter().all(|(status, _)| *status == 412), "{answers:?}");
        ensure!(revision(&world)? == round + 1);
        ensure!(won.iter().all(|(_, text)| fs::read_to_string(file(&world)).is_ok_and(|file| file == *text)));
    }
    exeat.stop()
}

fn a_rollback_restores_what_decided() -> Result<()> {
    let world = World::new()?;
    fs::write(world.directory().join("hosts.txt"), "example.com\n")?;
    let exeat = serve(&world)?;
    let with_group = document(&world, "\"@hosts\"") + "[groups.hosts]\nfile = \"hosts.txt\"\n";
    ensure!(api(&world, "PUT /v1/policy", &with_group)?.0 == 200);
    ensure!(get("example.com/")?.0 == 200);
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    ensure!(get("example.com/")?.0 == 403);
    let back = command(&world, &["policy", "rollback", "2", "--if-revision", "3"])?;
    ensure!(back.code == 0 && back.out == "revision 4 decides\n", "{back:?}");
    ensure!(get("example.com/")?.0 == 200 && fs::read_to_string(file(&world))? == with_group);
    // To the one that decides: nothing to do.
    let (status, answer) = api(&world, "POST /v1/policy/rollback", "{\"revision\":2}")?;
    ensure!(status == 200 && answer["changed"] == false && answer["revision"] == 4, "{answer}");
    // The document alone is put back, and what it names has changed.
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    let hosts = world.directory().join("hosts.txt");
    fs::write(&hosts, "www.example.org\n")?;
    let (status, answer) = api(&world, "POST /v1/policy/rollback", "{\"revision\":4}")?;
    ensure!(status == 200 && answer["revision"] == 6, "{answer}");
    ensure!(answer["changed_files"] == json!([hosts.to_string_lossy()]), "{answer}");
    ensure!(get("example.com/")?.0 == 403 && get("www.example.org/")?.0 == 200);
    // By now it has errors, each with its place.
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    fs::remove_file(&hosts)?;
    let gone = command(&world, &["policy", "rollback", "6"])?;
    ensure!(gone.code == 78 && gone.err.contains("hosts.txt"), "{gone:?}");
    ensure!(revision(&world)? == 7);
    exeat.stop()
}

fn revisions_say_where_they_came_from() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    Exeat::write_config(world.directory(), &document(&world, "\"example.com\""))?;
    ensure!(command(&world, &["reload"])?.code == 0);
    let another =
        document(&world, "\"a.example.com\"").replace("[policy.app]", "[policy.extra]\n[policy.app]");
    Exeat::write_config(world.directory(), &another)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded revision=4")?;
    ensure!(api(&world, "POST /v1/policy/rollback", "{\"revision\":2}")?.0 == 200);
    let (_, listed) = api(&world, "GET /v1/policy/revisions", "")?;
    let own = nix::unistd::getuid().as_raw();
    let revisions = listed["revisions"].as_array().context("revisions")?;
    let told: Vec<Value> = revisions
        .iter()
        .map(|r| json!([r["revision"], r["origin"], r["uid"], r["restored"], r["change"]]))
        .collect();
    let want = json!([
        [5, "rollback", own, 2, "policy.app, -policy.extra"],
        [4, "signal", null, null, "policy.app, +policy.extra"],
        [3, "reload", own, null, "policy.app"],
        [2, "put", own, null, "policy.app"],
        [1, "start", null, null, "the first one that is kept"],
    ]);
    ensure!(listed["current"] == 5 && json!(told) == want, "{listed}");
    ensure!(revisions[0]["digest"] == revisions[3]["digest"], "the same document: {listed}");
    ensure!(revisions[0]["bytes"] == document(&world, MAIL).len(), "{listed}");
    let lines = command(&world, &["policy", "revisions"])?;
    ensure!(lines.code == 0 && lines.out.lines().count() == 5, "{lines:?}");
    ensure!(lines.out.starts_with("5\t") && lines.out.contains("\trollback to 2\t"), "{lines:?}");
    let old = command(&world, &["policy", "get", "3"])?;
    ensure!(old.code == 0 && old.out == document(&world, "\"example.com\""), "{old:?}");
    let missing = command(&world, &["policy", "get", "9"])?;
    ensure!(missing.code == 1 && missing.err.contains("revision 9 is not kept"), "{missing:?}");
    exeat.stop()
}

fn a_dry_run_changes_nothing() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let before = fs::read_to_string(file(&world))?;
    let (status, answer) = api(&world, "PUT /v1/policy?dry_run=true", &document(&world, MAIL))?;
    ensure!(status == 200 && answer["revision"] == 1 && answer["changed"] == true, "{answer}");
    let (_, same) = api(&world, "PUT /v1/policy?dry_run=true", &before)?;
    ensure!(same["changed"] == false, "{same}");
    fs::write(world.directory().join("new.toml"), document(&world, MAIL))?;
    let dry = command(&world, &["policy", "put", "new.toml", "--dry-run"])?;
    ensure!(dry.code == 0 && dry.out.contains("nothing was changed"), "{dry:?}");
    ensure!(revision(&world)? == 1 && fs::read_to_string(file(&world))? == before);
    ensure!(get("example.com/")?.0 == 200);
    exeat.stop()
}

fn what_needs_a_restart_is_said() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let moved = document(&world, MAIL).replace(PROXY, "127.0.0.1:4444") + "[limits]\nconnections = 50\n";
    let (status, answer) = api(&world, "PUT /v1/policy", &moved)?;
    ensure!(status == 200 && answer["needs_restart"] == json!(["proxy.listen", "limits"]), "{answer}");
    ensure!(get("example.com/")?.0 == 403, "the policy decides, at the old address");
    let shown = command(&world, &["reload"])?;
    ensure!(shown.code == 0 && shown.out == "nothing has changed: revision 2\n", "{shown:?}");
    exeat.stop()
}

fn edits_of_the_file_are_not_lost() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let edited = document(&world, "\"example.com\", \"edited.example.com\"");
    Exeat::write_config(world.directory(), &edited)?;
    let (status, answer) = api(&world, "PUT /v1/policy", &document(&world, MAIL))?;
    ensure!(status == 409 && answer["error"].to_string().contains("not as it was loaded"), "{answer}");
    let back = command(&world, &["policy", "rollback", "1"])?;
    ensure!(back.code == 1 && back.err.contains("--overwrite"), "{back:?}");
    ensure!(revision(&world)? == 1 && fs::read_to_string(file(&world))? == edited);
    // To put what is in the file is to load it.
    let (status, answer) = api(&world, "PUT /v1/policy", &edited)?;
    ensure!(status == 200 && answer["revision"] == 2, "{answer}");
    // A file that was broken by hand can be put right.
    Exeat::write_config(world.directory(), "nonsense")?;
    let back = command(&world, &["policy", "rollback", "1", "--overwrite", "--socket", "s"])?;
    ensure!(back.code == 0 && back.out == "revision 3 decides\n", "{back:?}");
    ensure!(fs::read_to_string(file(&world))? == document(&world, BOTH));
    fs::remove_file(file(&world))?;
    let (status, answer) = api(&world, "PUT /v1/policy", &document(&world, MAIL))?;
    ensure!(status == 409 && answer["error"].to_string().contains("no file"), "{answer}");
    exeat.stop()
}

fn the_file_keeps_its_mode_and_its_link() -> Result<()> {
    let world = World::new()?;
    let (real, link) = (world.directory().join("real.toml"), file(&world));
    fs::create_dir_all(world.directory().join("state"))?;
    fs::write(&real, document(&world, BOTH))?;
    fs::set_permissions(&real, Permissions::from_mode(0o640))?;
    symlink(&real, &link)?;
    let mut exeat = Exeat::spawn(world.directory(), &["serve"])?;
    exeat.wait_until_ready()?;
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    ensure!(
        fs::symlink_metadata(&link)?.is_symlink() && fs::read_to_string(&link)? == document(&world, MAIL)
    );
    ensure!(fs::metadata(&real)?.mode() & 0o7777 == 0o640, "{:o}", fs::metadata(&real)?.mode());
    for entry in fs::read_dir(world.directory().join("state/revisions"))? {
        let mode = entry?.metadata()?.mode() & 0o7777;
        ensure!(mode == 0o600, "it holds password hashes: {mode:o}");
    }
    exeat.stop()
}

/// A limit of the size of files stands for every reason for which a file cannot be written.
fn a_file_that_cannot_be_written_is_left_alone() -> Result<()> {
    let world = World::new()?;
    let small = document(&world, BOTH);
    let path = Exeat::write_config(world.directory(), &small)?;
    fs::create_dir_all(world.directory().join("state"))?;
    let limit = ["prlimit", "--fsize=20000"];
    let mut exeat =
        Exeat::spawn_as(world.directory(), &limit, &["serve", "--config", &path.to_string_lossy()], |_| ())?;
    exeat.wait_until_ready()?;
    let large = format!("{}#{}\n", document(&world, MAIL), "x".repeat(30_000));
    let (status, answer) = api(&world, "PUT /v1/policy", &large)?;
    ensure!(status == 409 && answer["error"].to_string().contains("cannot be replaced"), "{answer}");
    ensure!(fs::read_to_string(&path)? == small && revision(&world)? == 1);
    ensure!(get("example.com/")?.0 == 200);
    let left = fs::read_dir(world.directory())?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(".exeat-")).collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    exeat.stop()
}

fn one_text_is_one_revision_whoever_reads_it() -> Result<()> {
    let world = World::new()?;
    fs::write(world.directory().join("hosts.txt"), "example.com\n")?;
    let mut exeat = serve(&world)?;
    let text = document(&world, "\"@hosts\"") + "[groups.hosts]\nfile = \"hosts.txt\"\n";
    ensure!(api(&world, "PUT /v1/policy", &text)?.1["revision"] == 2);
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("nothing has changed revision=2")?;
    let (_, again) = api(&world, "POST /v1/reload", "")?;
    ensure!(again["revision"] == 2 && again["changed"] == false, "{again}");
    ensure!(api(&world, "PUT /v1/policy", &text)?.1["changed"] == false);
    ensure!(api(&world, "GET /v1/policy/revisions", "")?.1["revisions"].as_array().map(Vec::len) == Some(2));
    // The text of what it names counts, too.
    fs::write(world.directory().join("hosts.txt"), "www.example.org\n")?;
    let (_, changed) = api(&world, "POST /v1/reload", "")?;
    ensure!(changed["revision"] == 3 && changed["changed"] == true, "{changed}");
    ensure!(get("example.com/")?.0 == 403 && get("www.example.org/")?.0 == 200);
    exeat.stop()
}

fn a_restart_decides_as_before() -> Result<()> {
    let world = World::new()?;
    let mut exeat = serve(&world)?;
    ensure!(api(&world, "PUT /v1/policy", &document(&world, MAIL))?.0 == 200);
    ensure!(get("example.com/")?.0 == 403);
    exeat.signal(Signal::SIGKILL)?;
    exeat.wait()?;
    let mut exeat = serve_again(&world)?;
    ensure!(get("example.com/")?.0 == 403 && revision(&world)? == 2);
    exeat.until_logged("ready revision=2")?;
    // What decided before can be put back.
    let (status, back) = api(&world, "POST /v1/policy/rollback", "{\"revision\":1}")?;
    ensure!(status == 200 && back["revision"] == 3 && get("example.com/")?.0 == 200, "{back}");
    exeat.stop()?;
    // A file that was changed meanwhile is another revision, and a damaged history stops nothing.
    Exeat::write_config(world.directory(), &document(&world, "\"www.example.org\""))?;
    fs::write(world.directory().join("state/revisions/2"), "half")?;
    let mut exeat = serve_again(&world)?;
    ensure!(revision(&world)? == 4 && get("www.example.org/")?.0 == 200);
    exeat.until_logged("a revision is lost")?;
    let (_, listed) = api(&world, "GET /v1/policy/revisions", "")?;
    let numbers: Vec<_> =
        listed["revisions"].as_array().into_iter().flatten().map(|r| &r["revision"]).collect();
    ensure!(numbers == [4, 3, 1], "{listed}");
    exeat.stop()
}

/// Puts one document after the other until it is killed in the middle of one, again and again.
fn a_kill_leaves_one_document_or_the_other() -> Result<()> {
    const KILLS: u64 = 9;
    let world = World::new()?;
    // Large enough that a write takes some time.
    let padding = "x".repeat(200_000);
    let numbered = |number: u64| {
        let allow = if number.is_multiple_of(2) { BOTH } else { MAIL };
        format!("{}# {number}\n#{padding}\n", document(&world, allow))
    };
    fs::create_dir_all(world.directory().join("state"))?;
    let mut exeat = Exeat::serve(world.directory(), &numbered(0), PROXY)?;
    // The number of the last document that is known to be in place.
    let acknowledged = AtomicU64::new(0);
    for kill in 1..=KILLS {
        let wanted = acknowledged.load(Ordering::Relaxed) + kill / 3;
        thread::scope(|scope| -> Result<()> {
            let putting = scope.spawn(|| {
                loop {
                    let next = acknowledged.load(Ordering::Relaxed) + 1;
                    match api(&world, "PUT /v1/policy", &numbered(next)) {
                        Ok((200, _)) => acknowledged.store(next, Ordering::Relaxed),
                        Ok(answer) => return Err(anyhow::anyhow!("{answer:?}")),
                        Err(_) => return Ok(()),
                    }
                }
            });
            // Another moment each time: some puts later, and mostly while the temporary file is there.
            exeat.until("puts", |_| {
                let is_writing = fs::read_dir(world.directory())?
                    .filter_map(Result::ok)
                    .any(|entry| entry.file_name().to_string_lossy().starts_with(".exeat-"));
                let enough = acknowledged.load(Ordering::Relaxed) >= wanted;
                Ok((enough && (is_writing || kill % 3 == 0)).then_some(()))
            })?;
            exeat.signal(Signal::SIGKILL)?;
            exeat.wait()?;
            putting.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
        })?;
        let left = fs::read_to_string(file(&world))?;
        let last = acknowledged.load(Ordering::Relaxed);
        let number = [last, last + 1].into_iter().find(|number| numbered(*number) == left);
        let number = number.with_context(|| format!("after {last}, a file of {} bytes", left.len()))?;
        acknowledged.store(number, Ordering::Relaxed);
        exeat = serve_again(&world)?;
        ensure!(current(&world)? == left, "it decides by the file");
        let status = if number.is_multiple_of(2) { 200 } else { 403 };
        ensure!(ask("CONNECT news.example.org:25")?.1.status == status, "document {number}");
        ensure!(!exeat.stderr().contains("a revision is lost"), "{}", exeat.stderr());
    }
    exeat.stop()
}

fn differences_are_sets() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let hop = "[next_hop.corp]\nurl = \"http://10.99.0.1:3129\"\n";
    let new = document(&world, "\"mail.example.org:25\", \"*.test.example\"")
        .replace("[client.app]", "next_hop = \"corp\"\n[client.app]")
        + hop;
    fs::write(world.directory().join("new.toml"), &new)?;
    let told = command(&world, &["policy", "diff", "new.toml"])?;
    ensure!(told.code == 1, "{told:?}");
    for line in [
        "app\n",
        "  + *.test.example:80,443",
        "  + mail.example.org:25 through corp at 10.99.0.1:3129",
        "  - mail.example.org:25 straight from here",
        "  - news.example.org:25 ",
        "  - example.com:80,443 ",
        "sent:7:33",
    ] {
        ensure!(told.out.contains(line), "{line}: {told:?}");
    }
    // The same as between the files.
    let (_, sent) = api(&world, "POST /v1/policy/diff", &new)?;
    let between = command(&world, &["diff", "--format", "json", "exeat.toml", "new.toml"])?;
    ensure!(sent["from"] == 1 && sent["total"] == between.out.lines().count(), "{sent} {between:?}");
    ensure!(revision(&world)? == 1);
    // And as between the revisions, both ways.
    ensure!(api(&world, "PUT /v1/policy", &new)?.0 == 200);
    let (_, since) = api(&world, "GET /v1/policy/diff?from=1", "")?;
    ensure!(since["to"] == 2 && since["total"] == sent["total"], "{since}");
    let (_, back) = api(&world, "GET /v1/policy/diff?from=2&to=1", "")?;
    let count = |of: &Value, word: &str| {
        of["differences"].as_array().into_iter().flatten().filter(|d| d["change"] == word).count()
    };
    ensure!(
        count(&since, "gained") == count(&back, "lost") && count(&since, "lost") == count(&back, "gained")
    );
    // What no client's policy speaks of comes last: that it is different, never a secret.
    let more = new
        .replace("[proxy]\n", "[proxy]\nproxy_protocol_from = [\"10.99.0.0/24\"]\n")
        .replace("http://10.99.0.1", "http://exeat:hidden-word@10.99.0.1");
    fs::write(world.directory().join("more.toml"), &more)?;
    let told = command(&world, &["policy", "diff", "more.toml"])?;
    let want = "next_hop.corp\n  ~ credentials\n\nproxy.proxy_protocol_from\n  ~ +10.99.0.0/24\n";
    ensure!(told.code == 1 && told.out == want, "{told:?}");
    let (_, sent) = api(&world, "POST /v1/policy/diff", &more)?;
    ensure!(sent["total"] == 2 && !sent.to_string().contains("hidden-word"), "{sent}");
    Document::read()?.describes(&sent, "Differences", "settings")?;
    let same = command(&world, &["policy", "diff", "--from", "2", "--json"])?;
    ensure!(same.code == 0 && same.out.contains("\"total\":0"), "{same:?}");
    let piped = format!("echo '[policy' | {} policy diff -", binary()?.display());
    let bad = Client::new("/bin/sh", world.directory()).args(["-c", &piped]).run()?;
    ensure!(bad.code == 78 && bad.err.contains("standard input:1:"), "{bad:?}");
    // Problems are where whoever sends the document has it.
    fs::write(world.directory().join("bad.toml"), new.replace("[proxy]\n", "[proxy]\nnonsense = 1\n"))?;
    for words in [["policy", "diff", "bad.toml"], ["policy", "put", "bad.toml"]] {
        let bad = command(&world, &words)?;
        ensure!(bad.code == 78 && bad.err.starts_with("bad.toml:"), "{words:?}: {bad:?}");
        ensure!(bad.err.contains(": error: unknown key `nonsense`"), "{words:?}: {bad:?}");
    }
    exeat.stop()
}

fn answers_are_as_the_document_describes_them() -> Result<()> {
    let world = World::new()?;
    let exeat = serve(&world)?;
    let described = Document::read()?;
    let text = document(&world, MAIL).replace("[client.app]", "[client.more]\npasswords = []\n[client.app]");
    for (line, body, schema) in [
        ("PUT /v1/policy?dry_run=true", text.as_str(), "Changed"),
        ("POST /v1/policy/diff", &text, "Differences"),
        ("PUT /v1/policy", &text, "Changed"),
        ("POST /v1/policy/rollback", "{\"revision\":1}", "Changed"),
        ("GET /v1/policy/revisions", "", "Revisions"),
        ("GET /v1/policy/diff?from=2", "", "Differences"),
        ("PUT /v1/policy", "[policy", "Failure"),
    ] {
        let (_, answer) = api(&world, line, body)?;
        described.describes(&answer, schema, line)?;
    }
    for help in ["get", "put", "diff", "revisions", "rollback"] {
        let shown = command(&world, &["policy", help, "--help"])?;
        ensure!(shown.code == 0 && shown.out.contains("Examples:"), "{shown:?}");
    }
    exeat.stop()
}
