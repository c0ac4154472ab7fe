use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::client_hello::tests::hello_for;
use crate::testing::permit_for;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 50));

/// A candidate that a rule allows with this opening.
fn allowed(target: &str, expect: Option<Expect>) -> Candidate {
    let verdict = Ok(permit_for(target, &[ADDRESS], expect, &[]).opening().clone());
    Candidate { target: Authority::parse(target, None).unwrap(), verdict }
}

fn refused(target: &str) -> Candidate {
    let verdict = Err(Denial::of(Reason::HostDenied));
    Candidate { target: Authority::parse(target, None).unwrap(), verdict }
}

fn ssh(name: &str) -> Candidate {
    allowed(&format!("{name}:22"), None)
}

fn web(name: &str) -> Candidate {
    allowed(&format!("{name}:443"), None)
}

fn plain(name: &str) -> Candidate {
    allowed(&format!("{name}:80"), None)
}

#[test]
fn what_can_be_told_before_anything_is_read() {
    for (case, candidates, want) in [
        ("nothing is known", vec![], Choice::Address),
        ("one name", vec![web("a.example")], Choice::Is(0)),
        ("one name that is refused", vec![refused("a.example:22")], Choice::Is(0)),
        ("all of several refused", vec![refused("a.example:22"), refused("b.example:22")], Choice::Is(0)),
        ("all may speak as they like", vec![ssh("a.example"), ssh("b.example")], Choice::Is(0)),
        ("one may not", vec![ssh("a.example"), refused("b.example:22")], Choice::Is(1)),
        ("whichever was last", vec![refused("b.example:22"), ssh("a.example")], Choice::Is(0)),
        (
            "by a rule for the address all the same",
            vec![refused("b.example:22"), ssh("93.184.216.50")],
            Choice::Is(1),
        ),
        (
            "also where a name is allowed",
            vec![ssh("a.example"), refused("b.example:22"), ssh("93.184.216.50")],
            Choice::Is(2),
        ),
        ("the name before the address", vec![ssh("a.example"), ssh("93.184.216.50")], Choice::Is(0)),
        ("TLS tells", vec![web("a.example"), web("b.example")], Choice::AsItSpeaks),
        ("also of one that is refused", vec![web("a.example"), refused("b.example:443")], Choice::AsItSpeaks),
        ("also beside the address", vec![web("a.example"), web("93.184.216.50")], Choice::AsItSpeaks),
        (
            "one by TLS, one by anything",
            vec![web("a.example"), allowed("b.example:443", Some(Expect::Any))],
            Choice::Is(1),
        ),
    ] {
        assert_eq!(choose(&candidates), want, "{case}");
    }
}

/// Which candidate is meant by `said`, which comes a few bytes at a time, and then the end unless the client stays.
async fn meant_by(candidates: &[Candidate], said: &[u8], stays: bool) -> Result<usize, Reason> {
    let (mut near, mut far) = tokio::io::duplex(7);
    let said = said.to_vec();
    let client = tokio::spawn(async move {
        let _ = far.write_all(&said).await;
        stays.then_some(far)
    });
    let limits = Limits { opening_timeout: Duration::from_secs(5), ..Limits::default() };
    let mut early = BytesMut::new();
    let found = spoken_for(candidates, &mut near, &mut early, &limits).await;
    drop(near);
    drop(client.await.unwrap());
    found
}

#[tokio::test(start_paused = true)]
async fn first_bytes_tell_which_name_is_meant() {
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let tls = [web("a.example"), web("b.example"), refused("c.example:443")];
    let http = [plain("a.example"), refused("c.example:80"), plain("b.example")];
    let beside = [refused("c.example:443"), web("a.example"), web("93.184.216.50")];
    for (case, candidates, said, want) in [
        ("the first", &tls[..], hello_for("a.example"), Ok(0)),
        ("the second", &tls, hello_for("b.example"), Ok(1)),
        ("the refused one, as which it is refused", &tls, hello_for("c.example"), Ok(2)),
        ("a name that was never told: the first one refuses it", &tls, hello_for("d.example"), Ok(0)),
        ("no TLS at all", &tls, get("b.example"), Ok(0)),
        ("by Host", &http, get("b.example"), Ok(2)),
        ("by Host, the refused one", &http, get("c.example"), Ok(1)),
        ("by Host, another", &http, get("d.example"), Ok(0)),
        ("any name, where a rule covers the address", &beside, hello_for("d.example"), Ok(2)),
        ("but none that is refused", &beside, hello_for("c.example"), Ok(0)),
        ("the name rather than the address", &beside, hello_for("a.example"), Ok(1)),
    ] {
        assert_eq!(meant_by(candidates, &said, true).await, want, "{case}");
    }
    assert_eq!(meant_by(&tls, &hello_for("b.example")[..40], true).await, Err(Reason::HeadTimeout));
    assert_eq!(meant_by(&tls, &hello_for("b.example")[..40], false).await, Ok(0), "gone: nothing is relayed");
}
