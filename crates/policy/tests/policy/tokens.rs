//! Permission of tokens: what the token lists, within its issuer's ceiling and every limit.

use std::net::IpAddr;

use exeat_model::Authority;
use exeat_policy::{
    Class, Defaults, Expect, HostList, Label, Labels, Mode, Reason, Resolve, TokenTerms, Verdict, decide,
    explain, permit, permit_via,
};
use proptest::prelude::*;

use crate::reference::{ADDRESSES, NAMES};
use crate::support::*;

/// A token of an issuer whose ceiling is the policy `ceiling`.
#[derive(Clone, Copy, Default)]
struct Token<'a> {
    hosts: Option<&'a str>,
    policy: Option<&'a str>,
    /// The policies that the issuer binds.
    policies: &'a [&'a str],
    class: Option<Class>,
    via_next_hop: bool,
}

/// The same snapshot as a token of it sees it.
fn with_token(mut world: World, token: Token<'_>) -> World {
    let hosts = token.hosts.map(|hosts| HostList::parse(hosts.split(',')).unwrap());
    let policies: Vec<String> = token.policies.iter().map(|name| (*name).to_owned()).collect();
    let terms = TokenTerms {
        ceiling: "ceiling",
        policies: &policies,
        policy: token.policy,
        hosts: hosts.as_ref(),
        class: token.class,
        via_next_hop: token.via_next_hop,
    };
    let labels: Labels = [(Label::Organization, "gsa")].into_iter().collect();
    world.bound = world.set.bind_token(&terms, &labels).expect("the policies exist");
    world
}

fn hosts(hosts: &str) -> Token<'_> {
    Token { hosts: Some(hosts), ..Token::default() }
}

fn marked(text: &str) -> exeat_policy::Entry {
    let mut marked = entry(text);
    marked.settings.class = Some(Class::Hipaa);
    marked
}

fn within(text: &str, network: &str) -> exeat_policy::Entry {
    let mut entry = entry(text);
    entry.settings.addresses = Some(vec![exeat_model::IpBlock::parse(network).unwrap()]);
    entry
}

const PUBLIC: &[&str] = &["93.184.216.34"];

#[test]
fn a_token_narrows_its_ceiling_and_inherits_its_rules() {
    let ceiling = || {
        let mut rules = rules("ceiling", &["*.example.com", "example.org:8443"], &["bad.example.com"]);
        rules.allow.push(within("db.corp.example:5432", "10.20.0.0/16"));
        rules.allow.push(within("db", "10.20.0.0/16"));
        rules
    };
    let any_public = rules("ceiling", &["@any-public"], &[]);
    let all = "a.example.com,*.b.example.com,example.org,example.org:8443,db.corp.example:5432,db,bad.example.com,other.test";
    for (name, rules, token, target, addrs, want) in [
        ("both list it", ceiling(), all, "a.example.com:443", PUBLIC, "allow *.example.com"),
        ("an item below the ceiling's", ceiling(), all, "x.b.example.com:80", PUBLIC, "allow *.example.com"),
        ("the token does not", ceiling(), all, "c.example.com:443", PUBLIC, "host_not_allowed"),
        ("the ceiling does not", ceiling(), all, "other.test:443", PUBLIC, "host_not_allowed"),
        ("neither does", ceiling(), all, "neither.test:443", PUBLIC, "host_not_allowed"),
        ("both list the port", ceiling(), all, "example.org:8443", PUBLIC, "allow example.org:8443"),
        ("the token alone does", ceiling(), all, "example.org:443", PUBLIC, "port_not_allowed"),
        ("the ceiling alone does", ceiling(), "example.org", "example.org:8443", PUBLIC, "port_not_allowed"),
        ("the ceiling denies it", ceiling(), all, "bad.example.com:443", PUBLIC, "host_denied"),
        (
            "the ceiling's addresses",
            ceiling(),
            all,
            "db.corp.example:5432",
            &["10.20.0.1"],
            "allow { host = \"db.corp.example\", ports = [5432], addresses = [\"10.20.0.0/16\"] }",
        ),
        ("and no others", ceiling(), all, "db.corp.example:5432", &["10.21.0.1"], "address_not_allowed"),
        (
            "one label",
            ceiling(),
            all,
            "db:443",
            &["10.20.0.1"],
            "allow { host = \"db\", addresses = [\"10.20.0.0/16\"] }",
        ),
        (
            "no item opens special-use space",
            ceiling(),
            all,
            "a.example.com:443",
            &["10.20.0.1"],
            "address_not_allowed",
        ),
        (
            "below everything",
            any_public.clone(),
            "example.com",
            "example.com:443",
            PUBLIC,
            "allow @any-public",
        ),
        (
            "only what is listed",
            any_public.clone(),
            "example.com",
            "example.org:443",
            PUBLIC,
            "host_not_allowed",
        ),
        (
            "a literal is no name",
            any_public.clone(),
            "example.com",
            "93.184.216.34:443",
            PUBLIC,
            "ip_literal_not_allowed",
        ),
        ("an empty list", any_public, "", "example.com:443", PUBLIC, "host_not_allowed"),
    ] {
        let world = with_token(world(&[], &[rules], &[]), hosts(token));
        assert_eq!(world.answer(target, addrs), want, "{name}");
    }
}

