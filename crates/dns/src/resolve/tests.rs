mod server;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use hickory_proto::rr::{Record, RecordType};
use tokio::task::JoinSet;

use self::server::{Say, Server, Transport, address, alias};
use super::*;
use crate::{chain::CHAIN_MAX, upstream::Upstream};

/// Far more than any answer on loopback takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(servers: &[SocketAddr]) -> ResolverConfig {
    ResolverConfig {
        servers: servers.iter().map(|&address| Upstream::Address(address)).collect(),
        timeout: PATIENCE,
        attempts: 1,
        ..ResolverConfig::default()
    }
}

fn resolver(server: &Server) -> Resolver {
    Resolver::new(config(&[server.address])).unwrap()
}

async fn resolve(resolver: &Resolver, name: &str) -> Result<Answer, ResolveError> {
    resolver.resolve(&DnsName::parse(name).unwrap()).await
}

/// Shows an answer or an error in one line, without the time to live.
fn show(result: &Result<Answer, ResolveError>) -> String {
    match result {
        Ok(Answer { addrs, ttl, chain }) => {
            assert!(!ttl.is_zero() && *ttl <= Duration::from_secs(60), "{ttl:?}");
            let addrs = addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
            format!("{} chain {chain}", addrs.join(" "))
        }
        Err(error) => error.to_string(),
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The address of the asked type.
fn of(kind: RecordType) -> IpAddr {
    if kind == RecordType::A { V4 } else { V6 }
}

/// `owner` at the end of `count` aliases that begin at `c0.<zone>`.
fn chain(zone: &str, count: usize, kind: RecordType) -> Vec<Record> {
    let name = |number: usize| format!("c{number}.{zone}");
    let mut records = (0..count).map(|number| alias(&name(number), &name(number + 1))).collect::<Vec<_>>();
    records.push(address(&name(count), of(kind)));
    records
}

fn v4_addresses(owner: &str, count: u8) -> Say {
    Say::Records((1..=count).map(|last| address(owner, Ipv4Addr::new(192, 0, 2, last).into())).collect())
}

/// Answers for every case of [`answers_and_errors`].
fn world(name: &str, kind: RecordType) -> Say {
    let v4 = kind == RecordType::A;
    match name {
        "both.test" => Say::Records(vec![address(name, of(kind))]),
        "v4.test" if v4 => Say::Records(vec![address(name, V4)]),
        "v4.test" | "empty.test" => Say::End(vec![], 10),
        "bare.test" => Say::Records(vec![]),
        "half-broken.test" | "half-refused.test" if v4 => Say::Records(vec![address(name, V4)]),
        "half-broken.test" | "broken.test" => Say::Code(ResponseCode::ServFail),
        "half-refused.test" | "refused.test" => Say::Code(ResponseCode::Refused),
        "c0.long.test" => Say::Records(chain("long.test", CHAIN_MAX, kind)),
        "c0.longer.test" => Say::Records(chain("longer.test", CHAIN_MAX + 1, kind)),
        "loop.test" => Say::Records(vec![alias("loop.test", "pool.test"), alias("pool.test", "loop.test")]),
        "self.test" => Say::Records(vec![alias(name, name)]),
        "half-loop.test" if v4 => Say::Records(vec![address(name, V4)]),
        "half-loop.test" => Say::Records(vec![alias(name, name)]),
        "dead-end.test" => Say::End(vec![alias(name, "gone.test")], 10),
        "dangling.test" => Say::NoSuchName(vec![alias(name, "gone.test")], 10),
        "foreign.test" => Say::Records(vec![address("other.test", of(kind)), address(name, of(kind))]),
        "only-foreign.test" => Say::Records(vec![address("other.test", of(kind))]),
        "step.test" => Say::Records(vec![alias(name, "step2.test")]),
        "step2.test" => Say::Records(vec![alias(name, "both.test")]),
        "endless.test" => Say::Records(vec![alias(name, "x.endless.test")]),
        _ if name.ends_with(".endless.test") => Say::Records(vec![alias(name, &format!("x.{name}"))]),
        "circle.test" => Say::Records(vec![alias(name, "circle2.test")]),
        "circle2.test" => Say::Records(vec![alias(name, "circle.test")]),
        "home.test" => Say::Records(vec![alias(name, "a.LOCALHOST")]),
        "hidden.test" => Say::Records(vec![alias(name, "x.onion")]),
        "void.test" => Say::Records(vec![alias(name, "x.invalid")]),
        "many.test" if v4 => v4_addresses(name, 64),
        "more.test" if v4 => v4_addresses(name, 65),
        "many.test" | "more.test" => Say::End(vec![], 10),
        _ => Say::NoSuchName(vec![], 10),
    }
}

#[tokio::test]
async fn answers_and_errors() {
    let server = Server::start(world).await;
    let resolver = resolver(&server);
    let many = (1..=64).map(|last| format!("192.0.2.{last}")).collect::<Vec<_>>().join(" ") + " chain 0";
    for (name, want) in [
        ("both.test", "2001:db8::1 192.0.2.1 chain 0"),
        ("v4.test", "192.0.2.1 chain 0"),
        ("empty.test", "the name has no address"),
        ("bare.test", "the name has no address"),
        ("missing.test", "no such name"),
        ("half-broken.test", "192.0.2.1 chain 0"),
        ("broken.test", "the server answered Server Failure"),
        ("half-refused.test", "192.0.2.1 chain 0"),
        ("refused.test", "the server answered Query Refused"),
        ("c0.long.test", "2001:db8::1 192.0.2.1 chain 16"),
        ("c0.longer.test", "the name leads through more than 16 aliases"),
        ("loop.test", "the name's aliases form a loop"),
        ("self.test", "the name's aliases form a loop"),
        ("half-loop.test", "the name's aliases form a loop"),
        ("dead-end.test", "the name has no address"),
        ("dangling.test", "no such name"),
        ("foreign.test", "2001:db8::1 192.0.2.1 chain 0"),
        ("only-foreign.test", "the name has no address"),
        ("step.test", "2001:db8::1 192.0.2.1 chain 2"),
        ("endless.test", "the name leads through more than 16 aliases"),
        ("circle.test", "the name's aliases form a loop"),
        ("many.test", &many),
        ("more.test", "the name has 65 addresses, more than 64"),
    ] {
        for round in ["asked", "kept"] {
            assert_eq!(show(&resolve(&resolver, name).await), want, "{name}, {round}");
        }
        assert_eq!(server.count(name, RecordType::AAAA), 1, "{name}");
    }
    assert_eq!(server.count("gone.test", RecordType::A), 0, "a chain that ends with an SOA record has ended");
    assert!(server.count("x.endless.test", RecordType::A) == 1);
    let deepest = format!("{}endless.test", "x.".repeat(CHAIN_MAX + 1));
    assert!(!server.names().contains(&deepest), "nothing is asked beyond the limit");
}

#[tokio::test]
async fn a_long_answer_is_fetched_by_tcp() {
    let server = Server::start(world).await;
    let resolver = resolver(&server);
    assert_eq!(resolve(&resolver, "both.test").await.unwrap().addrs.len(), 2);
    assert!(!server.was_asked_by(Transport::Tcp));
    // 64 addresses fit in 1232 bytes thanks to compression; a long chain in front of them does not.
    let server = Server::start(|name, kind| {
        if kind != RecordType::A {
            return Say::End(vec![], 10);
        }
        let long = format!("{}.test", ["x".repeat(63), "y".repeat(63), "z".repeat(63)].join("."));
        let mut records = vec![alias(name, &long)];
        records.extend((1..=64).map(|last| address(&long, Ipv4Addr::new(192, 0, 2, last).into())));
        Say::Records(records)
    })
    .await;
    let resolver = Resolver::new(config(&[server.address])).unwrap();
    let answer = resolve(&resolver, "many.test").await.unwrap();
    assert_eq!((answer.addrs.len(), answer.chain), (64, 1));
    assert!(server.was_asked_by(Transport::Udp) && server.was_asked_by(Transport::Tcp));
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_query() {
    let server = Server::start(world).await;
    let resolver = resolver(&server);
    for name in ["both.test", "missing.test", "c0.long.test"] {
        let mut asking = JoinSet::new();
        for _ in 0..50 {
            let resolver = resolver.clone();
            asking.spawn(async move { show(&resolve(&resolver, name).await) });
        }
        let results = asking.join_all().await.into_iter().collect::<HashSet<_>>();
        assert_eq!(results.len(), 1, "{results:?}");
        assert_eq!(server.count(name, RecordType::A), 1, "{name}");
        assert_eq!(server.count(name, RecordType::AAAA), 1, "{name}");
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_again_when_its_time_is_over() {
    let server = Server::start(|name, kind| {
        let mut record = address(name, of(kind));
        record.ttl = 0;
        match name {
            "brief.test" => Say::Records(vec![record]),
            _ => Say::NoSuchName(vec![], 0),
        }
    })
    .await;
    let resolver = resolver(&server);
    for name in ["brief.test", "missing.test"] {
        let again = async {
            while server.count(name, RecordType::A) < 2 {
                let remaining = resolve(&resolver, name).await.map(|answer| answer.ttl);
                assert!(remaining.is_err() || remaining.unwrap() <= Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, again).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_is_asked_for_as_it_is_and_nothing_else() {
    let server = Server::start(|_, _| Say::NoSuchName(vec![], 10)).await;
    let resolver = resolver(&server);
    for name in ["intranet", "www.example.com", "db.corp.example"] {
        assert!(matches!(resolve(&resolver, name).await, Err(ResolveError::NoSuchName)));
    }
    let want = ["intranet", "www.example.com", "db.corp.example"].map(str::to_owned);
    assert_eq!(server.names(), HashSet::from(want));
}

#[tokio::test]
async fn reserved_names_are_not_asked_for() {
    let server = Server::start(world).await;
    let resolver = resolver(&server);
    for name in ["localhost", "app.localhost"] {
        let answer = resolve(&resolver, name).await.unwrap();
        assert!(answer.addrs.iter().all(IpAddr::is_loopback), "{name}");
        assert_eq!(answer.addrs.len(), 2, "{name}");
    }
    for name in ["x.invalid", "x.onion"] {
        assert!(matches!(resolve(&resolver, name).await, Err(ResolveError::NoSuchName)), "{name}");
    }
    assert_eq!(server.names(), HashSet::new());
    // Nor what an alias leads to.
    let aliases = ["home.test", "hidden.test", "void.test"];
    for name in aliases {
        assert!(matches!(resolve(&resolver, name).await, Err(ResolveError::NoSuchName)), "{name}");
        let name = DnsName::parse(name).unwrap();
        let records = resolver.records(&name, RecordType::TXT).await;
        assert!(matches!(records, Err(ResolveError::NoSuchName)), "{name}");
    }
    assert_eq!(server.names(), aliases.map(str::to_owned).into());
    let server = Server::start(world).await;
    let resolver = self::resolver(&server);
    assert!(resolve(&resolver, "notlocalhost").await.is_err(), "a name that ends alike is asked for");
    assert_eq!(server.names(), HashSet::from(["notlocalhost".to_owned()]));
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let server = Server::start(|name, kind| match name {
        "half.test" if kind == RecordType::A => Say::Records(vec![address(name, V4)]),
        _ => Say::Silence,
    })
    .await;
    let brief = Duration::from_millis(500);
    let config = ResolverConfig { timeout: brief, attempts: 2, ..config(&[server.address]) };
    let resolver = Resolver::new(config).unwrap();
    let result = timeout(PATIENCE, resolve(&resolver, "silent.test")).await.unwrap();
    assert!(matches!(result, Err(ResolveError::Timeout)), "{result:?}");
    let result = timeout(PATIENCE, resolve(&resolver, "half.test")).await.unwrap();
    assert_eq!(show(&result), "192.0.2.1 chain 0");
}

#[tokio::test]
async fn too_many_queries_wait_for_one_another() {
    let server = Server::start(world).await;
    let config = ResolverConfig { timeout: Duration::from_millis(500), ..config(&[server.address]) };
    let resolver = Resolver::new(config).unwrap();
    let all = u32::try_from(QUERIES_MAX).unwrap();
    let places = resolver.0.queries.acquire_many(all).await.unwrap();
    let result = resolve(&resolver, "both.test").await;
    assert!(matches!(result, Err(ResolveError::Timeout)), "{result:?}");
    assert_eq!(server.count("both.test", RecordType::A), 0);
    drop(places);
    assert_eq!(show(&resolve(&resolver, "v4.test").await), "192.0.2.1 chain 0");
    assert_eq!(resolver.0.queries.available_permits(), QUERIES_MAX);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    for fault in [Say::Code(ResponseCode::ServFail), Say::Code(ResponseCode::Refused), Say::Silence] {
        let failing = Arc::new(AtomicBool::new(true));
        let (fails, says) = (Arc::clone(&failing), fault.clone());
        let bad = Server::start(
            move |name, kind| {
                if fails.load(Ordering::SeqCst) { says.clone() } else { world(name, kind) }
            },
        )
        .await;
        let good = Server::start(world).await;
        let is_silent = matches!(fault, Say::Silence);
        let patience = if is_silent { Duration::from_millis(500) } else { PATIENCE };
        let config = ResolverConfig { timeout: patience, ..config(&[bad.address, good.address]) };
        let resolver = Resolver::new(config).unwrap();
        let want = "2001:db8::1 192.0.2.1 chain 0";
        assert_eq!(show(&resolve(&resolver, "both.test").await), want, "{fault:?}");
        // From now on the good one is asked first, and a definite answer ends the search.
        assert_eq!(show(&resolve(&resolver, "missing.test").await), "no such name", "{fault:?}");
        assert_eq!(bad.count("missing.test", RecordType::A), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = ResolverConfig { timeout: Duration::from_millis(300), ..config(&[free]) };
    let resolver = Resolver::new(config).unwrap();
    let result = resolve(&resolver, "both.test").await;
    assert!(matches!(result, Err(ResolveError::Failed(_) | ResolveError::Timeout)), "{result:?}");
}

#[test]
fn a_resolver_needs_a_server() {
    assert!(matches!(Resolver::new(config(&[])), Err(ResolverConfigError::NoServer)));
}

#[test]
fn the_hosts_file_answers_for_its_names_alone() {
    let mut hosts = Hosts::default();
    hosts
        .read_hosts_conf("192.0.2.7 four.test\n192.0.2.8 two.test\n2001:db8::8 two.test\n".as_bytes())
        .unwrap();
    let servers = Servers::new(&config(&["127.0.0.1:53".parse().unwrap()])).unwrap();
    let inner = Inner {
        servers,
        hosts,
        queries: Semaphore::new(0),
        cache: cache(1),
        records: records::cache(1),
        misses: AtomicU64::new(0),
    };
    let shown = |name: &str, family| match inner.in_hosts_file(&server::name(name), family) {
        Some(Half::Addresses { addrs, .. }) => format!("{addrs:?}"),
        Some(Half::NoAddress { .. }) => "none".to_owned(),
        Some(Half::NoSuchName { .. }) | None => "ask".to_owned(),
    };
    for (name, family, want) in [
        ("four.test", Family::V4, "[192.0.2.7]"),
        ("four.test", Family::V6, "none"),
        ("two.test", Family::V4, "[192.0.2.8]"),
        ("two.test", Family::V6, "[2001:db8::8]"),
        ("other.test", Family::V4, "ask"),
        ("x.four.test", Family::V4, "ask"),
    ] {
        assert_eq!(shown(name, family), want, "{name} {family:?}");
    }
}
