//! What holds for where a redirected connection is taken to go, whatever the kernel says of it, and whoever was told what.
//!
//! The input is a list of what happens: names are told, time passes, and somebody connects. Addresses begin as the socket
//! addresses of the standard library and of `socket2`, with every field from the input and in another family too; bytes of
//! another length than the family's are not among them, since only `unsafe` code can make a `SockAddr` of these.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use exeat_dns::{Answers, Asker, HOLD, Ranges, VirtualNames};
use exeat_model::{AddressClass, Authority, CanonicalIp, DnsName, Host, Transport};
use exeat_policy::{
    Bound, Builder, Defaults, EgressRequest, Entry, Floor, Labels, List, ListBuilder, Mode, Place, PolicySet,
    PolicySpec, Revision, Verdict, decide, permit,
};
use exeat_proxy::destination::{Unknown, literal, original, wanted};
use socket2::SockAddr;

/// More than a client has virtual addresses here.
const NAMES: u8 = 20;

/// How long an answer counts after its last use.
const ANSWERS_HOLD: Duration = Duration::from_secs(1800);

const DENIED: [&str; 2] = ["93.184.216.40", "2606:2800:220::40"];

static POLICY: LazyLock<(PolicySet, Bound)> = LazyLock::new(|| {
    let mut builder = Builder::new();
    // The last one is of the virtual addresses, which no rule can open.
    let allow = ["@any-public", "10.0.0.0/8", "[fd00::/8]", "198.18.0.0/28"];
    let [v4, v6] = DENIED;
    builder.policy(PolicySpec {
        name: "app".to_owned(),
        place: Place { file: "t.toml".into(), line: 1, column: 1 },
        allow: list(&allow.map(|entry| format!("{entry}:1-65535"))),
        deny: list(&[v4.to_owned(), format!("[{v6}]")]),
        defaults: Defaults::default(),
        mode: Mode::Enforce,
        bind: None,
        metadata: Vec::new(),
        next_hop: None,
    });
    let listeners = ["93.184.216.1:3141", "[::]:3142"].map(|at| at.parse().unwrap());
    builder.floor(Floor { listeners: listeners.into() });
    let policy = builder.finish(Revision(1)).unwrap();
    let bound = policy.bind(&["app"], &Labels::default());
    (policy, bound)
});

fn list(entries: &[String]) -> List {
    let mut list = ListBuilder::new("t.toml", Defaults::default());
    for (line, entry) in (1..).zip(entries) {
        list.push(Entry::parse(entry).unwrap(), line, 1);
    }
    list.finish()
}

/// What came of an input.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    /// Connections by the name that the address stands for.
    pub(crate) named: usize,
    /// Connections to virtual addresses that stand for nothing.
    pub(crate) unknown: usize,
    /// Connections to an address itself that the policy permits, and those that it does not.
    pub(crate) permitted: usize,
    pub(crate) refused: usize,
    /// Names for which there was no virtual address.
    pub(crate) exhausted: usize,
    /// Connections to an address that a name's answer told.
    pub(crate) answered: usize,
}

/// Lets it happen.
pub(crate) fn check(bytes: &[u8]) -> Seen {
    let mut world = World::new();
    let mut input = Input(bytes);
    while world.step(&mut input).is_some() {}
    world.seen
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn v4(&mut self) -> Option<SocketAddr> {
        let (ip, port): ([u8; 4], _) = (self.array()?, self.number()?);
        Some(SocketAddrV4::new(ip.into(), port).into())
    }

    fn v6(&mut self) -> Option<SocketAddr> {
        let (ip, port): ([u8; 16], _) = (self.array()?, self.number()?);
        let [flow, scope] = [self.array()?, self.array()?].map(u32::from_be_bytes);
        Some(SocketAddrV6::new(ip.into(), port, flow, scope).into())
    }
}

/// Who asks and connects: a principal, with an address of each family.
struct Client {
    name: Arc<str>,
    addresses: [IpAddr; 2],
}

