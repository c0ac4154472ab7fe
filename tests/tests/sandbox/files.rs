//! What a confined command sees of the host's files, sockets and descriptors.

use std::ffi::OsStr;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;
use nix::mount::{MsFlags, mount, umount};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        sockets_of_the_host_are_out_of_sight,
        so_are_those_that_were_moved_after_they_were_bound,
        what_others_run_is_not_written,
        some_of_it_can_be_opened_again,
        inherited_descriptors_are_closed,
        names_are_asked_of_nobody_outside,
    ]
}

/// Connects to a unix socket, which is abstract if its name begins with `@`.
const CONNECT: &str = "
import socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX)
try: s.connect('\\0' + name[1:] if name[0] == '@' else name); print('connected')
except OSError as error: print(type(error).__name__)
";

/// A socket that anybody may connect to.
fn listen(path: &Path) -> Result<UnixListener> {
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn sockets_of_the_host_are_out_of_sight(starter: Starter) -> Result<()> {
    // The machine's own stays as it is.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    let world = World::new()?;
    let home = world.directory();
    let name = format!("daemon-{starter:?}.sock");
    let (daemon, elsewhere) = (Path::new("/run").join(&name), home.join(&name));
    let abstract_name = format!("@daemon-{starter:?}");
    let address = SocketAddr::from_abstract_name(abstract_name.trim_start_matches('@'))?;
    let abstract_socket = UnixListener::bind_addr(&address)?;
    abstract_socket.set_nonblocking(true)?;
    let sockets = [listen(&daemon)?, listen(&elsewhere)?, abstract_socket];
    let connect =
        |flags: &[&str], name: &str| starter.run(home, flags, &["/usr/bin/python3", "-c", CONNECT, name]);
    let accepted = || sockets.iter().filter_map(|socket| socket.accept().ok()).count();
    let (daemon, elsewhere) = (daemon.to_string_lossy(), elsewhere.to_string_lossy());
    for name in [&*daemon, &*elsewhere, &abstract_name] {
        let refused = connect(&[], name)?;
        let is_refused = ["ConnectionRefusedError\n", "FileNotFoundError\n"].contains(&&*refused.out);
        ensure!(is_refused, "{starter:?}: {name}: {refused:?}");
    }
    ensure!(accepted() == 0, "somebody came through");
    for name in [&*daemon, &*elsewhere] {
        let allowed = connect(&["--socket", name], name)?;
        ensure!(allowed.out == "connected\n" && accepted() == 1, "{starter:?}: {name}: {allowed:?}");
        let other = if name == daemon { &elsewhere } else { &daemon };
        let refused = connect(&["--socket", name], other)?;
        ensure!(refused.out != "connected\n" && accepted() == 0, "{starter:?}: {other}: {refused:?}");
    }
    Ok(())
}

/// Connects to all sockets below the working directory.
const CONNECT_ALL: &str = "
import os, socket
for folder, _, names in os.walk(b'.'):
    for name in names:
        try: socket.socket(socket.AF_UNIX).connect(os.path.join(folder, name)); print('connected', folder, name)
        except OSError: pass
print('done')
";

fn so_are_those_that_were_moved_after_they_were_bound(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    for folder in ["ssh", "seen", "line\nend", ".ssh/masters"] {
        fs::create_dir_all(home.join(folder))?;
    }
    let names: [&[u8]; 8] = [
        b"renamed.tmp",
        b"linked.AbCd",
        b"twice",
        b"ssh/agent",
        b"line\nend/line\nend",
        b"no text \xff",
        b"name with blanks",
        b"ssh/master",
    ];
    let path = |name: &[u8]| home.join(OsStr::from_bytes(name));
    let sockets: Vec<UnixListener> = names.iter().map(|name| listen(&path(name))).collect::<Result<_>>()?;
    // As HAProxy does, and as ssh does.
    fs::rename(path(b"renamed.tmp"), path(b"renamed"))?;
    fs::hard_link(path(b"linked.AbCd"), path(b"linked"))?;
    fs::remove_file(path(b"linked.AbCd"))?;
    fs::hard_link(path(b"twice"), path(b"once more"))?;
    // Of another user's home directory nothing is known.
    let master: &[u8] = if starter == Starter::Root { b"master" } else { b".ssh/masters/master" };
    fs::rename(path(b"ssh/master"), path(master))?;
    let bind = MsFlags::MS_BIND;
    mount(Some(&home.join("ssh")), &home.join("seen"), None::<&str>, bind, None::<&str>)?;
    fs::write(home.join("file"), "")?;
    mount(Some(&home.join("twice")), &home.join("file"), None::<&str>, bind, None::<&str>)?;
    let all = |socket: &UnixListener| std::iter::from_fn(|| socket.accept().ok()).count();
    let accepted = || sockets.iter().map(all).sum::<usize>();
    let free = Command::new("/usr/bin/python3").args(["-c", CONNECT_ALL]).current_dir(home).output()?;
    ensure!(accepted() == 11, "they cannot be reached outside either: {free:?}");
    let confined = starter.run(home, &[], &["/usr/bin/python3", "-c", CONNECT_ALL])?;
    ensure!(confined.out == "done\n", "{starter:?}: {confined:?}");
    ensure!(accepted() == 0, "somebody came through");
    umount(&home.join("seen"))?;
    umount(&home.join("file"))?;
    Ok(())
}

fn what_others_run_is_not_written(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    fs::create_dir_all(home.join("project/.git/hooks"))?;
    let files = [".bashrc", "project/.git/hooks/pre-commit", "kept", "secret"];
    for file in files.iter().chain(&["project/file", ".viminfo"]) {
        fs::write(home.join(file), "before\n")?;
        fs::set_permissions(home.join(file), fs::Permissions::from_mode(0o666))?;
    }
    fs::set_permissions(home.join("project"), fs::Permissions::from_mode(0o777))?;
    let script = "
        for file in ../.bashrc .git/hooks/pre-commit ../kept file ../.viminfo; do
            { echo after >> $file; } 2> /dev/null && echo $file
        done
        cat ../secret";
    let mut command =
        starter.command(home, &["--ro", "../kept", "--hide", "../secret"], &["sh", "-c", script])?;
    let output = command.current_dir(home.join("project")).output()?;
    let out = String::from_utf8_lossy(&output.stdout);
    // Root's command has the home of the user that it names.
    let (others, kept) =
        if starter == Starter::Root { ("../.bashrc\n", &files[1..]) } else { ("", &files[..]) };
    ensure!(out == format!("{others}file\n../.viminfo\n"), "{starter:?}: {output:?}");
    for file in kept {
        ensure!(fs::read_to_string(home.join(file))? == "before\n", "{starter:?}: {file}");
    }
    Ok(())
}

fn some_of_it_can_be_opened_again(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let files = [
        "ro/file",
        "ro/rw/file",
        "gone/file",
        "gone/rw/file",
        "rw/.git/hooks/hook",
        "rw/file",
        "policy.toml",
    ];
    for file in files {
        let path = home.join(file);
        let folder = path.parent().unwrap_or(home);
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
        fs::write(&path, "[proxy]\nanonymous = \"few\"\n[policy.few]\nallow = [\"example.com\"]\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    let socket = listen(&home.join("ro/rw/daemon.sock"))?;
    fs::write(home.join("connect.py"), CONNECT)?;
    let script = format!(
        "cd ..; for file in {}; do {{ echo '# after' >> $file; }} 2> /dev/null && echo $file; done;
         /usr/bin/python3 connect.py ro/rw/daemon.sock",
        files.join(" ")
    );
    let paths = ["--ro", "../ro", "--rw", "../ro/rw", "--hide", "../gone", "--rw", "../gone/rw"];
    let own = ["--rw", "..", "--config", "../policy.toml", "-q"];
    for (flags, want) in [
        (&paths[..], "ro/rw/file\ngone/file\ngone/rw/file\nrw/file\npolicy.toml\n"),
        // What is protected by itself stays so below what is writable.
        (&own, "ro/file\nro/rw/file\ngone/file\ngone/rw/file\nrw/file\n"),
        (
            &["--rw", ".git/hooks"],
            "ro/file\nro/rw/file\ngone/file\ngone/rw/file\nrw/.git/hooks/hook\nrw/file\npolicy.toml\n",
        ),
    ] {
        let mut command = starter.command(home, flags, &["sh", "-c", &script])?;
        let output = command.current_dir(home.join("rw")).output()?;
        let out = String::from_utf8_lossy(&output.stdout);
        let (written, connected) = out.split_at(want.len().min(out.len()));
        ensure!(written == want, "{starter:?}: {flags:?}: {output:?}");
        // Neither does a socket come back with what is around it.
        ensure!(connected.trim() == "ConnectionRefusedError", "{starter:?}: {flags:?}: {output:?}");
    }
    ensure!(socket.accept().is_err(), "somebody came through");
    // An earlier run could have made it.
    std::os::unix::fs::symlink("ro", home.join("link"))?;
    for link in ["link", "link/rw"] {
        let refused = starter.run(home, &["--rw", link], &["true"])?;
        ensure!(refused.code == 125 && refused.err.contains("symbolic link"), "{starter:?}: {refused:?}");
    }
    ensure!(fs::read_to_string(home.join("gone/rw/file"))?.contains("after"), "it was not written");
    Ok(())
}

fn inherited_descriptors_are_closed(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let words = starter.words()?.join(" ");
    // The shell that starts it holds a file open, which a program that it starts itself can read.
    let script = |command: &str| {
        format!("echo secret > held; exec 9< held; {command} sh -c 'cat <&9 2> /dev/null; cat'")
    };
    let directory =
        starter.command(home, &[], &["ls", "/dev/fd/0/"])?.stdin(fs::File::open("/run")?).output()?;
    let is_told = String::from_utf8_lossy(&directory.stderr).contains("standard input is a directory");
    ensure!(directory.status.code() == Some(125) && is_told, "{directory:?}");
    for (command, want) in [("", "secret\nstdin\n"), (&*format!("{words} --"), "stdin\n")] {
        let mut shell = Command::new("sh");
        shell.current_dir(home);
        let script = format!("echo stdin | ( {} )", script(command));
        let output = shell.args(["-c", &script]).output()?;
        ensure!(String::from_utf8_lossy(&output.stdout) == want, "{starter:?}: {output:?}");
    }
    Ok(())
}

fn names_are_asked_of_nobody_outside(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let shown = starter.run(home, &[], &["cat", "/etc/resolv.conf", "/etc/nsswitch.conf"])?;
    ensure!(shown.out.starts_with("nameserver 127.0.0.1\nnameserver ::1\n"), "{starter:?}: {shown:?}");
    ensure!(shown.out.contains("hosts: files dns\n"), "{starter:?}: {shown:?}");
    ensure!(!shown.out.contains("10.99.0.53"), "{starter:?}: {shown:?}");
    // The host still has its own.
    ensure!(fs::read_to_string("/etc/resolv.conf")?.contains("10.99.0.53"), "the host's was changed");
    Ok(())
}
