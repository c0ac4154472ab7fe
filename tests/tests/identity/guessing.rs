//! Who guesses passwords.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::{Exeat, binary};
use exeat_tests::fixture::{PASSWORD, echoes};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::authorization;
use exeat_tests::world::World;
use serde_json::Value;

use crate::setup::{
    Answer, BATCH, FACTOR, NOWHERE, ask_unix_with, config, denied, get_at, listen, ok, tunnel,
};

/// The hash of a password as the product makes it: one that takes time.
fn argon2id(password: &str) -> Result<String> {
    let mut command = Command::new(binary()?);
    let mut child = command.args(["client", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("its input")?.write_all(password.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

pub(crate) fn who_guesses_many_at_once_gains_nothing() -> Result<()> {
    const AT_ONCE: usize = 24;
    let world = World::new()?;
    let rest = format!("[client.slow]\npasswords = [\"{}\"]\npolicies = [\"web\"]\n", argon2id(PASSWORD)?);
    let exeat = Exeat::serve(world.directory(), &config(&listen(), &rest), PROXY)?;
    let at_once = |source: &str, password: fn(usize) -> String| -> Result<Vec<Answer>> {
        let ask = |number| get_at(source, &authorization("slow", &password(number)));
        thread::scope(|scope| {
            let asked: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || ask(number))).collect();
            asked.into_iter().map(|thread| thread.join().ok().context("a thread")?).collect()
        })
    };
    let answers = at_once(BATCH, |number| format!("guess {number}"))?;
    let told = |want: Answer| answers.iter().filter(|answer| **answer == want).count();
    let (invalid, delayed) = (told(denied(407, "auth_invalid")), told(denied(429, "rate_limited")));
    ensure!((invalid, delayed) == (6, AT_ONCE - 6), "{answers:?}");
    let answers = at_once(FACTOR, |_| PASSWORD.to_owned())?;
    ensure!(
        answers.iter().all(|answer| *answer == ok()),
        "who is right at once waits for itself: {answers:?}"
    );
    exeat.stop()
}

pub(crate) fn who_guesses_by_one_socket_does_not_make_another_wait() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("listen = [\"{PROXY}\", \"unix:s\", \"unix:t\"]");
    let exeat = Exeat::serve(world.directory(), &config(&proxy, ""), PROXY)?;
    let ask = |socket: &str, password: &str| {
        ask_unix_with(&world.directory().join(socket), &authorization("app", password))
    };
    for attempt in 0..6 {
        ensure!(ask("s", "wrong")?.starts_with("HTTP/1.1 407"), "{attempt}");
    }
    ensure!(ask("s", PASSWORD)?.starts_with("HTTP/1.1 429"), "it waits");
    ensure!(ask("t", PASSWORD)?.starts_with("HTTP/1.1 200"), "and not the container of the other one");
    exeat.stop()
}

pub(crate) fn who_guesses_waits_and_nobody_else() -> Result<()> {
    let world = World::new()?;
    let mut exeat = Exeat::serve(world.directory(), &config(&listen(), ""), PROXY)?;
    let (right, wrong) = (authorization("app", PASSWORD), authorization("app", "wrong"));
    let mut open = tunnel(BATCH, &right)?;
    for attempt in 0..6 {
        ensure!(get_at(BATCH, &wrong)? == denied(407, "auth_invalid"), "{attempt}");
    }
    // Whatever it is now, right or wrong, it gets the same answer and is not looked at.
    for fields in [&wrong, &right] {
        ensure!(get_at(BATCH, fields)? == denied(429, "rate_limited"));
    }
    echoes(&mut open)?;
    for (name, source, fields, want) in [
        ("from another source", FACTOR, &right, ok()),
        (
            "another name, which does not exist",
            BATCH,
            &authorization("nobody", "wrong"),
            denied(407, "auth_invalid"),
        ),
        ("wrong from another source", FACTOR, &wrong, denied(407, "auth_invalid")),
        ("right again from there", FACTOR, &right, ok()),
    ] {
        let answer = get_at(source, fields)?;
        ensure!(answer == want, "{name}: {answer:?}");
    }
    // A name that does not exist is guessed at in the same way.
    let nobody = authorization("nobody", "wrong");
    let answers: Vec<Answer> = (0..7).map(|_| get_at(NOWHERE, &nobody)).collect::<Result<_>>()?;
    ensure!(
        answers[5] == denied(407, "auth_invalid") && answers[6] == denied(429, "rate_limited"),
        "{answers:?}"
    );
    let refused = |records: &[Value]| records.iter().filter(|r| r["reason"] == "rate_limited").count();
    exeat.audit_until("each refusal in the log", |records| refused(records) == 3)?;
    drop(open);
    exeat.stop()
}
