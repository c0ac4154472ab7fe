//! What a confined command cannot put something else in the place of.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::Outcome;
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;
use nix::mount::{MsFlags, mount, umount};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![
        what_others_run_stays_where_it_is,
        git_works_and_keeps_what_it_runs,
        file_systems_below_are_read_only_too,
        what_is_hidden_stays_so_below_what_is_writable,
        an_audit_log_is_not_written_by_a_link,
    ]
}

/// The user `nobody`.
const NOBODY: u32 = 65534;

/// Writes a file that anybody may change, in directories where anybody may.
fn open(home: &Path, file: &str, text: &str) -> Result<()> {
    let path = home.join(file);
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != home);
    let folders: Vec<&Path> = folders.collect();
    fs::create_dir_all(path.parent().context("a folder")?)?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    for folder in folders {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

/// Runs a script in `home/project`, which prints what it was able to do.
fn run(starter: Starter, home: &Path, flags: &[&str], script: &str) -> Result<Outcome> {
    let attempt = "try() { { eval \"$2\"; } > /dev/null 2>&1 && echo \"$1\"; }\n";
    let script = format!("{attempt}{script}\ntrue");
    let inside = format!("cd project && {script}");
    starter.run(home, flags, &["sh", "-c", &inside])
}

const REPLACE: &str = "
    cd ..
    try link 'rm .bashrc'
    try moved-link 'mv .bashrc b'
    try link-to-folder 'mv .ssh s'
    try linked-to 'echo after >> dot/bashrc'
    try folder-linked-to 'echo after >> dot/ssh/authorized_keys'
    try way-of-link 'mv dot d'
    try above 'mv .config c'
    try git 'mv project/.git project/g'
    try project 'mv project p'
    try settings 'echo after >> project/.git/config'
    try new-settings 'echo x > project/.git/c && mv project/.git/c project/.git/config'
    try hook 'echo after >> project/.git/hooks/pre-commit'
    try above-ro 'mv above a'
    try above-hidden 'mv secrets s'
    try policies 'mv policies p'
    try policy 'echo after >> policies/policy.toml'
    try link-to-policy 'rm project/policy.toml'
    try names 'echo after >> policies/names.txt'
    try new-names 'rm policies/names.txt'
    try file 'echo after >> project/file'
    try new-folder 'mkdir new && mv new old'
    try object 'echo x > project/.git/x && mv project/.git/x project/.git/y'
    try log 'echo x > project/.git/log'";

fn what_others_run_stays_where_it_is(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let policy = "[proxy]\nanonymous = \"few\"\n[groups.few]\nfile = \"../policies/names.txt\"\n[policy.few]\nallow = [\"@few\"]\n";
    for (file, text) in [
        ("dot/bashrc", "before\n"),
        ("dot/ssh/authorized_keys", "before\n"),
        (".config/autostart/one.desktop", "before\n"),
        ("project/.git/HEAD", "ref: refs/heads/main\n"),
        ("project/.git/config", "before\n"),
        ("project/.git/hooks/pre-commit", "before\n"),
        ("project/file", "before\n"),
        ("above/below/file", "before\n"),
        ("secrets/one/file", "before\n"),
        ("policies/policy.toml", policy),
        ("policies/names.txt", "example.com\n"),
    ] {
        open(home, file, text)?;
    }
    for (link, target) in
        [(".bashrc", "dot/bashrc"), (".ssh", "dot/ssh"), ("project/policy.toml", "../policies/policy.toml")]
    {
        symlink(target, home.join(link))?;
    }
    let flags =
        ["-q", "--config", "project/policy.toml", "--ro", "above/below/file", "--hide", "secrets/one"];
    // Of another user's home directory nothing is known.
    let of_home = ["--ro", ".bashrc", "--ro", ".ssh", "--ro", ".config/autostart"];
    let of_repository = ["--ro", "project/.git/hooks", "--ro", "project/.git/config"];
    let flags = [&flags[..], &of_repository, if starter == Starter::Root { &of_home } else { &[] }].concat();
    let tried = run(starter, home, &flags, REPLACE)?;
    ensure!(tried.out == "file\nnew-folder\nobject\nlog\n", "{starter:?}: {tried:?}");
    ensure!(fs::read_link(home.join(".bashrc"))? == Path::new("dot/bashrc"), "the link was changed");
    for file in [".bashrc", ".ssh/authorized_keys", "project/.git/config", "above/below/file"] {
        ensure!(fs::read_to_string(home.join(file))? == "before\n", "{starter:?}: {file}");
    }
    Ok(())
}

fn git_works_and_keeps_what_it_runs(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let git = |flags: &[&str], directory: &str, script: &str| {
        let script =
            format!("git() {{ command git -c user.name=x -c user.email=x@example.com \"$@\"; }}\n{script}");
        let mut command = starter.command(home, &[&["-q"], flags].concat(), &["sh", "-c", &script])?;
        let output = command.current_dir(home.join(directory)).output()?;
        Ok::<_, anyhow::Error>((
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    let made = "git init -q repo && cd repo && git commit -q --allow-empty -m one && git worktree add -q ../tree && echo made";
    let (out, err) = git(&[], "", made)?;
    ensure!(out == "made\n", "{starter:?}: {err}");
    let works = "echo x > file && git add file && git commit -q -m two && git checkout -q -b of-$(basename $PWD) && git stash list \
                 && git gc -q && git clone -q . clone && git -C clone config core.pager cat && echo works";
    let harms = "git config core.fsmonitor evil || git config --worktree core.fsmonitor evil || mv .git .g";
    for directory in ["repo", "tree"] {
        let (out, err) = git(&[], directory, works)?;
        ensure!(out == "works\n", "{starter:?}: {directory}: {err}");
        let (out, err) = git(&[], directory, &format!("{harms} || echo refused"))?;
        ensure!(out == "refused\n", "{starter:?}: {directory}: {err}");
        fs::remove_dir_all(home.join(directory).join("clone"))?;
    }
    let hook = "echo x > ../repo/.git/hooks/pre-commit || echo refused";
    let (out, err) = git(&[], "tree", hook)?;
    ensure!(out == "refused\n", "{starter:?}: {err}");
    let (out, err) = git(&["--rw", ".git/config"], "repo", "git config core.pager cat && echo changed")?;
    ensure!(out == "changed\n", "{starter:?}: {err}");
    // What git says where it may not, as docs/run.md has it. The push itself is done.
    let pushes = "git init -q --bare ../up.git; git remote add up ../up.git || git push -q -u ../up.git HEAD && echo pushed";
    for flags in [&[][..], &["--rw", ".git"]] {
        let (out, err) = git(flags, "repo", pushes)?;
        let told = "error: could not write config file .git/config: Device or resource busy\n";
        ensure!(out == "pushed\n" && err.contains(told), "{starter:?}: {flags:?}: {out} {err}");
        fs::remove_dir_all(home.join("up.git"))?;
    }
    Ok(())
}

fn file_systems_below_are_read_only_too(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    for file in ["above/file", "above/sub/under", "project/file"] {
        open(home, file, "")?;
    }
    let sub = home.join("above/sub");
    mount(Some("tmpfs"), &sub, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0777"))?;
    open(home, "above/sub/rw/file", "")?;
    let script = "
        cd ..
        try above 'echo x > above/file'
        try sub 'echo x > above/sub/new'
        try rw 'echo x > above/sub/rw/file'
        try shared 'echo x > /dev/shm/file'";
    for (flags, want) in [
        (&["-q"][..], "above\nsub\nrw\nshared\n"),
        (&["-q", "--ro", "above"], "shared\n"),
        (&["-q", "--ro", "above", "--rw", "above/sub/rw"], "rw\nshared\n"),
        (&["-q", "--ro", "/"], "shared\n"),
    ] {
        let tried = run(starter, home, flags, script)?;
        ensure!(tried.out == want, "{starter:?}: {flags:?}: {tried:?}");
    }
    umount(&sub)?;
    Ok(())
}

fn what_is_hidden_stays_so_below_what_is_writable(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    for file in ["project/secret", "project/file"] {
        open(home, file, "known\n")?;
    }
    let flags = ["-q", "--ro", ".", "--rw", "project", "--hide", "project/secret"];
    let tried = run(starter, home, &flags, "cat secret; echo x >> file && echo written")?;
    ensure!(tried.out == "written\n", "{starter:?}: {tried:?}");
    Ok(())
}

fn an_audit_log_is_not_written_by_a_link(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    open(home, "logs/file", "")?;
    for (link, target) in [("link", "logs/target"), ("linked", "logs")] {
        symlink(target, home.join(link))?;
        if starter != Starter::Tester {
            lchown(home.join(link), Some(NOBODY), Some(NOBODY))?;
        }
    }
    for log in ["link", "linked/target"] {
        let refused = starter.run(home, &["--allow", "example.com", "--audit", log], &["true"])?;
        ensure!(refused.code == 125 && refused.err.contains("symbolic link"), "{starter:?}: {refused:?}");
        ensure!(!home.join("logs/target").exists(), "{starter:?}: it was written");
    }
    for log in ["logs/target", "/dev/null"] {
        let done = starter.run(home, &["-q", "--allow", "example.com", "--audit", log], &["true"])?;
        ensure!(done.code == 0, "{starter:?}: {done:?}");
    }
    ensure!(home.join("logs/target").exists(), "{starter:?}: there is no log");
    Ok(())
}
