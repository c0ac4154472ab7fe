//! What holds for a request head that the guard passes, whatever the bytes are.

use exeat_proxy::{Framing, Head, Limits, Target, check as guard};

/// Checks `bytes` as a request head, and that what passes is a head in the narrowest sense.
pub(crate) fn check(bytes: &[u8]) {
    let limits = Limits::default();
    let Ok(head) = guard(bytes, &limits) else { return };
    assert!(bytes.len() <= limits.head_bytes);
    let text = String::from_utf8_lossy(bytes);
    let (head_text, after) = text.split_once("\r\n\r\n").expect("an empty line");
    assert_eq!(after, "", "bytes after the head");
    let lines: Vec<&str> = head_text.split("\r\n").collect();
    for line in &lines {
        assert!(!line.bytes().any(|b| b == 127 || (b < 32 && b != b'\t')), "{line:?}");
    }
    check_request_line(lines[0], &head);
    check_fields(&lines[1..], &head);
    // A head is nothing less and nothing more.
    assert!(guard(&bytes[..bytes.len() - 1], &limits).is_err());
    assert!(guard(&[bytes, b"x"].concat(), &limits).is_err());
}

fn check_request_line(line: &str, head: &Head) {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts[..] else { panic!("{line:?}") };
    assert_eq!(method, head.method);
    assert!(!method.is_empty() && !method.bytes().any(|b| b.is_ascii_lowercase()), "{line:?}");
    assert!(version == "HTTP/1.1" || version == "HTTP/1.0", "{line:?}");
    assert!(!head.is_persistent || version == "HTTP/1.1", "{line:?}");
    assert_eq!(Target::parse(method, target).as_ref(), Ok(&head.target), "{line:?}");
    match &head.target {
        Target::Tunnel(_) => assert_eq!((method, head.framing), ("CONNECT", Framing::Length(0)), "{line:?}"),
        Target::Forward(forward) => {
            assert!(target.is_ascii() && !target.contains('#') && forward.path.starts_with('/'), "{line:?}");
        }
    }
}

fn check_fields(lines: &[&str], head: &Head) {
    let values = |name: &str| -> Vec<&str> {
        let fields = lines.iter().filter_map(|line| line.split_once(':'));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    };
    for line in lines {
        let name = line.split_once(':').expect("a colon").0;
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()), "{line:?}");
    }
    assert!(values("host").len() <= 1);
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match head.framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"));
        }
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            assert_eq!(lengths.first().map_or(Ok(0), |text| text.parse()), Ok(length));
        }
    }
    // Of any other request hyper has them.
    let is_tunnel = matches!(head.target, Target::Tunnel(_));
    for (name, found) in [("proxy-authorization", &head.proxy_authorization), ("via", &head.via)] {
        assert_eq!(found.len(), if is_tunnel { values(name).len() } else { 0 });
    }
}
