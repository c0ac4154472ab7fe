use super::*;

const GET: &str = "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n";

/// What a refusal shows for the head made of these lines: its reason and status, or `None` if it passes.
fn refusal(head: &[u8]) -> Option<(Reason, u16)> {
    check(head, &Limits::default()).err().map(|error| (error.reason(), error.status()))
}

#[test]
fn fields_that_only_a_tunnel_is_asked_for_by() {
    let fields = "Host: a\r\nVia: 1.1 x\r\nProxy-Authorization: Basic x\r\nvia: 1.1 y\r\n\r\n";
    for (line, credentials, via) in [
        ("CONNECT example.com:443", vec![b"Basic x".to_vec()], vec![b"1.1 x".to_vec(), b"1.1 y".to_vec()]),
        ("GET http://example.com/", vec![], vec![]),
    ] {
        let head = check(format!("{line} HTTP/1.1\r\n{fields}").as_bytes(), &Limits::default()).unwrap();
        assert_eq!((head.proxy_authorization, head.via), (credentials, via), "{line}");
    }
}

#[test]
fn request_lines() {
    let malformed = Some((Reason::RequestMalformed, 400));
    for (line, want) in [
        ("GET http://example.com/ HTTP/1.1", None),
        ("GET http://example.com/ HTTP/1.0", None),
        ("M-SEARCH http://example.com/ HTTP/1.1", None),
        ("CONNECT example.com:443 HTTP/1.1", None),
        ("connect example.com:443 HTTP/1.1", malformed),
        ("Get http://example.com/ HTTP/1.1", malformed),
        ("CONNECT\texample.com:443 HTTP/1.1", malformed),
        ("CONNECT example.com:443\tHTTP/1.1", malformed),
        ("CONNECT  example.com:443 HTTP/1.1", malformed),
        ("CONNECT example.com:443  HTTP/1.1", malformed),
        (" CONNECT example.com:443 HTTP/1.1", malformed),
        ("CONNECT example.com:443 HTTP/1.1 ", malformed),
        ("CONNECT example.com example.org:443 HTTP/1.1", malformed),
        ("GET http://example.com/ ", malformed),
        ("GET http://example.com/", malformed),
        ("GET http://example.com/ http/1.1", malformed),
        ("GET http://example.com/ HTTP/11", malformed),
        ("GET http://example.com/ HTTP/1.10", malformed),
        ("GET http://example.com/ HTTP/1.9", Some((Reason::RequestMalformed, 505))),
        ("GET http://example.com/ HTTP/0.9", Some((Reason::RequestMalformed, 505))),
        ("GET http://example.com/ HTTP/2.0", Some((Reason::RequestMalformed, 505))),
        ("PRI * HTTP/2.0", Some((Reason::RequestMalformed, 505))),
        ("TRACE http://example.com/ HTTP/1.1", Some((Reason::MethodNotAllowed, 405))),
        ("TRACK http://example.com/ HTTP/1.1", Some((Reason::MethodNotAllowed, 405))),
        ("DEBUG http://example.com/ HTTP/1.1", Some((Reason::MethodNotAllowed, 405))),
        ("GET / HTTP/1.1", malformed),
        ("GET http://example.com/#a HTTP/1.1", malformed),
        ("GET http://user@example.com/ HTTP/1.1", malformed),
        ("GET ftp://example.com/ HTTP/1.1", Some((Reason::SchemeNotAllowed, 400))),
        ("CONNECT ｅxample.com:443 HTTP/1.1", Some((Reason::HostInvalid, 400))),
        ("CONNECT user@example.com:443 HTTP/1.1", Some((Reason::HostInvalid, 400))),
        ("GET http://exämple.com/ HTTP/1.1", Some((Reason::HostInvalid, 400))),
        ("GET http://[::1/ HTTP/1.1", Some((Reason::HostInvalid, 400))),
    ] {
        assert_eq!(refusal(format!("{line}\r\nHost: example.com\r\n\r\n").as_bytes()), want, "{line:?}");
    }
}

#[test]
fn fields() {
    let malformed = Some((Reason::RequestMalformed, 400));
    let ambiguous = Some((Reason::FramingAmbiguous, 400));
    for (lines, want) in [
        ("", None),
        ("Accept: */*\r\n", None),
        ("Empty:\r\n", None),
        ("Latin: caf\u{e9}\r\n", None),
        ("Tab:\ta\tb\r\n", None),
        ("Bare: a\nX: b\r\n", malformed),
        ("Bare: a\rb\r\n", malformed),
        ("Nul: a\0b\r\n", malformed),
        ("Bell: \u{7}\r\n", malformed),
        ("Delete: \u{7f}\r\n", malformed),
        ("Fold: a\r\n b\r\n", malformed),
        ("Fold: a\r\n\tb\r\n", malformed),
        ("Space : a\r\n", malformed),
        (": a\r\n", malformed),
        ("none\r\n", malformed),
        ("b\u{e9}: a\r\n", malformed),
        ("Host: example.com\r\n", malformed),
        ("HOST: example.org\r\n", malformed),
        ("Content-Length: 5\r\n", None),
        ("Content-Length: 0\r\n", None),
        ("Content-Length: 9999999999999999999\r\n", None),
        ("Content-Length: 99999999999999999999\r\n", ambiguous),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", ambiguous),
        ("Content-Length: 5\r\nContent-length: 6\r\n", ambiguous),
        ("Content-Length: 5, 5\r\n", ambiguous),
        ("Content-Length: +5\r\n", ambiguous),
        ("Content-Length: -5\r\n", ambiguous),
        ("Content-Length: 0x5\r\n", ambiguous),
        ("Content-Length: 5 5\r\n", ambiguous),
        ("Content-Length:\r\n", ambiguous),
        ("Transfer-Encoding: chunked\r\n", None),
        ("Transfer-Encoding: Chunked\r\n", None),
        ("Transfer-Encoding: gzip, chunked\r\n", ambiguous),
        ("Transfer-Encoding: xchunked\r\n", ambiguous),
        ("Transfer-Encoding: identity\r\n", ambiguous),
        ("Transfer-Encoding: chunked, chunked\r\n", ambiguous),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ambiguous),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", ambiguous),
        ("Transfer-Encoding:\r\n", ambiguous),
        ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", ambiguous),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", ambiguous),
        ("Connection: close, Proxy-Authorization, X-Container-Id\r\n", None),
        ("Connection: close, Host\r\n", malformed),
        ("Connection: content-length\r\n", malformed),
        ("Connection: keep-alive\r\nConnection:Transfer-Encoding\r\n", malformed),
    ] {
        assert_eq!(refusal(format!("{GET}{lines}\r\n").as_bytes()), want, "{lines:?}");
    }
}

