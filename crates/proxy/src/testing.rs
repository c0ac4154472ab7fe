//! What tests of several modules need: permits, made the only way there is, by a policy that allows the target; and
//! connections with both their ends.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use exeat_model::{Authority, DnsName, Host, IpBlock, NamePattern, PortSet, Transport};
use exeat_policy::{
    Builder, Defaults, Destination, EgressRequest, Entry, Expect, Labels, List, ListBuilder, Mode, Permit,
    Place, PolicySpec, Revision, Verdict, decide, permit,
};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::client_stream::ClientStream;
use crate::http2::Http2Stream;
use crate::tls::{Tls, TlsFiles};

/// The permit of a policy with one rule for `target`, a name or a literal, at these addresses.
pub(crate) fn permit_for(target: &str, addrs: &[IpAddr], expect: Option<Expect>, sni: &[&str]) -> Permit {
    let target = Authority::parse(target, None).unwrap();
    let blocks: Vec<IpBlock> = addrs.iter().map(|addr| IpBlock::parse(&addr.to_string()).unwrap()).collect();
    let destination = match &target.host {
        Host::Name(name) => Destination::Name(NamePattern::Exact(name.clone())),
        Host::Address(_) => Destination::Network(blocks[0]),
    };
    let addresses = match &target.host {
        Host::Name(_) => Some(blocks),
        Host::Address(_) => None,
    };
    let entry = Entry {
        settings: Defaults {
            ports: Some(PortSet::parse(&target.port.to_string()).unwrap()),
            addresses,
            expect,
            ..Defaults::default()
        },
        sni: sni.iter().map(|name| DnsName::parse(name).unwrap()).collect(),
        ..Entry::new(destination)
    };
    let place = Place { file: "test.toml".into(), line: 1, column: 1 };
    let mut builder = Builder::new();
    builder.policy(PolicySpec {
        name: "test".to_owned(),
        place,
        allow: list(Some(entry)),
        deny: list(None),
        defaults: Defaults::default(),
        mode: Mode::Enforce,
        bind: None,
        metadata: Vec::new(),
        next_hop: None,
    });
    let set = builder.finish(Revision(1)).unwrap();
    let bound = set.bind(&["test"], &Labels::default());
    let request = EgressRequest { bound: &bound, target: &target, transport: Transport::Tcp };
    match decide(&set, &request) {
        Verdict::Allow(allowed) => permit(&set, &request, &allowed, addrs).unwrap(),
        Verdict::Deny(denial) => panic!("{target}: {}", denial.reason),
    }
}

fn list(entry: Option<Entry>) -> List {
    let mut list = ListBuilder::new("test.toml", Defaults::default());
    if let Some(entry) = entry {
        list.push(entry, 1, 1);
    }
    list.finish()
}

/// An address of the loopback network, another one each time. A connection that has ended keeps its port from listeners
/// of the same address for a minute, and tests that open tens of thousands would run out of ports.
fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 100, high, low)
}

/// Both ends of a TCP connection. As the proxy's, and as those of most clients, they do not wait for more to send.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let near = listener.accept().await.unwrap().0;
    far.set_nodelay(true).unwrap();
    near.set_nodelay(true).unwrap();
    (far, near)
}

/// A client's TLS that trusts this one certificate.
pub(crate) fn trusting(cert: &[u8], versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.to_vec().into()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A proxy's TLS, and that of clients who trust it.
static TLS: LazyLock<(Tls, TlsConnector)> = LazyLock::new(|| {
    let folder = tempfile::TempDir::new().unwrap();
    let files =
        TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), clients: None };
    let issued = rcgen::generate_simple_self_signed(["proxy.example.com".to_owned()]).unwrap();
    std::fs::write(&files.cert, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let trusted = trusting(issued.cert.der(), rustls::ALL_VERSIONS);
    (Tls::new(files, true).unwrap(), TlsConnector::from(trusted))
});

/// Both ends of a TLS connection after its handshake: the client's, and the proxy's as it serves it.
pub(crate) async fn tls_pair() -> (tokio_rustls::client::TlsStream<TcpStream>, ClientStream) {
    let (tls, connector) = &*TLS;
    let (far, near) = pair().await;
    let name = "proxy.example.com".try_into().unwrap();
    let (client, server) = tokio::join!(connector.connect(name, far), tls.accept(near));
    (client.unwrap(), ClientStream::Tls(Box::new(server.unwrap().0)))
}

/// Both ends of the stream of a CONNECT that was answered, in an HTTP/2 connection of its own.
pub(crate) async fn http2_pair() -> (Http2Stream, ClientStream) {
    let (far, near) = pair().await;
    let mut client = h2::client::Builder::new();
    // As browsers have them: with the windows of the standard, 64 KiB, a stream waits most of the time.
    client.initial_window_size(6 << 20).initial_connection_window_size(15 << 20);
    let (client, server) = tokio::join!(client.handshake::<_, Bytes>(far), h2::server::handshake(near));
    let ((mut client, connection), mut server) = (client.unwrap(), server.unwrap());
    tokio::spawn(connection);
    let asked = http::Request::connect("example.com:443").body(()).unwrap();
    let (response, sending) = client.send_request(asked, false).unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    let answer = respond.send_response(http::Response::new(()), false).unwrap();
    let near = Http2Stream::new(answer, request.into_body());
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let far = Http2Stream::new(sending, response.await.unwrap().into_body());
    (far, ClientStream::Http2(Box::new(near)))
}
