//! What a flow may come to: whose word counts, and that a change of it is a difference.

use std::time::Duration;

use exeat_policy::{Caps, Defaults, Entry, Mode, View, diff, explain};

use crate::support::*;

const MINUTE: Duration = Duration::from_secs(60);

fn age(minutes: u32) -> Caps {
    Caps { max_age: Some(MINUTE * minutes), ..Caps::default() }
}

fn up(bytes: u64) -> Caps {
    Caps { max_bytes_up: Some(bytes), ..Caps::default() }
}

fn capped(text: &str, caps: Caps) -> Entry {
    let mut entry = entry(text);
    entry.settings.caps = caps;
    entry
}

fn by_default(caps: Caps) -> Defaults {
    Defaults { caps, ..Defaults::default() }
}

fn allowing(name: &'static str, allow: Vec<Entry>) -> Rules {
    Rules { name, allow, ..Rules::default() }
}

/// What the permit for a target says.
fn caps(world: &World, text: &str) -> String {
    world.run(&target(text), &ips(&["93.184.216.34"])).expect(text).caps().to_string()
}

#[test]
fn the_nearest_word_counts_and_then_the_strictest() {
    let policy = || Rules {
        defaults: by_default(Caps { max_age: Some(MINUTE * 30), ..up(9000) }),
        ..allowing("p", vec![entry("a.example.com"), capped("b.example.com", age(60)), entry("@group")])
    };
    let group = list(&entries(&["c.example.com"]), by_default(up(5000)));
    let ceiling = allowing("c", vec![capped("@any-public", Caps { max_age: Some(MINUTE * 45), ..up(7000) })]);
    let inner = world(&[("group", group)], &[policy()], &[]);
    for (why, host, want) in [
        ("the policy's", "a.example.com", "max_age = \"30m\", max_bytes_up = 9000"),
        ("its own before the policy's", "b.example.com", "max_age = \"1h\", max_bytes_up = 9000"),
        ("the group's before the policy's", "c.example.com", "max_age = \"30m\", max_bytes_up = 5000"),
    ] {
        assert_eq!(caps(&inner, host), want, "{why}");
    }
    let group = list(&entries(&["c.example.com"]), by_default(up(5000)));
    let mut below = world(&[("group", group)], &[policy()], &[ceiling]);
    for (host, want) in [
        ("a.example.com", "max_age = \"30m\", max_bytes_up = 7000"),
        ("b.example.com", "max_age = \"45m\", max_bytes_up = 7000"),
        ("c.example.com", "max_age = \"30m\", max_bytes_up = 5000"),
    ] {
        assert_eq!(caps(&below, host), want, "the ceiling is above {host}");
    }
    let own = Caps { idle_timeout: Some(MINUTE), ..up(6000) };
    below.bound = below.bound.within(own);
    assert_eq!(
        caps(&below, "b.example.com"),
        "idle_timeout = \"1m\", max_age = \"45m\", max_bytes_up = 6000",
        "the principal's hold too"
    );
}

#[test]
fn of_two_rules_that_match_the_cited_one_counts() {
    let wide = || capped("*.example.com", up(1024));
    let world_of = |entries: Vec<Entry>| world(&[], &[allowing("p", entries)], &[]);
    assert_eq!(caps(&world_of(vec![wide(), entry("a.example.com")]), "a.example.com"), "");
    assert_eq!(caps(&world_of(vec![wide(), entry("a.example.com")]), "b.example.com"), "max_bytes_up = 1024");
    // Equal but for their bounds: the laxer one, wherever it stands.
    let (lax, strict) = (|| capped("a.example.com", up(2048)), || capped("a.example.com", up(1024)));
    for entries in [vec![lax(), strict()], vec![strict(), lax()]] {
        assert_eq!(caps(&world_of(entries), "a.example.com"), "max_bytes_up = 2048");
    }
}