struct World {
    clients: [Client; 2],
    now: Instant,
    virtual_names: VirtualNames,
    answers: Answers,
    /// The virtual addresses that each was told, with the name and when it was last told or used.
    virtually: HashMap<(usize, IpAddr), (DnsName, Instant)>,
    /// Until when the answers count that each was told: by its address, or in the other family by its name.
    really: HashMap<(usize, Option<IpAddr>, IpAddr), HashMap<DnsName, Instant>>,
    /// All that was told, in the order.
    told: Vec<IpAddr>,
    seen: Seen,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let client = |name: &str, last: u16| Client {
            name: name.into(),
            addresses: [
                Ipv4Addr::new(10, 0, 0, last.to_be_bytes()[1]).into(),
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into(),
            ],
        };
        let ranges = Ranges::new("198.18.0.0/28".parse().unwrap(), "fd65:7865:6174::/124".parse().unwrap());
        Self {
            clients: [client("app", 2), client("other", 3)],
            now,
            virtual_names: VirtualNames::new(ranges.unwrap(), now),
            answers: Answers::new(ANSWERS_HOLD),
            virtually: HashMap::new(),
            really: HashMap::new(),
            told: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Does what the next bytes say.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 5 {
            0 => self.assign(input.byte()?),
            1 => self.now += Duration::from_secs(60) * u32::from(input.number()?),
            2 => {
                let flags = input.byte()?;
                let arrived = if flags & 8 == 0 { input.v4()? } else { input.v6()? };
                let translated = match (flags >> 1) & 3 {
                    0 => None,
                    1 => Some(input.v4()?.into()),
                    2 => Some(input.v6()?.into()),
                    _ => Some(SockAddr::unix("/run/s").unwrap()),
                };
                self.connect(flags, arrived, translated.as_ref());
            }
            3 => self.connect_to_told(input)?,
            _ => self.answer(input)?,
        }
        Some(())
    }

    /// Gives a name a virtual address.
    fn assign(&mut self, what: u8) {
        let (who, name) = (usize::from(what & 1), name(what >> 1));
        let used_of = |ip: &IpAddr| self.virtually.get(&(who, *ip)).map(|(_, used)| *used);
        let is_unused = |used: Instant| self.now - used >= HOLD;
        let Ok(given) = self.virtual_names.assign(&self.clients[who].name, &name, self.now) else {
            // Both families of each.
            let taken = self.virtually.iter().filter(|((whose, _), _)| *whose == who);
            let used: Vec<Instant> = taken.map(|(_, (_, used))| *used).collect();
            assert_eq!(used.len(), 2 * self.virtual_names.ranges().names_per_client());
            assert!(!used.into_iter().any(is_unused), "there is one that is not used any more");
            self.seen.exhausted += 1;
            return;
        };
        let given: [IpAddr; 2] = [given.v4.into(), given.v6.into()];
        for ((whose, ip), (old, _)) in &self.virtually {
            if *whose != who {
                continue;
            }
            if given.contains(ip) && *old != name {
                assert!(used_of(ip).is_some_and(is_unused), "{ip} still stands for {old}");
            }
            assert!(*old != name || given.contains(ip), "{name} has kept {ip}");
        }
        for ip in given {
            assert!(self.virtual_names.ranges().contains(ip), "{ip}");
            self.virtually.insert((who, ip), (name.clone(), self.now));
            self.told.push(ip);
        }
    }

    /// Tells the addresses of a name.
    fn answer(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (what, how) = (input.byte()?, input.byte()?);
        let (who, name) = (usize::from(what & 1), name(what >> 1));
        let from = self.clients[who].addresses[usize::from(how >> 7)];
        let mut addresses = Vec::new();
        for number in 0..how & 3 {
            let address = if how & (4 << number) == 0 { input.v4()? } else { input.v6()? };
            addresses.push(address.ip().to_canonical());
        }
        let asker = Asker { address: from, principal: &self.clients[who].name };
        self.answers.note(asker, &name, &addresses, Duration::from_secs(60), self.now).unwrap();
        for ip in addresses {
            let by = (from.is_ipv4() == ip.is_ipv4()).then_some(from);
            self.really.entry((who, by, ip)).or_default().insert(name.clone(), self.now + ANSWERS_HOLD);
            self.told.push(ip);
        }
        Some(())
    }

