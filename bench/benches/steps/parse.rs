//! What a client sends, from bytes to values.

use std::hint::black_box;

use exeat_model::Authority;
use exeat_proxy::{Hello, Limits, check, client_hello, socks5_wire};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::world::listed;

pub(crate) fn requests(criterion: &mut crate::Criterion) {
    let name = listed(7);
    heads(criterion, &name);
    let authority = format!("{name}:9080");
    criterion.bench_function("parse/authority", |bencher| {
        bencher.iter(|| Authority::parse(black_box(&authority), None).expect("an authority"));
    });
    let hello = hello(&name);
    criterion.bench_function("parse/client hello", |bencher| {
        bencher.iter(|| {
            let read = client_hello(black_box(&hello));
            assert!(matches!(read, Hello::ServerName(_)));
            read
        });
    });
    socks5(criterion, &name);
}

fn heads(criterion: &mut crate::Criterion, name: &str) {
    let fields = "User-Agent: curl/8.5.0\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n\
                  Proxy-Authorization: Basic YmVuY2g6YmVuY2gtcGFzc3dvcmQ=\r\n";
    let limits = Limits::default();
    for (kind, head) in [
        ("CONNECT", format!("CONNECT {name}:9080 HTTP/1.1\r\nHost: {name}:9080\r\n{fields}\r\n")),
        ("GET", format!("GET http://{name}:9080/a/path?q=1 HTTP/1.1\r\nHost: {name}:9080\r\n{fields}\r\n")),
    ] {
        criterion.bench_function(&format!("parse/head of {kind}"), |bencher| {
            bencher.iter(|| check(black_box(head.as_bytes()), &limits).expect("a head"));
        });
    }
}

fn socks5(criterion: &mut crate::Criterion, name: &str) {
    let length = u8::try_from(name.len()).expect("a short name");
    let request = [&[5, 1, 0, 3, length], name.as_bytes(), &9080_u16.to_be_bytes()].concat();
    criterion.bench_function("parse/SOCKS5 request", |bencher| {
        bencher.iter(|| {
            let (request, _) = socks5_wire::request(black_box(&request)).expect("SOCKS5").expect("all of it");
            request.authority().expect("a target")
        });
    });
}

/// What a client of today sends first.
fn hello(name: &str) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(config.into(), name).expect("a connection");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello
}
