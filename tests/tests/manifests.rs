//! `exeat generate`, and the AppArmor profile: what others who read such files say of them. `exeat import`: what `exeat check` says.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome, tool};
use exeat_tests::exeat::binary;
use exeat_tests::harness::{self, Scenario};
use exeat_tests::source;
use tempfile::TempDir;

fn main() -> ExitCode {
    harness::main(vec![
        Scenario::plain("the_published_schema_takes_the_manifests", the_published_schema_takes_the_manifests),
        Scenario::plain("the_published_schema_refuses_a_slip", the_published_schema_refuses_a_slip),
        Scenario::plain("compose_takes_the_file", compose_takes_the_file),
        Scenario::plain("what_cannot_work_is_said_and_nothing_else_printed", what_cannot_work_is_said),
        Scenario::plain("an_imported_list_passes_the_check", an_imported_list_passes_the_check),
        Scenario::plain("the_parser_of_apparmor_takes_the_profile", the_parser_of_apparmor_takes_the_profile),
    ])
}

/// A configuration whose place and text are usual, with a list beside it.
fn folder(listen: &str, extra: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let text = format!(
        "[proxy]\nlisten = [{listen}]\nanonymous = \"p\"\n[api]\nsocket = \"/run/exeat/api.sock\"\n\
         [groups.g]\nfile = \"hosts.txt\"\n[policy.p]\nallow = [\"@g\"]\n{extra}"
    );
    fs::write(folder.path().join("exeat.toml"), text)?;
    fs::write(folder.path().join("hosts.txt"), "example.com\n")?;
    Ok(folder)
}

fn exeat(folder: &Path, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, folder).args(args).run()
}

fn validate(folder: &Path, file: &str) -> Result<Outcome> {
    Client::new(tool("venv/bin/python")?, folder).args(["-m", "kubernetes_validate", "--strict", file]).run()
}

fn client() -> String {
    let hash = "0".repeat(64);
    format!("[client.batch]\npasswords = [\"sha256:{hash}\"]\npolicies = [\"p\"]\n")
}

fn the_published_schema_takes_the_manifests() -> Result<()> {
    for (listen, extra, more, count) in [
        ("\"0.0.0.0:3128\"", String::new(), &[][..], 7),
        ("\"[::]:443\"", client(), &["--workload-label", "app=sandbox", "--service-ip", "2001:db8::5"], 6),
        ("\"0.0.0.0:3128\"", client(), &["--namespace", "one", "--proxy-namespace", "one"], 5),
    ] {
        let folder = folder(listen, &extra)?;
        let args = ["generate", "kubernetes", "--output", "out"];
        let done = exeat(folder.path(), &[&args[..], more].concat())?;
        ensure!(done.code == 0 && done.out.is_empty(), "{done:?}");
        let done = validate(folder.path(), "out/exeat.yaml")?;
        let passed = format!("{}{}", done.out, done.err).matches(" passed for resource ").count();
        ensure!(done.code == 0 && passed == count, "{done:?}");
    }
    Ok(())
}

/// The nearest twin: that the schema is asked at all.
fn the_published_schema_refuses_a_slip() -> Result<()> {
    let folder = folder("\"0.0.0.0:3128\"", "")?;
    let done = exeat(folder.path(), &["generate", "kubernetes"])?;
    fs::write(folder.path().join("wrong.yaml"), done.out.replace("podSelector:", "podselector:"))?;
    let done = validate(folder.path(), "wrong.yaml")?;
    ensure!(done.code != 0, "{done:?}");
    Ok(())
}

fn compose_takes_the_file() -> Result<()> {
    let folder = folder("\"0.0.0.0:3128\"", &client())?;
    let policy = fs::read_to_string(folder.path().join("exeat.toml"))?;
    fs::write(folder.path().join("exeat.toml"), policy.replace("anonymous = \"p\"\n", ""))?;
    let done = exeat(folder.path(), &["generate", "compose", "--output", "."])?;
    ensure!(done.code == 0, "{done:?}");
    let compose = |credentials: &str| {
        Client::new("docker-compose", folder.path())
            .args(["-p", "test", "-f", "compose.yaml", "config"])
            .env("WORKLOAD_IMAGE", "example.com/batch:1")
            .env("EXEAT_CREDENTIALS", credentials)
            .run()
    };
    let done = compose("batch:word")?;
    ensure!(done.code == 0, "{done:?}");
    for want in ["http_proxy: http://batch:word@exeat:3128", "internal: true", "image: example.com/batch:1"] {
        ensure!(done.out.contains(want), "{want}: {done:?}");
    }
    let done = compose("")?;
    ensure!(done.code != 0 && done.err.contains("set it to NAME:PASSWORD of a client"), "{done:?}");
    Ok(())
}