#[test]
fn every_limit_counts() {
    let snapshot = || {
        let policies = [
            rules("ceiling", &["*.example.com"], &[]),
            rules("team", &["a.example.com", "b.example.com"], &["denied.example.com"]),
            rules("other", &["c.example.com"], &[]),
        ];
        world(&[], &policies, &[rules("gsa", &["*.example.com"], &["never.example.com"])])
    };
    let team = Token { policy: Some("team"), ..Token::default() };
    let listed = Token { hosts: Some("a.example.com"), ..team };
    let bound = Token { policies: &["team", "other"], ..Token::default() };
    let both = Token { policy: Some("team"), ..bound };
    let everything = Token::default();
    for (name, token, target, want) in [
        ("the named policy allows", team, "b.example.com:443", "allow *.example.com"),
        ("it does not", team, "c.example.com:443", "host_not_allowed"),
        ("it denies", team, "denied.example.com:443", "host_denied"),
        ("the list allows too", listed, "a.example.com:443", "allow *.example.com"),
        ("the list does not", listed, "b.example.com:443", "host_not_allowed"),
        ("one of the bound policies allows", bound, "c.example.com:443", "allow *.example.com"),
        ("none does", bound, "d.example.com:443", "host_not_allowed"),
        ("both limits", both, "a.example.com:443", "allow *.example.com"),
        ("only one of them", both, "c.example.com:443", "host_not_allowed"),
        ("the label's ceiling denies", everything, "never.example.com:443", "host_denied"),
        ("no limit but the ceiling", everything, "d.example.com:443", "allow *.example.com"),
    ] {
        assert_eq!(with_token(snapshot(), token).answer(target, PUBLIC), want, "{name}");
    }
    let unknown = TokenTerms {
        ceiling: "ceiling",
        policies: &[],
        policy: Some("nosuch"),
        hosts: None,
        class: None,
        via_next_hop: false,
    };
    let world = snapshot();
    assert!(world.set.bind_token(&unknown, &Labels::default()).is_none(), "a policy that does not exist");
    let unknown = TokenTerms { ceiling: "nosuch", policy: None, ..unknown };
    assert!(world.set.bind_token(&unknown, &Labels::default()).is_none(), "a ceiling that does not exist");
}

#[test]
fn report_mode_never_lets_a_token_beyond_its_list() {
    let report = Rules { mode: Mode::Report, ..rules("ceiling", &["a.example.com"], &[]) };
    let world = |token| with_token(world(&[], std::slice::from_ref(&report), &[]), token);
    let listed = hosts("a.example.com,b.example.com");
    assert_eq!(world(listed).answer("b.example.com:443", PUBLIC), "allow mode = \"report\"");
    assert_eq!(world(listed).answer("c.example.com:443", PUBLIC), "host_not_allowed");
    let regulated = Token { class: Some(Class::Hipaa), ..listed };
    assert_eq!(world(regulated).answer("b.example.com:443", PUBLIC), "host_not_allowed");
}

