//! What shares a process group with a confined command, and is outside, is out of its reach.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::terminal::Terminal;
use exeat_tests::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        a_group_is_not_left_by_signals,
        on_a_terminal_a_group_is_not_left_by_signals,
        a_kernel_that_cannot_keep_signals_has_them_refused,
        who_is_killed_with_the_sandbox_was_run,
    ]
}

/// Tries what reaches a whole group, and tells how it ended and who heard of it.
const TRY: &str = "
import errno, os, signal
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
def tried(name, what):
    try: what(); print(name, 'done', flush=True)
    except OSError as error: print(name, errno.errorcode[error.errno], flush=True)
tried('signal', lambda: os.kill(0, signal.SIGUSR1))
print('heard', len(heard), flush=True)
tried('nice', lambda: os.setpriority(os.PRIO_PGRP, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1))
";

/// Runs it as a shell script does, which then tells what has come of itself.
fn script(starter: Starter, home: &Path) -> Result<String> {
    starter.command(home, &[], &["true"])?;
    fs::write(home.join("try.py"), TRY)?;
    let words = starter.words()?.join(" ");
    Ok(format!(
        "trap 'echo outside has heard' USR1
        nice() {{ cut -d ' ' -f 19 /proc/$$/stat; }}
        before=$(nice)
        {words} -q -- /usr/bin/python3 try.py
        echo \"ended with $?, nice $(($(nice) - before))\"
        {words} -q -- /usr/bin/python3 -c 'import os; os.kill(0, 9)'
        echo \"killed with $?\"
        {words} -q -- sh -c 'trap \"exit 7\" TERM; kill 0; exit 8'
        echo \"told with $?\"\n"
    ))
}

fn a_group_is_not_left_by_signals(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let mut shell = Command::new("sh");
    shell.args(["-c", &script(starter, home)?]).current_dir(home).stdin(Stdio::null());
    // As a service or a build has it: no terminal, and a group with others in it, but for those who run the tests.
    let output = in_a_session(shell)?.output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let want = "signal done\nheard 1\nnice done\nended with 0, nice 0\nkilled with 137\ntold with 7\n";
    ensure!(out == want && !err.contains("error"), "{starter:?}: {out}{err}");
    Ok(())
}

/// The same command in a session of its own.
fn in_a_session(command: Command) -> Result<Command> {
    let mut started = Command::new("setsid");
    started.arg("--wait").arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    started.current_dir(command.get_current_dir().context("a folder")?);
    started.process_group(0);
    Ok(started)
}

fn on_a_terminal_a_group_is_not_left_by_signals(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    fs::write(home.join("outer.sh"), script(starter, home)?)?;
    let mut terminal = Terminal::start(home, 24, 80, "exec sh outer.sh")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let written = terminal.written().replace("\r\n", "\n");
    ensure!(!written.contains("outside has heard"), "{starter:?}: {written}");
    // The priority of a group is everybody's.
    ensure!(written.contains("nice EPERM\nended with 0, nice 0\n"), "{starter:?}: {written}");
    let is_scoped = written.contains("signal done\nheard 1\n")
        && written.contains("killed with 137\n")
        && written.contains("told with 7\n");
    ensure!(is_scoped || !scopes_signals()?, "{starter:?}: {written}");
    Ok(())
}

/// Whether this kernel can keep signals inside (Landlock of Linux 6.12, if it is switched on).
fn scopes_signals() -> Result<bool> {
    let output = Command::new("/usr/bin/python3")
        .args(["-c", "import ctypes; print(ctypes.CDLL(None).syscall(444, 0, 0, 1))"])
        .output()?;
    let version: i32 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok(version >= 6)
}

/// Runs a command on a kernel that seems not to know Landlock.
const WITHOUT: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
# ld nr; jeq landlock_create_ruleset; ret ENOSYS; ret allow
code = b''.join(struct.pack('=HBBI', *one) for one in
    ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50026), (6, 0, 0, 0x7fff0000)))
filter = ctypes.create_string_buffer(code)
program = struct.pack('=H6xQ', 4, ctypes.addressof(filter))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.create_string_buffer(program)) == 0
assert libc.syscall(444, 0, 0, 1) == -1
os.execvp(sys.argv[1], sys.argv[1:])
";

fn a_kernel_that_cannot_keep_signals_has_them_refused(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    fs::write(home.join("without.py"), WITHOUT)?;
    fs::write(home.join("outer.sh"), script(starter, home)?)?;
    let mut terminal = Terminal::start(home, 24, 80, "exec /usr/bin/python3 without.py sh outer.sh")?;
    ensure!(terminal.wait()? == 0, "{starter:?}: {}", terminal.written());
    let written = terminal.written().replace("\r\n", "\n");
    let refused = "signal EPERM\nheard 0\nnice EPERM\nended with 0, nice 0\n";
    ensure!(written.contains(refused), "{starter:?}: {written}");
    ensure!(!written.contains("outside has heard"), "{starter:?}: {written}");
    Ok(())
}

fn who_is_killed_with_the_sandbox_was_run(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let mut command = starter.command(world.directory(), &[], &["sh", "-c", "echo ready; sleep 1000"])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let launcher = child.id();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
    kill(Pid::from_raw(children.trim().parse().context("init")?), Signal::SIGKILL)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_told = said.contains("the command was ended with its sandbox");
    ensure!(output.status.code() == Some(137) && is_told, "{starter:?}: {:?} {said}", output.status);
    Ok(())
}
