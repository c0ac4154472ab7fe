//! A listener that demands client certificates, and what is recorded of those who have none that counts.

use std::{net::SocketAddr, sync::Arc};

use exeat_proxy::{ClientFiles, Door, Tls, TlsFiles};
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    common::{LONG, World},
    tls_hops::Authority,
};

const NAME: &str = "proxy.example.net";
/// A year that has not come yet, and one that has gone.
const LATER: i32 = 2100;
const BEFORE: i32 = 2020;

struct Demanding {
    world: World,
    address: SocketAddr,
    authority: Authority,
}

impl Demanding {
    /// Certificates of clients come from the authority that the proxy's own comes from.
    async fn start(is_required: bool) -> Self {
        let (world, authority) = (World::start().await, Authority::new("Exeat test"));
        let (certificate, key) = authority.issue(NAME, LATER);
        let files = TlsFiles {
            cert: authority.path("cert.pem"),
            key: authority.path("key.pem"),
            clients: Some(ClientFiles { ca: authority.path("ca.pem"), crl: Vec::new(), is_required }),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let door = Door { tls: Some(Tls::new(files, true).unwrap()), ..Door::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(world.proxy.serve(listener, door));
        Self { world, address, authority }
    }

    /// A client that shows a certificate of `issuer`, if any; asks something, and reads what comes of it.
    async fn ask(&self, issuer: Option<(&Authority, i32)>) -> std::io::Result<Vec<u8>> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let config = match issuer {
            None => config.with_no_client_auth(),
            Some((issuer, last_year)) => {
                let (certificate, key) = issuer.issue("client.example.net", last_year);
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                config.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let asked = async {
            let connector = TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect(NAME.try_into().unwrap(), stream).await?;
            stream
                .write_all(b"GET http://evil.test/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok(answer)
        };
        timeout(LONG, asked).await.expect("an end in time")
    }

    /// A client that says `bytes`, which are not TLS, and nothing more.
    async fn say(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("an end in time");
    }
}

#[tokio::test]
async fn who_cannot_prove_who_they_are_is_recorded() {
    let (it, stranger) = (Demanding::start(true).await, Authority::new("Somebody else"));
    it.ask(None).await.unwrap_err();
    it.ask(Some((&stranger, LATER))).await.unwrap_err();
    it.ask(Some((&it.authority, BEFORE))).await.unwrap_err();
    it.say(b"GET http://example.com/ HTTP/1.1\r\n\r\n").await;
    // Nobody was refused: one has left, and another does not get to the end of its first word.
    it.say(b"").await;
    it.say(b"\x16\x03\x01").await;
    assert_eq!(it.world.proxy.metrics().handshakes_failed.get(), 6);
    let answer = it.ask(Some((&it.authority, LATER))).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 407 "), "a certificate that no principal is known by");
    let records = it.world.records();
    let reasons = ["auth_required", "auth_invalid", "auth_invalid", "request_malformed", "auth_required"];
    assert_eq!(records.len(), reasons.len(), "{records:#?}");
    for (record, reason) in records.iter().zip(reasons) {
        for part in [
            "\"event\":\"request\"".to_owned(),
            "\"source\":\"127.0.0.1:".to_owned(),
            "\"verdict\":\"deny\"".to_owned(),
            format!("\"reason\":\"{reason}\""),
        ] {
            assert!(record.contains(&part), "{part} in {record}");
        }
    }
    assert!(records[..4].iter().all(|record| !record.contains("\"status\"")), "{records:#?}");
}

#[tokio::test]
async fn where_a_certificate_is_only_asked_for_one_that_does_not_count_is_recorded_too() {
    let (it, stranger) = (Demanding::start(false).await, Authority::new("Somebody else"));
    assert!(it.ask(None).await.unwrap().starts_with(b"HTTP/1.1 407 "));
    it.ask(Some((&stranger, LATER))).await.unwrap_err();
    let records = it.world.records();
    assert!(records[0].contains("\"status\":407"), "{records:#?}");
    assert!(records[1].contains("\"reason\":\"auth_invalid\""), "{records:#?}");
    assert_eq!(records.len(), 2, "{records:#?}");
}

#[tokio::test]
async fn one_source_does_not_flood_the_log() {
    const TRIES: usize = 50;
    let it = Demanding::start(true).await;
    for _ in 0..TRIES {
        it.say(b"not TLS at all").await;
    }
    assert_eq!(it.world.proxy.metrics().handshakes_failed.get(), TRIES as u64);
    let records = it.world.records().len();
    assert!((10..TRIES).contains(&records), "{records}");
}
