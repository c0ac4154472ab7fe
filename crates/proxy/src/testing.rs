//! What tests of several modules need: permits, made the only way there is, by a policy that allows the target; and
//! connections with both their ends.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use exeat_model::{Authority, DnsName, Host, IpBlock, NamePattern, PortSet};
use exeat_policy::{
    Builder, Defaults, Destination, EgressRequest, Entry, Expect, Labels, List, ListBuilder, Mode, Permit,
    Place, PolicySpec, Revision, Verdict, decide, permit,
};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::client_stream::ClientStream;
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
            answers: None,
            announce: None,
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
    let request = EgressRequest { bound: &bound, target: &target };
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

/// Both ends of a TCP connection.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (far, listener.accept().await.unwrap().0)
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

/// Both ends of a TLS connection after its handshake: the client's, and the proxy's as it serves it.
pub(crate) async fn tls_pair() -> (tokio_rustls::client::TlsStream<TcpStream>, ClientStream) {
    let folder = tempfile::TempDir::new().unwrap();
    let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let issued = rcgen::generate_simple_self_signed(["proxy.example.com".to_owned()]).unwrap();
    std::fs::write(&files.cert, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let tls = Tls::new(files, true).unwrap();
    let (far, near) = pair().await;
    let connector = TlsConnector::from(trusting(issued.cert.der(), rustls::ALL_VERSIONS));
    let name = "proxy.example.com".try_into().unwrap();
    let (client, server) = tokio::join!(connector.connect(name, far), tls.accept(near));
    (client.unwrap(), ClientStream::Tls(Box::new(server.unwrap().0)))
}
