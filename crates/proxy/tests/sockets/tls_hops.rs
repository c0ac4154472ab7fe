//! Next hops through TLS: what goes through it, whom it is believed, and that nothing goes out where it is not.

use std::{
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use exeat_model::Host;
use exeat_proxy::{HopProtocol, HopTls, HopTlsFiles, Limits, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    common::{
        AUTH, LONG, NextHopSetup, Origin, Setup, World, assert_refused, page, read_all, read_head,
        read_response, settle, snapshot,
    },
    hops::{connect, open_hop, through},
};

/// The name that the hop is called by.
const NAME: &str = "hop.example.net";

/// An authority and the files that it is written to.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A certificate for `name` that ends with this year, and its key.
    pub(crate) fn issue(&self, name: &str, last_year: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A hop's side. With `clients`, whoever connects must have a certificate of theirs.
    fn server(&self, name: &str, last_year: i32, clients: Option<&Self>) -> ServerConfig {
        let (certificate, key) = self.issue(name, last_year);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        config.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap()
    }

    /// Our side, which trusts this authority, and shows this certificate.
    fn trusting(&self, client: Option<TlsFiles>) -> HopTls {
        let files = HopTlsFiles { ca: Some(self.path("ca.pem")), client };
        HopTls::new(&files, &Host::parse(NAME).unwrap()).unwrap()
    }
}

/// Speaks TLS, and passes on what is in it to another port.
struct Front {
    port: u16,
    sessions: Arc<AtomicUsize>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Front {
    async fn start(config: ServerConfig, to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, sessions) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&sessions);
        let tasks: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let started = Arc::clone(&tasks);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let task = tokio::spawn(pass(acceptor.clone(), stream, to, Arc::clone(&counted)));
                started.lock().unwrap().push(task.abort_handle());
            }
        });
        Self { port, sessions, tasks }
    }

    /// Closes every connection without a word in TLS about it, as somebody on the way could.
    fn cut(&self) {
        self.tasks.lock().unwrap().iter().for_each(AbortHandle::abort);
    }

    fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }
}

async fn pass(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    to: u16,
    sessions: Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut inside = acceptor.accept(stream).await?;
    sessions.fetch_add(1, Ordering::SeqCst);
    let mut behind = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    tokio::io::copy_bidirectional(&mut inside, &mut behind).await.map(drop)
}

fn hop(port: u16, tls: HopTls) -> NextHopSetup {
    NextHopSetup { tls: Some(tls), ..through(port, HopProtocol::Http) }
}

async fn world(next_hop: NextHopSetup) -> World {
    World::with(Setup { next_hop: Some(next_hop), ..Setup::default() }).await
}