#[test]
fn a_class_of_data_has_its_rules_and_tls() {
    let mut ceiling = rules("ceiling", &["plain.example.com"], &[]);
    ceiling.allow.push(marked("marked.example.com"));
    ceiling.allow.push(marked("any.example.com:5000"));
    let by_default = Rules {
        defaults: Defaults { class: Some(Class::Hipaa), ..Defaults::default() },
        ..rules("ceiling", &["plain.example.com"], &[])
    };
    let regulated = Token { class: Some(Class::Hipaa), ..Token::default() };
    let marked_rule = "allow { host = \"marked.example.com\", class = \"hipaa\" }";
    for (name, rules, token, target, want) in [
        ("marked", &ceiling, regulated, "marked.example.com:443", marked_rule),
        ("not marked", &ceiling, regulated, "plain.example.com:443", "class_mismatch"),
        ("marked by the policy", &by_default, regulated, "plain.example.com:443", "allow plain.example.com"),
        ("of no class", &ceiling, Token::default(), "plain.example.com:443", "allow plain.example.com"),
        ("of no class, marked", &ceiling, Token::default(), "marked.example.com:443", marked_rule),
        ("not listed at all", &ceiling, regulated, "other.example.com:443", "host_not_allowed"),
        ("no TLS on 80", &ceiling, regulated, "marked.example.com:80", "tls_required"),
    ] {
        let world = with_token(world(&[], std::slice::from_ref(rules), &[]), token);
        assert_eq!(world.answer(target, PUBLIC), want, "{name}");
    }
    let opening = |token| {
        let world = with_token(world(&[], std::slice::from_ref(&ceiling), &[]), token);
        world.run(&target("any.example.com:5000"), &ips(PUBLIC)).unwrap().opening().expect()
    };
    assert_eq!(opening(Token::default()), Expect::Any);
    assert_eq!(opening(regulated), Expect::Tls);
}

