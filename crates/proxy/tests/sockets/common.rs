//! A proxy on loopback, with origins that count what they accept and a DNS server that counts what it is asked.

use std::{
    fs::File,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use exeat_audit::{AuditLog, AuditWriter, Sink};
use exeat_dns::{Resolver, ResolverConfig, Upstream};
use exeat_identity::{
    Authenticator, Certificates, Clients, Issuers, PasswordHash, Principal, Proof, Workloads, hash_generated,
};
use exeat_model::{Authority, IpBlock, PortSet};
use exeat_policy::{
    Announce, Builder, Defaults, Entry, Expect, Floor, HopSpec, Labels, ListBuilder, Mode, NextHop, Place,
    PolicySet, PolicySpec, Resolve, Revision,
};
use exeat_proxy::{Door, Hop, HopCredentials, HopProtocol, HopTls, Limits, Parts, Proxy, Snapshot};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// `app:secret`
pub(crate) const AUTH: &str = "Proxy-Authorization: Basic YXBwOnNlY3JldA==\r\n";
/// Answered with NXDOMAIN by the tests' DNS server; every other name is 127.0.0.1.
pub(crate) const MISSING: &str = "missing.example.com";
/// A name below an allowed one that the tests' DNS server does not answer for.
pub(crate) const SILENT: &str = "silent.example.org";

/// A running proxy whose one client may reach `example.com`, `*.example.org`, [`MISSING`], all on any port at loopback
/// addresses, and `127.0.0.2`.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    pub(crate) dns_queries: Arc<AtomicUsize>,
    audit: AuditLog,
    /// What was written; without a name in any directory, so that nothing is left behind, however the process ends.
    audit_file: Option<File>,
    writer: Option<AuditWriter>,
}

/// How a world differs from the usual.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) http2: bool,
    pub(crate) expect: Expect,
    pub(crate) anonymous: bool,
    pub(crate) disclose: bool,
    pub(crate) mode: Mode,
    /// The revision of the snapshot.
    pub(crate) revision: u64,
    /// The way out of the policy.
    pub(crate) next_hop: Option<NextHopSetup>,
    /// Addresses that no rule opens.
    pub(crate) floor: Vec<SocketAddr>,
    /// Where required audit records go; not required, and to a file that can be read, if it is `None`.
    pub(crate) required_audit: Option<PathBuf>,
    pub(crate) pac: bool,
    pub(crate) proxy_protocol_from: Vec<IpBlock>,
    /// What upstreams are told of the client.
    pub(crate) announce: Option<Announce>,
}