#[test]
fn hosts() {
    for (line, want) in [
        ("GET http://example.com/ HTTP/1.1\r\n", Some(Reason::RequestMalformed)),
        ("GET http://example.com/ HTTP/1.0\r\n", None),
        ("GET http://example.com/ HTTP/1.1\r\nHost: other.example\r\n", None),
        ("GET http://example.com/ HTTP/1.1\r\nHost:\r\n", None),
        ("GET http://example.com/ HTTP/1.1\r\nHost: a, b\r\n", Some(Reason::RequestMalformed)),
        ("GET http://example.com/ HTTP/1.1\r\nHost: a@b\r\n", Some(Reason::RequestMalformed)),
        ("GET http://example.com/ HTTP/1.1\r\nHost: http://a/\r\n", Some(Reason::RequestMalformed)),
    ] {
        assert_eq!(refusal(format!("{line}\r\n").as_bytes()).map(|r| r.0), want, "{line:?}");
    }
}

#[test]
fn framing_of_old_versions_and_tunnels() {
    let connect = "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n";
    for (head, want) in [
        ("POST http://example.com/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("POST http://example.com/ HTTP/1.0\r\nContent-Length: 4\r\n\r\n", false),
        (&format!("{connect}Content-Length: 4\r\n\r\n"), true),
        (&format!("{connect}Transfer-Encoding: chunked\r\n\r\n"), true),
        (&format!("{connect}Content-Length: 0\r\n\r\n"), false),
    ] {
        assert_eq!(refusal(head.as_bytes()), want.then_some((Reason::FramingAmbiguous, 400)), "{head:?}");
    }
}

#[test]
fn limits() {
    let limits = Limits { uri_bytes: 64, head_bytes: 256, header_count: 3, ..Limits::default() };
    let line = |fill: usize| format!("GET http://example.com/{} HTTP/1.1\r\n", "a".repeat(fill));
    let room = 64 + "\r\n".len() - line(0).len();
    let padded = |length: usize| {
        let empty = format!("{}Host: a\r\nB: \r\n\r\n", line(0)).len();
        format!("{}Host: a\r\nB: {}\r\n\r\n", line(0), "b".repeat(length - empty))
    };
    for (head, want) in [
        (format!("{}Host: a\r\n\r\n", line(room)), None),
        (format!("{}Host: a\r\n\r\n", line(room + 1)), Some(414)),
        (format!("{}Host: a\r\nB: b\r\nC: c\r\n\r\n", line(0)), None),
        (format!("{}Host: a\r\nB: b\r\nC: c\r\nD: d\r\n\r\n", line(0)), Some(431)),
        (format!("{}Host: a\r\nB: {}\r\n\r\n", line(0), "b".repeat(256)), Some(431)),
        (padded(256), None),
        (padded(257), Some(431)),
        (padded(258), Some(431)),
    ] {
        assert_eq!(check(head.as_bytes(), &limits).err().map(|error| error.status()), want, "{head:?}");
    }
}

#[test]
fn a_head_is_whole_and_alone() {
    let head = format!("{GET}Accept: */*\r\n\r\n");
    assert_eq!(refusal(head.as_bytes()), None);
    for end in 0..head.len() {
        assert!(refusal(&head.as_bytes()[..end]).is_some(), "{end}");
    }
    assert!(refusal(format!("{head}x").as_bytes()).is_some());
    assert!(refusal(format!("\r\n{head}").as_bytes()).is_some());
}

#[test]
fn bytes_may_come_one_by_one() {
    let head = format!("{GET}Accept: */*\r\n\r\n");
    let mut scan = Scan::default();
    for end in 1..head.len() {
        assert_eq!(scan.advance(&head.as_bytes()[..end], &Limits::default()), Ok(None), "{end}");
    }
    assert_eq!(scan.advance(head.as_bytes(), &Limits::default()), Ok(Some(head.len())));
}

#[test]
fn a_request_without_a_version_is_refused_before_its_end() {
    let mut scan = Scan::default();
    let got = scan.advance(b"GET http://example.com/\r\n", &Limits::default());
    assert_eq!(got, Err(HeadError::RequestLine));
}