#[test]
fn a_token_that_must_leave_through_a_next_hop_leaves_no_other_way() {
    let straight = || rules("ceiling", &["example.com"], &[]);
    let through = |name, hop| Rules { name, next_hop: Some((hop, Resolve::NextHop)), ..straight() };
    let plain = Token::default();
    let must = Token { via_next_hop: true, ..plain };
    let team = Token { policies: &["team"], ..plain };
    let named = Token { policy: Some("team"), ..plain };
    let none = "egress_gateway_unavailable";
    for (name, policies, token, want) in [
        ("straight", vec![straight()], plain, "straight"),
        ("straight, and must not", vec![straight()], must, none),
        ("through the ceiling's hop", vec![through("ceiling", "hop")], must, "via hop"),
        ("as ever", vec![through("ceiling", "hop")], plain, "via hop"),
        ("a limit adds its hop", vec![straight(), through("team", "hop")], team, "via hop"),
        ("a policy that the token names does not", vec![straight(), through("team", "hop")], named, none),
        (
            "nor where one is asked for",
            vec![straight(), through("team", "hop")],
            Token { via_next_hop: true, ..named },
            none,
        ),
        ("the ceiling's own", vec![through("ceiling", "hop"), through("team", "hop")], named, "via hop"),
        (
            "none of its own",
            vec![through("ceiling", "hop"), Rules { name: "team", ..straight() }],
            named,
            "via hop",
        ),
        ("the same", vec![through("ceiling", "hop"), through("team", "hop")], team, "via hop"),
        ("another one", vec![through("ceiling", "hop"), through("team", "named")], team, none),
    ] {
        let world = with_token(world(&[], &policies, &[]), token);
        let target = target("example.com:443");
        let got = match decide(&world.set, &world.request(&target)) {
            Verdict::Deny(denial) => denial.reason.token().to_owned(),
            Verdict::Allow(allowed) if allowed.way().is_none() => {
                permit(&world.set, &world.request(&target), &allowed, &ips(PUBLIC)).unwrap();
                "straight".to_owned()
            }
            Verdict::Allow(allowed) => {
                assert!(permit(&world.set, &world.request(&target), &allowed, &ips(PUBLIC)).is_err());
                let permit = permit_via(&world.set, &world.request(&target), &allowed, &[]).unwrap();
                format!("via {}", permit.hop().name)
            }
        };
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn an_explanation_says_which_side_refuses() {
    let policies = [rules("ceiling", &["*.example.com"], &[]), rules("team", &["a.example.com"], &[])];
    let snapshot = || world(&[], &policies, &[]);
    let token = Token { hosts: Some("a.example.com,other.test"), policy: Some("team"), ..Token::default() };
    let world = with_token(snapshot(), token);
    let says = |text: &str| explain(&world.set, &world.request(&target(text)), None, None).to_string();
    assert_eq!(
        says("b.example.com:443"),
        "deny   b.example.com:443  host_not_allowed
  policies         ceiling, team
  deny             pass: no deny rule matches
  issuer's ceiling pass: 1 rule matches  [*.example.com at test.toml:1:1, ceiling]
  token            host_not_allowed: the token does not list b.example.com
  limit team       host_not_allowed: no rule matches b.example.com
  to allow it, add \"b.example.com:443\" to team and the token's allowed_hosts
"
    );
    assert_eq!(
        says("other.test:443"),
        "deny   other.test:443  host_not_allowed
  policies         ceiling, team
  deny             pass: no deny rule matches
  issuer's ceiling host_not_allowed: no rule matches other.test
  token            pass: the token lists other.test
  limit team       host_not_allowed: no rule matches other.test
  to allow it, add \"other.test:443\" to ceiling and team
"
    );
    assert!(says("a.example.com:443").starts_with("allow  a.example.com:443\n"));
    assert!(says("a.example.com:8443").contains("the token lists the host, but not port 8443"));
}

/// What a token permits, if anything.
fn permitted(world: &World, target: &Authority, addrs: &[IpAddr]) -> Result<Vec<String>, Reason> {
    world.run(target, addrs).map(|permit| permit.addrs().iter().map(ToString::to_string).collect())
}

fn some_items() -> impl Strategy<Value = Vec<String>> {
    let item = (
        prop::sample::select(&NAMES[..]),
        any::<bool>(),
        prop::option::of(prop::sample::select(&[80, 443, 8443][..])),
    )
        .prop_map(|(name, below, port)| {
            let star = if below { "*." } else { "" };
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            format!("{star}{name}{port}")
        });
    prop::collection::vec(item, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_token_never_allows_what_its_ceiling_does_not(
        ceiling in some_items(),
        denied in some_items(),
        token in some_items(),
        kept in prop::collection::vec(any::<bool>(), 6),
        name in prop::sample::select(&NAMES[..]),
        port in prop::sample::select(&[80_u16, 443, 8443][..]),
        address in prop::sample::select(&ADDRESSES[..]),
    ) {
        let texts = |items: &[String]| items.iter().map(|item| entry(item)).collect::<Vec<_>>();
        let rules = || Rules { name: "ceiling", allow: texts(&ceiling), deny: texts(&denied), ..Rules::default() };
        let target = target(&format!("{name}:{port}"));
        let addrs = ips(&[address]);
        let without = world(&[], &[rules()], &[]);
        let of = |items: &[String]| {
            with_token(world(&[], &[rules()], &[]), hosts(&items.join(",")))
        };
        let fewer: Vec<String> =
            token.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(item, _)| item.clone()).collect();
        let all = permitted(&of(&token), &target, &addrs);
        let less = permitted(&of(&fewer), &target, &addrs);
        if let Ok(addrs_of_token) = &all {
            let ceiling = permitted(&without, &target, &addrs);
            prop_assert_eq!(Ok(addrs_of_token), ceiling.as_ref());
        }
        if let Ok(addrs_of_fewer) = &less {
            prop_assert_eq!(Ok(addrs_of_fewer), all.as_ref());
        }
    }
}