#[tokio::test]
async fn a_tunnel_leaves_through_tls() {
    let (authority, behind) = (Authority::new("one"), open_hop().await);
    let front = Front::start(authority.server(NAME, 2999, None), behind.port).await;
    let world = world(hop(front.port, authority.trusting(None))).await;
    let mut stream = world.connect().await;
    stream.write_all(connect("example.com:8443").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(read_head(&mut stream).await.unwrap(), "220 ready\r\n\r\n", "bytes after the hop's answer");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(read_response(&mut stream).await.ends_with("from the hop"));
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");

    assert!(behind.heads()[0].starts_with("connect example.com:8443 http/1.1\r\n"), "{:?}", behind.heads());
    assert!(behind.heads()[0].contains("\r\nproxy-authorization: basic c2nvdhq6dglnzxi=\r\n"));
    assert_eq!((world.queries(), front.sessions(), behind.accepts()), (0, 1, 1));
    let records = world.records();
    assert!(records[0].contains(r#""via":"corp""#), "{records:?}");
    assert!(records[1].contains(r#""end":"finished""#), "{records:?}");
}

#[tokio::test]
async fn an_end_that_tls_does_not_vouch_for_is_a_break() {
    let (authority, behind) = (Authority::new("one"), open_hop().await);
    let front = Front::start(authority.server(NAME, 2999, None), behind.port).await;
    let world = world(hop(front.port, authority.trusting(None))).await;
    let mut stream = world.connect().await;
    stream.write_all(connect("example.com:8443").as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(read_head(&mut stream).await.unwrap(), "220 ready\r\n\r\n");
    front.cut();
    let end = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("an end in time");
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    let records = world.records();
    assert!(records[1].contains(r#""end":"upstream_reset""#), "{records:?}");
}

#[tokio::test]
async fn requests_share_a_session_until_the_hop_is_configured_anew() {
    let (authority, behind) = (Authority::new("one"), Origin::http(|_, _| page("from the hop")).await);
    let front = Front::start(authority.server(NAME, 2999, None), behind.port).await;
    let setup = |revision| Setup {
        next_hop: Some(hop(front.port, authority.trusting(None))),
        revision,
        ..Setup::default()
    };
    let world = World::with(setup(7)).await;
    let mut stream = world.connect().await;
    let mut get = async || {
        let request = format!("GET http://example.com/a HTTP/1.1\r\nHost: example.com\r\n{AUTH}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_response(&mut stream).await.ends_with("from the hop"));
        settle().await;
    };
    get().await;
    get().await;
    assert_eq!(front.sessions(), 1, "the session is used again");
    // It was opened under what may be distrusted by now.
    world.proxy.replace(snapshot(&setup(8)));
    get().await;
    assert_eq!((front.sessions(), world.queries()), (2, 0));
    assert!(behind.heads()[2].starts_with("get http://example.com/a http/1.1\r\n"), "{:?}", behind.heads());
}

#[tokio::test]
async fn a_websocket_leaves_through_a_tunnel_in_tls() {
    let authority = Authority::new("one");
    let behind = Origin::http(|_, head| match head.starts_with("CONNECT ") {
        true => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nserver first\r\n\r\n".to_vec(),
    })
    .await;
    let front = Front::start(authority.server(NAME, 2999, None), behind.port).await;
    let world = world(hop(front.port, authority.trusting(None))).await;
    let mut stream = world.connect().await;
    let request = format!(
        "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{AUTH}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(read_head(&mut stream).await.unwrap(), "server first\r\n\r\n");
    assert_eq!((front.sessions(), behind.accepts()), (1, 1));
}

#[tokio::test]
async fn a_hop_that_cannot_prove_itself_gets_nothing() {
    let authority = Authority::new("one");
    let (other, namesake) = (Authority::new("two"), Authority::new("one"));
    let untrusted = "is not signed by an authority that is trusted";
    for (case, config, error, detail) in [
        ("another authority", other.server(NAME, 2999, None), "tls_certificate_error", untrusted),
        ("one of the same name", namesake.server(NAME, 2999, None), "tls_certificate_error", untrusted),
        ("expired", authority.server(NAME, 2020, None), "tls_certificate_error", "has expired"),
        (
            "another name",
            authority.server("other.example.net", 2999, None),
            "tls_certificate_error",
            "is for another name",
        ),
    ] {
        let behind = open_hop().await;
        let front = Front::start(config, behind.port).await;
        let world = world(hop(front.port, authority.trusting(None))).await;
        let get = format!(
            "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{AUTH}Connection: close\r\n\r\n"
        );
        // It stays what it is: such a hop is not left alone as one that is down.
        for request in [connect("example.com:443"), get.clone(), connect("example.com:443"), get] {
            let response = world.talk(request).await;
            assert_refused(&response, 502, "connect_failed");
            let lower = response.to_lowercase();
            assert!(lower.contains(&format!("error={error};")), "{case}: {response}");
            assert!(
                response.contains(detail) && response.contains("next-hop=\"corp\""),
                "{case}: {response}"
            );
            assert!(!response.contains("other.example.net"), "{case}: {response}");
        }
        assert_eq!((front.sessions(), behind.accepts(), world.queries()), (0, 0, 0), "{case}");
    }
}

#[tokio::test]
async fn a_hop_that_does_not_speak_tls() {
    let authority = Authority::new("one");
    let plain = Origin::http(|_, _| page("never")).await;
    let (silent, closing) = (
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
    );
    let babbling = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (silent_port, closing_port, babbling_port) = (port(&silent), port(&closing), port(&babbling));
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = babbling.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    for (case, port, status, reason) in [
        ("another protocol", babbling_port, 502, "connect_failed"),
        ("an end", closing_port, 503, "egress_gateway_unavailable"),
        ("nothing", silent_port, 503, "egress_gateway_unavailable"),
    ] {
        let millis = if case == "nothing" { 100 } else { 30_000 };
        let limits = Limits { connect_timeout: Duration::from_millis(millis), ..Limits::default() };
        let next_hop = Some(hop(port, authority.trusting(None)));
        let world = World::with(Setup { next_hop, limits, ..Setup::default() }).await;
        let response = world.talk(connect("example.com:443")).await;
        assert_refused(&response, status, reason);
        assert!(response.contains("next-hop=\"corp\""), "{case}: {response}");
        assert_eq!((plain.accepts(), world.queries()), (0, 0), "{case}");
    }
}

#[tokio::test]
async fn a_hop_that_wants_a_certificate() {
    let (authority, clients) = (Authority::new("one"), Authority::new("two"));
    let (certificate, key) = clients.issue("exeat.example.net", 2999);
    let files = TlsFiles { cert: clients.path("client.pem"), key: clients.path("client.key"), clients: None };
    std::fs::write(&files.cert, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    for (client, is_let_in) in [(Some(files), true), (None, false)] {
        let behind = open_hop().await;
        let front = Front::start(authority.server(NAME, 2999, Some(&clients)), behind.port).await;
        let world = world(hop(front.port, authority.trusting(client))).await;
        let response = world.talk(connect("example.com:443")).await;
        if is_let_in {
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        } else {
            assert_refused(&response, 502, "connect_failed");
        }
        assert_eq!(behind.accepts(), usize::from(is_let_in));
    }
}
