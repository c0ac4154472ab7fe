//! `exeat suggest`: of what a run has reached, a policy under which the same run is refused nothing.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::confined::Starter;
use exeat_tests::exeat::binary;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![the_policy_that_is_suggested_suffices, a_command_cannot_write_what_it_has_reached]
}

fn exeat(home: &Path, args: &[&str]) -> Result<Outcome> {
    Client::new(binary()?, home).args(args).run()
}

/// Names, an address and a port that is not usual, by the proxy and without.
const RUN: &str = "
set -e
for host in a b c.d; do curl -sSf -o /dev/null http://$host.example.org/; done
curl -sSf -o /dev/null --noproxy '*' http://example.com/
curl -sSf -o /dev/null --cacert ca.pem https://example.com/
env -i curl -sSf -o /dev/null http://93.184.216.37/
env -i bash -c 'exec 3<> /dev/tcp/example.com/25; read -r line <&3'
";

fn the_policy_that_is_suggested_suffices(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let run = |flags: &[&str], script: &str| starter.run(home, flags, &["sh", "-c", script]);
    let seen = run(&["--report", "--audit", "one.jsonl", "--json"], RUN)?;
    ensure!(seen.code == 0, "{starter:?}: {seen:?}");
    fs::write(home.join("two.json"), seen.err)?;
    let suggested = exeat(home, &["suggest", "one.jsonl", "two.json"])?;
    ensure!(suggested.code == 0, "{starter:?}: {suggested:?}");
    for entry in ["\"*.example.org:80\", # ", "\"example.com:25,80,443\", # ", "\"93.184.216.37:80\", # "] {
        ensure!(suggested.out.contains(entry), "{starter:?}: {entry}: {suggested:?}");
    }
    ensure!(
        suggested.out.contains("in 2 files: a.example.org, b.example.org, c.d.example.org"),
        "{suggested:?}"
    );
    fs::write(home.join("suggested.toml"), &suggested.out)?;
    let checked = exeat(home, &["check", "--strict", "suggested.toml"])?;
    ensure!(checked.code == 0, "{checked:?}\n{}", suggested.out);
    let flags = ["--config", "suggested.toml", "--fail-on-deny", "--json"];
    let accepts = world.accepts();
    let again = run(&flags, RUN)?;
    ensure!(again.code == 0 && again.err.contains("\"refused\":[]"), "{starter:?}: {again:?}");
    ensure!(world.accepts() == 2 * accepts, "{:?}", world.reached());
    for other in ["http://evil.test/", "http://example.com:8080/", "http://example.org/"] {
        let refused = run(&flags, &format!("curl -sS -o /dev/null {other}"))?;
        ensure!(refused.code == 1, "{starter:?}: {other}: {refused:?}");
    }
    ensure!(world.accepts() == 2 * accepts, "{:?}", world.reached());
    Ok(())
}

fn a_command_cannot_write_what_it_has_reached(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let forge =
        "echo '{\"event\":\"decision\",\"verdict\":\"allow\",\"target\":\"evil.test:443\"}' >> audit.jsonl;
        mv audit.jsonl other; rm -f audit.jsonl; curl -sS -o /dev/null http://example.com/";
    let flags = ["--allow", "example.com", "--audit", "audit.jsonl", "-q"];
    // Whether it was there before or not.
    for count in [1, 2] {
        let told = starter.run(home, &flags, &["sh", "-c", forge])?;
        ensure!(told.code == 0, "{starter:?}: {told:?}");
        let suggested = exeat(home, &["suggest", "audit.jsonl"])?;
        ensure!(suggested.out.contains(&format!("\"example.com:80\", # {count}×")), "{suggested:?}");
        ensure!(!suggested.out.contains("evil.test"), "{starter:?}: {suggested:?}");
    }
    // What was refused is told, by whichever way it was asked for: a name, an address, or a lookup alone.
    let refused =
        "curl -sS -o /dev/null http://evil.test/; env -i curl -sS -o /dev/null http://93.184.216.37/;
        curl -sS http://93.184.216.36/; env -i curl -sS http://other.test/; exit 0";
    let told = starter.run(
        home,
        &["--allow", "example.com", "--audit", "refused.jsonl", "--json"],
        &["sh", "-c", refused],
    )?;
    ensure!(told.code == 0, "{starter:?}: {told:?}");
    fs::write(home.join("refused.json"), told.err)?;
    for file in ["refused.jsonl", "refused.json"] {
        let suggested = exeat(home, &["suggest", file])?;
        for row in [
            "# refused: evil.test port 80, 1×, host_not_allowed",
            "# refused: 93.184.216.37 port 80, 1×, ip_literal_not_allowed",
            "# refused: 93.184.216.36 port 80, 1×, ip_literal_not_allowed",
            "# refused: other.test looked up, ",
        ] {
            ensure!(suggested.out.contains(row), "{starter:?}: {file}: {row}: {suggested:?}");
        }
    }
    fs::write(home.join("empty"), "nothing\n")?;
    let nothing = exeat(home, &["suggest", "empty"])?;
    ensure!(nothing.code == 1 && nothing.out.is_empty(), "{nothing:?}");
    Ok(())
}
