use std::fs;

use rcgen::{CertifiedKey as Issued, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::testing::{pair, trusting};

fn put(folder: &TempDir, name: &str) -> Vec<u8> {
    let Issued { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().to_vec()
}

fn files(folder: &TempDir) -> TlsFiles {
    TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), clients: None }
}

/// The certificate that a new handshake shows.
async fn shown(tls: &Tls) -> Vec<u8> {
    tls.current.0.load().cert[0].to_vec()
}

#[tokio::test]
async fn a_replaced_pair_serves_the_next_handshake_and_a_bad_one_never_does() {
    let folder = TempDir::new().unwrap();
    let first = put(&folder, "one.example.com");
    let tls = Tls::new(files(&folder), true).unwrap();
    assert_eq!(shown(&tls).await, first);

    let second = put(&folder, "two.example.com");
    tls.reload();
    assert_eq!(shown(&tls).await, second);

    let key = fs::read(folder.path().join("key.pem")).unwrap();
    put(&folder, "three.example.com");
    fs::write(folder.path().join("key.pem"), key).unwrap();
    tls.reload();
    assert_eq!(shown(&tls).await, second, "the key of another certificate");

    fs::remove_file(folder.path().join("cert.pem")).unwrap();
    tls.reload();
    assert_eq!(shown(&tls).await, second, "no certificate");
}

#[tokio::test]
async fn files_are_watched() {
    let folder = TempDir::new().unwrap();
    let first = put(&folder, "one.example.com");
    let tls = Tls::new(files(&folder), true).unwrap();
    assert_eq!(shown(&tls).await, first);
    // Before the watch has begun, which then still knows what was read.
    let second = put(&folder, "two.example.com");
    let period = Duration::from_millis(5);
    let seen = |want| {
        let tls = &tls;
        async move {
            while shown(tls).await != want {
                sleep(period).await;
            }
        }
    };
    let replaced = async {
        seen(second).await;
        seen(put(&folder, "three.example.com")).await;
    };
    tokio::select! {
        () = tls.watch_every(period, Arc::new(|| ())) => {}
        () = replaced => {}
    }
}

#[tokio::test]
async fn what_could_not_be_used_is_read_again_although_nothing_was_replaced() {
    let folder = TempDir::new().unwrap();
    let first = put(&folder, "one.example.com");
    let tls = Tls::new(files(&folder), true).unwrap();
    let second = put(&folder, "two.example.com");
    // As after a reading that was short of descriptors: the marks of the files are those that are known.
    let tls = Tls { first: tls.files.marks(), ..tls };
    tls.is_stale.store(true, Ordering::Relaxed);
    assert_eq!(shown(&tls).await, first);
    let period = Duration::from_millis(1);
    let replaced = async {
        while shown(&tls).await != second {
            sleep(period).await;
        }
    };
    tokio::select! {
        () = tls.watch_every(period, Arc::new(|| ())) => {}
        () = replaced => {}
    }
    assert!(!tls.is_stale.load(Ordering::Relaxed), "once it could be used, that is all");
    fs::write(folder.path().join("cert.pem"), "nothing").unwrap();
    tls.reload();
    assert!(tls.is_stale.load(Ordering::Relaxed));
}

#[tokio::test]
async fn only_current_versions_are_spoken() {
    let folder = TempDir::new().unwrap();
    put(&folder, "proxy.example.com");
    let tls = Tls::new(files(&folder), true).unwrap();
    for version in [&TLS12, &TLS13] {
        let (far, near) = pair().await;
        let connector = TlsConnector::from(trusting(&shown(&tls).await, &[version]));
        let name = "proxy.example.com".try_into().unwrap();
        let (client, server) = tokio::join!(connector.connect(name, far), tls.accept(near));
        let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
        assert_eq!(server.get_ref().1.protocol_version(), Some(version.version));
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }
    // A ClientHello of TLS 1.1: record version 3.1, legacy_version 3.2, no extensions.
    let mut hello = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 47, 1, 0, 0, 0]);
    let (mut far, near) = pair().await;
    far.write_all(&hello).await.unwrap();
    assert!(tls.accept(near).await.is_err());
    let mut answer = Vec::new();
    let _ = far.read_to_end(&mut answer).await;
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
}