/// A next hop, named `corp`. With one, rules say nothing about addresses unless names are resolved here.
pub(crate) struct NextHopSetup {
    pub(crate) endpoint: String,
    pub(crate) protocol: HopProtocol,
    pub(crate) credentials: Option<HopCredentials>,
    pub(crate) resolve: Resolve,
    pub(crate) tls: Option<HopTls>,
    pub(crate) announce: Announce,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            http2: true,
            expect: Expect::Any,
            anonymous: false,
            disclose: true,
            mode: Mode::Enforce,
            revision: 7,
            next_hop: None,
            floor: Vec::new(),
            required_audit: None,
            pac: true,
            proxy_protocol_from: Vec::new(),
            announce: None,
        }
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let (dns, dns_queries) = dns_server().await;
        let is_required = setup.required_audit.is_some();
        let named = setup.required_audit.is_none().then(|| tempfile::NamedTempFile::new().unwrap());
        let path = setup.required_audit.clone().or(named.as_ref().map(|file| file.path().to_owned()));
        let (audit, writer) = AuditLog::start(Sink::File(path.unwrap()), is_required).unwrap();
        let audit_file = named.map(tempfile::NamedTempFile::into_file);
        let resolver = Resolver::new(ResolverConfig {
            servers: vec![Upstream::Address(dns)],
            hosts_file: false,
            ..ResolverConfig::default()
        });
        let proxy = Proxy::new(Parts {
            virtual_names: None,
            answers: None,
            snapshot: snapshot(&setup),
            authenticator: Authenticator::new().unwrap(),
            resolver: resolver.unwrap(),
            audit: audit.clone(),
            limits: setup.limits,
            http2: setup.http2,
            pac: setup.pac,
            proxy_protocol_from: setup.proxy_protocol_from.clone(),
        })
        .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = proxy.clone();
        tokio::spawn(async move { serving.serve(listener, Door::default()).await });
        Self { proxy, address, dns_queries, audit, audit_file, writer: Some(writer) }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` on a connection of its own and returns everything that comes back until the proxy closes.
    pub(crate) async fn talk(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await
    }

    pub(crate) fn queries(&self) -> usize {
        self.dns_queries.load(Ordering::SeqCst)
    }

    /// Ends the audit log and returns its lines.
    pub(crate) fn records(mut self) -> Vec<String> {
        drop(self.audit);
        if let Some(writer) = self.writer.take() {
            assert!(writer.shutdown(LONG));
        }
        let mut text = String::new();
        self.audit_file.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

pub(crate) fn snapshot(setup: &Setup) -> Snapshot {
    let policy = policy(setup);
    let principal = |name: &str, proof| {
        Arc::new(Principal {
            name: name.into(),
            proof,
            labels: Labels::default(),
            bound: policy.bind(&["app"], &Labels::default()),
            token: None,
        })
    };
    let mut clients = Clients::new();
    for name in ["app", "other"] {
        let hash = PasswordHash::parse(&hash_generated(b"secret")).unwrap();
        assert!(clients.insert(name, principal(name, Proof::Password), vec![hash]));
    }
    let anonymous = setup.anonymous.then(|| principal("anonymous", Proof::Anonymous));
    let hop = |next: &NextHopSetup| {
        let hop = Hop::new(next.protocol, next.credentials.clone()).announcing(next.announce);
        Arc::new(match &next.tls {
            Some(tls) => hop.through(tls.clone()),
            None => hop,
        })
    };
    let hops = setup.next_hop.iter().map(|next| ("corp".into(), hop(next))).collect();
    Snapshot {
        clients,
        workloads: Workloads::new(),
        certificates: Certificates::new(),
        issuers: Issuers::default(),
        key_sources: Vec::new(),
        is_central: false,
        anonymous,
        disclose: setup.disclose,
        policy,
        hops,
    }
}

fn policy(setup: &Setup) -> PolicySet {
    let place = || Place { file: "test.toml".into(), line: 1, column: 1 };
    let loopback = Defaults {
        ports: Some(PortSet::parse("1-65535").unwrap()),
        addresses: setup
            .next_hop
            .as_ref()
            .is_none_or(|next| next.resolve == Resolve::Local)
            .then(|| vec![IpBlock::parse("127.0.0.0/8").unwrap()]),
        expect: Some(setup.expect),
        announce: setup.announce,
        ..Defaults::default()
    };
    let mut allow = ListBuilder::new("test.toml", Defaults::default());
    for (line, name) in (1..).zip(["example.com", "*.example.org", MISSING]) {
        allow.push(Entry { settings: loopback.clone(), ..Entry::parse(name).unwrap() }, line, 1);
    }
    let literal = Defaults { addresses: None, ..loopback };
    allow.push(Entry { settings: literal, ..Entry::parse("127.0.0.2/32").unwrap() }, 9, 1);
    let mut deny = ListBuilder::new("test.toml", Defaults::default());
    deny.push(Entry::parse("denied.example.org").unwrap(), 10, 1);
    let mut builder = Builder::new();
    if let Some(next) = &setup.next_hop {
        let endpoint = Authority::parse(&next.endpoint, None).unwrap();
        builder.hop(HopSpec { name: "corp".into(), place: place(), endpoint });
    }
    builder.policy(PolicySpec {
        name: "app".to_owned(),
        place: place(),
        allow: allow.finish(),
        deny: deny.finish(),
        defaults: Defaults::default(),
        mode: setup.mode,
        bind: None,
        metadata: Vec::new(),
        next_hop: setup
            .next_hop
            .as_ref()
            .map(|next| NextHop { name: "corp".to_owned(), resolve: next.resolve }),
    });
    builder.floor(Floor { listeners: setup.floor.clone() });
    builder.finish(Revision(setup.revision)).unwrap()
}

/// Answers A queries with 127.0.0.1 and others with nothing, and counts the names asked for.
async fn dns_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let queries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&queries);
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            count.fetch_add(1, Ordering::SeqCst);
            if bytes[13..length].starts_with(SILENT.split_once('.').unwrap().0.as_bytes()) {
                continue;
            }
            let _ = socket.send_to(&dns_answer(&bytes[..length]), from).await;
        }
    });
    (address, queries)
}

fn dns_answer(query: &[u8]) -> Vec<u8> {
    let name_length = query[12..].iter().position(|b| *b == 0).unwrap() + 1;
    let question = &query[12..12 + name_length + 4];
    let is_a = question[name_length..name_length + 2] == [0, 1];
    let label = &question[1..1 + usize::from(question[0])];
    let is_missing = label.eq_ignore_ascii_case(MISSING.split('.').next().unwrap().as_bytes());
    let answers = u8::from(is_a && !is_missing);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, if is_missing { 0x83 } else { 0x80 }, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if answers == 1 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// An upstream that counts connections and keeps what it was sent.
pub(crate) struct Origin {
    pub(crate) port: u16,
    accepts: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Answers each request head on a connection with `answer(number of the request, head)`; an empty answer closes.
    pub(crate) async fn http(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::http_at(Ipv4Addr::LOCALHOST, answer).await
    }

    pub(crate) async fn http_at(
        ip: Ipv4Addr,
        answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepts, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (accepted, kept, answer) = (Arc::clone(&accepts), Arc::clone(&heads), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move {
                    while let Some(head) = read_head(&mut stream).await {
                        let number = {
                            let mut kept = kept.lock().unwrap();
                            kept.push(head.clone());
                            kept.len()
                        };
                        let bytes = answer(number, &head);
                        if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, accepts, heads }
    }

    /// Answers every request with a small page.
    pub(crate) async fn pages() -> Self {
        Self::http(|_, _| page("hello")).await
    }

    /// Echoes everything.
    pub(crate) async fn echo() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepts = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&accepts);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        Self { port, accepts, heads: Arc::default() }
    }

    pub(crate) fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    /// The request heads so far, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().iter().map(|head| head.to_lowercase()).collect()
    }
}

pub(crate) fn page(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// Whether the kernel watches over a connection of this machine, at the other end of `far`, while nothing is on the way.
pub(crate) async fn is_kept_alive(far: &TcpStream) -> bool {
    let [local, remote] = [far.peer_addr(), far.local_addr()].map(|end| {
        let Ok(SocketAddr::V4(end)) = end else { panic!("not a connection of IPv4: {end:?}") };
        format!("{:08X}:{:04X}", u32::from_le_bytes(end.ip().octets()), end.port())
    });
    timeout(LONG, async {
        loop {
            let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut rows = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let row = rows.find(|columns| columns[1] == local && columns[2] == remote);
            match &row.expect("the connection")[5][..2] {
                "00" => return false,
                "02" => return true,
                // It waits for an acknowledgement.
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .expect("an acknowledgement in time")
}

/// Reads to the empty line; `None` if the stream ends first.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(LONG, stream.read_u8()).await.expect("a head in time").ok()?;
        head.push(byte);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Reads a head and the body that its Content-Length announces.
pub(crate) async fn read_response(stream: &mut TcpStream) -> String {
    let head = read_head(stream).await.expect("a response");
    let lower = head.to_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    timeout(LONG, stream.read_exact(&mut body)).await.expect("a body in time").unwrap();
    head + &String::from_utf8_lossy(&body)
}

/// Reads to the end of the stream.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the end of the stream in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asserts that `response` refuses with this status and reason.
#[track_caller]
pub(crate) fn assert_refused(response: &str, status: u16, reason: &str) {
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "want {status} {reason}, got {response}");
    assert!(
        response.contains(&format!("\r\nx-deny-reason: {reason}\r\n")),
        "want {status} {reason}, got {response}"
    );
}

/// Lets the proxy's tasks run until they have nothing left to do: a finished exchange returns its connection.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
