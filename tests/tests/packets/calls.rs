//! A lookup starts no process: what the kernel is told goes by a socket that is open all the time.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::dns::Entry;
use exeat_tests::firewalled::{ONE, Stage, TWO};
use hickory_proto::rr::RecordType;

/// Lookups that are traced.
const LOOKUPS: u8 = 200;

pub(crate) fn lookups_start_no_process() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    for number in 0..LOOKUPS {
        let address = format!("93.184.218.{number}");
        stage.world.dns.set(&format!("n{number}.example.org"), Entry::addresses(&[&address]));
    }
    let traced = stage.world.directory().join("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=execve,execveat,fork,vfork,clone,clone3", "-o"])
        .arg(&traced)
        .args(["-p", &stage.exeat.id().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .context("run `strace`")?;
    let tasks = format!("/proc/{}/task", stage.exeat.id());
    stage.exeat.until("every thread to be traced", |_| {
        for task in fs::read_dir(&tasks)? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            if status.lines().any(|line| line == "TracerPid:\t0") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    let calls = || fs::read_to_string(&traced).unwrap_or_default();
    stage.lan.clients[0].run(|| {
        let asker = Asker::at("10.88.1.2")?.of("10.88.1.1:53")?;
        for number in 0..LOOKUPS {
            let told = asker.ask(&format!("n{number}.example.org"), RecordType::A)?;
            ensure!(told.code() == "NOERROR", "{told:?}");
        }
        Ok(())
    })?;
    ensure!(stage.opened()?.len() == usize::from(LOOKUPS), "{:?}", stage.opened()?);
    let processes = |text: &str| -> Vec<String> {
        let is_one = |line: &&str| line.contains("(") && !line.contains("CLONE_THREAD");
        text.lines().filter(is_one).map(str::to_owned).collect()
    };
    let seen = processes(&calls());
    ensure!(seen.is_empty(), "{LOOKUPS} lookups: {seen:?}");
    // What does start one is seen: the rules of a new policy are set by `nft`.
    let done = stage.ours(&["quarantine", "workload=two"])?;
    ensure!(done.code == 0, "{done:?}");
    stage.exeat.until("nft to be run", |_| Ok(calls().contains("/nft\"").then_some(())))?;
    // Asked to end, it waits for threads to stop, and for ever for one that waits for its child to become nft.
    strace.kill()?;
    strace.wait()?;
    stage.end(&[])
}