#[test]
fn report_mode_is_bound_by_ceilings_and_the_principal() {
    let policy = Rules { mode: Mode::Report, ..allowing("p", vec![capped("a.example.com", age(1))]) };
    let ceiling = allowing("c", vec![capped("@any-public", up(1024))]);
    let mut world = world(&[], &[policy], &[ceiling]);
    world.bound = world.bound.within(age(5));
    assert_eq!(caps(&world, "a.example.com"), "max_age = \"1m\", max_bytes_up = 1024");
    assert_eq!(caps(&world, "elsewhere.example.com"), "max_age = \"5m\", max_bytes_up = 1024");
}

#[test]
fn entries_and_explanations_show_bounds() {
    let entry = capped("example.com:443", Caps { max_bytes_down: Some(4096), ..age(90) });
    let text = "{ host = \"example.com\", ports = [443], max_age = \"90m\", max_bytes_down = 4096 }";
    assert_eq!(entry.toml(), text);
    let world = world(&[], &[allowing("p", vec![entry])], &[]);
    let shown =
        explain(&world.set, &world.request(&target("example.com:443")), Some(&ips(&["93.184.216.34"])), None);
    let shown = shown.to_string();
    assert!(shown.contains("\n  bounds     max_age = \"90m\", max_bytes_down = 4096\n"), "{shown}");
}

#[test]
fn a_changed_bound_is_gained_or_lost() {
    let one = |caps| world(&[], &[allowing("p", vec![capped("*.example.com", caps)])], &[]);
    let none = Caps::default();
    let all = Caps {
        idle_timeout: Some(MINUTE),
        max_age: Some(MINUTE * 60),
        max_bytes_up: Some(1024),
        max_bytes_down: Some(2048),
    };
    for (why, old, new, want) in [
        ("none", none, none, &[][..]),
        ("the same", all, all, &[]),
        ("a new one", none, up(1024), &["- *.example.com:80,443 beyond max_bytes_up = 1024 max_bytes"]),
        ("one less", up(1024), none, &["+ *.example.com:80,443 beyond max_bytes_up = 1024 max_bytes"]),
        ("lower", age(2), age(1), &["- *.example.com:80,443 beyond max_age = \"1m\" max_age"]),
        ("higher", age(1), age(2), &["+ *.example.com:80,443 beyond max_age = \"1m\" max_age"]),
        (
            "another kind",
            up(1024),
            age(1),
            &[
                "+ *.example.com:80,443 beyond max_bytes_up = 1024 max_bytes",
                "- *.example.com:80,443 beyond max_age = \"1m\" max_age",
            ],
        ),
        (
            "every kind",
            all,
            none,
            &[
                "+ *.example.com:80,443 beyond idle_timeout = \"1m\" idle_timeout",
                "+ *.example.com:80,443 beyond max_age = \"1h\" max_age",
                "+ *.example.com:80,443 beyond max_bytes_up = 1024 max_bytes",
                "+ *.example.com:80,443 beyond max_bytes_down = 2048 max_bytes",
            ],
        ),
    ] {
        assert_eq!(changes(&one(old), &one(new)), want, "{why}");
    }
    let (lax, mut strict) = (one(none), one(none));
    strict.bound = strict.bound.within(up(1024));
    let want = ["- *.example.com:80,443 beyond max_bytes_up = 1024 max_bytes"];
    assert_eq!(changes(&lax, &strict), want, "the principal's own");
    let networks = |caps| world(&[], &[allowing("p", vec![capped("10.0.0.0/24:22", caps)])], &[]);
    let want = ["- 10.0.0.0/24:22 beyond max_age = \"1m\" max_age"];
    assert_eq!(changes(&networks(none), &networks(age(1))), want, "addresses");
}

/// `+ host:ports what reason`, one for each change.
fn changes<'a>(old: &'a World, new: &'a World) -> Vec<String> {
    let view = |world: &'a World| View { set: &world.set, bound: &world.bound };
    let changes = diff(view(old), view(new));
    changes
        .iter()
        .map(|c| format!("{} {}:{} {} {}", c.direction.sign(), c.hosts, c.ports, c.what, c.reason))
        .collect()
}