    /// Connects to an address that somebody was told, in one of its spellings.
    fn connect_to_told(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (flags, which, port) = (input.byte()?, input.byte()?, input.number()?);
        let ip = *self.told.get(usize::from(which) % self.told.len().max(1))?;
        let spelled = match ip {
            IpAddr::V4(ip) if flags & 8 != 0 => {
                SocketAddrV6::new(ip.to_ipv6_mapped(), port, 0, u32::from(flags)).into()
            }
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, u32::from(flags), 0).into(),
            IpAddr::V4(_) => SocketAddr::new(ip, port),
        };
        let here = SocketAddr::from(([10, 0, 0, 1], 3141));
        match flags & 2 {
            0 => self.connect(flags, spelled, None),
            _ => self.connect(flags, here, Some(&spelled.into())),
        }
        Some(())
    }

    fn connect(&mut self, flags: u8, arrived: SocketAddr, translated: Option<&SockAddr>) {
        let who = usize::from(flags & 1);
        let meant = original(arrived, translated);
        let said = translated.and_then(SockAddr::as_socket).unwrap_or(arrived);
        assert_eq!(
            meant,
            SocketAddr::new(said.ip().to_canonical(), said.port()),
            "one spelling, and no scope"
        );
        for spelled in spellings(meant) {
            assert_eq!(original(spelled, None), meant);
            assert_eq!(original(arrived, Some(&spelled.into())), meant);
        }
        let Some(literal) = literal(meant) else {
            assert_eq!(meant.port(), 0);
            return;
        };
        assert_eq!((&literal.host, literal.port.get()), (&Host::Address(meant.ip().into()), meant.port()));
        self.check_answers(who, meant.ip());
        let is_virtual = self.virtual_names.ranges().contains(meant.ip());
        let told = self.virtually.get(&(who, meant.ip()));
        match wanted(literal.clone(), &self.virtual_names, &self.clients[who].name, self.now) {
            Ok(Authority { host: Host::Name(name), port }) => {
                let (told, _) = told.expect("a name that this client was told");
                assert_eq!((&name, port), (told, literal.port));
                // With one of its addresses the name keeps both.
                let all = self
                    .virtually
                    .iter_mut()
                    .filter(|((whose, _), (told, _))| *whose == who && *told == name);
                all.for_each(|(_, (_, used))| *used = self.now);
                self.seen.named += 1;
            }
            Ok(itself) => {
                assert!(!is_virtual && itself == literal, "{itself}");
                self.decide(&itself, meant);
            }
            Err(Unknown) => {
                assert!(is_virtual && told.is_none(), "{meant} stands for {told:?}");
                self.seen.unknown += 1;
            }
        }
    }

    /// All names that this client was told the address for count, and no others, whichever address it connects from.
    fn check_answers(&mut self, who: usize, ip: IpAddr) {
        let Client { name, addresses } = &self.clients[who];
        let names =
            addresses.map(|address| self.answers.names(Asker { address, principal: name }, ip, self.now));
        for (from, names) in addresses.iter().zip(names) {
            let mut want = HashSet::new();
            for by in [Some(*from), None] {
                let told = self.really.get_mut(&(who, by, ip)).into_iter().flatten();
                for (name, until) in told.filter(|(_, until)| **until > self.now) {
                    *until = self.now + ANSWERS_HOLD;
                    want.insert(name.clone());
                }
            }
            self.seen.answered += usize::from(!want.is_empty());
            let found: HashSet<DnsName> = names.iter().cloned().collect();
            assert_eq!((found.len(), &found), (names.len(), &want), "{ip} from {from}");
        }
    }

    /// The address that was decided on is the one that may be dialled, and none that no rule opens.
    fn decide(&mut self, target: &Authority, meant: SocketAddr) {
        let (policy, bound) = &*POLICY;
        let request = EgressRequest { bound, target, transport: Transport::Tcp };
        let permit = match decide(policy, &request) {
            Verdict::Allow(allowed) => permit(policy, &request, &allowed, &[meant.ip()]).ok(),
            Verdict::Deny(_) => None,
        };
        let Some(permit) = permit else {
            self.seen.refused += 1;
            return;
        };
        self.seen.permitted += 1;
        assert_eq!(permit.addrs(), [meant]);
        let ip = CanonicalIp::new(meant.ip());
        let is_private = match ip.get() {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
        };
        assert!(ip.class() == AddressClass::Global || is_private, "{meant} is {}", ip.class().name());
        assert!(!policy.floor().contains(ip, target.port), "{meant} is ours");
        assert!(permit.must_be_elsewhere() || meant.port() != 3142, "{meant} may be ours");
        for spoken in [ip].into_iter().chain(ip.carried()) {
            assert!(!DENIED.contains(&spoken.to_string().as_str()), "{meant} is denied");
            assert!(!matches!(spoken.class(), AddressClass::Never(_)), "{meant}");
        }
    }
}

fn name(number: u8) -> DnsName {
    DnsName::parse(&format!("n{}.example.com", number % NAMES)).unwrap()
}

/// The same address as the kernel may write it on another kind of socket.
fn spellings(address: SocketAddr) -> [SocketAddr; 2] {
    let v6 = |ip, scope| SocketAddrV6::new(ip, address.port(), 0, scope).into();
    match address.ip() {
        IpAddr::V4(ip) => [0, 7].map(|scope| v6(ip.to_ipv6_mapped(), scope)),
        IpAddr::V6(ip) => [0, 7].map(|scope| v6(ip, scope)),
    }
}