fn what_cannot_work_is_said() -> Result<()> {
    let folder = folder("\"127.0.0.1:3128\"", "")?;
    for kind in ["docker", "compose", "kubernetes"] {
        let done = exeat(folder.path(), &["generate", kind])?;
        ensure!(done.code == 0 && !done.out.is_empty(), "{done:?}");
        ensure!(
            done.err.contains("exeat.toml:2:11") && done.err.contains("write \"0.0.0.0:3128\""),
            "{done:?}"
        );
        let done = exeat(folder.path(), &["generate", kind, "--port", "3129"])?;
        ensure!(done.code == 1 && done.out.is_empty(), "{done:?}");
        ensure!(done.err.contains("no listener has the port 3129"), "{done:?}");
    }
    fs::write(folder.path().join("exeat.toml"), "[proxy]\nlisten = 1\n")?;
    let done = exeat(folder.path(), &["generate", "docker"])?;
    ensure!(done.code == 78 && done.out.is_empty() && done.err.contains("exeat.toml:2:10"), "{done:?}");
    Ok(())
}

fn an_imported_list_passes_the_check() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let import = |text: &str| -> Result<Outcome> {
        fs::write(folder.path().join("hosts.yaml"), text)?;
        let done = exeat(folder.path(), &["import", "hosts-yaml", "hosts.yaml"])?;
        fs::write(folder.path().join("exeat.toml"), &done.out)?;
        Ok(done)
    };
    let explain = |url| exeat(folder.path(), &["explain", "batch", url]);
    let done = import("api_access: [api.example.com, '*.example.org']\nblocked: ['*', x.example.org]\n")?;
    ensure!(done.code == 0 && done.err.is_empty(), "{done:?}");
    let add = ["client", "add", "batch", "--policy", "imported", "--generated"];
    ensure!(exeat(folder.path(), &add)?.code == 0);
    let done = exeat(folder.path(), &["check"])?;
    ensure!(done.code == 0, "{done:?}");
    for (url, code) in [
        ("https://api.example.com/", 0),
        ("https://b.api.example.com/", 1),
        ("https://y.example.org/", 0),
        ("https://x.example.org/", 1),
    ] {
        ensure!(explain(url)?.code == code, "{url}");
    }

    let done = import("a:\n  - api.example.com\n  - *.example.org\n")?;
    ensure!(done.code == 1 && done.out.contains("\"api.example.com\""), "{done:?}");
    ensure!(done.err.contains("hosts.yaml:3:5") && done.err.contains("write \"*.example.org\""), "{done:?}");
    ensure!(exeat(folder.path(), &["check"])?.code == 0);
    let done = import("a: [api.example.com]\nblocked: ['*', 'https://x.example.org']\n")?;
    ensure!(done.code == 1 && done.out.is_empty() && done.err.contains("hosts.yaml:2:16"), "{done:?}");
    Ok(())
}

/// The first parser of AppArmor that knows the profile's version of the rules, and `userns` among them.
const PARSER_OF_USERNS: u32 = 4;

fn the_parser_of_apparmor_takes_the_profile() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let parser = |args: &[&str]| Client::new("/usr/sbin/apparmor_parser", folder.path()).args(args).run();
    let version = parser(&["--version"])?.out;
    let number = version.split_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok());
    let is_known = number.with_context(|| version.clone())? >= PARSER_OF_USERNS;
    let published = fs::read_to_string(source::root()?.join("deploy/apparmor/exeat"))?;
    let (abi, rule) = ("abi <abi/4.0>,\n", "  userns,\n");
    for part in [abi, rule] {
        ensure!(published.matches(part).count() == 1, "{part:?} in {published}");
    }
    // An older parser says of the rest whether it is right; systems with one have nothing to lift.
    let profile = match is_known {
        true => published,
        false => published.replace(abi, "abi <abi/3.0>,\n").replace(rule, ""),
    };
    for (name, from, to, want) in [
        ("as it is", "", "", Some("exeat")),
        ("a flag that is none", "(unconfined)", "(unconfirmed)", None),
        (
            "a name without a path",
            "profile exeat /usr/{local/,}bin/exeat",
            "profile exeat usr/bin/exeat",
            None,
        ),
        ("an include that is not there", "<tunables/global>", "<tunables/no-such>", None),
        ("no end", "\n}", "\n", None),
    ] {
        let text = profile.replacen(from, to, 1);
        ensure!(from == to || text != profile, "{name}: there is no {from:?}");
        fs::write(folder.path().join("profile"), text)?;
        // Neither loaded nor put into a cache.
        let done = parser(&["--skip-kernel-load", "--skip-cache", "--names", "profile"])?;
        let names = (done.code == 0).then(|| done.out.trim());
        ensure!(names == want, "{name}: {done:?}");
    }
    Ok(())
}
